//! [`GridReader`]: every question that can be asked of the grid, each at one block.

use alloy::primitives::B256;
use async_trait::async_trait;
use loam_deployment::{ChainContext, ContractId, FarmId, NodeKey, TwinId};

use crate::{ContractRecord, FarmRecord, NodeRecord, TwinRecord, record::Stored};

/// One block, named so that two chains cannot be mistaken for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockRef {
    pub number: u64,
    pub hash: B256,
}

/// Answers about the grid.
///
/// How far an answer can be trusted is the implementation's promise: [`crate::EndpointReader`]
/// takes one endpoint at its word. Answers at one [`BlockRef`] belong together; answers at two do
/// not, so a plan is made from one block alone.
#[async_trait]
pub trait GridReader: Send + Sync {
    fn grid(&self) -> ChainContext;

    /// The newest block that the chain will not take back.
    async fn finalized(&self) -> Result<BlockRef, ReadError>;

    /// The newest block there is; for people who wait for their own transaction. Nodes act on
    /// finalized blocks only.
    async fn latest(&self) -> Result<BlockRef, ReadError>;

    /// The block at this height of the chain as it is now.
    async fn block(&self, number: u64) -> Result<Option<BlockRef>, ReadError>;

    /// When the block was made, by its author: seconds since 1970.
    async fn time_of(&self, at: BlockRef) -> Result<u64, ReadError>;

    /// Higher after every change that concerns the node: its record, its contracts, its farm's
    /// policy. 0 before it is registered. While it stands still there is nothing new to read,
    /// except the keys of twins, which are read when a deployment is verified.
    async fn node_revision(&self, node: NodeKey, at: BlockRef) -> Result<u64, ReadError>;

    /// The node's record, its binding checked.
    async fn node(&self, node: NodeKey, at: BlockRef) -> Result<Option<NodeRecord>, ReadError>;

    /// Every node whose binding holds.
    async fn nodes(&self, at: BlockRef) -> Result<Vec<NodeRecord>, ReadError>;

    /// Every contract of the node that is not cancelled, by number.
    async fn contracts_of_node(
        &self,
        node: NodeKey,
        at: BlockRef,
    ) -> Result<Vec<ContractRecord>, ReadError>;

    /// Every contract of the twin that is not cancelled, by number.
    async fn contracts_of_twin(
        &self,
        twin: TwinId,
        at: BlockRef,
    ) -> Result<Vec<ContractRecord>, ReadError>;

    /// A contract, cancelled ones included.
    async fn contract(
        &self,
        id: ContractId,
        at: BlockRef,
    ) -> Result<Option<ContractRecord>, ReadError>;

    /// Stored bytes, whose hash was checked: a deployment (`contract.deployment`) or a farm's
    /// policy. They are still unverified as a deployment.
    async fn stored(&self, stored: &Stored, at: BlockRef) -> Result<Vec<u8>, ReadError>;

    /// The bytes of the contract's deployment.
    async fn deployment(
        &self,
        contract: &ContractRecord,
        at: BlockRef,
    ) -> Result<Vec<u8>, ReadError> {
        self.stored(&contract.deployment, at).await
    }

    /// The node's last report about the contract; its signature is the caller's to check.
    async fn report(
        &self,
        contract: &ContractRecord,
        at: BlockRef,
    ) -> Result<Option<Vec<u8>>, ReadError>;

    async fn twin(&self, id: TwinId, at: BlockRef) -> Result<Option<TwinRecord>, ReadError>;

    /// The twin that an account owns.
    async fn twin_of(
        &self,
        account: crate::Address,
        at: BlockRef,
    ) -> Result<Option<TwinId>, ReadError>;

    async fn farm(&self, id: FarmId, at: BlockRef) -> Result<Option<FarmRecord>, ReadError>;
}

/// Why there is no answer. None of these says anything about the grid, so none may change what
/// runs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Nobody answered, or not in time.
    #[error("the chain's endpoint {endpoint} does not answer: {reason}")]
    Silent { endpoint: String, reason: String },
    /// It answered with an error.
    #[error("the chain's endpoint {endpoint} refused {method}: {reason}")]
    Refused {
        endpoint: String,
        method: &'static str,
        reason: String,
    },
    /// It answered with something that cannot be true.
    #[error("the chain's endpoint {endpoint} gave a wrong answer to {method}: {reason}")]
    Wrong {
        endpoint: String,
        method: &'static str,
        reason: String,
    },
    #[error("the configuration of the grid is wrong: {0}")]
    Configuration(String),
}
