//! A grid of a case's own: a chain, a farmer with a farm, and a registry with the demo's image.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use anyhow::Context;
use loam_chain::{
    AccountKey, EndpointReader, GridConfig, GridReader,
    local::{LocalChain, LocalChainOptions},
    writer::{GridWriter, WriterOptions},
};
use loam_deployment::{ChainContext, FarmId};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use xtask::{
    oci::{self, Entry, Image, RunConfig},
    qemu,
    registry::Registry,
};

use crate::{
    folder,
    node::Uplink,
    tenant::{Contract, Tenant},
};

#[derive(Debug)]
pub struct Grid {
    pub(crate) runtime: Runtime,
    chain: LocalChain,
    pub(crate) reader: EndpointReader,
    pub registry: Registry,
    pub hello: Image,
    pub farmer: Tenant,
    pub farm: FarmId,
}

impl Grid {
    pub fn start() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let chain = runtime.block_on(LocalChain::start(LocalChainOptions {
            folder: Some(folder::new("chain")?),
            ..LocalChainOptions::default()
        }))?;
        let reader = EndpointReader::new(&chain.config())?;
        let registry = Registry::start(IpAddr::V4(Ipv4Addr::LOCALHOST))?;
        let hello = oci::hello_image(&hello_binary()?)?;
        registry.add("hello", &hello);
        let farmer = Tenant::register(&runtime, &chain.config(), [0xfa; 32])?;
        let farm = runtime.block_on(farmer.writer.create_farm("test farm"))?.0;
        Ok(Self {
            runtime,
            chain,
            reader,
            registry,
            hello,
            farmer,
            farm,
        })
    }

    /// Someone new with a twin; the same name gives the same keys.
    pub fn tenant(&self, name: &str) -> anyhow::Result<Tenant> {
        let mut seed = [0; 32];
        for (byte, letter) in seed.iter_mut().zip(name.bytes()) {
            *byte = letter;
        }
        Tenant::register(&self.runtime, &self.chain.config(), seed)
    }

    /// A farm of somebody else's.
    pub fn create_farm(&self, owner: &Tenant, name: &str) -> anyhow::Result<FarmId> {
        let created = owner.writer.create_farm(name);
        Ok(self.runtime.block_on(created)?.0)
    }

    pub fn config(&self) -> GridConfig {
        self.chain.config()
    }

    pub fn context(&self) -> ChainContext {
        self.config().context()
    }

    /// `grid.toml` for a node in QEMU.
    pub fn node_config(&self, uplink: Uplink) -> anyhow::Result<String> {
        let (host, port) = match uplink {
            Uplink::Ipv4AndIpv6 => (qemu::HOST, self.chain.port()),
            Uplink::Ipv6 { chain_port } => (qemu::HOST_BY_IPV6, chain_port),
        };
        qemu::grid_toml(&self.chain, self.farm, host, port)
    }

    /// The chain's port on 127.0.0.1.
    pub fn chain_port(&self) -> u16 {
        self.chain.port()
    }

    /// The demo's image as a deployment names it.
    pub fn hello_reference(&self) -> String {
        self.reference(&self.hello, "hello")
    }

    /// An image in the registry as a deployment names it.
    pub fn reference(&self, image: &Image, repository: &str) -> String {
        let registry = format!("{}:{}", qemu::HOST, self.registry.address().port());
        image.reference(&registry, repository)
    }

    /// The demo's server in an image of another digest, in the registry from now on; its one layer has
    /// `ballast`, too.
    pub fn add_other_hello(&self, name: &str, ballast: Vec<u8>) -> anyhow::Result<Image> {
        let image = oci::image(
            &[&[
                Entry::folder("data"),
                Entry::file("hello", 0o755, std::fs::read(hello_binary()?)?),
                Entry::file("name", 0o644, name.as_bytes()),
                Entry::file("ballast", 0o644, ballast),
            ]],
            &RunConfig {
                entrypoint: vec!["/hello".into(), "--probes".into()],
                ..RunConfig::default()
            },
        )?;
        self.registry.add(name, &image);
        Ok(image)
    }

    /// A key that is no node's.
    pub fn farmer_key(&self) -> loam_deployment::NodeKey {
        loam_deployment::NodeKey(self.farmer.signing.verifying_key().to_bytes())
    }

    /// Stops the chain from answering, until [`Grid::wake_chain`].
    pub fn silence_chain(&self) -> anyhow::Result<()> {
        self.signal_chain(Signal::STOP)
    }

    pub fn wake_chain(&self) -> anyhow::Result<()> {
        self.signal_chain(Signal::CONT)
    }

    fn signal_chain(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.chain.pid())?;
        let pid = Pid::from_raw(pid).context("anvil has no number")?;
        kill_process(pid, signal).context("anvil cannot be signalled")
    }

    /// What [`Grid::revert_chain`] goes back to.
    pub fn snapshot_chain(&self) -> anyhow::Result<Value> {
        let snapshot = self.chain.request("evm_snapshot", json!([]));
        Ok(self.runtime.block_on(snapshot)?)
    }

    /// Makes the chain forget all that came after the snapshot. Its blocks go on beyond the number
    /// that they had reached, so that nodes read them.
    pub fn revert_chain(&self, snapshot: &Value) -> anyhow::Result<()> {
        self.runtime.block_on(async {
            let reached = self.reader.latest().await?.number;
            let reverted = self.chain.request("evm_revert", json!([snapshot])).await?;
            anyhow::ensure!(reverted == true, "the chain was not reverted: {reverted}");
            let left = self.reader.latest().await?.number;
            // The last few are not final yet.
            self.chain.mine(reached.saturating_sub(left) + 8).await?;
            Ok(())
        })
    }

    /// As the farmer: stops the contract until it is resumed.
    pub fn suspend(&self, contract: &Contract<'_>) -> anyhow::Result<()> {
        let suspended = self.farmer.writer.suspend_contract(contract.id);
        self.runtime.block_on(suspended)?;
        Ok(())
    }

    pub fn resume(&self, contract: &Contract<'_>) -> anyhow::Result<()> {
        let resumed = self.farmer.writer.resume_contract(contract.id);
        self.runtime.block_on(resumed)?;
        Ok(())
    }

    pub fn latest_nodes(&self) -> anyhow::Result<Vec<loam_chain::NodeRecord>> {
        self.runtime.block_on(async {
            let latest = self.reader.latest().await?;
            Ok(self.reader.nodes(latest).await?)
        })
    }
}

fn hello_binary() -> anyhow::Result<PathBuf> {
    let binary = std::env::var_os("LOAM_HELLO")
        .context("LOAM_HELLO does not name the demo's binary; run `cargo xtask test`")?;
    Ok(binary.into())
}

/// A funded account is not needed: the local chain has no gas price.
pub(crate) fn writer(config: &GridConfig, seed: &[u8; 32]) -> anyhow::Result<GridWriter> {
    let key = AccountKey::from_seed(seed)?;
    Ok(GridWriter::new(config, key, WriterOptions::default())?)
}
