//! What a node says about a contract, signed by the node.
//!
//! COSE_Sign1 (RFC 9052, tag 18) around deterministic CBOR: protected header `{1: -8}` (EdDSA),
//! nothing unprotected, external AAD `loam-report-v1`, chain id (8 bytes, big-endian), contract's
//! address (20). The signer is the node that the report names. [`crate::cbor`] lists the fields.

mod health;

use std::{collections::BTreeMap, net::IpAddr};

use coset::{
    CborSerializable, CoseSign1, CoseSign1Builder, Header, HeaderBuilder, TaggedCborSerializable,
    cbor::Value, iana,
};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::{
    Bytes, ChainContext, ContractId, Name, NodeKey, Version,
    cbor::{self, Decode, Encode, EncodingError, Fields, Map, Named},
    limits,
    payload::Publish,
    rejection::{FieldError, Problem},
};

pub use health::{Health, HealthState};

/// Start of the external AAD of a report's signature.
pub const LABEL: &[u8] = b"loam-report-v1";

/// The only format there is.
pub const FORMAT: u64 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub node: NodeKey,
    pub contract: ContractId,
    /// The version that the report is about: of a rejected deployment, the one on the chain.
    pub version: Version,
    /// Seconds since 1970, by the node's clock.
    pub time: u64,
    /// Which image the node runs, as its screen shows it. Empty where it is not known.
    pub image: String,
    pub verdict: Verdict,
    /// What runs under the contract. After a rejection, that of the version before.
    pub workloads: BTreeMap<Name, WorkloadReport>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub enum Verdict {
    Accepted,
    Rejected {
        /// A short name that stays the same when the sentence is reworded; for a rejected deployment
        /// [`crate::Rejection::code`].
        code: String,
        /// A sentence for the owner; for a rejected deployment [`crate::Rejection`]'s text.
        reason: String,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadReport {
    pub state: State,
    /// Free text for people: how far a fetch is, why a start failed. May be empty.
    pub detail: String,
    /// Addresses of a machine in its networks, or those of a gateway or public IP.
    pub addresses: Vec<IpAddr>,
    /// Ports of the node that lead to a machine now.
    pub ports: Vec<Publish>,
    /// Exit status of a machine's command when it ended (128 + signal when killed).
    pub exit_status: Option<i32>,
    /// How often a machine was started again after it had ended by itself.
    pub restarts: u32,
    /// Position after the last byte that a machine wrote to its console.
    pub console_position: Option<u64>,
    /// Space that the data of a volume or object store takes.
    pub used: Option<Bytes>,
    /// What a machine's check says.
    pub health: Option<Health>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Waits for something else: a volume, a network, room on the node.
    #[default]
    Pending,
    /// Its image is being fetched.
    Fetching,
    Starting,
    Running,
    /// Ended, and its restart policy leaves it so.
    Stopped,
    /// Could not be made or started; `detail` says why. The node tries again.
    Failed,
}

impl State {
    /// As it is written in reports: `pending`, `fetching`, ...
    pub fn as_str(self) -> &'static str {
        self.name()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    #[error(
        "the report has {size} bytes; at most {} are allowed",
        limits::REPORT_BYTES
    )]
    TooLarge { size: usize },
    #[error("the report is not deterministic CBOR: {0}")]
    Encoding(#[from] EncodingError),
    #[error("the report is not a COSE_Sign1 object with the headers that reports have")]
    Envelope,
    #[error("the report is not signed by node {0} for this chain")]
    Signature(NodeKey),
    #[error("the report names node {named}, not {node}")]
    WrongNode { named: NodeKey, node: NodeKey },
    #[error("the report is not well formed: {0}")]
    Field(#[from] FieldError),
    #[error("the report is not in its only form: {path}")]
    NotCanonical { path: String },
}

/// Signs a report as the node it names. Call [`Report::shortened`] first where texts are long.
pub fn sign(
    report: &Report,
    chain: &ChainContext,
    node: &SigningKey,
) -> Result<Vec<u8>, ReportError> {
    check(report)?;
    let signer = NodeKey(node.verifying_key().to_bytes());
    if report.node != signer {
        return Err(ReportError::WrongNode {
            named: report.node,
            node: signer,
        });
    }
    let bytes = CoseSign1Builder::new()
        .protected(header())
        .payload(cbor::write(&report.encode()))
        .create_signature(&chain.bind(LABEL), |tbs| node.sign(tbs).to_bytes().to_vec())
        .build()
        .to_tagged_vec()
        .expect("an envelope of plain parts is encodable");
    size(&bytes)?;
    Ok(bytes)
}

/// Verifies that `node` says this on this chain. That it is about the right contract and how old
/// it is, the caller checks.
pub fn verify(bytes: &[u8], chain: &ChainContext, node: &NodeKey) -> Result<Report, ReportError> {
    size(bytes)?;
    let (payload, signature) = open(bytes)?;
    let tbs = CoseSign1Builder::new()
        .protected(header())
        .payload(payload.clone())
        .build()
        .tbs_data(&chain.bind(LABEL));
    VerifyingKey::from_bytes(&node.0)
        .and_then(|key| key.verify_strict(&tbs, &Signature::from_bytes(&signature)))
        .map_err(|_| ReportError::Signature(*node))?;

    let value = cbor::read(&payload)?;
    let report = Report::decode(value.clone(), "")?;
    if let Some(path) = cbor::difference(&value, &report.encode()) {
        return Err(ReportError::NotCanonical { path });
    }
    check(&report)?;
    if report.node != *node {
        return Err(ReportError::WrongNode {
            named: report.node,
            node: *node,
        });
    }
    Ok(report)
}

fn size(bytes: &[u8]) -> Result<(), ReportError> {
    match bytes.len() {
        size if size > limits::REPORT_BYTES => Err(ReportError::TooLarge { size }),
        _ => Ok(()),
    }
}

fn header() -> Header {
    HeaderBuilder::new()
        .algorithm(iana::Algorithm::EdDSA)
        .build()
}

fn open(bytes: &[u8]) -> Result<(Vec<u8>, [u8; 64]), ReportError> {
    let Value::Tag(<CoseSign1 as TaggedCborSerializable>::TAG, object) = cbor::read(bytes)? else {
        return Err(ReportError::Envelope);
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
            Value::Bytes(signature),
        ],
    ) = parts
    else {
        return Err(ReportError::Envelope);
    };
    let expected = header()
        .to_vec()
        .expect("a header of one plain entry is encodable");
    if protected != Value::Bytes(expected) || unprotected != Value::Map(Vec::new()) {
        return Err(ReportError::Envelope);
    }
    let signature = signature.try_into().map_err(|_| ReportError::Envelope)?;
    Ok((payload, signature))
}

fn check(report: &Report) -> Result<(), ReportError> {
    let limit = |path: String, what: &str, size: usize, limit: usize| {
        if size <= limit {
            return Ok(());
        }
        let problem = Problem::Value(format!("has {size} {what}; at most {limit} are allowed"));
        Err(ReportError::Field(FieldError { path, problem }))
    };
    limit(
        "workloads".to_owned(),
        "entries",
        report.workloads.len(),
        limits::WORKLOADS,
    )?;
    limit(
        "image".to_owned(),
        "bytes",
        report.image.len(),
        limits::IMAGE_VERSION_BYTES,
    )?;
    if let Verdict::Rejected { code, reason } = &report.verdict {
        limit(
            "rejected_code".to_owned(),
            "bytes",
            code.len(),
            limits::CODE_BYTES,
        )?;
        limit(
            "rejected".to_owned(),
            "bytes",
            reason.len(),
            limits::REASON_BYTES,
        )?;
    }
    for (name, workload) in &report.workloads {
        let path = |field| format!("workloads.{name}.{field}");
        let WorkloadReport {
            detail,
            addresses,
            ports,
            ..
        } = workload;
        limit(path("detail"), "bytes", detail.len(), limits::DETAIL_BYTES)?;
        limit(
            path("addresses"),
            "entries",
            addresses.len(),
            limits::REPORT_ADDRESSES,
        )?;
        limit(path("ports"), "entries", ports.len(), limits::MACHINE_PORTS)?;
    }
    Ok(())
}

impl Report {
    /// Cuts what is longest until the report fits its limits: texts first, then, of a deployment
    /// with very many ports or addresses, these. States and numbers always stay; health and restarts do
    /// unless all workloads that there may be have every number at once, which none has.
    #[must_use]
    pub fn shortened(mut self) -> Self {
        cut(&mut self.image, limits::IMAGE_VERSION_BYTES);
        if let Verdict::Rejected { code, reason } = &mut self.verdict {
            cut(code, limits::CODE_BYTES);
            cut(reason, limits::REASON_BYTES);
        }
        for workload in self.workloads.values_mut() {
            cut(&mut workload.detail, limits::DETAIL_BYTES);
            workload.addresses.truncate(limits::REPORT_ADDRESSES);
            workload.ports.truncate(limits::MACHINE_PORTS);
        }
        let steps = [(64, 64, 16), (16, 16, 4), (0, 1, 1), (0, 0, 0)];
        for (detail, ports, addresses) in steps {
            if self.fits() {
                break;
            }
            for workload in self.workloads.values_mut() {
                cut(&mut workload.detail, detail);
                workload.ports.truncate(ports);
                workload.addresses.truncate(addresses);
            }
        }
        if !self.fits()
            && let Verdict::Rejected { reason, .. } = &mut self.verdict
        {
            cut(reason, limits::DETAIL_BYTES);
        }
        if !self.fits() {
            for workload in self.workloads.values_mut() {
                workload.health = None;
                workload.restarts = 0;
            }
        }
        self
    }

    fn fits(&self) -> bool {
        /// Tag, headers, heads and signature around the payload, rounded up.
        const ENVELOPE: usize = 96;
        cbor::write(&self.encode()).len() + ENVELOPE <= limits::REPORT_BYTES
    }
}

/// Cuts at a character's border and shows that something was cut.
fn cut(text: &mut String, limit: usize) {
    const MARK: &str = "…";
    if text.len() > limit {
        let keep = text.floor_char_boundary(limit.saturating_sub(MARK.len()));
        text.truncate(keep);
        if keep + MARK.len() <= limit {
            text.push_str(MARK);
        }
    }
}

impl Named for State {
    const NAMES: &'static [(Self, &'static str)] = &[
        (Self::Pending, "pending"),
        (Self::Fetching, "fetching"),
        (Self::Starting, "starting"),
        (Self::Running, "running"),
        (Self::Stopped, "stopped"),
        (Self::Failed, "failed"),
    ];
}

