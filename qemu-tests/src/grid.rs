//! A grid of a case's own: a chain, a farmer with a farm, and a registry with the demo's image.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Context;
use loam_chain::{
    AccountKey, EndpointReader, GridConfig, GridReader,
    local::{LocalChain, LocalChainOptions},
    writer::{GridWriter, WriterOptions},
};
use loam_deployment::{ChainContext, FarmId};
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Runtime;
use xtask::{
    oci::{self, Image},
    qemu,
    registry::Registry,
};

use crate::{folder, tenant::Tenant};

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
        let hello = std::env::var_os("LOAM_HELLO")
            .context("LOAM_HELLO does not name the demo's binary; run `cargo xtask test`")?;
        let hello = oci::hello_image(hello.as_ref())?;
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

    pub fn config(&self) -> GridConfig {
        self.chain.config()
    }

    pub fn context(&self) -> ChainContext {
        self.config().context()
    }

    /// `grid.toml` for a node in QEMU.
    pub(crate) fn node_config(&self) -> anyhow::Result<String> {
        qemu::grid_toml(&self.chain, self.farm)
    }

    /// The demo's image as a deployment names it.
    pub fn hello_reference(&self) -> String {
        let registry = format!("{}:{}", qemu::HOST, self.registry.address().port());
        self.hello.reference(&registry, "hello")
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

    pub(crate) fn latest_nodes(&self) -> anyhow::Result<Vec<loam_chain::NodeRecord>> {
        self.runtime.block_on(async {
            let latest = self.reader.latest().await?;
            Ok(self.reader.nodes(latest).await?)
        })
    }
}

/// A funded account is not needed: the local chain has no gas price.
pub(crate) fn writer(config: &GridConfig, seed: &[u8; 32]) -> anyhow::Result<GridWriter> {
    let key = AccountKey::from_seed(seed)?;
    Ok(GridWriter::new(config, key, WriterOptions::default())?)
}
