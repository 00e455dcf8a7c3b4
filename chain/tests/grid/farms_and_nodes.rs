//! Farms and their nodes.

use loam_chain::{GridReader, NodeState, Refusal};
use loam_deployment::{FarmId, TwinId, Version};

use crate::world::{Node, World, dev_address, refusal, stranger, weighted};

#[tokio::test]
async fn a_farm_is_read_as_it_was_written() {
    let world = World::start().await;
    let at = world.latest().await;
    let farm = world.reader.farm(world.farm, at).await.unwrap().unwrap();
    assert_eq!(farm.id, FarmId(1));
    assert_eq!(farm.twin, TwinId(1));
    assert_eq!(farm.name, "north");
    assert_eq!(farm.policy, None);
    assert_eq!(world.reader.farm(FarmId(2), at).await, Ok(None));
}

#[tokio::test]
async fn a_farm_needs_an_owner_and_a_name() {
    let world = World::start().await;
    let answer = stranger(&world.chain).create_farm("south").await;
    assert_eq!(refusal(answer), Refusal::NoTwin(dev_address(3)));
    for name in [String::new(), "x".repeat(65)] {
        let length = name.len() as u64;
        let answer = world.farmer.create_farm(&name).await;
        assert_eq!(refusal(answer), Refusal::NameLength { length, most: 64 });
    }
    world.farmer.create_farm(&"x".repeat(64)).await.unwrap();
}

#[tokio::test]
async fn a_policy_comes_from_the_farmer_one_version_at_a_time() {
    let world = World::start().await;
    let (farm, farmer) = (world.farm, &world.farmer);
    let before = world.revision().await;
    farmer
        .set_farm_policy(farm, Version(1), b"rules")
        .await
        .unwrap();
    assert!(world.revision().await > before);

    let at = world.latest().await;
    let policy = world
        .reader
        .farm(farm, at)
        .await
        .unwrap()
        .unwrap()
        .policy
        .unwrap();
    assert_eq!(policy.version, Version(1));
    assert_eq!(world.reader.stored(&policy, at).await.unwrap(), b"rules");

    for given in [0, 1, 3] {
        let answer = farmer.set_farm_policy(farm, Version(given), b"rules").await;
        let expected = Refusal::UnexpectedVersion {
            given: Version(given),
            next: Version(2),
        };
        assert_eq!(refusal(answer), expected);
    }
    let answer = world
        .tenant
        .set_farm_policy(farm, Version(2), b"mine")
        .await;
    let account = world.tenant.account();
    assert_eq!(refusal(answer), Refusal::NotFarmOwner { farm, account });
    let answer = farmer
        .set_farm_policy(FarmId(9), Version(1), b"rules")
        .await;
    assert_eq!(refusal(answer), Refusal::NoSuchFarm(FarmId(9)));
}

#[tokio::test]
async fn a_node_is_read_as_it_was_written() {
    let world = World::start().await;
    let at = world.latest().await;
    let record = world
        .reader
        .node(world.node.key, at)
        .await
        .unwrap()
        .unwrap();
    let said = &world.node.registration;
    assert_eq!(record.key, said.key);
    assert_eq!(record.farm, world.farm);
    assert_eq!(record.account, world.node.writer.account());
    assert_eq!(record.hpke_key, said.hpke_key);
    assert_eq!(record.capacity, said.capacity);
    assert_eq!(record.addresses, said.addresses);
    assert_eq!(record.binding, said.binding);
    assert_eq!(record.state, NodeState::Up);
    assert_eq!(record.registered, at.number);
    assert_eq!(record.last_report, at.number);
}

#[tokio::test]
async fn a_node_updates_itself_and_only_itself() {
    let world = World::start().await;
    let before = world.revision().await;
    let mut said = world.node.registration.clone();
    said.addresses = "192.0.2.1".repeat(28);
    world.node.writer.register_node(&said).await.unwrap();
    let at = world.latest().await;
    let record = world.reader.node(said.key, at).await.unwrap().unwrap();
    assert_eq!(record.addresses, said.addresses);
    assert!(record.registered < at.number);
    assert!(world.revision().await > before);
    assert_eq!(world.reader.nodes(at).await.unwrap(), [record]);

    let answer = stranger(&world.chain).register_node(&said).await;
    let account = world.node.writer.account();
    let node = said.key;
    assert_eq!(refusal(answer), Refusal::NodeKeyTaken { node, account });

    said.key.0[0] ^= 1;
    let answer = world.node.writer.register_node(&said).await;
    assert_eq!(refusal(answer), Refusal::AccountHasNode { account, node });
}

