//! The lists of contracts stay whole, whatever leaves them in whatever order.

use std::collections::BTreeSet;

use loam_chain::GridReader;
use loam_deployment::ContractId;

use crate::world::{Node, World};

async fn listed(world: &World) -> (BTreeSet<u64>, BTreeSet<u64>) {
    let at = world.latest().await;
    let of_node = world.reader.contracts_of_node(world.node.key, at).await;
    let of_twin = world.reader.contracts_of_twin(world.twin, at).await;
    let ids = |contracts: Vec<loam_chain::ContractRecord>| {
        contracts.iter().map(|contract| contract.id.0).collect()
    };
    (ids(of_node.unwrap()), ids(of_twin.unwrap()))
}

/// Everything a list can do to one: first, last, middle and only element leave; new ones come.
#[tokio::test]
async fn what_is_cancelled_leaves_and_nothing_else() {
    let world = World::start().await;
    let mut live = BTreeSet::new();
    assert_eq!(listed(&world).await, (live.clone(), live.clone()));
    for _ in 0..6 {
        live.insert(world.deploy(b"bytes").await.0);
    }
    for gone in [3, 1, 6, 5] {
        world
            .tenant
            .cancel_contract(ContractId(gone))
            .await
            .unwrap();
        live.remove(&gone);
        assert_eq!(listed(&world).await, (live.clone(), live.clone()));
    }
    live.insert(world.deploy(b"bytes").await.0);
    for gone in [2, 7, 4] {
        world
            .tenant
            .cancel_contract(ContractId(gone))
            .await
            .unwrap();
        live.remove(&gone);
        assert_eq!(listed(&world).await, (live.clone(), live.clone()));
    }
    assert!(live.is_empty());
    live.insert(world.deploy(b"bytes").await.0);
    assert_eq!(listed(&world).await, (live.clone(), live));
}

#[tokio::test]
async fn each_node_and_each_twin_has_its_own() {
    let world = World::start().await;
    let second = Node::new(&world.chain, world.farm, 8);
    second
        .writer
        .register_node(&second.registration)
        .await
        .unwrap();
    let ours = world.deploy(b"tenant, first node").await;
    let farmers = ContractId(2);
    world
        .farmer
        .create_contract(farmers, world.node.key, b"farmer, first")
        .await
        .unwrap();
    let elsewhere = ContractId(3);
    world
        .tenant
        .create_contract(elsewhere, second.key, b"tenant, second")
        .await
        .unwrap();

    let (of_node, of_twin) = listed(&world).await;
    assert_eq!(of_node, BTreeSet::from([ours.0, farmers.0]));
    assert_eq!(of_twin, BTreeSet::from([ours.0, elsewhere.0]));
    let before = world.revision().await;
    world.tenant.cancel_contract(elsewhere).await.unwrap();
    assert_eq!(world.revision().await, before, "another node's business");
    world.tenant.cancel_contract(ours).await.unwrap();
    let (of_node, of_twin) = listed(&world).await;
    assert_eq!(of_node, BTreeSet::from([farmers.0]));
    assert_eq!(of_twin, BTreeSet::new());
}

#[tokio::test]
async fn more_contracts_than_fit_on_a_page_are_listed() {
    let world = World::start().await;
    let mut all = BTreeSet::new();
    for _ in 0..130 {
        all.insert(world.deploy(b"b").await.0);
    }
    assert_eq!(listed(&world).await, (all.clone(), all));
}
