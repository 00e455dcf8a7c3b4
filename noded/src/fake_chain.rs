//! A chain for tests, that says what a test lets it say.

use std::{collections::BTreeMap, sync::Mutex};

use async_trait::async_trait;
use loam_chain::{
    Address, B256, BlockRef, Capacity, ContractRecord, ContractState, FarmRecord, GridReader,
    NodeRecord, NodeState, ReadError, TwinRecord, record::Stored,
};
use loam_deployment::{ChainContext, ContractId, FarmId, NodeKey, TwinId, Version};

#[derive(Default)]
pub struct FakeChain {
    /// No block is told.
    pub silent: Mutex<bool>,
    pub revision: Mutex<u64>,
    /// The node's own record.
    pub node: Mutex<Option<NodeRecord>>,
    pub listed: Mutex<Vec<ContractRecord>>,
    pub records: Mutex<BTreeMap<ContractId, ContractRecord>>,
    pub asked: Mutex<Vec<ContractId>>,
    /// Hashes of the deployments that were asked for.
    pub fetched: Mutex<Vec<B256>>,
    /// So many questions are answered, and then none.
    pub answers: Mutex<Option<usize>>,
    pub reports: Mutex<BTreeMap<ContractId, Vec<u8>>>,
}

pub fn contract(id: u64, node: NodeKey, state: ContractState) -> ContractRecord {
    ContractRecord {
        id: ContractId(id),
        twin: TwinId(1),
        node,
        state,
        deployment: Stored {
            version: Version(1),
            pointer: Address::ZERO,
            hash: B256::ZERO,
        },
        report: None,
        created: 1,
        updated: 1,
    }
}

#[async_trait]
impl GridReader for FakeChain {
    fn grid(&self) -> ChainContext {
        ChainContext {
            chain_id: 1,
            contract: [0; 20],
        }
    }

    async fn finalized(&self) -> Result<BlockRef, ReadError> {
        if *self.silent.lock().unwrap() {
            return Err(ReadError::Silent {
                endpoint: "chain".into(),
                reason: "it sleeps".into(),
            });
        }
        Ok(block(1))
    }

    async fn latest(&self) -> Result<BlockRef, ReadError> {
        self.finalized().await
    }

    async fn block(&self, number: u64) -> Result<Option<BlockRef>, ReadError> {
        Ok(Some(block(number)))
    }

    async fn time_of(&self, at: BlockRef) -> Result<u64, ReadError> {
        Ok(1_800_000_000 + at.number)
    }

    async fn node_revision(&self, _: NodeKey, _: BlockRef) -> Result<u64, ReadError> {
        Ok(*self.revision.lock().unwrap())
    }

    async fn node(&self, _: NodeKey, _: BlockRef) -> Result<Option<NodeRecord>, ReadError> {
        Ok(self.node.lock().unwrap().clone())
    }

    async fn nodes(&self, _: BlockRef) -> Result<Vec<NodeRecord>, ReadError> {
        Ok(vec![])
    }

    async fn contracts_of_node(
        &self,
        _: NodeKey,
        _: BlockRef,
    ) -> Result<Vec<ContractRecord>, ReadError> {
        Ok(self.listed.lock().unwrap().clone())
    }

    async fn contracts_of_twin(
        &self,
        _: TwinId,
        _: BlockRef,
    ) -> Result<Vec<ContractRecord>, ReadError> {
        Ok(vec![])
    }

    async fn contract(
        &self,
        id: ContractId,
        _: BlockRef,
    ) -> Result<Option<ContractRecord>, ReadError> {
        self.asked.lock().unwrap().push(id);
        Ok(self.records.lock().unwrap().get(&id).cloned())
    }

    async fn stored(&self, stored: &Stored, _: BlockRef) -> Result<Vec<u8>, ReadError> {
        let mut answers = self.answers.lock().unwrap();
        if *answers == Some(0) {
            return Err(ReadError::Silent {
                endpoint: "chain".into(),
                reason: "enough".into(),
            });
        }
        *answers = answers.map(|left| left - 1);
        self.fetched.lock().unwrap().push(stored.hash);
        Ok(vec![])
    }

    async fn report(
        &self,
        contract: &ContractRecord,
        _: BlockRef,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        Ok(self.reports.lock().unwrap().get(&contract.id).cloned())
    }

    async fn twin(&self, id: TwinId, _: BlockRef) -> Result<Option<TwinRecord>, ReadError> {
        Ok(Some(TwinRecord {
            id,
            owner: Address::ZERO,
            keys: vec![],
            threshold: 1,
            version: 1,
        }))
    }

    async fn twin_of(&self, _: Address, _: BlockRef) -> Result<Option<TwinId>, ReadError> {
        Ok(None)
    }

    /// Each belongs to the twin of its number.
    async fn farm(&self, id: FarmId, _: BlockRef) -> Result<Option<FarmRecord>, ReadError> {
        Ok(Some(FarmRecord {
            id,
            twin: TwinId(id.0),
            name: String::new(),
            policy: None,
        }))
    }
}

/// A node's record that names this farm.
pub fn node(key: NodeKey, farm: u64) -> NodeRecord {
    NodeRecord {
        key,
        farm: FarmId(farm),
        account: Address::ZERO,
        hpke_key: [2; 32],
        capacity: Capacity::default(),
        addresses: String::new(),
        binding: [3; 64],
        state: NodeState::Up,
        registered: 1,
        last_report: 1,
    }
}

pub fn block(number: u64) -> BlockRef {
    BlockRef {
        number,
        hash: B256::with_last_byte(number as u8),
    }
}
