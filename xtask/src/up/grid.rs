//! The demo's grid: a local chain, a farmer with a farm, and a tenant, made with the real `loam`.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use loam_chain::local::{LocalChain, LocalChainOptions};
use loam_deployment::FarmId;
use serde::Deserialize;
use tokio::runtime::Runtime;

use super::tool::Loam;
use crate::qemu;

#[derive(Debug)]
pub struct LocalGrid {
    pub chain: LocalChain,
    pub farm: u64,
    pub tenant: Loam,
    config: PathBuf,
    /// Drives the chain's own requests.
    _runtime: Runtime,
}

#[derive(Deserialize)]
struct Farm {
    farm: u64,
}

#[derive(Deserialize)]
struct Key {
    #[serde(rename = "account")]
    _account: String,
}

impl LocalGrid {
    pub fn start(folder: &Path, loam: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let chain_folder = folder.join("chain");
        fs::create_dir(&chain_folder)?;
        let options = LocalChainOptions {
            folder: Some(chain_folder),
            ..Default::default()
        };
        let chain = runtime.block_on(LocalChain::start(options))?;
        let config = folder.join("config.toml");
        fs::write(&config, toml::to_string(&chain.config())?)?;
        let with_key = |name: &str| Loam {
            binary: loam.to_owned(),
            config: config.clone(),
            key: folder.join(format!("{name}.key")),
        };
        let (farmer, tenant) = (with_key("farmer"), with_key("tenant"));
        for user in [&farmer, &tenant] {
            user.ask::<Key>(&["key", "new"])?;
            user.ask::<Key>(&["key", "register"])?;
        }
        // Will sign the demo's releases, once the grid keeps releases.
        with_key("release").ask::<Key>(&["key", "new"])?;
        let farm: Farm = farmer.ask(&["farm", "create", "demo"])?;
        Ok(Self {
            chain,
            farm: farm.farm,
            tenant,
            config,
            _runtime: runtime,
        })
    }

    /// `grid.toml` for a node in QEMU.
    pub fn node_config(&self) -> Result<String> {
        qemu::grid_toml(
            &self.chain,
            FarmId(self.farm),
            qemu::HOST,
            self.chain.port(),
        )
    }

    /// Tells `loam` where port 9650 of the node is reached from here.
    pub fn reach_node(&mut self, node: &str, port: u16) -> Result<()> {
        let mut text = fs::read_to_string(&self.config)?;
        write!(text, "\n[nodes]\n{node} = \"127.0.0.1:{port}\"\n")?;
        fs::write(&self.config, text)?;
        Ok(())
    }
}
