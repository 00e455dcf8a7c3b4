//! [`Draft`]: a deployment before node, contract and version are known.

use zeroize::Zeroizing;

use crate::{
    ChainContext, ContractId, FarmId, Name, NodeKey, Version,
    payload::{Body, Payload, Sealed, Target, Workload},
    seal::{self, SealContext, SealError, SealedField},
};

/// A deployment as it was written. Every limit is checked; secrets are not sealed yet.
pub struct Draft {
    pub(super) description: String,
    pub(super) valid_until: Option<u64>,
    /// In the secrets' places are zeros of the size that they will have when sealed.
    pub(super) body: Body,
    pub(super) secrets: Vec<Secret>,
}

pub(super) struct Secret {
    pub(super) workload: Name,
    pub(super) place: Place,
    pub(super) plain: Zeroizing<Vec<u8>>,
}

/// Where in a workload a secret stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A machine's variable.
    Env(String),
    /// An object store's.
    Password,
    ImageUser,
    ImagePassword,
}

/// The node for which a draft becomes a payload, and under which contract.
#[derive(Clone, Copy, Debug)]
pub struct Recipient {
    pub chain: ChainContext,
    pub node: NodeKey,
    /// From the node's record on the chain.
    pub hpke_public: [u8; 32],
    pub contract: ContractId,
    pub version: Version,
}

/// Says how many secrets there are, not which.
impl std::fmt::Debug for Draft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Draft")
            .field("description", &self.description)
            .field("valid_until", &self.valid_until)
            .field("body", &self.body)
            .field("secrets", &self.secrets.len())
            .finish()
    }
}

impl Draft {
    pub fn description(&self) -> &str {
        &self.description
    }

    /// What it says. Sealed values in it are zeros yet.
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// `workload` or `node`.
    pub fn kind(&self) -> &'static str {
        match self.body {
            Body::Workload(_) => "workload",
            Body::Node(_) => "node",
        }
    }

    /// Seals the secrets and gives the payload, ready to be signed.
    pub fn for_node(&self, recipient: &Recipient) -> Result<Payload, SealError> {
        let mut body = self.body.clone();
        for secret in &self.secrets {
            let context = SealContext {
                chain: recipient.chain,
                node: recipient.node,
                contract: recipient.contract,
                workload: &secret.workload,
                field: match &secret.place {
                    Place::Env(variable) => SealedField::Env(variable),
                    Place::Password => SealedField::Password,
                    Place::ImageUser => SealedField::ImageUser,
                    Place::ImagePassword => SealedField::ImagePassword,
                },
            };
            let sealed = seal::seal(&secret.plain, &recipient.hpke_public, &context)?;
            *secret
                .place_in(&mut body)
                .expect("a secret is made together with the workload that holds it") = sealed;
        }
        let target = Target::Node(recipient.node);
        Ok(self.payload(target, recipient.contract, recipient.version, body))
    }

    /// The payload for every node of a farm; only for drafts of the kind `node`.
    pub fn for_farm(
        &self,
        farm: FarmId,
        contract: ContractId,
        version: Version,
    ) -> Option<Payload> {
        match &self.body {
            Body::Workload(_) => None,
            Body::Node(policy) => {
                let body = Body::Node(policy.clone());
                Some(self.payload(Target::Farm(farm), contract, version, body))
            }
        }
    }

    fn payload(
        &self,
        target: Target,
        contract: ContractId,
        version: Version,
        body: Body,
    ) -> Payload {
        let (valid_until, description) = (self.valid_until, self.description.clone());
        Payload {
            target,
            contract,
            version,
            valid_until,
            description,
            body,
        }
    }
}

impl Secret {
    /// Where the sealed secret goes.
    fn place_in<'b>(&self, body: &'b mut Body) -> Option<&'b mut Sealed> {
        let Body::Workload(workloads) = body else {
            return None;
        };
        match (workloads.get_mut(&self.workload)?, &self.place) {
            (Workload::Machine(machine), Place::Env(variable)) => {
                machine.sealed_env.get_mut(variable)
            }
            (Workload::Machine(machine), Place::ImageUser) => {
                Some(&mut machine.image_login.as_mut()?.sealed_user)
            }
            (Workload::Machine(machine), Place::ImagePassword) => {
                Some(&mut machine.image_login.as_mut()?.sealed_password)
            }
            (Workload::ObjectStore(store), Place::Password) => Some(&mut store.sealed_password),
            _ => None,
        }
    }
}
