//! Contracts: one deployment on one node.

use loam_chain::{ContractState, GridReader, NodeRegistration, Refusal};
use loam_deployment::{ContractId, FarmId, Version};

use crate::world::{Node, World, dev_address, refusal, stranger, weighted};

#[tokio::test]
async fn a_contract_is_read_as_it_was_written() {
    let world = World::start().await;
    let before = world.revision().await;
    let id = world.deploy(b"signed bytes").await;
    assert_eq!(id, ContractId(1));
    assert!(world.revision().await > before);

    let at = world.latest().await;
    let contract = world.contract(id).await;
    assert_eq!(contract.id, id);
    assert_eq!(contract.twin, world.twin);
    assert_eq!(contract.node, world.node.key);
    assert_eq!(contract.state, ContractState::Created);
    assert_eq!(contract.version(), Version(1));
    assert_eq!(contract.report, None);
    assert_eq!(contract.created, at.number);
    assert_eq!(contract.updated, at.number);
    let bytes = world.reader.deployment(&contract, at).await.unwrap();
    assert_eq!(bytes, b"signed bytes");
    assert_eq!(world.reader.report(&contract, at).await, Ok(None));
    assert_eq!(world.reader.contract(ContractId(2), at).await, Ok(None));
}

#[tokio::test]
async fn only_a_twin_deploys_and_only_on_a_node_that_is_there() {
    let world = World::start().await;
    let answer = stranger(&world.chain)
        .create_contract(ContractId(1), world.node.key, b"bytes")
        .await;
    assert_eq!(refusal(answer), Refusal::NoTwin(dev_address(3)));
    let absent = Node::new(&world.chain, world.farm, 8).key;
    let answer = world
        .tenant
        .create_contract(ContractId(1), absent, b"bytes")
        .await;
    assert_eq!(refusal(answer), Refusal::NoSuchNode(absent));
}

#[tokio::test]
async fn only_the_number_that_was_signed_for_is_taken() {
    let world = World::start().await;
    for expected in [0, 2, u64::MAX] {
        let expected = ContractId(expected);
        let answer = world
            .tenant
            .create_contract(expected, world.node.key, b"bytes")
            .await;
        let next = ContractId(1);
        assert_eq!(refusal(answer), Refusal::UnexpectedId { expected, next });
    }
    world.deploy(b"bytes").await;
    let expected = ContractId(1);
    let answer = world
        .tenant
        .create_contract(expected, world.node.key, b"bytes")
        .await;
    let next = ContractId(2);
    assert_eq!(refusal(answer), Refusal::UnexpectedId { expected, next });
}

#[tokio::test]
async fn deployments_up_to_the_limit_are_stored() {
    let world = World::start().await;
    let largest: Vec<u8> = (0..24575u32).map(|n| (n * 7) as u8).collect();
    let id = world.deploy(&largest).await;
    let at = world.latest().await;
    let contract = world.contract(id).await;
    assert_eq!(
        world.reader.deployment(&contract, at).await.unwrap(),
        largest
    );

    let oversized = vec![1; 24576];
    let expected = Refusal::TooManyBytes {
        length: 24576,
        most: 24575,
    };
    let answer = world
        .tenant
        .create_contract(ContractId(2), world.node.key, &oversized)
        .await;
    assert_eq!(refusal(answer), expected);
    let answer = world
        .tenant
        .update_contract(id, Version(2), &oversized)
        .await;
    assert_eq!(refusal(answer), expected);
    let answer = world
        .tenant
        .create_contract(ContractId(2), world.node.key, b"")
        .await;
    assert_eq!(refusal(answer), Refusal::NoBytes);
    assert_eq!(world.contract(id).await.version(), Version(1));
}

#[tokio::test]
async fn an_update_is_the_owners_and_the_next_version() {
    let world = World::start().await;
    let id = world.deploy(b"one").await;
    let first = world.contract(id).await;
    let before = world.revision().await;
    let included = world
        .tenant
        .update_contract(id, Version(2), b"two")
        .await
        .unwrap();
    assert!(world.revision().await > before);

    let contract = world.contract(id).await;
    assert_eq!(contract.version(), Version(2));
    assert_eq!(contract.created, first.created);
    assert_eq!(contract.updated, included.block.number);
    let bytes = world
        .reader
        .deployment(&contract, included.block)
        .await
        .unwrap();
    assert_eq!(bytes, b"two");
    // The state at an older block is still that of the older block.
    let then = loam_chain::BlockRef { ..included.block };
    let old = world.reader.block(then.number - 1).await.unwrap().unwrap();
    assert_eq!(world.reader.contract(id, old).await, Ok(Some(first)));

    for given in [0, 1, 2, 4] {
        let given = Version(given);
        let answer = world.tenant.update_contract(id, given, b"x").await;
        let next = Version(3);
        assert_eq!(refusal(answer), Refusal::UnexpectedVersion { given, next });
    }
    for foreign in [&world.farmer, &world.node.writer, &stranger(&world.chain)] {
        let answer = foreign.update_contract(id, Version(3), b"x").await;
        let account = foreign.account();
        assert_eq!(refusal(answer), Refusal::NotContractOwner { id, account });
    }
    let answer = world
        .tenant
        .update_contract(ContractId(9), Version(1), b"x")
        .await;
    assert_eq!(refusal(answer), Refusal::NoSuchContract(ContractId(9)));
}

