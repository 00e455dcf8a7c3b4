//! Where the grid is and where the key lies.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use loam_chain::{Address, GridConfig};
use loam_deployment::NodeKey;
use serde::Deserialize;

/// Paths only; nothing is read before it is needed, so that `loam key new` works without a grid.
#[derive(Clone, Debug)]
pub struct Config {
    file: PathBuf,
    key: PathBuf,
}

/// The configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grid {
    chain_id: u64,
    contract: Address,
    endpoints: Vec<String>,
    /// Nodes that are reached elsewhere than they say: behind a port forwarding, most often.
    #[serde(default)]
    nodes: BTreeMap<String, String>,
}

impl Config {
    pub fn locate(file: Option<PathBuf>, key: Option<PathBuf>) -> Self {
        let file = file.unwrap_or_else(default_file);
        let key = key.unwrap_or_else(|| file.with_file_name("key"));
        Self { file, key }
    }

    pub fn key(&self) -> &Path {
        &self.key
    }

    pub fn grid(&self) -> anyhow::Result<Grid> {
        let file = self.file.display();
        let text = match fs::read_to_string(&self.file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
                "{file} does not exist; write one with chain_id, contract and endpoints of the \
                 grid, or name another with --config"
            ),
            Err(error) => return Err(error).context(format!("{file} cannot be read")),
        };
        let grid: Grid = toml::from_str(&text).with_context(|| file.to_string())?;
        for node in grid.nodes.keys() {
            node.parse::<NodeKey>()
                .with_context(|| format!("{file}: nodes"))?;
        }
        Ok(grid)
    }
}

impl Grid {
    pub fn chain(&self) -> GridConfig {
        GridConfig {
            chain_id: self.chain_id,
            contract: self.contract,
            endpoints: self.endpoints.clone(),
            farm: None,
        }
    }

    /// Where this node is reached, if the user knows better than the node.
    pub fn reach(&self, node: &NodeKey) -> Option<&str> {
        self.nodes.get(&node.to_string()).map(String::as_str)
    }
}

fn default_file() -> PathBuf {
    let folder = env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".config")))
        .unwrap_or_default();
    folder.join("loam/config.toml")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(text: &str) -> anyhow::Result<Grid> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        fs::write(&file, text).unwrap();
        Config::locate(Some(file), None).grid()
    }

    const GOOD: &str = r#"
        chain_id = 31337
        contract = "0x5fbdb2315678afecb367f032d93f642f64180aa3"
        endpoints = ["http://127.0.0.1:8545"]
    "#;

    #[test]
    fn reads_a_grid_and_where_nodes_are() {
        let node = NodeKey([0xab; 32]);
        let text = format!("{GOOD}\n[nodes]\n{node} = \"127.0.0.1:19650\"\n");
        assert_eq!(grid(&text).unwrap().reach(&node), Some("127.0.0.1:19650"));
        assert_eq!(grid(GOOD).unwrap().reach(&node), None);
    }

    #[test]
    fn a_mistake_is_named_with_its_file() {
        for text in ["chain = 1", "", &format!("{GOOD}\n[nodes]\nxyz = \"a:1\"")] {
            let error = format!("{:#}", grid(text).unwrap_err());
            assert!(error.contains("config.toml"), "{error}");
        }
        let missing = Config::locate(Some("/nonexistent/config.toml".into()), None).grid();
        assert!(missing.unwrap_err().to_string().contains("--config"));
    }
}
