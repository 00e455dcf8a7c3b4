//! The local chain itself: what the demo and the tests of images rely on.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use loam_chain::{GridReader, LocalChain, LocalChainOptions, Mining};
use loam_deployment::TwinId;

use crate::world::{World, weighted, writer};

#[tokio::test]
async fn finalized_follows_the_newest_block_closely() {
    let world = World::on(Mining::EverySecond).await;
    // Each comes after the last and within two blocks of the tip, whenever we look.
    let included = world
        .tenant
        .update_twin_keys(&[weighted(5, 1)], 1)
        .await
        .unwrap();
    let finalized = world.tenant.finalized(included).await.unwrap();
    assert_eq!(finalized, included);
    let tip = world.latest().await;
    let finalized = world.reader.finalized().await.unwrap();
    assert!(finalized.number >= included.block.number);
    assert!(
        finalized.number + 3 > tip.number,
        "{finalized:?} far from {tip:?}"
    );
}

#[tokio::test]
async fn an_account_without_coins_writes() {
    let world = World::start().await;
    let params = serde_json::json!([world.node.writer.account(), "latest"]);
    let balance = world.chain.request("eth_getBalance", params).await.unwrap();
    assert_eq!(balance, "0x0");
    // And it has: it registered itself.
    let at = world.latest().await;
    assert!(
        world
            .reader
            .node(world.node.key, at)
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn a_stopped_chain_goes_on_from_its_state() {
    let folder = tempfile::tempdir().unwrap();
    let options = LocalChainOptions {
        mining: Mining::OnTransaction,
        state: Some(folder.path().join("state.json")),
        ..LocalChainOptions::default()
    };
    let chain = LocalChain::start(options.clone()).await.unwrap();
    let contract = chain.contract();
    let tenant = writer(&chain, LocalChain::account(2));
    tenant.register_twin(&[weighted(2, 1)], 1).await.unwrap();
    chain.stop().unwrap();

    let chain = LocalChain::start(options).await.unwrap();
    assert_eq!(chain.contract(), contract);
    let reader = loam_chain::EndpointReader::new(&chain.config()).unwrap();
    let at = reader.latest().await.unwrap();
    assert!(reader.twin(TwinId(1), at).await.unwrap().is_some());
}

#[tokio::test]
async fn a_dropped_chain_is_gone() {
    let chain = LocalChain::start(LocalChainOptions::default())
        .await
        .unwrap();
    let process = format!("/proc/{}", chain.pid());
    assert!(std::path::Path::new(&process).exists());
    drop(chain);
    assert!(!std::path::Path::new(&process).exists());
}

/// Set in a process that starts a chain for the test below and says which process that is.
const STARTER: &str = "LOAM_TEST_STARTS_A_CHAIN";

#[tokio::test]
async fn a_chain_ends_with_a_starter_that_is_killed() {
    const THIS: &str = "local::a_chain_ends_with_a_starter_that_is_killed";
    if std::env::var_os(STARTER).is_some() {
        let chain = LocalChain::start(LocalChainOptions::default())
            .await
            .unwrap();
        println!("\nchain {}", chain.pid());
        std::future::pending::<()>().await;
    }
    let mut starter = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", THIS, "--nocapture"])
        .env(STARTER, "")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(starter.stdout.take().unwrap()).lines();
    let process = said.find_map(|line| {
        let pid = line.unwrap().strip_prefix("chain ")?.to_owned();
        Some(format!("/proc/{pid}"))
    });
    let process = process.expect("a chain is started");
    assert!(Path::new(&process).exists());
    starter.kill().unwrap();
    starter.wait().unwrap();
    // Init, or whoever takes in orphans here, reaps it at its leisure.
    let is_dead = || match std::fs::read_to_string(format!("{process}/stat")) {
        Ok(stat) => stat.contains(") Z "),
        Err(_) => true,
    };
    while !is_dead() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
