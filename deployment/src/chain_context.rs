//! [`ChainContext`]: which grid something was signed or sealed for.

use serde::{Deserialize, Serialize};

/// The chain and the contract `Grid` on it. Goes into every signature and every sealed secret, so
/// that what was made for one grid is worth nothing on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChainContext {
    pub chain_id: u64,
    /// Address of the contract.
    pub contract: [u8; 20],
}

impl ChainContext {
    /// `label`, then the chain id (8 bytes, big-endian), then the contract's address (20 bytes).
    pub(crate) fn bind(&self, label: &[u8]) -> Vec<u8> {
        [label, &self.chain_id.to_be_bytes(), &self.contract].concat()
    }
}
