//! Twins: who may sign.

use loam_chain::{GridReader, Refusal, TwinRecord, WeightedKey};
use loam_deployment::TwinId;

use crate::world::{World, dev_address, refusal, stranger, weighted};

#[tokio::test]
async fn a_twin_is_read_as_it_was_written() {
    let world = World::start().await;
    let keys = [weighted(3, 2), weighted(4, 1), weighted(5, 65535)];
    let (id, included) = stranger(&world.chain)
        .register_twin(&keys, 3)
        .await
        .unwrap();
    assert_eq!(id, TwinId(3));
    let twin = world.reader.twin(id, included.block).await.unwrap();
    let expected = TwinRecord {
        id,
        owner: dev_address(3),
        keys: keys.to_vec(),
        threshold: 3,
        version: 1,
    };
    assert_eq!(twin, Some(expected));
    let owned = world.reader.twin_of(dev_address(3), included.block).await;
    assert_eq!(owned, Ok(Some(id)));
    let nobody = world.reader.twin_of(dev_address(4), included.block).await;
    assert_eq!(nobody, Ok(None));
    assert_eq!(world.reader.twin(TwinId(4), included.block).await, Ok(None));
}

#[tokio::test]
async fn keys_are_replaced_whole() {
    let world = World::start().await;
    let fewer = [weighted(8, 1)];
    let included = world.tenant.update_twin_keys(&fewer, 1).await.unwrap();
    let twin = world.reader.twin(world.twin, included.block).await;
    let twin = twin.unwrap().unwrap();
    assert_eq!(twin.keys, fewer);
    assert_eq!(twin.version, 2);
    assert_eq!(twin.weight(&[8; 32]), Some(1));
    assert_eq!(twin.weight(&[2; 32]), None);
}

#[tokio::test]
async fn keys_that_nobody_or_anybody_could_sign_with_are_refused() {
    let world = World::start().await;
    let tenant = &world.tenant;
    let many: Vec<WeightedKey> = (1..=17).map(|n| weighted(n, 1)).collect();
    let cases = [
        (vec![], 1, Refusal::NoKeys),
        (
            many,
            1,
            Refusal::TooManyKeys {
                count: 17,
                most: 16,
            },
        ),
        (vec![weighted(0, 1)], 1, Refusal::ZeroKey),
        (vec![weighted(1, 0)], 1, Refusal::ZeroWeight([1; 32])),
        (
            vec![weighted(1, 1), weighted(2, 1), weighted(1, 2)],
            1,
            Refusal::DuplicateKey([1; 32]),
        ),
        (
            vec![weighted(1, 1), weighted(2, 2)],
            4,
            Refusal::ThresholdOutOfReach {
                threshold: 4,
                weight: 3,
            },
        ),
        (
            vec![weighted(1, 1)],
            0,
            Refusal::ThresholdOutOfReach {
                threshold: 0,
                weight: 1,
            },
        ),
    ];
    for (keys, threshold, expected) in cases {
        let answer = tenant.update_twin_keys(&keys, threshold).await;
        assert_eq!(refusal(answer), expected);
        let answer = stranger(&world.chain).register_twin(&keys, threshold).await;
        assert_eq!(refusal(answer), expected);
    }
}

#[tokio::test]
async fn an_account_owns_one_twin_and_changes_only_its_own() {
    let world = World::start().await;
    let again = world.tenant.register_twin(&[weighted(3, 1)], 1).await;
    assert_eq!(refusal(again), Refusal::TwinAlreadyRegistered(world.twin));
    let nobody = stranger(&world.chain)
        .update_twin_keys(&[weighted(3, 1)], 1)
        .await;
    assert_eq!(refusal(nobody), Refusal::NoTwin(dev_address(3)));
}