impl Encode for Report {
    fn encode(&self) -> Value {
        let rejected = match &self.verdict {
            Verdict::Accepted => None,
            Verdict::Rejected { code, reason } => Some((code, reason)),
        };
        Map::default()
            .with("format", &FORMAT)
            .with("node", &self.node)
            .with("contract", &self.contract)
            .with("version", &self.version)
            .with("time", &self.time)
            .unless_default("image", &self.image)
            .with_some("rejected", rejected.map(|(_, reason)| reason))
            .with_some("rejected_code", rejected.map(|(code, _)| code))
            .unless_default("workloads", &self.workloads)
            .finish()
    }
}

impl Decode for Report {
    fn decode(value: Value, path: &str) -> Result<Self, FieldError> {
        let mut fields = Fields::new(value, path)?;
        fields.format(FORMAT)?;
        let report = Self {
            node: fields.required("node")?,
            contract: fields.required("contract")?,
            version: fields.required("version")?,
            time: fields.required("time")?,
            image: fields.or_default("image")?,
            verdict: match fields.optional("rejected")? {
                None => Verdict::Accepted,
                Some(reason) => Verdict::Rejected {
                    code: fields.required("rejected_code")?,
                    reason,
                },
            },
            workloads: fields.or_default("workloads")?,
        };
        fields.finish()?;
        Ok(report)
    }
}

impl Encode for WorkloadReport {
    fn encode(&self) -> Value {
        Map::default()
            .with("state", &self.state)
            .unless_default("detail", &self.detail)
            .unless_default("addresses", &self.addresses)
            .unless_default("ports", &self.ports)
            .with_some("exit_status", self.exit_status.as_ref())
            .unless_default("restarts", &self.restarts)
            .with_some("console_position", self.console_position.as_ref())
            .with_some("used", self.used.as_ref())
            .with_some("health", self.health.as_ref())
            .finish()
    }
}

impl Decode for WorkloadReport {
    fn decode(value: Value, path: &str) -> Result<Self, FieldError> {
        let mut fields = Fields::new(value, path)?;
        let report = Self {
            state: fields.required("state")?,
            detail: fields.or_default("detail")?,
            addresses: fields.or_default("addresses")?,
            ports: fields.or_default("ports")?,
            exit_status: fields.optional("exit_status")?,
            restarts: fields.or_default("restarts")?,
            console_position: fields.optional("console_position")?,
            used: fields.optional("used")?,
            health: fields.optional("health")?,
        };
        fields.finish()?;
        Ok(report)
    }
}

#[cfg(test)]
mod tests;
