use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use loam_deployment::{
    Bytes, ContractId,
    payload::{Media, OciReference},
};
use loam_node_api::{clock::Clock, tls};

use loam_oci::{
    address::Reach,
    digest::Digest,
    platform::Level,
    test_registry::{Instead, TestRegistry, gzip},
};

use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::*;
use crate::{
    image::{
        build::Listener,
        claim::SpaceClaim,
        testing::{Layer, contents},
    },
    pool::testing::{hasty_again, pool},
};

/// Counts builds, and holds them up before anything is written.
#[derive(Debug, Default)]
struct Builds {
    begun: AtomicU32,
    /// Works on until it is told to stop.
    hold: bool,
    /// Works on whatever it is told, as one whose disk hangs.
    hangs: AtomicBool,
}

impl Listener for Builds {
    fn all_is_read(&self, stop: &Stop) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        while self.hold && !stop.is_set() {
            std::thread::yield_now();
        }
        while self.hangs.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
    }
}

struct Node {
    _folder: tempfile::TempDir,
    pool: Arc<Pool>,
    changes: Changes,
    builds: Arc<Builds>,
    patience: Patience,
    images: Images,
}

impl Node {
    fn new() -> Self {
        Self::with(Builds::default(), Patience::USUAL)
    }

    fn with(builds: Builds, patience: Patience) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pool = pool(folder.path(), Media::Ssd);
        Self::of(folder, pool, builds, patience)
    }

    fn of(folder: tempfile::TempDir, pool: Pool, builds: Builds, patience: Patience) -> Self {
        let pool = Arc::new(pool);
        let changes = Changes::new();
        let builds = Arc::new(builds);
        Self {
            images: images(std::slice::from_ref(&pool), &builds, patience, &changes),
            _folder: folder,
            pool,
            changes,
            builds,
            patience,
        }
    }

    /// As after a kill: nothing is remembered but what is on the pool.
    fn restart(&mut self) {
        let again = Pool::open(self.pool.root().to_owned(), self.pool.uuid(), Media::Ssd).unwrap();
        self.pool = Arc::new(again);
        let pools = std::slice::from_ref(&self.pool);
        self.images = images(pools, &self.builds, self.patience, &self.changes);
    }

    /// The same, on a disk that is given up soon.
    fn restart_hasty(&mut self) {
        let again = hasty_again(self.pool.root(), self.pool.uuid());
        self.pool = Arc::new(again);
        let pools = std::slice::from_ref(&self.pool);
        self.images = images(pools, &self.builds, self.patience, &self.changes);
    }

    async fn fetched(&self, image: &OciReference) -> ImageState {
        self.fetched_as(&image.clone().into()).await
    }

    async fn fetched_as(&self, request: &ImageRequest) -> ImageState {
        loop {
            let seen = self.changes.now();
            match self.images.ensure(request.clone()).state {
                ImageState::Fetching { .. } if self.changes.now() == seen => {
                    self.changes.since(seen).await;
                }
                ImageState::Fetching { .. } => {}
                other => return other,
            }
        }
    }

    async fn ready(&self, image: &OciReference) -> PathBuf {
        match self.fetched(image).await {
            ImageState::Ready { path } => path,
            other => panic!("{other:?}"),
        }
    }

    /// The same, though nobody asks for it again.
    async fn ready_by_itself(&self, image: &OciReference) {
        loop {
            let seen = self.changes.now();
            let listed = self.images.list();
            let found = listed
                .iter()
                .find(|status| status.image.reference == *image);
            if found.is_some_and(|found| matches!(found.state, ImageState::Ready { .. })) {
                return;
            }
            self.changes.since(seen).await;
        }
    }

    async fn failed(&self, image: &OciReference) -> String {
        match self.fetched(image).await {
            ImageState::Failed(why) => why,
            other => panic!("{other:?}"),
        }
    }

    /// Removes it, and waits until it is gone.
    async fn delete(&self, image: &OciReference) {
        self.images.delete(&image.clone().into());
        self.quiet().await;
    }

    /// Returns once nothing is being removed.
    async fn quiet(&self) {
        let mut left = self.images.0.left.subscribe();
        let quiet = left.wait_for(|_| {
            let known = self.images.lock();
            known.leaving.is_empty() && known.removing.is_empty()
        });
        quiet.await.unwrap();
    }

    /// Forgets failures, as time does.
    fn forgive(&self) {
        for attempt in self.images.lock().attempts.values_mut() {
            if let Attempt::Failed(failure) = attempt {
                failure.again = Instant::now();
            }
        }
    }

    fn fetch_folders(&self) -> usize {
        fs::read_dir(self.pool.images().join("fetch"))
            .unwrap()
            .count()
    }

    /// What the ledger counts for images.
    fn claimed(&self) -> u64 {
        self.pool
            .with_ledger(|ledger| ledger.promised_to_images())
            .get()
    }

    /// What images take, records and empty folders aside.
    fn taken(&self) -> u64 {
        taken(&self.pool.images())
    }

    /// What is claimed is there, and nothing else is.
    fn assert_true_claims(&self) {
        assert_eq!(self.claimed(), self.taken());
    }

    fn assert_empty(&self) {
        assert_eq!(
            (self.claimed(), self.taken(), self.fetch_folders()),
            (0, 0, 0)
        );
    }
}

