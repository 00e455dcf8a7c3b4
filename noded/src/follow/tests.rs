use loam_deployment::{FarmId, TwinId};

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
    let mut looker = Looker::new(chain.clone(), NODE);
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

#[tokio::test]
async fn the_farmer_who_has_a_say_is_the_one_of_the_record() {
    let chain = Arc::new(FakeChain::default());
    let mut looker = Looker::new(chain.clone(), NODE);
    let view = looker.look(block(1), &ids([])).await.unwrap();
    assert_eq!(view.farm, None, "it has registered nowhere");
    for farm in [7, 9] {
        *chain.node.lock().unwrap() = Some(node(NODE, farm));
        *chain.revision.lock().unwrap() += 1;
        let view = looker.look(block(farm), &ids([])).await.unwrap();
        let expected = Farm {
            id: FarmId(farm),
            twin: TwinId(farm),
        };
        assert_eq!(view.farm, Some(expected));
    }
}

/// As many as fit a node, each with bytes of its own.
fn listed(count: u8) -> Vec<loam_chain::ContractRecord> {
    let with_hash = |n: u8| {
        let mut record = contract(n.into(), NODE, ContractState::Created);
        record.deployment.hash = B256::with_last_byte(n);
        record
    };
    (1..=count).map(with_hash).collect()
}

#[tokio::test]
async fn an_endpoint_that_answers_little_at_a_time_is_read_whole_at_last() {
    let chain = Arc::new(FakeChain::default());
    *chain.listed.lock().unwrap() = listed(50);
    let mut looker = Looker::new(chain.clone(), NODE);
    let mut tries = 0;
    loop {
        tries += 1;
        *chain.answers.lock().unwrap() = Some(10);
        match looker.look(block(1), &BTreeSet::new()).await {
            Ok(view) => break assert_eq!(view.contracts.len(), 50),
            Err(_) => assert!(tries < 10),
        }
    }
    assert_eq!(
        chain.fetched.lock().unwrap().len(),
        50,
        "none is asked for twice"
    );
}

#[tokio::test]
async fn a_block_that_could_not_be_read_is_read_again_before_the_next_one() {
    let chain = Arc::new(FakeChain::default());
    *chain.listed.lock().unwrap() = listed(3);
    // The chain stays at this block, and its first answers break off.
    *chain.answers.lock().unwrap() = Some(2);
    let (_holders, present) = watch::channel(BTreeSet::new());
    let (views, mut seen) = watch::channel(None);
    let (state, mut said) = watch::channel(ChainState::Connecting);
    let following = follow(chain.clone(), NODE, present, views, state);
    let watching = async {
        let silent = |state: &ChainState| matches!(state, ChainState::Silent { .. });
        said.wait_for(silent).await.unwrap();
        *chain.answers.lock().unwrap() = None;
        seen.wait_for(|view: &Option<Rc<View>>| view.is_some())
            .await
            .unwrap();
        let following = |state: &ChainState| matches!(state, ChainState::Registering { block: 1 });
        said.wait_for(following).await.unwrap();
    };
    tokio::select! {
        () = following => panic!("it follows for ever"),
        done = tokio::time::timeout(Duration::from_secs(120), watching) => done.unwrap(),
    }
}

#[tokio::test]
async fn a_chain_that_was_silent_at_the_start_is_followed_once_it_answers() {
    let chain = Arc::new(FakeChain::default());
    *chain.silent.lock().unwrap() = true;
    let (_holders, present) = watch::channel(BTreeSet::new());
    let (views, mut seen) = watch::channel(None);
    let (state, mut said) = watch::channel(ChainState::Connecting);
    let following = follow(chain.clone(), NODE, present, views, state);
    let watching = async {
        let silent = |state: &ChainState| matches!(state, ChainState::Silent { .. });
        said.wait_for(silent).await.unwrap();
        // Longer than until the next try to read a block again, of which there is none.
        tokio::time::sleep(FIRST_PAUSE * 2).await;
        *chain.silent.lock().unwrap() = false;
        seen.wait_for(|view: &Option<Rc<View>>| view.is_some())
            .await
            .unwrap();
    };
    tokio::select! {
        () = following => panic!("it follows for ever"),
        () = watching => {}
    }
}
