//! [`GridConfig`]: which contract on which chain, and which endpoints answer for it.

use alloy::primitives::Address;
use loam_deployment::{ChainContext, FarmId};
use serde::{Deserialize, Serialize};

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
    /// What signatures are made for.
    pub fn context(&self) -> ChainContext {
        ChainContext {
            chain_id: self.chain_id,
            contract: self.contract.into_array(),
        }
    }
}