fn taken(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| match entry.metadata().unwrap() {
            metadata if metadata.is_dir() => taken(&entry.path()),
            _ if entry.path().extension().is_some_and(|end| end == "json") => 0,
            metadata => metadata.len(),
        })
        .sum()
}

/// This machine's registries, which have no names.
fn anywhere() -> Outside {
    let roots = tls::public_roots();
    Outside {
        reach: Reach::Anywhere,
        tls: tls::client_config(roots, Arc::new(Clock::default)).unwrap(),
    }
}

/// With no failure waited out: most tests are about what comes after.
fn means(listener: Arc<dyn Listener>, outside: Outside) -> Means {
    Means {
        passing: 0,
        listener,
        ..super::means(outside)
    }
}

fn images(
    pools: &[Arc<Pool>],
    builds: &Arc<Builds>,
    patience: Patience,
    changes: &Changes,
) -> Images {
    let pools = pools.to_vec();
    let means = Means {
        patience,
        ..means(builds.clone(), anywhere())
    };
    Images::with(Arc::new(move || pools.clone()), means, changes.clone())
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn layers() -> Vec<Vec<u8>> {
    vec![
        Layer::default()
            .folder("bin/")
            .file("bin/hello", b"one")
            .file("big", &noise(300_000))
            .tar(),
        Layer::default()
            .file(".wh.big", b"")
            .file("bin/hello", b"two")
            .tar(),
    ]
}

#[tokio::test]
async fn fetched_once_merged_and_found_again() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    let mut node = Node::new();
    let path = node.ready(&image).await;
    let found = contents(&fs::read(&path).unwrap());
    assert_eq!(found["bin/hello"], "file:two");
    assert!(!found.contains_key("big"));
    assert_eq!(node.fetch_folders(), 0);

    let asked = registry.requests().len();
    node.restart();
    let again = node.ready(&image).await;
    let config = node.images.config(&image.clone().into()).await.unwrap();
    assert_eq!(
        (again, config.cmd),
        (path.clone(), vec!["/bin/hello".to_owned()])
    );
    assert_eq!(registry.requests().len(), asked);
    node.assert_true_claims();

    let other = registry.image(&[Layer::default().file("other", b"").tar()]);
    node.delete(&other).await;
    assert!(path.exists());
    node.delete(&image).await;
    assert!(!path.exists() && node.images.list().is_empty());
    let gone = node.images.config(&image.clone().into()).await.unwrap_err();
    assert_eq!(gone, StorageError::NoImage(Box::new(image.into())));
    node.assert_empty();
}

#[tokio::test]
async fn a_cut_transfer_resumes_where_it_was() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    registry.behave(|b| b.cut = Some((100_000, 2)));
    let node = Node::new();
    node.ready(&image).await;
    let ranges: Vec<_> = registry
        .requests()
        .into_iter()
        .filter(|request| request.contains("bytes="))
        .collect();
    assert_eq!(ranges.len(), 2, "{ranges:?}");
    assert!(ranges[0].ends_with("bytes=100000-") && ranges[1].ends_with("bytes=200000-"));
}

/// What a predecessor that was killed left of the first layer.
fn leave(node: &Node, image: &OciReference, bytes: &[u8]) -> Digest {
    let staging = Staging::begin(&node.pool, Record::new(image.clone().into())).unwrap();
    let digest = Digest::of(&gzip(&layers()[0]));
    let partial = format!("{}.partial", digest.hex());
    fs::write(staging.folder().join(partial), bytes).unwrap();
    digest
}

#[tokio::test]
async fn what_came_before_a_kill_is_counted_and_gone_on_with() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    let mut node = Node::new();
    leave(&node, &image, &gzip(&layers()[0])[..70_000]);
    node.restart();
    assert_eq!(node.claimed(), 70_000);
    // It shows, so that whoever no longer wants it can say so.
    let listed = node.images.list();
    assert!(matches!(&listed[0].state, ImageState::Failed(why) if why.contains("ended")));
    node.ready(&image).await;
    let resumed = |request: &String| request.ends_with("bytes=70000-");
    assert!(registry.requests().iter().any(resumed));
    node.assert_true_claims();

    let mut node = Node::new();
    leave(&node, &image, &gzip(&layers()[0])[..70_000]);
    node.restart();
    node.delete(&image).await;
    assert!(node.images.list().is_empty());
    node.assert_empty();
}

#[tokio::test]
async fn wrong_beginnings_and_registries_without_ranges_start_anew() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    for no_ranges in [true, false] {
        registry.behave(|b| b.no_ranges = no_ranges);
        let mut node = Node::new();
        leave(&node, &image, &[7; 50_000]);
        node.restart();
        node.ready(&image).await;
        node.assert_true_claims();
    }
}

