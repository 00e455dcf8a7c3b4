//! Writers: several callers, several processes, wrong grids.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use loam_chain::{
    AccountKey, Address, DeployError, EndpointReader, GridReader, GridWriter, LocalChain, Mining,
    ReadError, WriteError, WriterOptions,
};
use loam_deployment::{ContractId, Version};

use crate::world::{World, weighted, writer};

#[tokio::test]
async fn callers_of_one_writer_do_not_take_each_others_numbers() {
    let world = Arc::new(World::on(Mining::EverySecond).await);
    let id = world.deploy(b"bytes").await;
    let reports = (0..8).map(|n: u8| {
        let world = world.clone();
        tokio::spawn(async move { world.node.writer.report(id, Version(1), &[n + 1]).await })
    });
    for report in reports.collect::<Vec<_>>() {
        report.await.unwrap().unwrap();
    }
    assert!(world.contract(id).await.report.is_some());
}

#[tokio::test]
async fn two_processes_share_an_account() {
    let world = World::on(Mining::EverySecond).await;
    let other = writer(&world.chain, LocalChain::account(2));
    for round in 1..=3 {
        let mine = [weighted(round, 1)];
        let theirs = [weighted(round + 10, 1)];
        let (a, b) = tokio::join!(
            world.tenant.update_twin_keys(&mine, 1),
            other.update_twin_keys(&theirs, 1),
        );
        a.unwrap();
        b.unwrap();
    }
    let twin = world.reader.twin(world.twin, world.latest().await).await;
    assert_eq!(twin.unwrap().unwrap().version, 7);
}

#[tokio::test]
async fn a_tenant_who_is_slower_signs_again() {
    let world = World::start().await;
    let asked = AtomicU32::new(0);
    let node = world.node.key;
    // Between our question for the number and our transaction, another takes it.
    let rival = async || {
        let (id, _) = world
            .farmer
            .deploy_new(node, |_| {
                Ok::<_, std::convert::Infallible>(b"rival".to_vec())
            })
            .await
            .unwrap();
        id
    };
    assert_eq!(rival().await, ContractId(1));
    let stale = world
        .tenant
        .create_contract(ContractId(1), node, b"late")
        .await;
    assert!(matches!(stale, Err(WriteError::Refused(_))), "{stale:?}");

    let world = Arc::new(World::on(Mining::EverySecond).await);
    let node = world.node.key;
    let deploy = |writer: &'static str| {
        let world = world.clone();
        let asked = &asked;
        async move {
            let writer = match writer {
                "tenant" => &world.tenant,
                _ => &world.farmer,
            };
            let prepare = |id: ContractId| {
                asked.fetch_add(1, Ordering::Relaxed);
                Ok::<_, std::convert::Infallible>(id.0.to_be_bytes().to_vec())
            };
            writer.deploy_new(node, prepare).await.unwrap().0
        }
    };
    let (a, b) = tokio::join!(deploy("tenant"), deploy("farmer"));
    let mut ids = [a, b];
    ids.sort();
    assert_eq!(ids, [ContractId(1), ContractId(2)]);
    assert!(asked.load(Ordering::Relaxed) >= 2);
    for id in ids {
        let contract = world.contract(id).await;
        let bytes = world
            .reader
            .deployment(&contract, world.latest().await)
            .await;
        assert_eq!(
            bytes.unwrap(),
            id.0.to_be_bytes(),
            "signed for its own number"
        );
    }
}

#[tokio::test]
async fn a_deployment_that_cannot_be_prepared_is_the_callers_error() {
    let world = World::start().await;
    let answer = world
        .tenant
        .deploy_new(world.node.key, |_| Err::<Vec<u8>, _>("no key"))
        .await;
    assert!(matches!(answer, Err(DeployError::Prepare("no key"))));
    assert_eq!(world.reader.next_contract().await, Ok(ContractId(1)));
}

#[tokio::test]
async fn another_chain_or_contract_is_noticed() {
    let world = World::start().await;
    let mut config = world.chain.config();
    config.chain_id = 1;
    let reader = EndpointReader::new(&config).unwrap();
    let error = reader.finalized().await.unwrap_err();
    assert!(
        matches!(
            &error,
            ReadError::Wrong {
                method: "eth_chainId",
                ..
            }
        ),
        "{error}"
    );

    let mut config = world.chain.config();
    config.contract = Address::repeat_byte(1);
    let reader = EndpointReader::new(&config).unwrap();
    let at = reader.latest().await.unwrap();
    let error = reader.twin(world.twin, at).await.unwrap_err();
    assert!(
        error.to_string().contains("there is no contract at"),
        "{error}"
    );
    let writer = GridWriter::new(&config, LocalChain::account(4), WriterOptions::default());
    let error = writer
        .unwrap()
        .register_twin(&[weighted(1, 1)], 1)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("is it the grid's?"), "{error}");
}

#[tokio::test]
async fn a_block_that_was_reorganised_away_gives_no_answers() {
    let world = World::start().await;
    let at = world.latest().await;
    let gone = loam_chain::BlockRef {
        hash: loam_chain::B256::repeat_byte(9),
        ..at
    };
    let error = world.reader.twin(world.twin, gone).await.unwrap_err();
    assert!(matches!(error, ReadError::Refused { .. }), "{error}");
}

#[tokio::test]
async fn an_account_that_cannot_pay_is_told_so() {
    let world = World::start().await;
    world
        .chain
        .request(
            "anvil_setNextBlockBaseFeePerGas",
            serde_json::json!(["0x3b9aca00"]),
        )
        .await
        .unwrap();
    world.chain.mine(1).await.unwrap();
    let poor = writer(&world.chain, AccountKey::from_seed(&[0x33; 32]).unwrap());
    let answer = poor.register_twin(&[weighted(1, 1)], 1).await;
    assert!(
        matches!(answer, Err(WriteError::NoFunds { .. })),
        "{answer:?}"
    );
    // Who can pay does.
    let rich = writer(&world.chain, LocalChain::account(4));
    rich.register_twin(&[weighted(1, 1)], 1).await.unwrap();
}

#[tokio::test]
async fn a_transaction_that_is_taken_back_is_not_called_final() {
    let world = World::start().await;
    let id = world.deploy(b"bytes").await;
    let included = world.tenant.cancel_contract(id).await.unwrap();
    world
        .chain
        .request("anvil_reorg", serde_json::json!([1, []]))
        .await
        .unwrap();
    world.chain.mine(5).await.unwrap();
    let answer = world.tenant.finalized(included).await;
    assert!(
        matches!(answer, Err(WriteError::TakenBack(hash)) if hash == included.transaction),
        "{answer:?}"
    );
    assert!(world.contract(id).await.is_live());
}
