//! A connection to the grid, with the user's key where it is needed.

use anyhow::{Context, bail};
use loam_chain::{
    BlockRef, ContractRecord, ContractState, EndpointReader, GridReader, NodeRecord,
    writer::{GridWriter, WriterOptions},
};
use loam_deployment::{
    ChainContext, ContractId, NodeKey, TwinId,
    report::{self, Report},
};

use crate::{
    args,
    config::{Config, Grid},
    key::Key,
};

#[derive(Debug)]
pub struct Session {
    pub grid: Grid,
    pub key: Key,
    pub reader: EndpointReader,
    pub writer: GridWriter,
}

pub fn reader(grid: &Grid) -> anyhow::Result<EndpointReader> {
    Ok(EndpointReader::new(&grid.chain())?)
}

impl Session {
    /// Asks nothing yet.
    pub fn open(config: &Config) -> anyhow::Result<Self> {
        let key = Key::load(config.key())?;
        let grid = config.grid()?;
        let reader = reader(&grid)?;
        let writer = GridWriter::new(&grid.chain(), key.account.clone(), WriterOptions::default())?;
        Ok(Self {
            grid,
            key,
            reader,
            writer,
        })
    }

    pub fn chain(&self) -> ChainContext {
        self.grid.chain().context()
    }

    pub async fn latest(&self) -> anyhow::Result<BlockRef> {
        Ok(self.reader.latest().await?)
    }

    pub async fn own_twin(&self) -> anyhow::Result<Option<TwinId>> {
        let account = self.key.account.address();
        Ok(self.reader.twin_of(account, self.latest().await?).await?)
    }

    pub async fn twin(&self) -> anyhow::Result<TwinId> {
        let twin = self.own_twin().await?;
        twin.context("your key has no twin on this grid; make one with `loam key register`")
    }

    /// A contract of the user's own.
    pub async fn contract(&self, id: ContractId) -> anyhow::Result<ContractRecord> {
        let twin = self.twin().await?;
        let record = self.reader.contract(id, self.latest().await?).await?;
        let record = record
            .with_context(|| format!("there is no contract {id}; `loam list` shows yours"))?;
        if record.twin != twin {
            bail!(
                "contract {id} belongs to twin {}, and you are twin {twin}",
                record.twin
            );
        }
        Ok(record)
    }

    /// A contract that was not cancelled.
    pub async fn living_contract(&self, id: ContractId) -> anyhow::Result<ContractRecord> {
        let record = self.contract(id).await?;
        if record.state == ContractState::Cancelled {
            bail!("contract {id} was cancelled");
        }
        Ok(record)
    }

    /// What the node last said, if that is signed by the node; the signature is checked here.
    pub async fn report(&self, contract: &ContractRecord) -> anyhow::Result<Option<Report>> {
        let Some(bytes) = self.reader.report(contract, self.latest().await?).await? else {
            return Ok(None);
        };
        let report = report::verify(&bytes, &self.chain(), &contract.node)?;
        if report.contract != contract.id {
            bail!(
                "the node's report about contract {} names {}",
                contract.id,
                report.contract
            );
        }
        Ok(Some(report))
    }

    pub async fn node(&self, key: NodeKey) -> anyhow::Result<NodeRecord> {
        let record = self.reader.node(key, self.latest().await?).await?;
        record.with_context(|| format!("there is no node {key}; `loam node list` shows them"))
    }

    /// The node that the user names, by the whole key or its first digits, or the only one.
    pub async fn choose_node(&self, named: Option<&str>) -> anyhow::Result<NodeRecord> {
        let mut nodes = self.reader.nodes(self.latest().await?).await?;
        if let Some(prefix) = named {
            nodes.retain(|node| args::matches(&node.key, prefix));
        }
        match (nodes.len(), named) {
            (1, _) => Ok(nodes.remove(0)),
            (0, Some(prefix)) => bail!(
                "no node's key starts with `{prefix}` (give at least 4 digits); `loam node list` \
                 shows them"
            ),
            (0, None) => bail!("the grid has no node yet"),
            (n, Some(prefix)) => bail!("{n} nodes start with `{prefix}`; give more digits"),
            (n, None) => bail!("the grid has {n} nodes; choose one with --node"),
        }
    }
}