#[tokio::test]
async fn what_is_not_what_the_digest_says_is_refused() {
    let registry = TestRegistry::start();
    let node = Node::new();

    let image = registry.image(&layers());
    let packed = gzip(&layers()[0]);
    let mut bad = packed.clone();
    bad[5000] ^= 1;
    registry.behave(|b| drop(b.swapped.insert(Digest::of(&packed), bad)));
    let why = node.failed(&image).await;
    assert!(why.contains("another digest"), "{why}");

    // Longer or shorter than the manifest says.
    for length in [packed.len() - 1, packed.len() + 1] {
        let mut other = packed.clone();
        other.resize(length, 0);
        registry.behave(|b| drop(b.swapped.insert(Digest::of(&packed), other)));
        node.forgive();
        let why = node.failed(&image).await;
        assert!(why.contains("where the manifest says"), "{why}");
    }

    // The layer is what the manifest says, but not what the configuration says.
    registry.behave(|b| b.swapped.clear());
    let image = registry.image_of(&[packed], &[Digest::of(b"other")]);
    let why = node.failed(&image).await;
    assert!(why.contains("the configuration says"), "{why}");

    // The manifest itself.
    let other = format!("{}/test/image@{}", registry.address, Digest::of(b"nothing"));
    let why = node.failed(&other.parse().unwrap()).await;
    assert!(why.contains("has no manifest"), "{why}");
    node.assert_empty();
}

#[tokio::test]
async fn a_registry_may_want_a_token_and_an_index_may_lead_to_the_image() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    let digest = Digest::of_manifest(&image);
    let index = registry.manifest(format!(
        r#"{{"manifests":[{{"digest":"{digest}","size":900,"platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#
    ));
    registry.behave(|b| b.token = Some("sesame"));
    let node = Node::new();
    node.ready(&index).await;
    let tokens = registry
        .requests()
        .iter()
        .filter(|r| r.starts_with("/token?service=test"))
        .count();
    assert_eq!(tokens, 1);
}

/// One of an index, for nodes.
fn entry(digest: Digest, more: &str) -> String {
    format!(
        r#"{{"digest":"{digest}","size":900,"platform":{{"os":"linux","architecture":"amd64"{more}}}}}"#
    )
}

