//! What the node's own screen shows. noded knows it, init draws it.

use std::net::IpAddr;

use loam_deployment::NodeKey;
use serde::{Deserialize, Serialize};

use crate::WorkloadId;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// None before the identity exists, which needs a disk.
    pub node: Option<NodeKey>,
    pub farm: Option<u64>,
    pub addresses: Vec<IpAddr>,
    pub chain: ChainState,
    pub workloads: Vec<WorkloadLine>,
    /// What a farmer should look at: foreign disks, no link, no space.
    pub notices: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChainState {
    #[default]
    Connecting,
    /// Registered, and following this finalized block.
    Following { block: u64 },
    /// Registration is on its way.
    Registering { block: u64 },
    /// No answer; what runs goes on.
    Silent { reason: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadLine {
    pub id: WorkloadId,
    /// `machine`, `volume`, ...
    pub kind: String,
    /// `running`, `fetching 40 %`, `failed: ...`
    pub state: String,
}
