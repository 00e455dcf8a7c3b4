//! [`GridWriter`]: what an account may do on the grid.

use alloy::{
    primitives::{Bytes, TxKind},
    sol_types::{SolCall, SolEvent},
};
use loam_deployment::{ChainContext, ContractId, FarmId, NodeKey, TwinId, Version};
use rustls::ClientConfig;

use crate::{
    AccountKey, Address, Capacity, EndpointReader, GridConfig, NodeState, WeightedKey,
    abi::Grid,
    binding::sign_binding,
    rpc::Rpc,
    transaction::{Receipt, Sender},
};
pub use crate::{
    refusal::Refusal,
    transaction::{Inclusion, WriteError, WriterOptions},
};

/// How often [`GridWriter::deploy_new`] signs again for someone who was faster.
const DEPLOY_TRIES: u32 = 10;

/// Writes for one account. Each call returns when its transaction is in a block, or with the
/// reason why it never will be; callers may call at the same time.
#[derive(Debug)]
pub struct GridWriter {
    sender: Sender,
    reader: EndpointReader,
    grid: ChainContext,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRegistration {
    pub key: NodeKey,
    pub farm: FarmId,
    /// X25519 public key.
    pub hpke_key: [u8; 32],
    pub capacity: Capacity,
    /// At most 256 bytes.
    pub addresses: String,
    /// From [`GridWriter::bind`].
    pub binding: [u8; 64],
}

#[derive(Debug, thiserror::Error)]
pub enum DeployError<E> {
    #[error(transparent)]
    Write(WriteError),
    /// The caller's own: no bytes for the number it was given.
    #[error(transparent)]
    Prepare(E),
}

impl GridWriter {
    /// Asks nothing yet.
    pub fn new(
        config: &GridConfig,
        key: AccountKey,
        options: WriterOptions,
    ) -> Result<Self, WriteError> {
        let rpc = Rpc::new(config.chain_id, &config.endpoints)?;
        Ok(Self {
            sender: Sender::new(rpc, config.chain_id, key, options),
            reader: EndpointReader::new(config)?,
            grid: config.context(),
        })
    }

    /// Like [`GridWriter::new`], for a caller who judges servers by rules of its own.
    pub fn with_tls(
        config: &GridConfig,
        key: AccountKey,
        options: WriterOptions,
        tls: &ClientConfig,
    ) -> Result<Self, WriteError> {
        let rpc = Rpc::with_tls(config.chain_id, &config.endpoints, tls)?;
        Ok(Self {
            sender: Sender::new(rpc, config.chain_id, key, options),
            reader: EndpointReader::with_tls(config, tls)?,
            grid: config.context(),
        })
    }

    pub fn account(&self) -> Address {
        self.sender.address()
    }

    /// The word of the node with this Ed25519 seed for this account.
    pub fn bind(&self, seed: &[u8; 32]) -> [u8; 64] {
        sign_binding(seed, self.grid, self.account())
    }

    /// Waits until a transaction cannot be taken back. It may turn out to be in another block.
    pub async fn finalized(&self, included: Inclusion) -> Result<Inclusion, WriteError> {
        self.sender.finalized(included).await
    }

    pub async fn register_twin(
        &self,
        keys: &[WeightedKey],
        threshold: u32,
    ) -> Result<(TwinId, Inclusion), WriteError> {
        let (keys, weights) = split(keys);
        let call = Grid::registerTwinCall {
            keys,
            weights,
            threshold,
        };
        let (receipt, included) = self.send(call).await?;
        let event: Grid::TwinRegistered = self.event(&receipt)?;
        Ok((TwinId(event.twin), included))
    }

    pub async fn update_twin_keys(
        &self,
        keys: &[WeightedKey],
        threshold: u32,
    ) -> Result<Inclusion, WriteError> {
        let (keys, weights) = split(keys);
        let call = Grid::updateTwinKeysCall {
            keys,
            weights,
            threshold,
        };
        self.write(call).await
    }

    /// For the account's twin.
    pub async fn create_farm(&self, name: &str) -> Result<(FarmId, Inclusion), WriteError> {
        let name = name.to_owned();
        let (receipt, included) = self.send(Grid::createFarmCall { name }).await?;
        let event: Grid::FarmCreated = self.event(&receipt)?;
        Ok((FarmId(event.farm), included))
    }

    /// Stores a signed `node` deployment for all nodes of the farm. Its payload names contract 0.
    pub async fn set_farm_policy(
        &self,
        farm: FarmId,
        version: Version,
        bytes: &[u8],
    ) -> Result<Inclusion, WriteError> {
        self.write(Grid::setFarmPolicyCall {
            id: farm.0,
            version: version.0,
            data: bytes.to_vec().into(),
        })
        .await
    }