#[tokio::test]
async fn what_an_index_names_and_is_not_there_gives_way_to_what_is() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    let entries = [
        entry(Digest::of(b"thrown away"), ""),
        entry(Digest::of_manifest(&image), ""),
    ];
    let index = registry.manifest(format!(r#"{{"manifests":[{}]}}"#, entries.join(",")));
    let node = Node::new();
    node.ready(&index).await;
    let alone = registry.manifest(format!(r#"{{"manifests":[{}]}}"#, entries[0]));
    assert!(node.failed(&alone).await.contains("no manifest"));
    node.assert_true_claims();
}

/// As buildah writes them for Docker.
#[tokio::test]
async fn layers_of_docker_s_own_types_are_fetched() {
    let registry = TestRegistry::start();
    let tar = Layer::default().file("f", b"x").tar();
    let zstd = compress_to_vec(&tar[..], CompressionLevel::Fastest);
    let node = Node::new();
    for (compression, packed) in [("gzip", gzip(&tar)), ("zstd", zstd)] {
        let kind = format!("application/vnd.docker.image.rootfs.diff.tar.{compression}");
        let image = registry.image_of_type(&kind, &[packed], &[Digest::of(&tar)]);
        let found = contents(&fs::read(node.ready(&image).await).unwrap());
        assert_eq!(found["f"], "file:x", "{compression}");
    }
}

#[tokio::test]
async fn an_image_for_a_better_processor_is_fetched_anew_on_another_machine() {
    let registry = TestRegistry::start();
    let names = |name: &str| Layer::default().file(name, b"").tar();
    let [plain, v3] = ["plain", "v3"].map(|name| registry.image(&[names(name)]));
    let entry = |image, more| entry(Digest::of_manifest(image), more);
    let entries = [entry(&v3, r#","variant":"v3""#), entry(&plain, "")];
    let index = registry.manifest(format!(r#"{{"manifests":[{}]}}"#, entries.join(",")));
    let mut node = Node::new();
    let on = |node: &Node, level| {
        let pools = vec![node.pool.clone()];
        let means = Means {
            level,
            ..means(node.builds.clone(), anywhere())
        };
        Images::with(Arc::new(move || pools.clone()), means, node.changes.clone())
    };
    let holds = async |node: &Node| {
        let found = contents(&fs::read(node.ready(&index).await).unwrap());
        found.into_keys().collect::<Vec<_>>()
    };
    node.images = on(&node, Level::V4);
    assert_eq!(holds(&node).await, ["v3"]);
    // It stays on a machine that can run it.
    node.restart();
    node.images = on(&node, Level::V3);
    assert_eq!(node.images.list().len(), 1);
    node.restart();
    node.images = on(&node, Level::V2);
    assert_eq!(holds(&node).await, ["plain"]);
    node.assert_true_claims();
    // What any machine runs stays on any.
    node.restart();
    node.images = on(&node, Level::V4);
    assert_eq!(holds(&node).await, ["plain"]);
}

#[tokio::test]
async fn a_failure_waits_before_the_next_try() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    registry.behave(|b| b.down = true);
    let node = Node::new();
    assert!(node.failed(&image).await.contains("500"));
    let asked = registry.requests().len();
    registry.behave(|b| b.down = false);
    assert!(node.failed(&image).await.contains("500"));
    assert_eq!(registry.requests().len(), asked);
    node.forgive();
    node.ready(&image).await;
}

fn busy(of: &'static str, headers: &'static str) -> Option<Instead> {
    Some(Instead {
        of,
        times: 1,
        status: "429 Too Many Requests",
        headers,
    })
}

#[tokio::test]
async fn a_registry_that_is_busy_for_a_moment_is_waited_for() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    registry.behave(|b| b.instead = busy("/blobs/", "retry-after: 1\r\n"));
    let node = Node::new();
    node.ready(&image).await;
    node.assert_true_claims();
}

#[tokio::test]
async fn while_a_registry_wants_to_be_asked_later_nothing_has_failed() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    // It has one layer by then.
    let late = format!("/blobs/{}", Digest::of(&gzip(&layers()[1])));
    registry.behave(|b| b.instead = busy(late.leak(), "retry-after: 999999\r\n"));
    let node = Node::new();
    let waits = async || loop {
        let seen = node.changes.now();
        match node.images.ensure(image.clone().into()).state {
            ImageState::Fetching {
                waits_for: Some(why),
                done,
                ..
            } => break (why, done),
            ImageState::Fetching { .. } if node.changes.now() == seen => {
                node.changes.since(seen).await;
            }
            ImageState::Fetching { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    let (why, done) = waits().await;
    assert!(why.contains("later") && why.contains("429"), "{why}");
    assert_eq!(done.get(), node.claimed());
    node.assert_true_claims();
    let number = || match &node.images.lock().attempts[&image.clone().into()] {
        Attempt::Failed(failure) => {
            let pause = failure.again - Instant::now();
            assert!(pause <= Duration::from_secs(3600) && pause > Duration::from_secs(3000));
            failure.waits.unwrap()
        }
        other => panic!("{other:?}"),
    };
    // It asks by itself when the time has come, and has no place meanwhile.
    let first = number();
    let asked = registry.requests().len();
    let other = registry.image(&[Layer::default().file("other", b"").tar()]);
    node.ready(&other).await;
    registry.behave(|b| b.instead = busy("/manifests/", "retry-after: 999999\r\n"));
    node.images
        .go_on_after(Duration::ZERO, image.clone().into(), first);
    while number_of(&node, &image) == Some(first) {
        tokio::task::yield_now().await;
    }
    waits().await;
    assert!(registry.requests().len() > asked);
    // Not for one that has gone on, or ended.
    let second = number();
    node.images
        .go_on_after(Duration::ZERO, image.clone().into(), first);
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert_eq!(number(), second);
    node.images
        .go_on_after(Duration::ZERO, image.clone().into(), second);
    node.ready_by_itself(&image).await;
    node.assert_true_claims();
}

/// Of the fetch whose end is waited over.
fn number_of(node: &Node, image: &OciReference) -> Option<u64> {
    match node.images.lock().attempts.get(&image.clone().into()) {
        Some(Attempt::Failed(failure)) => failure.waits,
        _ => None,
    }
}

#[tokio::test]
async fn a_failure_that_may_pass_is_waited_out_and_told_when_it_stays() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    registry.behave(|b| b.down = true);
    let mut node = Node::new();
    let pools = vec![node.pool.clone()];
    let means = Means {
        passing: 1,
        ..means(node.builds.clone(), anywhere())
    };
    node.images = Images::with(Arc::new(move || pools.clone()), means, node.changes.clone());
    node.images.ensure(image.clone().into());
    while number_of(&node, &image).is_none() {
        tokio::task::yield_now().await;
    }
    let ImageState::Fetching { waits_for, .. } = node.images.ensure(image.clone().into()).state
    else {
        panic!("it has failed");
    };
    assert!(waits_for.is_some_and(|why| why.contains("500")));
    let number = number_of(&node, &image).unwrap();
    node.images
        .go_on_after(Duration::ZERO, image.clone().into(), number);
    assert!(node.failed(&image).await.contains("500"));
    // What no time mends has failed at once.
    registry.behave(|b| (b.down, b.account) = (false, Some("alice:secret")));
    let other = registry.image(&[Layer::default().file("other", b"").tar()]);
    assert!(node.failed(&other).await.contains("log in"));
}

#[tokio::test]
async fn what_waits_for_its_registry_ends_when_it_is_no_longer_wanted() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    registry.behave(|b| b.instead = busy("/manifests/", "retry-after: 60\r\n"));
    let node = Node::new();
    node.images.ensure(image.clone().into());
    while number_of(&node, &image).is_none() {
        tokio::task::yield_now().await;
    }
    let number = number_of(&node, &image).unwrap();
    node.delete(&image).await;
    let asked = registry.requests().len();
    node.images
        .go_on_after(Duration::ZERO, image.clone().into(), number);
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert!(node.images.list().is_empty());
    assert_eq!(registry.requests().len(), asked);
    node.assert_empty();
}

#[tokio::test]
async fn asked_for_twice_it_is_fetched_once_and_unwanted_it_ends() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    registry.behave(|b| b.hold = true);
    let node = Node::new();
    for _ in 0..3 {
        let status = node.images.ensure(image.clone().into());
        assert!(matches!(status.state, ImageState::Fetching { .. }));
    }
    node.images.delete(&image.clone().into());
    assert!(node.images.list().is_empty());
    node.quiet().await;
    node.assert_empty();
    registry.behave(|b| b.hold = false);
    node.ready(&image).await;
    let manifests = registry
        .requests()
        .iter()
        .filter(|r| r.contains("/manifests/"))
        .count();
    assert!(manifests <= 2, "{manifests}");
}

#[tokio::test]
async fn a_full_pool_is_an_error_on_that_image_alone() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    let node = Node::new();
    let free = node.pool.with_ledger(|ledger| ledger.free_for_images());
    let claim = SpaceClaim::new(&node.pool, free.get() - 1000).unwrap();
    let why = node.failed(&image).await;
    assert!(why.contains("no disk has room"), "{why}");
    drop(claim);
    node.forgive();
    node.ready(&image).await;
    node.assert_true_claims();
    node.delete(&image).await;
    assert_eq!(
        node.pool.with_ledger(|ledger| ledger.free_for_images()),
        free
    );
}

#[tokio::test]
async fn an_image_cut_while_being_kept_is_fetched_again() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    let mut node = Node::new();
    let path = node.ready(&image).await;
    for damage in [true, false] {
        if damage {
            fs::write(&path, b"short").unwrap();
        } else {
            fs::remove_file(path.with_extension("json")).unwrap();
        }
        node.restart();
        assert!(node.images.list().is_empty());
        assert!(!path.exists());
        node.ready(&image).await;
    }
}

/// Only one who sends nothing at all is too slow.
const SILENT: Patience = Patience {
    window: Duration::from_millis(500),
    least: 1,
    ..Patience::USUAL
};

/// One digest at two registries.
fn two_registries() -> ([TestRegistry; 2], [OciReference; 2]) {
    let registries = [TestRegistry::start(), TestRegistry::start()];
    let images = registries
        .each_ref()
        .map(|registry| registry.image(&layers()));
    assert_eq!(images[0].digest(), images[1].digest());
    (registries, images)
}

#[tokio::test]
async fn a_registry_that_holds_back_does_not_hold_up_another_name_of_its_digest() {
    let ([bad, good], [held, served]) = two_registries();
    bad.behave(|b| b.hold = true);
    let node = Node::new();
    node.images.ensure(held.clone().into());
    node.ready(&served).await;
    // By either name, at once, and listed once.
    for name in [&held, &served] {
        let status = node.images.ensure(name.clone().into());
        assert_eq!(status.image.reference, *name);
        assert!(matches!(status.state, ImageState::Ready { .. }));
    }
    assert_eq!(node.images.list().len(), 1);
    let asked = good.requests().len();
    node.quiet().await;
    node.assert_true_claims();
    assert_eq!((node.fetch_folders(), good.requests().len()), (0, asked));

    // Either name removes it.
    node.delete(&held).await;
    assert!(node.images.list().is_empty());
    node.assert_empty();
}

#[tokio::test]
async fn a_failure_belongs_to_its_reference() {
    let ([bad, _good], [refused, served]) = two_registries();
    bad.behave(|b| b.down = true);
    let node = Node::new();
    assert!(node.failed(&refused).await.contains("500"));
    bad.behave(|b| b.down = false);
    // The one still waits, the other never did.
    node.ready(&served).await;
    assert!(bad.requests().len() == 1);
}

#[tokio::test]
async fn the_attempt_of_another_name_is_not_ended() {
    let ([one, two], images) = two_registries();
    for registry in [&one, &two] {
        registry.behave(|b| b.hold = true);
    }
    let node = Node::new();
    for image in &images {
        node.images.ensure(image.clone().into());
    }
    assert_eq!(node.images.list().len(), 2);
    node.delete(&images[0]).await;
    let listed = node.images.list();
    assert_eq!((listed.len(), &listed[0].image.reference), (1, &images[1]));
    two.behave(|b| b.hold = false);
    node.ready(&images[1]).await;
    node.assert_true_claims();
}

#[tokio::test]
async fn what_two_attempts_bring_counts_for_both() {
    let (registries, images) = two_registries();
    let node = Node::with(Builds::default(), SILENT);
    for registry in &registries {
        registry.behave(|b| b.drip = Some(100_000));
    }
    for image in &images {
        assert!(node.failed(image).await.contains("too slowly"));
    }
    // The second layer is too small to be dripped.
    let second = gzip(&layers()[1]).len() as u64;
    assert_eq!(node.claimed(), 2 * (100_000 + second));
    node.assert_true_claims();
    for image in &images {
        node.delete(image).await;
    }
    node.assert_empty();
}

#[tokio::test]
async fn a_size_that_is_only_claimed_takes_no_space() {
    let registry = TestRegistry::start();
    registry.behave(|b| b.drip = Some(1000));
    let config = registry.blob(
        format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            Digest::of(b"")
        )
        .into_bytes(),
    );
    let blob = registry.blob(noise(5000));
    let of = |size: u64| {
        registry.manifest(format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{config}","size":500}},"layers":[{{
            "mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{blob}","size":{size}}}]}}"#
        ))
    };
    let node = Node::new();
    let image = of(1 << 30);
    node.images.ensure(image.clone().into());
    let shows = |list: &[ImageStatus]| match &list[0].state {
        ImageState::Fetching { done, .. } => done.get() == 1000,
        other => panic!("{other:?}"),
    };
    // How far it is does not count as a change.
    while !shows(&node.images.list()) {
        tokio::task::yield_now().await;
    }
    assert_eq!(node.claimed(), 1000);
    node.delete(&image).await;
    node.assert_empty();

    // More than there is: refused before the first byte.
    let claim = SpaceClaim::new(&node.pool, {
        let free = node.pool.with_ledger(|ledger| ledger.free_for_images());
        free.get().saturating_sub(1 << 20)
    });
    let why = node.failed(&of(2 << 20)).await;
    assert!(why.contains("no disk has room"), "{why}");
    assert_eq!(node.fetch_folders(), 0);
    drop(claim);
}

