use super::*;
use crate::fake_chain::*;

const NODE: NodeKey = NodeKey([3; 32]);

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
