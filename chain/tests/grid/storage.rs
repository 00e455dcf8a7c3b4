//! The storage layout that `contracts/README.md` promises, read slot by slot as a prover would.

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use loam_chain::{ContractRecord, GridReader, Refusal};
use loam_deployment::{ContractId, Version};
use serde_json::json;

use crate::world::{Node, World, dev_address, refusal};

impl World {
    async fn slot(&self, slot: U256) -> B256 {
        let params = json!([self.chain.contract(), slot, "latest"]);
        let word = self
            .chain
            .request("eth_getStorageAt", params)
            .await
            .unwrap();
        serde_json::from_value(word).unwrap()
    }

    async fn number(&self, slot: U256) -> U256 {
        U256::from_be_bytes(self.slot(slot).await.0)
    }
}

/// Where a mapping at `slot` keeps `key`.
fn entry(key: impl Into<U256>, slot: u64) -> U256 {
    let key: U256 = key.into();
    let words = [
        key.to_be_bytes::<32>(),
        U256::from(slot).to_be_bytes::<32>(),
    ]
    .concat();
    keccak256(words).into()
}

/// Where a dynamic array whose length is at `slot` keeps its elements.
fn elements(slot: U256) -> U256 {
    keccak256(slot.to_be_bytes::<32>()).into()
}

/// `bytes` bytes at `offset`, counted from the low end.
fn member(word: B256, offset: usize, bytes: usize) -> U256 {
    U256::from_be_slice(&word[32 - offset - bytes..32 - offset])
}

fn address(word: B256) -> Address {
    Address::from_slice(&word[12..])
}

fn number(n: u64) -> U256 {
    U256::from(n)
}

#[tokio::test]
async fn counters_and_lists() {
    let world = World::start().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(world.deploy(b"bytes").await);
    }
    world.tenant.cancel_contract(ids[0]).await.unwrap();

    let counters = world.slot(number(0)).await;
    assert_eq!(member(counters, 0, 8), number(2), "twins");
    assert_eq!(member(counters, 8, 8), number(1), "farms");
    assert_eq!(member(counters, 16, 8), number(3), "contracts");

    let key = U256::from_be_bytes(world.node.key.0);
    for list in [entry(key, 5), entry(number(world.twin.0), 6)] {
        assert_eq!(world.number(list).await, number(2));
        // The last took the place of the first.
        let first: U256 = world.slot(elements(list)).await.into();
        let second: U256 = world.slot(elements(list) + number(1)).await.into();
        assert_eq!([first, second], [number(3), number(2)]);
        let freed = world.slot(elements(list) + number(2)).await;
        assert_eq!(freed, B256::ZERO);
    }
    assert_eq!(world.number(number(7)).await, number(1));
    assert_eq!(
        world.slot(elements(number(7))).await,
        B256::from(world.node.key.0)
    );
    let account = |address: Address| U256::from_be_slice(address.as_slice());
    let twin = world.slot(entry(account(world.tenant.account()), 8)).await;
    assert_eq!(U256::from_be_bytes(twin.0), number(world.twin.0));
    let node = world
        .slot(entry(account(world.node.writer.account()), 9))
        .await;
    assert_eq!(node, B256::from(world.node.key.0));
}

#[tokio::test]
async fn contract_records() {
    let world = World::start().await;
    let second = Node::new(&world.chain, world.farm, 8);
    second
        .writer
        .register_node(&second.registration)
        .await
        .unwrap();
    world.deploy(b"another").await;
    let id = world.deploy(b"one").await;
    world
        .tenant
        .update_contract(id, Version(2), b"two")
        .await
        .unwrap();
    world
        .node
        .writer
        .report(id, Version(1), b"report")
        .await
        .unwrap();
    let contract: ContractRecord = world.contract(id).await;
    let report = contract.report.unwrap();

    let base = entry(number(id.0), 4);
    let word = world.slot(base).await;
    assert_eq!(member(word, 0, 8), number(contract.twin.0));
    assert_eq!(member(word, 8, 8), number(2));
    assert_eq!(member(word, 16, 8), number(contract.created));
    assert_eq!(member(word, 24, 8), number(contract.updated));
    let word = world.slot(base + number(1)).await;
    assert_eq!(word, B256::from(contract.node.0));
    let word = world.slot(base + number(2)).await;
    assert_eq!(
        member(word, 0, 20),
        U256::from_be_slice(contract.deployment.pointer.as_slice())
    );
    assert_eq!(member(word, 20, 1), number(1), "created");
    assert_eq!(member(word, 21, 8), number(1), "version of the report");
    assert_eq!(member(word, 29, 2), number(1), "place in the node's list");
    let word = world.slot(base + number(3)).await;
    assert_eq!(word, keccak256(b"two"));
    let word = world.slot(base + number(4)).await;
    assert_eq!(
        member(word, 0, 20),
        U256::from_be_slice(report.pointer.as_slice())
    );
    assert_eq!(member(word, 20, 8), number(report.written));
    assert_eq!(member(word, 28, 4), number(1), "place in the twin's list");

    let params = json!([contract.deployment.pointer, "latest"]);
    let code = world.chain.request("eth_getCode", params).await.unwrap();
    let code: Bytes = serde_json::from_value(code).unwrap();
    assert_eq!(code.as_ref(), b"\0two");
}