#[tokio::test]
async fn a_registry_that_drips_gets_no_further_than_its_time() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    registry.behave(|b| b.drip = Some(100_000));
    let patience = Patience {
        transfer: Duration::from_secs(1),
        ..Patience::USUAL
    };
    let node = Node::with(Builds::default(), patience);
    assert!(node.failed(&image).await.contains("hours"));
    node.assert_empty();
    // Its next try has time of its own, in the same place.
    registry.behave(|b| b.drip = None);
    if let Some(Attempt::Failed(failure)) =
        node.images.lock().attempts.get_mut(&image.clone().into())
    {
        assert!(failure.left.is_some());
        failure.again = Instant::now();
    }
    node.ready(&image).await;

    let image = registry.image(&[Layer::default().file("other", b"").tar()]);
    registry.behave(|b| b.hold = true);
    let patience = Patience {
        document: Duration::from_millis(50),
        ..Patience::USUAL
    };
    let node = Node::with(Builds::default(), patience);
    assert!(node.failed(&image).await.contains("too long"));
    node.assert_empty();
}

#[tokio::test]
async fn who_is_slow_lets_others_pass_and_gets_on() {
    let ([slow, fast], [held, _]) = two_registries();
    let other = fast.image(&[Layer::default().file("other", b"").tar()]);
    let patience = Patience {
        window: Duration::from_millis(20),
        least: 0,
        ..Patience::USUAL
    };
    let mut node = Node::with(Builds::default(), patience);
    let pools = vec![node.pool.clone()];
    let means = Means {
        patience,
        fetching: Queue::new(Places {
            all: 1,
            of_one_site: 1,
        }),
        ..means(node.builds.clone(), anywhere())
    };
    node.images = Images::with(Arc::new(move || pools.clone()), means, node.changes.clone());
    slow.behave(|b| b.drip = Some(50_000));
    node.images.ensure(held.clone().into());
    while node.claimed() < 50_000 {
        tokio::task::yield_now().await;
    }
    // There is one place only, and it is taken.
    node.ready(&other).await;
    let status = node.images.ensure(held.clone().into());
    assert!(matches!(status.state, ImageState::Fetching { .. }));
    slow.behave(|b| b.drip = None);
    node.ready(&held).await;
    node.assert_true_claims();
}

