use std::{collections::VecDeque, sync::Mutex};

use alloy::primitives::B256;
use async_trait::async_trait;
use loam_deployment::{ChainContext, ContractId, FarmId, NodeKey, TwinId};
use proptest::prelude::*;

use super::*;
use crate::{Address, ContractRecord, FarmRecord, NodeRecord, TwinRecord, record::Stored};

/// Says what it was told to say, and counts how often it was asked.
#[derive(Default)]
struct Script {
    finalized: Mutex<VecDeque<Result<BlockRef, ReadError>>>,
    /// What it says of older blocks; else that it knows none.
    history: Mutex<Vec<BlockRef>>,
    asked: Mutex<Vec<Instant>>,
}

fn block(number: u64, fork: u8) -> BlockRef {
    let mut hash = B256::repeat_byte(fork);
    hash[..8].copy_from_slice(&number.to_be_bytes());
    BlockRef { number, hash }
}

fn silent() -> ReadError {
    ReadError::Silent {
        endpoint: "http://example".to_owned(),
        reason: "test".to_owned(),
    }
}

fn follow(script: &Arc<Script>) -> Follower {
    Follower::new(script.clone(), FollowerOptions::default())
}

fn script(said: impl IntoIterator<Item = Result<BlockRef, ReadError>>) -> Arc<Script> {
    Arc::new(Script {
        finalized: Mutex::new(said.into_iter().collect()),
        ..Script::default()
    })
}

#[async_trait]
impl GridReader for Script {
    async fn finalized(&self) -> Result<BlockRef, ReadError> {
        self.asked.lock().unwrap().push(Instant::now());
        let next = self.finalized.lock().unwrap().pop_front();
        next.unwrap_or_else(|| Err(silent()))
    }

    async fn block(&self, number: u64) -> Result<Option<BlockRef>, ReadError> {
        let history = self.history.lock().unwrap();
        Ok(history.iter().find(|known| known.number == number).copied())
    }

    fn grid(&self) -> ChainContext {
        unreachable!("a follower asks for blocks only")
    }
    async fn latest(&self) -> Result<BlockRef, ReadError> {
        unreachable!("a follower asks for finalized blocks only")
    }
    async fn time_of(&self, _: BlockRef) -> Result<u64, ReadError> {
        unreachable!("a follower asks for blocks only")
    }
    async fn node_revision(&self, _: NodeKey, _: BlockRef) -> Result<u64, ReadError> {
        unreachable!("a follower asks for blocks only")
    }
    async fn node(&self, _: NodeKey, _: BlockRef) -> Result<Option<NodeRecord>, ReadError> {
        unreachable!("a follower asks for blocks only")
    }
    async fn nodes(&self, _: BlockRef) -> Result<Vec<NodeRecord>, ReadError> {
        unreachable!("a follower asks for blocks only")
    }
    async fn contracts_of_node(
        &self,
        _: NodeKey,
        _: BlockRef,
    ) -> Result<Vec<ContractRecord>, ReadError> {
        unreachable!("a follower asks for blocks only")
    }
    async fn contracts_of_twin(
        &self,
        _: TwinId,
        _: BlockRef,
    ) -> Result<Vec<ContractRecord>, ReadError> {
        unreachable!("a follower asks for blocks only")
    }
    async fn contract(
        &self,
        _: ContractId,
        _: BlockRef,
    ) -> Result<Option<ContractRecord>, ReadError> {
        unreachable!("a follower asks for blocks only")
    }
    async fn stored(&self, _: &Stored, _: BlockRef) -> Result<Vec<u8>, ReadError> {
        unreachable!("a follower asks for blocks only")
    }
    async fn report(&self, _: &ContractRecord, _: BlockRef) -> Result<Option<Vec<u8>>, ReadError> {
        unreachable!("a follower asks for blocks only")
    }
    async fn twin(&self, _: TwinId, _: BlockRef) -> Result<Option<TwinRecord>, ReadError> {
        unreachable!("a follower asks for blocks only")
    }
    async fn twin_of(&self, _: Address, _: BlockRef) -> Result<Option<TwinId>, ReadError> {
        unreachable!("a follower asks for blocks only")
    }
    async fn farm(&self, _: FarmId, _: BlockRef) -> Result<Option<FarmRecord>, ReadError> {
        unreachable!("a follower asks for blocks only")
    }
}

