use std::sync::Mutex;

use async_trait::async_trait;
use loam_chain::{Address, B256, ContractRecord, FarmRecord, TwinRecord, record::Stored};
use loam_deployment::{ChainContext, TwinId, Version};

use super::*;

const NODE: NodeKey = NodeKey([3; 32]);

/// A chain that says what a test lets it say.
#[derive(Default)]
struct FakeChain {
    revision: Mutex<u64>,
    listed: Mutex<Vec<ContractRecord>>,
    records: Mutex<BTreeMap<ContractId, ContractRecord>>,
    asked: Mutex<Vec<ContractId>>,
}

fn contract(id: u64, node: NodeKey, state: ContractState) -> ContractRecord {
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
        Ok(None)
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

    async fn stored(&self, _: &Stored, _: BlockRef) -> Result<Vec<u8>, ReadError> {
        Ok(vec![])
    }

    async fn report(&self, _: &ContractRecord, _: BlockRef) -> Result<Option<Vec<u8>>, ReadError> {
        Ok(None)
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

    async fn farm(&self, _: FarmId, _: BlockRef) -> Result<Option<FarmRecord>, ReadError> {
        Ok(None)
    }
}

fn block(number: u64) -> BlockRef {
    BlockRef {
        number,
        hash: B256::with_last_byte(number as u8),
    }
}

fn ids(ids: impl IntoIterator<Item = u64>) -> BTreeSet<ContractId> {
    ids.into_iter().map(ContractId).collect()
}

#[tokio::test]
async fn only_its_own_record_says_that_a_contract_is_cancelled() {
    let chain = Arc::new(FakeChain::default());
    *chain.listed.lock().unwrap() = vec![contract(1, NODE, ContractState::Created)];
    *chain.records.lock().unwrap() = [
        contract(2, NODE, ContractState::Cancelled),
        contract(3, NODE, ContractState::Created),
        contract(4, NodeKey([9; 32]), ContractState::Cancelled),
    ]
    .map(|record| (record.id, record))
    .into();
    let mut looker = Looker::new(chain.clone(), NODE, FarmId(1));
    // 3 lives, 4 is another node's, of 5 there is no record.
    let present = ids(1..=5);
    let view = looker.look(block(1), &present).await.unwrap();
    assert_eq!(view.cancelled, ids([2]));
    assert_eq!(*chain.asked.lock().unwrap(), [2, 3, 4, 5].map(ContractId));

    // Nothing new: nothing is asked again.
    let view = looker.look(block(2), &present).await.unwrap();
    assert_eq!(view.cancelled, ids([2]));
    assert_eq!(chain.asked.lock().unwrap().len(), 4);

    // The chain has changed: what was not cancelled is asked for again.
    *chain.revision.lock().unwrap() += 1;
    chain
        .records
        .lock()
        .unwrap()
        .insert(ContractId(3), contract(3, NODE, ContractState::Cancelled));
    let view = looker.look(block(3), &present).await.unwrap();
    assert_eq!(view.cancelled, ids([2, 3]));

    // What has nothing here any more is of no interest.
    let view = looker.look(block(4), &ids([1])).await.unwrap();
    assert_eq!(view.cancelled, ids([]));
}