#[tokio::test]
async fn who_comes_after_others_says_so_and_why_it_failed_before() {
    let ([slow, fails], [held, _]) = two_registries();
    let waits = fails.image(&[Layer::default().file("other", b"").tar()]);
    let mut node = Node::new();
    let pools = vec![node.pool.clone()];
    let means = Means {
        fetching: Queue::new(Places {
            all: 1,
            of_one_site: 1,
        }),
        ..means(node.builds.clone(), anywhere())
    };
    node.images = Images::with(Arc::new(move || pools.clone()), means, node.changes.clone());
    fails.behave(|b| b.down = true);
    assert!(node.failed(&waits).await.contains("500"));
    fails.behave(|b| b.down = false);
    slow.behave(|b| b.drip = Some(50_000));
    node.images.ensure(held.clone().into());
    while node.claimed() < 50_000 {
        tokio::task::yield_now().await;
    }
    node.forgive();
    let (queued, before) = loop {
        match node.images.ensure(waits.clone().into()).state {
            ImageState::Fetching {
                waits_for: Some(why),
                failed_before,
                ..
            } => break (why, failed_before),
            ImageState::Fetching { .. } => tokio::task::yield_now().await,
            other => panic!("{other:?}"),
        }
    };
    assert!(queued.contains("first"), "{queued}");
    assert!(before.is_some_and(|why| why.contains("500")));
    // Whose turn it is waits for nobody, and has not failed.
    let status = node.images.ensure(held.clone().into());
    let ImageState::Fetching {
        waits_for: None,
        failed_before: None,
        ..
    } = status.state
    else {
        panic!("{status:?}");
    };
    slow.behave(|b| b.drip = None);
    node.ready(&held).await;
    node.ready(&waits).await;
}

#[tokio::test]
async fn a_slow_registry_keeps_what_it_brought_and_a_bad_image_nothing() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    let mut node = Node::with(Builds::default(), SILENT);
    registry.behave(|b| b.drip = Some(100_000));
    let why = node.failed(&image).await;
    assert!(why.contains("too slowly"), "{why}");
    assert!(node.claimed() >= 100_000);
    node.assert_true_claims();
    // It is known after a restart, with how it failed, and waits its time.
    let claimed = node.claimed();
    node.restart();
    assert_eq!(node.claimed(), claimed);
    assert!(node.failed(&image).await.contains("too slowly"));
    registry.behave(|b| b.drip = None);
    node.forgive();
    node.ready(&image).await;
    assert!(
        registry
            .requests()
            .iter()
            .any(|r| r.ends_with("bytes=100000-"))
    );
    node.assert_true_claims();
}

