//! The signed envelope: COSE_Sign (RFC 9052, tag 98) around a payload.
//!
//! ```text
//! 98([ h'',                     body's protected header: empty
//!      {},                      unprotected header: empty
//!      payload,                 bytes: the deterministic CBOR of the payload
//!      [ [ << {1: -8, 4: kid} >>,   signer's protected header: EdDSA, kid = twin id (8, big-endian)
//!          {},
//!          signature ], ... ]])     64 bytes, Ed25519
//! ```
//!
//! External AAD: `loam-deployment-v1`, chain id (8 bytes, big-endian), contract's address (20).
//! Nothing may be added to any header, and the whole envelope is itself deterministic CBOR, so the
//! same payload signed by the same keys in the same order has one encoding.
//!
//! `kid` names the twin, not which of its keys signed: a verifier tries each of the twin's keys
//! that the chain records. Every signature must be by one of them; a key that signed twice counts
//! once, and the weights of the distinct keys that signed must reach the twin's threshold.

use coset::{
    CborSerializable, CoseSign, CoseSignBuilder, CoseSignature, CoseSignatureBuilder, Header,
    HeaderBuilder, TaggedCborSerializable, cbor::Value, iana,
};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::{
    ChainContext, ContractId, FarmId, NodeKey, Rejection, TwinId, Version, cbor, limits,
    payload::{Body, Payload, Target},
    validate,
};

/// Start of the external AAD of a deployment's signatures.
pub const LABEL: &[u8] = b"loam-deployment-v1";

/// What the chain's records say about a deployment, and what the verifier itself knows.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    pub chain: ChainContext,
    /// The node that verifies, or for which a tool verifies.
    pub node: NodeKey,
    /// The farm of that node, if it is in one.
    pub farm: Option<Farm>,
    pub contract: ContractId,
    /// The version that the chain records.
    pub version: Version,
    /// The twin to whom the contract belongs.
    pub owner: TwinId,
    pub keys: &'a TwinKeys,
    /// Seconds since 1970.
    pub now: u64,
    /// The version of this contract that the node runs, if any; the deployment's must be above.
    pub running: Option<Version>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Farm {
    pub id: FarmId,
    /// The farmer: the only one who may sign `node` deployments.
    pub twin: TwinId,
}

/// The Ed25519 keys of a twin with their weights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TwinKeys {
    pub keys: Vec<([u8; 32], u32)>,
    /// What the weights of the keys that sign must reach together; at least 1.
    pub threshold: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("the deployment is not a COSE_Sign object (tag 98 with 4 parts)")]
    NotCoseSign,
    #[error("the deployment's headers hold more, less or other than they may")]
    Headers,
    #[error("signature {number} is not EdDSA by a twin, or has further headers")]
    SignatureHeaders { number: usize },
    #[error("signature {number} has not 64 bytes")]
    SignatureSize { number: usize },
    #[error("the deployment has {0} signatures; 1 to {max} are allowed", max = limits::SIGNATURES)]
    SignatureCount(usize),
    #[error("the chain records no usable keys for its owner")]
    NoKeys,
}

/// Signs a payload. Refuses what every verifier would: limits are checked first.
///
/// The twin of each signer goes into its `kid`; for a valid deployment all are the owner.
pub fn sign(
    payload: &Payload,
    chain: &ChainContext,
    signers: &[(TwinId, &SigningKey)],
) -> Result<Vec<u8>, Rejection> {
    validate::payload(payload)?;
    signature_count(signers.len())?;
    let aad = chain.bind(LABEL);
    let mut builder = CoseSignBuilder::new().payload(cbor::encode(payload));
    for (twin, key) in signers {
        let signature = CoseSignatureBuilder::new()
            .protected(signer_header(*twin))
            .build();
        builder =
            builder.add_created_signature(signature, &aad, |tbs| key.sign(tbs).to_bytes().to_vec());
    }
    let bytes = builder
        .build()
        .to_tagged_vec()
        .expect("an envelope of plain parts is encodable");
    size(&bytes)?;
    Ok(bytes)
}