#[tokio::test]
async fn a_registration_that_cannot_be_is_refused() {
    let world = World::start().await;
    let node = Node::new(&world.chain, world.farm, 8);

    let mut said = node.registration.clone();
    said.addresses = "x".repeat(257);
    let answer = node.writer.register_node(&said).await;
    let expected = Refusal::AddressesTooLong {
        length: 257,
        most: 256,
    };
    assert_eq!(refusal(answer), expected);

    let mut said = node.registration.clone();
    said.farm = FarmId(2);
    let answer = node.writer.register_node(&said).await;
    assert_eq!(refusal(answer), Refusal::NoSuchFarm(FarmId(2)));

    let mut said = node.registration.clone();
    said.key.0 = [0; 32];
    let answer = node.writer.register_node(&said).await;
    assert_eq!(refusal(answer), Refusal::ZeroKey);
}

#[tokio::test]
async fn the_revision_rises_also_when_a_node_moves_to_a_quieter_farm() {
    let world = World::start().await;
    let (quiet, _) = world.tenant.create_farm("south").await.unwrap();
    for version in 1..=5 {
        let version = Version(version);
        world
            .farmer
            .set_farm_policy(world.farm, version, b"rules")
            .await
            .unwrap();
    }
    let before = world.revision().await;
    let mut said = world.node.registration.clone();
    said.farm = quiet;
    world.node.writer.register_node(&said).await.unwrap();
    let moved = world.revision().await;
    assert!(moved > before, "{moved} after {before}");
    world
        .tenant
        .set_farm_policy(quiet, Version(1), b"rules")
        .await
        .unwrap();
    assert!(world.revision().await > moved);
}

#[tokio::test]
async fn a_key_without_its_holders_word_is_no_node() {
    let world = World::start().await;
    let impostor = stranger(&world.chain);
    let victim = Node::new(&world.chain, world.farm, 8);
    // The node's own binding is for its own account.
    impostor.register_node(&victim.registration).await.unwrap();
    let at = world.latest().await;
    assert_eq!(world.reader.node(victim.key, at).await, Ok(None));
    let nodes = world.reader.nodes(at).await.unwrap();
    assert_eq!(nodes.len(), 1);
    assert_eq!(nodes[0].key, world.node.key);
}

#[tokio::test]
async fn a_heartbeat_is_the_nodes_own() {
    let world = World::start().await;
    let before = world.revision().await;
    let included = world.node.writer.heartbeat(NodeState::Down).await.unwrap();
    let record = world.reader.node(world.node.key, included.block).await;
    let record = record.unwrap().unwrap();
    assert_eq!(record.state, NodeState::Down);
    assert_eq!(record.last_report, included.block.number);
    // The node need not read what it said itself.
    assert_eq!(world.revision().await, before);

    let answer = world.tenant.heartbeat(NodeState::Up).await;
    assert_eq!(refusal(answer), Refusal::NotANode(world.tenant.account()));
}

#[tokio::test]
async fn more_nodes_than_fit_on_a_page_are_listed() {
    let world = World::start().await;
    let mut keys = vec![world.node.key];
    for seed in 8..48 {
        let node = Node::new(&world.chain, world.farm, seed);
        node.writer.register_node(&node.registration).await.unwrap();
        keys.push(node.key);
    }
    let nodes = world.reader.nodes(world.latest().await).await.unwrap();
    let listed: Vec<_> = nodes.iter().map(|node| node.key).collect();
    assert_eq!(listed, keys);
    world
        .tenant
        .update_twin_keys(&[weighted(1, 1)], 1)
        .await
        .unwrap();
}
