//! Which grid this node belongs to: `/etc/loam/grid.toml`.

use std::{fs, io, path::Path};

use anyhow::{Context, bail, ensure};
use loam_chain::GridConfig;
use loam_deployment::{ChainContext, FarmId};

/// The only configuration of a node, the same for every node that boots an image.
#[derive(Clone, Debug)]
pub struct Grid {
    pub config: GridConfig,
    /// The farm that the node joins where nobody else names one. An image for many farmers has none.
    pub farm: Option<FarmId>,
}

impl Grid {
    pub fn read(path: impl AsRef<Path>) -> anyhow::Result<Self> {
        let path = path.as_ref();
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
                "this image was made for no grid, so that this machine cannot join one: start it from an image \
                 that your grid gives out, or that was made with --grid"
            ),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
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
        let farm = config.farm;
        ensure!(farm != Some(FarmId(0)), "there is no farm 0");
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
        assert_eq!(grid.farm, Some(FarmId(1)));
        assert_eq!(
            grid.name(),
            "31337:0x5fbdb2315678afecb367f032d93f642f64180aa3"
        );
    }

    #[test]
    fn an_image_for_many_farmers_names_no_farm() {
        let grid = Grid::parse(&GOOD.replace("farm = 1", "")).unwrap();
        assert_eq!(grid.farm, None);
    }

    #[test]
    fn an_image_without_a_grid_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("grid.toml");
        let said = || Grid::read(&file).unwrap_err().to_string();
        assert!(said().contains("start it from an image that your grid gives out"));
        fs::write(&file, "chain_id = 1").unwrap();
        assert!(said().contains("build the image anew"));
    }

    #[test]
    fn refuses_what_is_unknown_missing_or_malformed() {
        for (from, to) in [
            ("farm", "firm"),
            ("farm = 1", "farm = 0"),
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