#[tokio::test]
async fn an_image_that_is_deleted_while_it_is_built_ends_cleanly() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    let builds = Builds {
        hold: true,
        ..Builds::default()
    };
    let node = Node::with(builds, Patience::USUAL);
    node.images.ensure(image.clone().into());
    while node.builds.begun.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    node.images.delete(&image.clone().into());
    assert!(node.images.list().is_empty());
    // Wanted again at once: begins only when the first is gone.
    node.images.ensure(image.clone().into());
    while node.builds.begun.load(Ordering::Relaxed) == 1 {
        tokio::task::yield_now().await;
    }
    node.delete(&image).await;
    node.assert_empty();
}

#[tokio::test]
async fn a_build_that_hangs_holds_no_answer_up() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    let other = registry.image(&[Layer::default().file("other", b"").tar()]);
    let builds = Builds {
        hangs: AtomicBool::new(true),
        ..Builds::default()
    };
    let node = Node::with(builds, Patience::USUAL);
    for image in [&image, &other] {
        node.images.ensure(image.clone().into());
    }
    while node.builds.begun.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    // None of these waits, which is why none is awaited.
    assert_eq!(node.images.list().len(), 2);
    for image in [&image, &other] {
        node.images.delete(&image.clone().into());
    }
    assert!(node.images.list().is_empty());
    let state = node.images.ensure(image.clone().into()).state;
    assert!(matches!(state, ImageState::Fetching { .. }));
    // What hangs still holds its layers, and they count.
    assert!(node.claimed() >= node.taken() && node.taken() > 0);
    node.builds.hangs.store(false, Ordering::Relaxed);
    node.ready(&image).await;
    node.quiet().await;
    node.assert_true_claims();
}

#[tokio::test]
async fn a_machine_may_still_read_an_image_that_is_deleted() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    let node = Node::new();
    let path = node.ready(&image).await;
    let expected = fs::read(&path).unwrap();
    let mut open = fs::File::open(&path).unwrap();
    node.delete(&image).await;
    let mut read = Vec::new();
    std::io::Read::read_to_end(&mut open, &mut read).unwrap();
    assert_eq!(read, expected);
    node.ready(&image).await;
}

#[tokio::test]
async fn a_build_that_killed_storaged_waits_longer_each_time() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    let mut node = Node::new();
    leave(&node, &image, b"");
    let mut pauses = Vec::new();
    for deaths in 1..=8 {
        // As the record is while the image is built.
        let found = node.pool.images().join("attempts");
        let path = fs::read_dir(found).unwrap().next().unwrap().unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(
            &path,
            text.replace("\"building\":false", "\"building\":true"),
        )
        .unwrap();
        node.restart();
        let why = node.failed(&image).await;
        assert!(why.contains("while it built"), "{why}");
        let known = node.images.lock();
        let Attempt::Failed(failure) = &known.attempts[&image.clone().into()] else {
            panic!("{known:?}");
        };
        assert_eq!(failure.record.deaths, deaths);
        pauses.push(pause(&failure.record));
    }
    assert!(registry.requests().is_empty());
    assert_eq!(
        pauses[..2],
        [Duration::from_secs(30), Duration::from_secs(120)]
    );
    assert_eq!(pauses[7], Duration::from_secs(12 * 3600));
    // It is not refused for ever: it may have been the power each time.
    node.forgive();
    node.ready(&image).await;
    node.assert_true_claims();
}

/// It holds the place where images are built, as one that kills storaged does.
#[tokio::test]
async fn a_build_that_takes_too_long_counts_as_a_death() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    let patience = Patience {
        build: Duration::ZERO,
        ..Patience::USUAL
    };
    let node = Node::with(Builds::default(), patience);
    let why = node.failed(&image).await;
    assert!(why.contains("were not read after 0"), "{why}");
    let known = node.images.lock();
    let Attempt::Failed(failure) = &known.attempts[&image.into()] else {
        panic!("{known:?}");
    };
    let Record {
        deaths,
        failures,
        is_flawed,
        ..
    } = failure.record;
    assert_eq!((deaths, failures, is_flawed), (1, 0, false));
    assert_eq!(node.builds.begun.load(Ordering::Relaxed), 0);
    drop(known);
    node.assert_empty();
}