#[tokio::test(start_paused = true)]
async fn only_news_is_given() {
    let blocks = [5, 5, 5, 6, 6, 9];
    let script = script(blocks.map(|number| Ok(block(number, 0))));
    let mut follower = follow(&script);
    for expected in [5, 6, 9] {
        assert_eq!(follower.next().await, Ok(block(expected, 0)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lagging_endpoint_is_an_error_until_it_has_caught_up() {
    let blocks = [9, 7, 9, 10];
    let script = script(blocks.map(|number| Ok(block(number, 0))));
    let mut follower = follow(&script);
    assert_eq!(follower.next().await, Ok(block(9, 0)));
    let back = WentBack {
        seen: block(9, 0),
        said: block(7, 0),
    };
    assert_eq!(follower.next().await, Err(FollowError::WentBack(back)));
    assert_eq!(follower.next().await, Ok(block(10, 0)));
}

#[tokio::test(start_paused = true)]
async fn another_block_at_a_seen_height_is_no_news() {
    let script = script([
        Ok(block(9, 0)),
        Ok(block(9, 1)),
        Ok(block(12, 1)),
        Ok(block(12, 0)),
    ]);
    script.history.lock().unwrap().push(block(9, 1));
    let mut follower = follow(&script);
    assert_eq!(follower.next().await, Ok(block(9, 0)));
    let back = FollowError::WentBack(WentBack {
        seen: block(9, 0),
        said: block(9, 1),
    });
    assert_eq!(follower.next().await, Err(back.clone()));
    // Higher, but on the other chain.
    assert_eq!(follower.next().await, Err(back));
    *script.history.lock().unwrap() = vec![block(9, 0)];
    assert_eq!(follower.next().await, Ok(block(12, 0)));
}

#[tokio::test(start_paused = true)]
async fn it_asks_less_and_less_while_nobody_answers_and_recovers_at_once() {
    let mut said: Vec<_> = (0..12).map(|_| Err(silent())).collect();
    said.extend([Ok(block(1, 0)), Ok(block(2, 0))]);
    let script = script(said);
    let mut follower = follow(&script);
    for _ in 0..12 {
        follower.next().await.unwrap_err();
    }
    follower.next().await.unwrap();
    follower.next().await.unwrap();
    let asked = script.asked.lock().unwrap();
    let pauses: Vec<f64> = asked
        .windows(2)
        .map(|pair| (pair[1] - pair[0]).as_secs_f64())
        .collect();
    for (failures, pause) in (1..).zip(&pauses[..12]) {
        let expected = (3.0 * f64::powi(2.0, failures)).min(60.0);
        assert!((0.79..1.21).contains(&(pause / expected)), "{pauses:?}");
    }
    assert!((0.79..1.21).contains(&(pauses[12] / 3.0)), "{pauses:?}");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_again_and_again_causes_no_storm() {
    let script = script((0..100).map(|_| Ok(block(1, 0))));
    let mut follower = follow(&script);
    follower.next().await.unwrap();
    for _ in 0..1000 {
        let tick = Duration::from_millis(10);
        assert!(tokio::time::timeout(tick, follower.next()).await.is_err());
    }
    // Ten seconds at three seconds each.
    assert!(script.asked.lock().unwrap().len() <= 6);
}

proptest! {
    /// Whatever an endpoint says, what is given rises, and on one chain.
    #[test]
    fn what_is_given_rises(said in prop::collection::vec((0u64..20, 0u8..3), 1..60)) {
        let mut seen: Option<BlockRef> = None;
        for (number, fork) in said {
            let said = block(number, fork);
            let news = match seen {
                None => true,
                Some(seen) => match advances(seen, said) {
                    Ok(news) => {
                        prop_assert!(number > seen.number || said == seen);
                        prop_assert_eq!(news, number > seen.number);
                        news
                    }
                    Err(_) => {
                        prop_assert!(number <= seen.number && said != seen);
                        false
                    }
                },
            };
            if news {
                prop_assert!(seen.is_none_or(|seen| seen.number < number));
                seen = Some(said);
            }
        }
    }

    #[test]
    fn pauses_stay_within_bounds(seconds in 1u64..300, failures: u32) {
        let interval = Duration::from_secs(seconds);
        let pause = pause(interval, failures);
        prop_assert!(pause >= interval);
        prop_assert!(pause <= LONGEST_PAUSE.max(interval));
    }
}