    /// Registers the node, or replaces what it said of itself before.
    pub async fn register_node(&self, node: &NodeRegistration) -> Result<Inclusion, WriteError> {
        let (r, s) = node.binding.split_at(32);
        self.write(Grid::registerNodeCall {
            key: node.key.0.into(),
            farm_: node.farm.0,
            hpkeKey: node.hpke_key.into(),
            capacity: Grid::Capacity {
                cpu: node.capacity.cpus,
                memory_: node.capacity.memory.0,
                ssd: node.capacity.ssd.0,
                hdd: node.capacity.hdd.0,
            },
            addresses: node.addresses.clone(),
            bindingR: alloy::primitives::B256::from_slice(r),
            bindingS: alloy::primitives::B256::from_slice(s),
        })
        .await
    }

    /// The account's node is alive, or says good-bye.
    pub async fn heartbeat(&self, state: NodeState) -> Result<Inclusion, WriteError> {
        let state = match state {
            NodeState::Up => Grid::NodeState::Up,
            NodeState::Down => Grid::NodeState::Down,
        };
        self.write(Grid::heartbeatCall { state }).await
    }

    /// Stores version 1 of a deployment that was signed for the number `id`, or is refused with
    /// [`Refusal::UnexpectedId`].
    pub async fn create_contract(
        &self,
        id: ContractId,
        node: NodeKey,
        bytes: &[u8],
    ) -> Result<Inclusion, WriteError> {
        self.write(Grid::createContractCall {
            expectedId: id.0,
            node_: node.0.into(),
            data: bytes.to_vec().into(),
        })
        .await
    }

    /// Finds the next number, has the deployment for it signed by `prepare`, and stores it; again
    /// with another number when someone else was faster.
    pub async fn deploy_new<E>(
        &self,
        node: NodeKey,
        mut prepare: impl FnMut(ContractId) -> Result<Vec<u8>, E>,
    ) -> Result<(ContractId, Inclusion), DeployError<E>> {
        let next = self.reader.next_contract().await;
        let mut id = next.map_err(|e| DeployError::Write(e.into()))?;
        let mut tries = 0;
        loop {
            tries += 1;
            let bytes = prepare(id).map_err(DeployError::Prepare)?;
            match self.create_contract(id, node, &bytes).await {
                Ok(included) => return Ok((id, included)),
                Err(WriteError::Refused(Refusal::UnexpectedId { next, .. }))
                    if tries < DEPLOY_TRIES =>
                {
                    id = next;
                }
                Err(error) => return Err(DeployError::Write(error)),
            }
        }
    }

    /// Replaces a deployment; `version` is the one that was signed.
    pub async fn update_contract(
        &self,
        id: ContractId,
        version: Version,
        bytes: &[u8],
    ) -> Result<Inclusion, WriteError> {
        self.write(Grid::updateContractCall {
            id: id.0,
            version: version.0,
            data: bytes.to_vec().into(),
        })
        .await
    }

    /// Ends a contract for good; open to its owner and to the farmer.
    pub async fn cancel_contract(&self, id: ContractId) -> Result<Inclusion, WriteError> {
        self.write(Grid::cancelContractCall { id: id.0 }).await
    }

    /// For the farmer.
    pub async fn suspend_contract(&self, id: ContractId) -> Result<Inclusion, WriteError> {
        self.write(Grid::suspendContractCall { id: id.0 }).await
    }

    /// For the farmer.
    pub async fn resume_contract(&self, id: ContractId) -> Result<Inclusion, WriteError> {
        self.write(Grid::resumeContractCall { id: id.0 }).await
    }

    /// Stores what the account's node says about a contract, at most 8 KiB. `version` is the
    /// deployment's that it speaks about.
    pub async fn report(
        &self,
        id: ContractId,
        version: Version,
        bytes: &[u8],
    ) -> Result<Inclusion, WriteError> {
        self.write(Grid::reportCall {
            id: id.0,
            version: version.0,
            data: bytes.to_vec().into(),
        })
        .await
    }

    async fn write(&self, call: impl SolCall) -> Result<Inclusion, WriteError> {
        let (_, included) = self.send(call).await?;
        Ok(included)
    }

    async fn send(&self, call: impl SolCall) -> Result<(Receipt, Inclusion), WriteError> {
        let to = TxKind::Call(self.grid.contract.into());
        let input = Bytes::from(call.abi_encode());
        let receipt = self.sender.send(to, input).await?;
        let included = receipt
            .inclusion()
            .ok_or_else(|| WriteError::Reverted("a receipt that names no block".to_owned()))?;
        Ok((receipt, included))
    }

    /// The contract's answer to a transaction is an event.
    fn event<E: SolEvent>(&self, receipt: &Receipt) -> Result<E, WriteError> {
        let contract = Address::from(self.grid.contract);
        receipt
            .logs
            .iter()
            .filter(|log| log.address == contract)
            .find_map(|log| E::decode_raw_log_validate(&log.topics, &log.data).ok())
            .ok_or_else(|| {
                WriteError::Reverted(format!(
                    "the contract at {contract} did not say {}; is it the grid's?",
                    E::SIGNATURE
                ))
            })
    }
}

fn split(keys: &[WeightedKey]) -> (Vec<alloy::primitives::B256>, Vec<u16>) {
    keys.iter()
        .map(|entry| (alloy::primitives::B256::from(entry.key), entry.weight))
        .unzip()
}
