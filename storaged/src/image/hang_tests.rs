//! A disk that hangs under images, beside one that does not.

use super::*;
use crate::{
    image::queue::Origin,
    pool::testing::{hang, hasty_pool},
};

fn hasty(builds: Builds) -> Node {
    let folder = tempfile::tempdir().unwrap();
    let pool = hasty_pool(folder.path(), Media::Ssd);
    Node::of(folder, pool, builds, Patience::USUAL)
}

/// Removing is done by the pool's own thread, so it costs none of those that serve all disks.
#[tokio::test]
async fn what_is_removed_on_a_disk_that_hangs_waits_for_it_without_a_thread() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    let node = hasty(Builds::default());
    let path = node.ready(&image).await;
    node.quiet().await;
    let begun = registry.image(&[Layer::default().file("other", b"").tar()]);
    let left = Staging::begin(&node.pool, Record::new(begun.clone().into())).unwrap();
    let folder = left.folder();

    let release = hang(&node.pool);
    node.images.delete(&image.clone().into());
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
    let (one, two) = (hasty(Builds::default()), hasty(Builds::default()));
    let paths = [one.ready(&image).await, two.ready(&image).await];
    let nodes = [&one, &two];
    let kept = nodes.map(|node| node.images.lock().ready.values().flatten().next().cloned());
    let pools = nodes.map(|node| node.pool.clone());
    let images = images(&pools, &one.builds, Patience::USUAL, &one.changes);
    for kept in kept {
        images.current().add(kept.unwrap());
    }
    for (hangs, expected) in [(0, 1), (1, 0)] {
        let release = hang(&pools[hangs]);
        let state = images.ensure(image.clone().into()).state;
        assert_eq!(
            state,
            ImageState::Ready {
                path: paths[expected].clone()
            }
        );
        while images.config(&image.clone().into()).await.is_err() {
            tokio::task::yield_now().await;
        }
        drop(release);
        while !pools[hangs].answers() {
            tokio::task::yield_now().await;
        }
    }
}

/// Hangs for so long that nobody waits for it any more.
fn hang_long(node: &Node) -> std::sync::mpsc::Sender<()> {
    let release = hang(&node.pool);
    while !node.pool.hangs() {
        std::thread::yield_now();
    }
    release
}

/// `one`'s images, with a second disk from now on.
fn join(one: &mut Node, two: &Node) {
    let pools = vec![one.pool.clone(), two.pool.clone()];
    let means = Means {
        patience: one.patience,
        ..means(one.builds.clone(), anywhere())
    };
    let known = std::mem::take(&mut *one.images.lock());
    one.images = Images::with(Arc::new(move || pools.clone()), means, one.changes.clone());
    *one.images.lock() = known;
}

#[tokio::test]
async fn an_image_on_a_disk_that_hangs_is_fetched_to_another_if_there_is_one() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    let (mut one, two) = (hasty(Builds::default()), Node::new());
    let first = one.ready(&image).await;
    let release = hang_long(&one);
    // Better than nothing.
    let state = one.images.ensure(image.clone().into()).state;
    assert_eq!(
        state,
        ImageState::Ready {
            path: first.clone()
        }
    );

    join(&mut one, &two);
    assert!(one.images.list().is_empty());
    let second = one.ready(&image).await;
    assert!(second.starts_with(two.pool.root()), "{second:?}");
    one.images.config(&image.clone().into()).await.unwrap();
    assert_eq!(one.images.list().len(), 1);
    drop(release);
    one.delete(&image).await;
    assert!(!first.exists() && !second.exists());
    one.assert_empty();
    two.assert_empty();
}

#[tokio::test]
async fn the_fetch_of_an_image_ends_when_the_disk_that_has_it_answers_again() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    let (mut one, two) = (hasty(Builds::default()), Node::new());
    let path = one.ready(&image).await;
    let release = hang_long(&one);
    join(&mut one, &two);
    registry.behave(|b| b.hold = true);
    let state = one.images.ensure(image.clone().into()).state;
    assert!(matches!(state, ImageState::Fetching { .. }));
    drop(release);
    while one.pool.hangs() {
        tokio::task::yield_now().await;
    }
    let listed = one.images.list();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].state, ImageState::Ready { path });
    one.quiet().await;
    two.assert_empty();
}

#[tokio::test]
async fn what_was_begun_on_a_disk_that_hangs_is_begun_anew_on_another() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    let mut one = hasty(Builds::default());
    leave(&one, &image, b"12345");
    one.restart_hasty();
    let two = Node::new();
    one.images.list();
    join(&mut one, &two);
    let release = hang_long(&one);
    one.forgive();
    let path = one.ready(&image).await;
    assert!(path.starts_with(two.pool.root()), "{path:?}");
    assert_eq!(one.claimed(), 5);
    drop(release);
    one.quiet().await;
    one.assert_empty();
    two.assert_true_claims();
}

#[tokio::test]
async fn what_waits_for_its_removal_from_a_disk_that_hangs_is_fetched_to_another() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    let (mut one, two) = (hasty(Builds::default()), Node::new());
    let first = one.ready(&image).await;
    let release = hang_long(&one);
    join(&mut one, &two);
    one.images.delete(&image.clone().into());
    let path = one.ready(&image).await;
    assert!(path.starts_with(two.pool.root()), "{path:?}");
    assert!(first.exists());
    drop(release);
    one.quiet().await;
    one.assert_empty();
    two.assert_true_claims();
}

