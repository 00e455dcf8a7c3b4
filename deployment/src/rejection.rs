//! [`Rejection`]: why a deployment is refused, whole.

use crate::{
    ContractId, FarmId, NodeKey, TwinId, Version, cbor::EncodingError, envelope::EnvelopeError,
    limits,
};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error(
        "the deployment has {size} bytes; at most {} are allowed",
        limits::DEPLOYMENT_BYTES
    )]
    TooLarge { size: usize },
    #[error("the {part} is not deterministic CBOR: {error}")]
    Encoding {
        part: &'static str,
        error: EncodingError,
    },
    #[error("{0}")]
    Envelope(#[from] EnvelopeError),
    #[error("signed in the name of twin {signer}, but the contract belongs to twin {owner}")]
    WrongOwner { signer: TwinId, owner: TwinId },
    #[error(
        "signature {number} is not one of twin {owner} over this deployment on this chain: \
         it was changed, or signed with another key or for another chain"
    )]
    BadSignature { number: usize, owner: TwinId },
    #[error(
        "the deployment's signers weigh {weight}; its owner, twin {owner}, asks for {threshold}"
    )]
    TooFewSigners {
        weight: u64,
        threshold: u64,
        owner: TwinId,
    },
    #[error("{0}")]
    Field(#[from] FieldError),
    #[error("{path}: must be absent, as it holds its default, or is not in its only form")]
    NotCanonical { path: String },
    #[error("the deployment is for node {named}; this is node {node}")]
    WrongNode { named: NodeKey, node: NodeKey },
    #[error("the deployment is for farm {named}; {}", farm_of(.farm))]
    WrongFarm { named: FarmId, farm: Option<FarmId> },
    #[error("only the farmer may say how a node behaves, and twin {owner} is not this node's")]
    NotFarmer { owner: TwinId },
    #[error("the deployment is for contract {named}; the chain has it under contract {contract}")]
    WrongContract {
        named: ContractId,
        contract: ContractId,
    },
    #[error("the deployment is version {named}; the chain records version {recorded}")]
    WrongVersion { named: Version, recorded: Version },
    #[error(
        "the deployment is version {named}, but version {running} runs already; a version must rise"
    )]
    NotNewer { named: Version, running: Version },
    // Without the time of now: the sentence stays the same however often it is said.
    #[error("the deployment was valid until {valid_until} (seconds since 1970)")]
    Expired { valid_until: u64 },
}

impl Rejection {
    /// A short name that stays the same when the sentence is reworded; the test vectors and
    /// programs that read reports compare it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too-large",
            Self::Encoding { error, .. } => match error {
                EncodingError::Truncated => "truncated",
                EncodingError::Trailing(_) => "trailing-bytes",
                EncodingError::NotShortest { .. } => "not-shortest",
                EncodingError::Indefinite { .. } => "indefinite-length",
                EncodingError::Unsupported { .. } => "unsupported-value",
                EncodingError::NotUtf8 { .. } => "not-utf8",
                EncodingError::TooDeep { .. } => "too-deep",
                EncodingError::Unsorted { .. } => "unsorted-map",
                EncodingError::DuplicateKey { .. } => "duplicate-key",
            },
            Self::Envelope(_) => "bad-envelope",
            Self::WrongOwner { .. } => "wrong-owner",
            Self::BadSignature { .. } => "bad-signature",
            Self::TooFewSigners { .. } => "too-few-signers",
            Self::Field(FieldError { problem, .. }) => match problem {
                Problem::Unknown => "unknown-field",
                Problem::Missing => "missing-field",
                Problem::Type(_) => "wrong-type",
                Problem::Value(_) => "invalid-value",
            },
            Self::NotCanonical { .. } => "not-canonical",
            Self::WrongNode { .. } => "wrong-node",
            Self::WrongFarm { .. } => "wrong-farm",
            Self::NotFarmer { .. } => "not-farmer",
            Self::WrongContract { .. } => "wrong-contract",
            Self::WrongVersion { .. } => "wrong-version",
            Self::NotNewer { .. } => "not-newer",
            Self::Expired { .. } => "expired",
        }
    }
}

fn farm_of(farm: &Option<FarmId>) -> String {
    match farm {
        Some(farm) => format!("this node belongs to farm {farm}"),
        None => "this node belongs to no farm".to_owned(),
    }
}

/// What is wrong with one field. Shown as `workloads.web.memory: must be ...`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}", if path.is_empty() { String::new() } else { format!("{path}: ") })]
pub struct FieldError {
    /// Keys from the payload's root with dots between, and `[n]` for the n-th of a list from 0.
    pub path: String,
    pub problem: Problem,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("there is no such field")]
    Unknown,
    #[error("is missing")]
    Missing,
    #[error("must be {0}")]
    Type(&'static str),
    #[error("{0}")]
    Value(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_the_node_is_stands_in_the_sentence() {
        let wrong = |farm| {
            let named = FarmId(7);
            Rejection::WrongFarm { named, farm }.to_string()
        };
        let said = wrong(Some(FarmId(8)));
        assert!(
            said.contains('7') && said.contains("this node belongs to farm 8"),
            "{said}"
        );
        assert!(wrong(None).contains("this node belongs to no farm"));
    }
}
