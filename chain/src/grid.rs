//! [`GridConfig`]: which contract on which chain, and which endpoints answer for it.

use alloy::primitives::Address;
use loam_deployment::{ChainContext, FarmId};
use reqwest::Url;
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

    /// Names or addresses of the endpoints' hosts: what else is in an endpoint may be a secret.
    pub fn hosts(&self) -> Vec<String> {
        let urls = self.endpoints.iter().map(|url| url.parse::<Url>());
        let host = |url: Url| url.host_str().map(str::to_owned);
        urls.flatten().filter_map(host).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_endpoint_the_host_alone_is_told() {
        let config = GridConfig {
            chain_id: 1,
            contract: Address::ZERO,
            endpoints: vec![
                "https://user:secret@rpc.example.org/v2/key?token=secret".into(),
                "http://[2001:db8::7]:8545".into(),
                "nonsense".into(),
            ],
            farm: None,
        };
        assert_eq!(config.hosts(), ["rpc.example.org", "[2001:db8::7]"]);
    }
}
