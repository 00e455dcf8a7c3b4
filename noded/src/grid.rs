//! Which grid this node belongs to: `/etc/loam/grid.toml`.

use std::{fs, path::Path};

use anyhow::{Context, ensure};
use loam_chain::GridConfig;
use loam_deployment::{ChainContext, FarmId};

/// The only configuration of a node, the same for every node that boots an image.
#[derive(Clone, Debug)]
pub struct Grid {
    pub config: GridConfig,
    /// The farm that the node joins.
    pub farm: FarmId,
}

impl Grid {
    pub fn read(path: impl AsRef<Path>) -> anyhow::Result<Self> {
        let path = path.as_ref();
        let text = fs::read_to_string(path).with_context(|| {
            format!("{} cannot be read; the image is incomplete", path.display())
        })?;
        Self::parse(&text).with_context(|| {
            format!(
                "{} says wrongly which grid to join; build the image anew",
                path.display()
            )
        })
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let config: GridConfig = toml::from_str(text)?;
        ensure!(!config.endpoints.is_empty(), "endpoints is empty");
        let farm = config.farm.context("farm is missing")?;
        Ok(Self { config, farm })
    }

    pub fn context(&self) -> ChainContext {
        self.config.context()
    }

    /// Names the grid: what the data on this node's disks was made for.
    pub fn name(&self) -> String {
        format!("{}:{:#x}", self.config.chain_id, self.config.contract)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        chain_id = 31337
        contract = "0x5fbdb2315678afecb367f032d93f642f64180aa3"
        endpoints = ["http://10.0.2.2:8545"]
        farm = 1
    "#;

    #[test]
    fn reads_a_grid() {
        let grid = Grid::parse(GOOD).unwrap();
        assert_eq!(grid.farm, FarmId(1));
        assert_eq!(
            grid.name(),
            "31337:0x5fbdb2315678afecb367f032d93f642f64180aa3"
        );
    }

    #[test]
    fn refuses_what_is_unknown_missing_or_malformed() {
        for (from, to) in [
            ("farm", "firm"),
            ("farm = 1", ""),
            ("0x5f", "0xzz"),
            ("31337", "\"x\""),
            ("\"http://10.0.2.2:8545\"", ""),
        ] {
            assert!(
                Grid::parse(&GOOD.replace(from, to)).is_err(),
                "{from} -> {to}"
            );
        }
    }
}
