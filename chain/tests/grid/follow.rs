//! Following finalized blocks of a chain that dies, comes back and changes its mind.

use std::{sync::Arc, time::Duration};

use loam_chain::{
    EndpointReader, FollowError, Follower, FollowerOptions, GridReader, LocalChain,
    LocalChainOptions, Mining, ReadError,
};
use serde_json::json;

use crate::world::{weighted, writer};

fn follower(chain: &LocalChain) -> Follower {
    let reader = EndpointReader::new(&chain.config()).unwrap();
    Follower::new(
        Arc::new(reader),
        FollowerOptions {
            interval: Duration::from_secs(1),
        },
    )
}

async fn chain(options: LocalChainOptions) -> LocalChain {
    LocalChain::start(options).await.unwrap()
}

#[tokio::test]
async fn blocks_rise() {
    let chain = chain(LocalChainOptions::default()).await;
    let mut follower = follower(&chain);
    let mut last = follower.next().await.unwrap();
    for _ in 0..3 {
        let next = follower.next().await.unwrap();
        assert!(next.number > last.number);
        last = next;
    }
}

#[tokio::test]
async fn a_chain_that_dies_and_comes_back_is_followed_on() {
    let folder = tempfile::tempdir().unwrap();
    let options = LocalChainOptions {
        mining: Mining::OnTransaction,
        state: Some(folder.path().join("state.json")),
        ..LocalChainOptions::default()
    };
    let first = chain(options.clone()).await;
    first.mine(5).await.unwrap();
    let port = first.port();
    let mut follower = follower(&first);
    let before = follower.next().await.unwrap();
    first.stop().unwrap();

    let silent = follower.next().await.unwrap_err();
    assert!(
        matches!(silent, FollowError::Read(ReadError::Silent { .. })),
        "{silent}"
    );
    assert_eq!(follower.seen(), Some(before));

    let again = chain(LocalChainOptions { port, ..options }).await;
    again.mine(3).await.unwrap();
    let after = follower.next().await.unwrap();
    assert!(after.number > before.number);
    // It is the same chain, and its contract can be read at the block.
    let reader = EndpointReader::new(&again.config()).unwrap();
    assert_eq!(reader.block(before.number).await, Ok(Some(before)));
    assert_eq!(reader.nodes(after).await, Ok(vec![]));
}

#[tokio::test]
async fn another_chain_at_the_same_address_is_not_followed() {
    let options = LocalChainOptions {
        mining: Mining::OnTransaction,
        ..LocalChainOptions::default()
    };
    let first = chain(options.clone()).await;
    first.mine(10).await.unwrap();
    let port = first.port();
    let mut follower = follower(&first);
    let seen = follower.next().await.unwrap();
    drop(first);

    // Shorter at first, then longer: neither is ours. Started within one second, two chains have the
    // same blocks unless something is in them.
    let second = chain(LocalChainOptions { port, ..options }).await;
    busy_blocks(&second, 1).await;
    let error = follower.next().await.unwrap_err();
    assert!(matches!(error, FollowError::WentBack(_)), "{error}");
    second.mine(50).await.unwrap();
    let error = follower.next().await.unwrap_err();
    assert!(matches!(error, FollowError::WentBack(_)), "{error}");
    assert_eq!(follower.seen(), Some(seen));
    // Who starts now has no past to hold against it.
    assert!(self::follower(&second).next().await.unwrap().number > seen.number);
}

/// Blocks with something in them, so that a reorganisation that leaves it out makes other blocks.
async fn busy_blocks(chain: &LocalChain, blocks: u8) {
    let twin = writer(chain, LocalChain::account(1));
    twin.register_twin(&[weighted(1, 1)], 1).await.unwrap();
    for key in 1..blocks {
        twin.update_twin_keys(&[weighted(key, 1)], 1).await.unwrap();
    }
}

#[tokio::test]
async fn a_reorganisation_below_finality_is_not_noticed() {
    let chain = chain(LocalChainOptions {
        mining: Mining::OnTransaction,
        ..LocalChainOptions::default()
    })
    .await;
    busy_blocks(&chain, 10).await;
    let reader = EndpointReader::new(&chain.config()).unwrap();
    let mut follower = follower(&chain);
    let before = follower.next().await.unwrap();

    let tip = reader.latest().await.unwrap();
    assert!(tip.number > before.number);
    let depth = tip.number - before.number;
    chain
        .request("anvil_reorg", json!([depth, []]))
        .await
        .unwrap();
    let now = reader.block(tip.number).await.unwrap().unwrap();
    assert_ne!(now.hash, tip.hash, "the reorganisation did happen");

    chain.mine(5).await.unwrap();
    let after = follower.next().await.unwrap();
    assert!(after.number > before.number);
    assert_eq!(reader.block(before.number).await, Ok(Some(before)));
}

#[tokio::test]
async fn a_chain_that_goes_on_from_a_snapshot_by_another_way_is_followed() {
    let chain = chain(LocalChainOptions {
        mining: Mining::OnTransaction,
        ..LocalChainOptions::default()
    })
    .await;
    busy_blocks(&chain, 10).await;
    let reader = EndpointReader::new(&chain.config()).unwrap();
    let mut follower = follower(&chain);
    let before = follower.next().await.unwrap();

    let snapshot = chain.request("evm_snapshot", json!([])).await.unwrap();
    chain.mine(1).await.unwrap();
    let tip = reader.latest().await.unwrap();
    chain
        .request("evm_revert", json!([snapshot]))
        .await
        .unwrap();
    chain
        .request("evm_increaseTime", json!([1000]))
        .await
        .unwrap();
    chain.mine(4).await.unwrap();
    let now = reader.block(tip.number).await.unwrap().unwrap();
    assert_ne!(now.hash, tip.hash, "it did take another way");
    let after = follower.next().await.unwrap();
    assert!(after.number > before.number);
}

#[tokio::test]
async fn a_reorganisation_past_finality_stops_the_follower() {
    let chain = chain(LocalChainOptions {
        mining: Mining::OnTransaction,
        ..LocalChainOptions::default()
    })
    .await;
    busy_blocks(&chain, 10).await;
    let mut follower = follower(&chain);
    let seen = follower.next().await.unwrap();
    chain.request("anvil_reorg", json!([6, []])).await.unwrap();
    chain.mine(5).await.unwrap();
    let error = follower.next().await.unwrap_err();
    assert!(matches!(error, FollowError::WentBack(_)), "{error}");
    assert_eq!(follower.seen(), Some(seen));
}
