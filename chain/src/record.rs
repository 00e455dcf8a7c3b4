//! What the contract keeps. Holding a record means that it is well-formed, not that it is proved:
//! that is the reader's promise.

use alloy::primitives::{Address, B256};
use loam_deployment::{Bytes, ContractId, FarmId, NodeKey, TwinId, Version};

/// A person or a machine that owns things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TwinRecord {
    pub id: TwinId,
    /// The chain account that may write for it.
    pub owner: Address,
    pub keys: Vec<WeightedKey>,
    /// What the weights of a deployment's signers must reach together; at least 1.
    pub threshold: u32,
    /// Rises with each change of keys.
    pub version: u64,
}

/// An Ed25519 public key and what its signature counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightedKey {
    pub key: [u8; 32],
    /// At least 1.
    pub weight: u16,
}

impl TwinRecord {
    /// What the signature of `key` counts; nothing if it is none of the twin's keys.
    pub fn weight(&self, key: &[u8; 32]) -> Option<u16> {
        let entry = self.keys.iter().find(|entry| entry.key == *key)?;
        Some(entry.weight)
    }
}

/// The nodes of one farmer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FarmRecord {
    pub id: FarmId,
    pub twin: TwinId,
    /// At most 64 bytes.
    pub name: String,
    /// The signed `node` deployment for all nodes of the farm.
    pub policy: Option<Stored>,
}

/// Bytes that the contract stored as the code of a data contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    pub version: Version,
    pub pointer: Address,
    /// keccak256 of the bytes.
    pub hash: B256,
}

/// What a node offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// CPU threads.
    pub cpus: u64,
    pub memory: Bytes,
    pub ssd: Bytes,
    pub hdd: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    pub key: NodeKey,
    pub farm: FarmId,
    /// The chain account that speaks for the node.
    pub account: Address,
    /// X25519 public key: secrets are sealed to it (HPKE), tenants speak to it (Noise).
    pub hpke_key: [u8; 32],
    pub capacity: Capacity,
    /// Where tenants reach the node, as the node wrote it; at most 256 bytes.
    pub addresses: String,
    /// See [`crate::binding`]. Readers have checked it.
    pub binding: [u8; 64],
    pub state: NodeState,
    /// Block of registration.
    pub registered: u64,
    /// Block of the last sign of life.
    pub last_report: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    Up,
    /// It said that it shuts down. A node that merely fell silent stays `Up`.
    Down,
}

/// One deployment on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContractRecord {
    pub id: ContractId,
    pub twin: TwinId,
    pub node: NodeKey,
    pub state: ContractState,
    /// The signed deployment, with its version.
    pub deployment: Stored,
    /// The node's last report.
    pub report: Option<ReportRef>,
    /// Block.
    pub created: u64,
    /// Block of the last change of state or deployment.
    pub updated: u64,
}

impl ContractRecord {
    pub fn version(&self) -> Version {
        self.deployment.version
    }

    pub fn is_live(&self) -> bool {
        self.state != ContractState::Cancelled
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContractState {
    Created,
    /// Ended for good.
    Cancelled,
    /// Stopped by the farmer; data stays.
    Suspended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportRef {
    pub pointer: Address,
    /// Which version of the deployment the report is about.
    pub version: Version,
    /// Block.
    pub written: u64,
}