/// Also if the disk answers again meanwhile: what is to go from it might go late.
#[tokio::test]
async fn a_pool_that_is_to_be_avoided_is_avoided_though_it_answers() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    let (one, two) = (Node::new(), Node::new());
    let fetch = |avoid: &[&Node]| Fetch {
        request: image.clone().into(),
        pools: vec![one.pool.clone(), two.pool.clone()],
        avoid: avoid.iter().map(|node| node.pool.clone()).collect(),
        means: means(one.builds.clone(), anywhere()),
        progress: Arc::default(),
        stop: Stop::default(),
        number: 1,
        begun: None,
        record: Record::new(image.clone().into()),
    };
    for node in [&two, &one] {
        let other = [&one, &two]
            .into_iter()
            .find(|other| !std::ptr::eq(*other, node));
        let kept = fetch(&[other.unwrap()]).run().await.result.unwrap();
        assert!(kept.path().starts_with(node.pool.root()));
    }
    let nowhere = fetch(&[&one, &two]).run().await.result.unwrap_err();
    assert!(nowhere.to_string().contains("does not answer"));
}

#[tokio::test]
async fn layers_on_a_disk_that_hangs_take_no_place_among_those_that_are_built() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    let node = hasty(Builds::default());
    let building = &node.images.0.means.building;
    let turn = building.turn(Origin::of(&image)).await;
    node.images.ensure(image.clone().into());
    let whole: usize = layers().iter().map(|layer| gzip(layer).len()).sum();
    let folder = node.pool.images().join("fetch");
    let finished = || {
        let names = fs::read_dir(&folder).unwrap().flat_map(|attempt| {
            fs::read_dir(attempt.unwrap().path())
                .unwrap()
                .map(|name| name.unwrap().path())
        });
        names.filter(|path| path.extension().is_none()).count()
    };
    while finished() < layers().len() || node.claimed() < whole as u64 {
        tokio::task::yield_now().await;
    }
    let release = hang_long(&node);
    drop(turn);
    let why = node.failed(&image).await;
    assert!(why.contains("does not answer"), "{why}");
    assert_eq!(node.builds.begun.load(Ordering::Relaxed), 0);
    drop(release);
    node.forgive();
    while node.pool.hangs() {
        tokio::task::yield_now().await;
    }
    node.ready(&image).await;
    node.assert_true_claims();
}

/// A write that does not return is not waited for either.
#[test]
fn a_transfer_to_a_disk_that_hangs_goes_on_on_another() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut one = hasty(Builds::default());
        one.patience = SILENT;
        let layer = leave(&one, &image, b"");
        let folder = fs::read_dir(one.pool.images().join("fetch")).unwrap();
        let folder = folder.last().unwrap().unwrap().path();
        let partial = folder.join(format!("{}.partial", layer.hex()));
        fs::remove_file(&partial).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &partial,
            rustix::fs::FileType::Fifo,
            mode,
            0,
        )
        .unwrap();
        one.restart_hasty();
        one.images.list();
        let two = Node::new();
        join(&mut one, &two);
        one.forgive();
        one.images.ensure(image.clone().into());
        // Nobody is told that it hangs.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let release = hang_long(&one);
        let why = tokio::time::timeout(Duration::from_secs(20), one.failed(&image)).await;
        let why = why.expect("it waits for the disk");
        assert!(why.contains("does not answer"), "{why}");
        one.forgive();
        let path = one.ready(&image).await;
        assert!(path.starts_with(two.pool.root()), "{path:?}");
        drop(release);
        one.quiet().await;
        one.assert_empty();
    });
    // Not dropped: that would wait for what hangs.
    runtime.shutdown_background();
}

#[tokio::test]
async fn a_build_on_a_disk_that_hangs_is_made_anew_on_another_and_what_it_makes_goes() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    let builds = Builds {
        hangs: AtomicBool::new(true),
        ..Builds::default()
    };
    let (mut one, two) = (hasty(builds), Node::new());
    leave(&one, &image, b"");
    one.restart_hasty();
    one.images.list();
    join(&mut one, &two);
    one.forgive();
    one.images.ensure(image.clone().into());
    while one.builds.begun.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    let release = hang_long(&one);
    let why = tokio::time::timeout(Duration::from_secs(20), one.failed(&image)).await;
    let why = why.expect("it waits for the disk");
    assert!(why.contains("does not answer"), "{why}");
    // The second build is for another disk.
    while one
        .images
        .lock()
        .attempts
        .contains_key(&image.clone().into())
    {
        one.forgive();
        let state = one.images.ensure(image.clone().into()).state;
        if let ImageState::Ready { path } = state {
            assert!(path.starts_with(two.pool.root()), "{path:?}");
        }
        if one.builds.begun.load(Ordering::Relaxed) > 1 {
            one.builds.hangs.store(false, Ordering::Relaxed);
        }
        tokio::task::yield_now().await;
    }
    drop(release);
    one.quiet().await;
    one.assert_empty();
    two.assert_true_claims();
    assert!(two.taken() > 0);
}
