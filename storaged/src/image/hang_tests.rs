//! A disk that hangs under images, beside one that does not.

use super::*;
use crate::pool::testing::{hang, hasty_pool};

fn hasty(packer: KeepTar) -> Node {
    let folder = tempfile::tempdir().unwrap();
    let pool = hasty_pool(folder.path(), Media::Ssd);
    Node::of(folder, pool, packer, Patience::USUAL)
}

/// Removing is done by the pool's own thread, so it costs none of those that serve all disks.
#[tokio::test]
async fn what_is_removed_on_a_disk_that_hangs_waits_for_it_without_a_thread() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    let node = hasty(KeepTar::default());
    let path = node.ready(&image).await;
    node.quiet().await;
    let begun = registry.image(&[Layer::default().file("other", b"").tar()]);
    let left = Staging::begin(&node.pool, Record::new(begun.clone())).unwrap();
    let folder = left.folder();

    let release = hang(&node.pool);
    node.images.delete(&image);
    node.images.put_away(&mut node.images.lock(), left);
    assert!(node.images.list().is_empty());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(path.exists() && folder.exists());
    assert!(node.claimed() > 0);
    drop(release);
    node.quiet().await;
    assert!(!path.exists() && !folder.exists());
    node.assert_empty();
}

#[tokio::test]
async fn of_two_copies_the_one_whose_disk_answers_is_used() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    let (one, two) = (hasty(KeepTar::default()), hasty(KeepTar::default()));
    let paths = [one.ready(&image).await, two.ready(&image).await];
    let nodes = [&one, &two];
    let kept = nodes.map(|node| node.images.lock().ready.values().flatten().next().cloned());
    let pools = nodes.map(|node| node.pool.clone());
    let images = images(&pools, &one.packer, Patience::USUAL, &one.changes);
    for kept in kept {
        images.current().add(kept.unwrap());
    }
    for (hangs, expected) in [(0, 1), (1, 0)] {
        let release = hang(&pools[hangs]);
        let state = images.ensure(image.clone()).state;
        assert_eq!(
            state,
            ImageState::Ready {
                path: paths[expected].clone()
            }
        );
        while images.config(&image).await.is_err() {
            tokio::task::yield_now().await;
        }
        drop(release);
        while !pools[hangs].answers() {
            tokio::task::yield_now().await;
        }
    }
}