#[tokio::test]
async fn pools_bring_and_take_their_images() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    let mut one = Node::new();
    let mut two = Node::new();
    let paths = [one.ready(&image).await, two.ready(&image).await];
    // A third disk has the beginning of the same.
    let mut three = Node::new();
    leave(&three, &image, b"12345");
    for node in [&mut one, &mut two, &mut three] {
        node.restart();
    }
    let all = [&one, &two, &three].map(|node| {
        node.images.list();
        Arc::new(Pool::open(node.pool.root().to_owned(), node.pool.uuid(), Media::Ssd).unwrap())
    });
    let present = Arc::new(Mutex::new(vec![all[0].clone()]));
    let pools = present.clone();
    let images = Images::with(
        Arc::new(move || pools.lock().unwrap().clone()),
        means(one.builds.clone(), anywhere()),
        one.changes.clone(),
    );
    let shown = || match images.list().as_slice() {
        [] => None,
        [
            ImageStatus {
                state: ImageState::Ready { path },
                ..
            },
        ] => Some(path.clone()),
        other => panic!("{other:?}"),
    };
    assert_eq!(shown(), Some(paths[0].clone()));
    *present.lock().unwrap() = all.to_vec();
    assert_eq!(shown(), Some(paths[0].clone()));
    *present.lock().unwrap() = all[1..].to_vec();
    assert_eq!(shown(), Some(paths[1].clone()));
    // The first comes back.
    let again = Pool::open(all[0].root().to_owned(), all[0].uuid(), Media::Ssd).unwrap();
    let all = [Arc::new(again), all[1].clone(), all[2].clone()];
    *present.lock().unwrap() = all.to_vec();
    assert_eq!(shown(), Some(paths[1].clone()));
    images.delete(&image.clone().into());
    assert_eq!(shown(), None);
    one.images = images.clone();
    one.quiet().await;
    let mut claimed = all
        .iter()
        .map(|pool| pool.with_ledger(|ledger| ledger.promised_to_images()));
    assert!(claimed.all(|claimed| claimed == Bytes(0)));
    assert!(paths.iter().all(|path| !path.exists()));
}

/// What can be wrong with an image.
#[derive(Clone, Debug)]
enum Damage {
    Flip {
        layer: usize,
        at: proptest::sample::Index,
    },
    Cut {
        layer: usize,
        at: proptest::sample::Index,
    },
    DiffId(usize),
    /// The archive ends or breaks here, but is what its digests say.
    Tar {
        layer: usize,
        at: proptest::sample::Index,
    },
}

fn damage() -> impl proptest::strategy::Strategy<Value = Damage> {
    use proptest::prelude::*;
    let layer = 0..2usize;
    prop_oneof![
        (layer.clone(), any::<proptest::sample::Index>())
            .prop_map(|(layer, at)| Damage::Flip { layer, at }),
        (layer.clone(), any::<proptest::sample::Index>())
            .prop_map(|(layer, at)| Damage::Cut { layer, at }),
        layer.clone().prop_map(Damage::DiffId),
        (layer, any::<proptest::sample::Index>()).prop_map(|(layer, at)| Damage::Tar { layer, at }),
    ]
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(24))]
    /// Whatever is wrong with an image: no bytes stay and no claim; or it is ready, and exactly
    /// what it takes is claimed.
    #[test]
    fn after_any_failure_nothing_is_left_and_nothing_claimed(damage in damage()) {
        let registry = TestRegistry::start();
        let mut tars = layers();
        if let Damage::Tar { layer, at } = &damage {
            let at = at.index(tars[*layer].len());
            tars[*layer][at] ^= 0x41;
        }
        let packed: Vec<_> = tars.iter().map(|tar| gzip(tar)).collect();
        let mut diff_ids: Vec<_> = tars.iter().map(|tar| Digest::of(tar)).collect();
        if let Damage::DiffId(layer) = damage {
            diff_ids[layer] = Digest::of(b"other");
        }
        let image = registry.image_of(&packed, &diff_ids);
        let mut swapped = match &damage {
            Damage::Flip { layer, .. } | Damage::Cut { layer, .. } => packed[*layer].clone(),
            _ => Vec::new(),
        };
        match &damage {
            Damage::Flip { layer, at } => {
                let at = at.index(swapped.len());
                swapped[at] ^= 1;
                registry.behave(|b| drop(b.swapped.insert(Digest::of(&packed[*layer]), swapped)));
            }
            Damage::Cut { layer, at } => {
                swapped.truncate(at.index(swapped.len()));
                registry.behave(|b| drop(b.swapped.insert(Digest::of(&packed[*layer]), swapped)));
            }
            _ => {}
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let node = Node::new();
            match node.fetched(&image).await {
                ImageState::Failed(_) => node.assert_empty(),
                _ => {
                    assert!(matches!(damage, Damage::Tar { .. }));
                    node.assert_true_claims();
                }
            }
        });
    }
}

#[tokio::test]
async fn a_page_of_the_longest_statuses_fits_a_frame() {
    let (part, tag) = ("a".repeat(255), "t".repeat(128));
    let long = "\u{1}".repeat(500);
    let statuses: Vec<_> = (0..loam_node_api::page::MAX_ITEMS)
        .map(|n| ImageStatus {
            image: Image {
                reference: format!(
                    "{}.{}.org/{part}:{tag}@sha256:{n:064x}",
                    "h".repeat(60),
                    "h".repeat(60)
                )
                .parse()
                .unwrap(),
                only_for: Some(ContractId(u64::MAX)),
            },
            state: ImageState::Failed(long.clone()),
        })
        .collect();
    let frame = serde_json::to_vec(&loam_node_api::page::Page::of(statuses)).unwrap();
    assert!(
        frame.len() * 5 < loam_node_api::transport::MAX_FRAME * 4,
        "{}",
        frame.len()
    );
}

#[path = "crash_tests.rs"]
mod crash;

#[path = "hang_tests.rs"]
mod hang;

#[path = "mirror_tests.rs"]
mod mirror;

#[path = "login_tests.rs"]
mod login;
