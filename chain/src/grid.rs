//! Which contract on which chain, and which endpoints answer for it.

use alloy::primitives::Address;
use loam_deployment::FarmId;
use serde::{Deserialize, Serialize};

/// The one contract that a signature is made for. A signature for one is worth nothing to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GridId {
    pub chain_id: u64,
    pub contract: Address,
}

/// `grid.toml`: all that a node or a command line knows of the grid beforehand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GridConfig {
    pub chain_id: u64,
    pub contract: Address,
    /// JSON-RPC over `http://` or `https://`, asked in this order.
    pub endpoints: Vec<String>,
    /// The farm that a node booting with this file joins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub farm: Option<FarmId>,
}

impl GridConfig {
    pub fn id(&self) -> GridId {
        GridId {
            chain_id: self.chain_id,
            contract: self.contract,
        }
    }
}