/// Verifies a deployment, all or nothing. What returns has passed every check there is.
pub fn verify(bytes: &[u8], expected: &Expected<'_>) -> Result<Payload, Rejection> {
    size(bytes)?;
    let envelope = open(bytes)?;
    signatures(&envelope, expected)?;
    let payload = cbor::decode(&envelope.payload)?;
    record(&payload, expected)?;
    Ok(payload)
}

fn size(bytes: &[u8]) -> Result<(), Rejection> {
    match bytes.len() {
        size if size > limits::DEPLOYMENT_BYTES => Err(Rejection::TooLarge { size }),
        _ => Ok(()),
    }
}

fn signature_count(count: usize) -> Result<(), EnvelopeError> {
    match count {
        1..=limits::SIGNATURES => Ok(()),
        _ => Err(EnvelopeError::SignatureCount(count)),
    }
}

/// The parts of an envelope that are not fixed.
struct Envelope {
    payload: Vec<u8>,
    signatures: Vec<(TwinId, [u8; 64])>,
}

fn open(bytes: &[u8]) -> Result<Envelope, Rejection> {
    let value = cbor::read(bytes).map_err(|error| Rejection::Encoding {
        part: "envelope",
        error,
    })?;
    let Value::Tag(<CoseSign as TaggedCborSerializable>::TAG, object) = value else {
        return Err(EnvelopeError::NotCoseSign.into());
    };
    let parts = object
        .into_array()
        .ok()
        .and_then(|parts| <[Value; 4]>::try_from(parts).ok());
    let Some(
        [
            protected,
            unprotected,
            Value::Bytes(payload),
            Value::Array(signatures),
        ],
    ) = parts
    else {
        return Err(EnvelopeError::NotCoseSign.into());
    };
    if protected != Value::Bytes(Vec::new()) || unprotected != Value::Map(Vec::new()) {
        return Err(EnvelopeError::Headers.into());
    }
    signature_count(signatures.len())?;
    let signatures = signatures.into_iter().zip(1..);
    let signatures = signatures
        .map(|(value, number)| signature(value, number))
        .collect::<Result<_, _>>()?;
    Ok(Envelope {
        payload,
        signatures,
    })
}

fn signature(value: Value, number: usize) -> Result<(TwinId, [u8; 64]), EnvelopeError> {
    let parts = value
        .into_array()
        .ok()
        .and_then(|parts| <[Value; 3]>::try_from(parts).ok());
    let Some(
        [
            Value::Bytes(protected),
            unprotected,
            Value::Bytes(signature),
        ],
    ) = parts
    else {
        return Err(EnvelopeError::NotCoseSign);
    };
    // The twin's id ends the header; everything before it is the same in every header.
    let twin = protected
        .last_chunk()
        .map(|id| TwinId(u64::from_be_bytes(*id)));
    let twin = twin
        .filter(|twin| protected == header_bytes(*twin))
        .filter(|_| unprotected == Value::Map(Vec::new()))
        .ok_or(EnvelopeError::SignatureHeaders { number })?;
    let signature = signature
        .try_into()
        .map_err(|_| EnvelopeError::SignatureSize { number })?;
    Ok((twin, signature))
}

fn signer_header(twin: TwinId) -> Header {
    HeaderBuilder::new()
        .algorithm(iana::Algorithm::EdDSA)
        .key_id(twin.0.to_be_bytes().to_vec())
        .build()
}

fn header_bytes(twin: TwinId) -> Vec<u8> {
    signer_header(twin)
        .to_vec()
        .expect("a header of two plain entries is encodable")
}