#[tokio::test]
async fn twins_farms_and_nodes() {
    let world = World::start().await;
    let policy = Version(1);
    world
        .farmer
        .set_farm_policy(world.farm, policy, b"rules")
        .await
        .unwrap();
    let at = world.latest().await;

    let base = entry(number(world.twin.0), 1);
    let word = world.slot(base).await;
    assert_eq!(
        member(word, 0, 20),
        U256::from_be_slice(dev_address(2).as_slice())
    );
    assert_eq!(member(word, 20, 4), number(1), "threshold");
    assert_eq!(member(word, 24, 8), number(1), "version");
    let keys = base + number(1);
    assert_eq!(world.number(keys).await, number(1));
    assert_eq!(world.slot(elements(keys)).await, B256::repeat_byte(2));
    let weights = base + number(2);
    assert_eq!(world.number(weights).await, number(1));
    assert_eq!(member(world.slot(elements(weights)).await, 0, 2), number(1));

    let base = entry(number(world.farm.0), 2);
    let farm = world.reader.farm(world.farm, at).await.unwrap().unwrap();
    let word = world.slot(base).await;
    assert_eq!(member(word, 0, 8), number(farm.twin.0));
    assert_eq!(member(word, 8, 8), number(1), "policy's version");
    assert_eq!(member(word, 16, 8), number(1), "revision");
    let word = world.slot(base + number(1)).await;
    assert_eq!(address(word), farm.policy.unwrap().pointer);
    assert_eq!(world.slot(base + number(2)).await, keccak256(b"rules"));
    let name = world.slot(base + number(3)).await;
    assert_eq!(&name[..5], b"north");

    let base = entry(U256::from_be_bytes(world.node.key.0), 3);
    let node = world
        .reader
        .node(world.node.key, at)
        .await
        .unwrap()
        .unwrap();
    let word = world.slot(base).await;
    assert_eq!(
        member(word, 0, 20),
        U256::from_be_slice(node.account.as_slice())
    );
    assert_eq!(member(word, 20, 8), number(node.farm.0));
    assert_eq!(member(word, 28, 1), number(1), "up");
    let word = world.slot(base + number(1)).await;
    // Its own revision and the farm's.
    assert_eq!(
        member(word, 0, 8) + number(1),
        number(world.revision().await)
    );
    assert_eq!(member(word, 8, 8), number(node.registered));
    assert_eq!(member(word, 16, 8), number(node.last_report));
    assert_eq!(
        world.slot(base + number(2)).await,
        B256::from(node.hpke_key)
    );
    let word = world.slot(base + number(3)).await;
    let capacity = node.capacity;
    let sizes = [
        capacity.cpus,
        capacity.memory.0,
        capacity.ssd.0,
        capacity.hdd.0,
    ];
    for (place, size) in sizes.into_iter().enumerate() {
        assert_eq!(member(word, place * 8, 8), number(size));
    }
    assert_eq!(world.slot(base + number(4)).await[..], node.binding[..32]);
    assert_eq!(world.slot(base + number(5)).await[..], node.binding[32..]);
    let addresses = world.slot(base + number(6)).await;
    assert_eq!(&addresses[..9], b"10.0.2.15");
}

/// A full list would take a thousand transactions to make; writing its length takes one request,
/// and shows that the length is where it should be.
#[tokio::test]
async fn a_full_node_takes_no_more() {
    let world = World::start().await;
    let list = entry(U256::from_be_bytes(world.node.key.0), 5);
    let set_length = async |length: u64| {
        let params = json!([world.chain.contract(), list, B256::from(number(length))]);
        world
            .chain
            .request("anvil_setStorageAt", params)
            .await
            .unwrap();
    };
    set_length(1024).await;
    let answer = world
        .tenant
        .create_contract(ContractId(1), world.node.key, b"bytes")
        .await;
    let node = world.node.key;
    assert_eq!(refusal(answer), Refusal::NodeFull { node, most: 1024 });
    set_length(1023).await;
    let answer = world
        .tenant
        .create_contract(ContractId(1), world.node.key, b"bytes")
        .await;
    answer.unwrap();
}