#[tokio::test]
async fn a_cancelled_contract_is_over() {
    let world = World::start().await;
    let id = world.deploy(b"bytes").await;
    let other = stranger(&world.chain);
    for foreign in [&world.node.writer, &other] {
        let answer = foreign.cancel_contract(id).await;
        let account = foreign.account();
        assert_eq!(refusal(answer), Refusal::NotContractOwner { id, account });
    }
    // A farmer of another farm is a stranger too.
    other.register_twin(&[weighted(3, 1)], 1).await.unwrap();
    other.create_farm("south").await.unwrap();
    let answer = other.cancel_contract(id).await;
    let account = other.account();
    assert_eq!(refusal(answer), Refusal::NotContractOwner { id, account });

    let before = world.revision().await;
    world.tenant.cancel_contract(id).await.unwrap();
    assert!(world.revision().await > before);
    assert_eq!(world.contract(id).await.state, ContractState::Cancelled);

    let over = Refusal::ContractIsCancelled(id);
    assert_eq!(refusal(world.tenant.cancel_contract(id).await), over);
    let answer = world.tenant.update_contract(id, Version(2), b"x").await;
    assert_eq!(refusal(answer), over);
    let answer = world.node.writer.report(id, Version(1), b"x").await;
    assert_eq!(refusal(answer), over);
    assert_eq!(refusal(world.farmer.suspend_contract(id).await), over);
    assert_eq!(refusal(world.farmer.resume_contract(id).await), over);
    let answer = world.tenant.cancel_contract(ContractId(9)).await;
    assert_eq!(refusal(answer), Refusal::NoSuchContract(ContractId(9)));
}

#[tokio::test]
async fn the_farmer_suspends_resumes_and_cancels() {
    let world = World::start().await;
    let id = world.deploy(b"bytes").await;
    let farm = world.farm;
    for foreign in [&world.tenant, &world.node.writer] {
        let account = foreign.account();
        let expected = Refusal::NotFarmOwner { farm, account };
        assert_eq!(refusal(foreign.suspend_contract(id).await), expected);
        assert_eq!(refusal(foreign.resume_contract(id).await), expected);
    }
    let before = world.revision().await;
    world.farmer.suspend_contract(id).await.unwrap();
    assert!(world.revision().await > before);
    assert_eq!(world.contract(id).await.state, ContractState::Suspended);
    let state = "already suspended";
    let answer = world.farmer.suspend_contract(id).await;
    assert_eq!(refusal(answer), Refusal::WrongContractState { id, state });
    // What is suspended can still be updated, for when it goes on.
    world
        .tenant
        .update_contract(id, Version(2), b"two")
        .await
        .unwrap();
    assert_eq!(world.contract(id).await.state, ContractState::Suspended);
    world.farmer.resume_contract(id).await.unwrap();
    assert_eq!(world.contract(id).await.state, ContractState::Created);
    let state = "not suspended";
    let answer = world.farmer.resume_contract(id).await;
    assert_eq!(refusal(answer), Refusal::WrongContractState { id, state });
    world.farmer.cancel_contract(id).await.unwrap();
    assert_eq!(world.contract(id).await.state, ContractState::Cancelled);
}

#[tokio::test]
async fn a_report_is_the_nodes_own_about_a_version_that_is_there() {
    let world = World::start().await;
    let id = world.deploy(b"one").await;
    world
        .tenant
        .update_contract(id, Version(2), b"two")
        .await
        .unwrap();
    let before = world.revision().await;

    let node = &world.node.writer;
    let included = node.report(id, Version(1), b"running one").await.unwrap();
    let report = world.contract(id).await.report.unwrap();
    assert_eq!(report.version, Version(1));
    assert_eq!(report.written, included.block.number);
    node.report(id, Version(2), &[5; 8192]).await.unwrap();
    let contract = world.contract(id).await;
    assert_eq!(contract.report.unwrap().version, Version(2));
    let at = world.latest().await;
    let bytes = world.reader.report(&contract, at).await.unwrap();
    assert_eq!(bytes, Some(vec![5; 8192]));
    let record = world
        .reader
        .node(world.node.key, at)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(record.last_report, at.number);
    assert_eq!(world.revision().await, before);

    for given in [0, 3] {
        let given = Version(given);
        let answer = node.report(id, given, b"x").await;
        let current = Version(2);
        assert_eq!(
            refusal(answer),
            Refusal::ReportOfOtherVersion { given, current }
        );
    }
    let answer = node.report(id, Version(2), &[5; 8193]).await;
    let expected = Refusal::TooManyBytes {
        length: 8193,
        most: 8192,
    };
    assert_eq!(refusal(answer), expected);
    let answer = node.report(ContractId(9), Version(1), b"x").await;
    assert_eq!(refusal(answer), Refusal::NoSuchContract(ContractId(9)));

    // Neither the tenant, nor the farmer, nor another node speaks for the node.
    let second = Node::new(&world.chain, FarmId(1), 8);
    let said: &NodeRegistration = &second.registration;
    second.writer.register_node(said).await.unwrap();
    for foreign in [&world.tenant, &world.farmer, &second.writer] {
        let answer = foreign.report(id, Version(2), b"lies").await;
        let (node, account) = (world.node.key, foreign.account());
        assert_eq!(refusal(answer), Refusal::NotNodeAccount { node, account });
    }
}