fn signatures(envelope: &Envelope, expected: &Expected<'_>) -> Result<(), Rejection> {
    let owner = expected.owner;
    let keys = usable_keys(expected.keys)?;
    let aad = expected.chain.bind(LABEL);
    let signed = CoseSignBuilder::new()
        .payload(envelope.payload.clone())
        .build();

    let mut signed_by = vec![false; keys.len()];
    for ((twin, signature), number) in envelope.signatures.iter().zip(1..) {
        if *twin != owner {
            return Err(Rejection::WrongOwner {
                signer: *twin,
                owner,
            });
        }
        let header = CoseSignatureBuilder::new()
            .protected(signer_header(*twin))
            .build();
        let key = matching_key(&keys, &signed, &header, &aad, signature);
        signed_by[key.ok_or(Rejection::BadSignature { number, owner })?] = true;
    }

    let weights = keys.iter().zip(signed_by).filter(|(_, signed)| *signed);
    let weight: u64 = weights.map(|((_, weight), _)| u64::from(*weight)).sum();
    let threshold = u64::from(expected.keys.threshold);
    if weight < threshold {
        return Err(Rejection::TooFewSigners {
            weight,
            threshold,
            owner,
        });
    }
    Ok(())
}

/// The keys that can verify anything, each once.
fn usable_keys(twin: &TwinKeys) -> Result<Vec<(VerifyingKey, u32)>, EnvelopeError> {
    // A threshold of 0 would make a signature of a key that weighs nothing enough.
    if twin.threshold == 0 || twin.keys.len() > limits::TWIN_KEYS {
        return Err(EnvelopeError::NoKeys);
    }
    let mut keys: Vec<(VerifyingKey, u32)> = Vec::new();
    for (bytes, weight) in &twin.keys {
        let Ok(key) = VerifyingKey::from_bytes(bytes) else {
            continue;
        };
        if !keys.iter().any(|(known, _)| *known == key) {
            keys.push((key, *weight));
        }
    }
    if keys.is_empty() {
        Err(EnvelopeError::NoKeys)
    } else {
        Ok(keys)
    }
}

fn matching_key(
    keys: &[(VerifyingKey, u32)],
    envelope: &CoseSign,
    header: &CoseSignature,
    aad: &[u8],
    signature: &[u8; 64],
) -> Option<usize> {
    let tbs = envelope.tbs_data(aad, header);
    let signature = Signature::from_bytes(signature);
    keys.iter()
        .position(|(key, _)| key.verify_strict(&tbs, &signature).is_ok())
}

/// Whether the payload is the one that the chain records, and still stands.
fn record(payload: &Payload, expected: &Expected<'_>) -> Result<(), Rejection> {
    addressee(payload, expected)?;
    if payload.contract != expected.contract {
        return Err(Rejection::WrongContract {
            named: payload.contract,
            contract: expected.contract,
        });
    }
    if payload.version != expected.version {
        return Err(Rejection::WrongVersion {
            named: payload.version,
            recorded: expected.version,
        });
    }
    if let Some(running) = expected.running
        && payload.version <= running
    {
        return Err(Rejection::NotNewer {
            named: payload.version,
            running,
        });
    }
    match payload.valid_until {
        Some(valid_until) if valid_until < expected.now => Err(Rejection::Expired { valid_until }),
        _ => Ok(()),
    }
}

fn addressee(payload: &Payload, expected: &Expected<'_>) -> Result<(), Rejection> {
    match payload.target {
        Target::Node(named) if named != expected.node => {
            return Err(Rejection::WrongNode {
                named,
                node: expected.node,
            });
        }
        Target::Farm(named) if expected.farm.is_none_or(|farm| farm.id != named) => {
            let farm = expected.farm.map(|farm| farm.id);
            return Err(Rejection::WrongFarm { named, farm });
        }
        _ => {}
    }
    // Anyone may have a contract with a node; only its farmer's may say how it behaves.
    let farmer = expected
        .farm
        .is_some_and(|farm| farm.twin == expected.owner);
    match payload.body {
        Body::Node(_) if !farmer => Err(Rejection::NotFarmer {
            owner: expected.owner,
        }),
        _ => Ok(()),
    }
}
