use std::{
    io::Write,
    path::{Path, PathBuf},
};

use loam_deployment::payload::Media;

use super::*;
use crate::{
    image::{
        erofs::{PackError, Stream},
        kept::SpaceClaim,
        testing::{Layer, contents},
        testing_registry::{TestRegistry, gzip},
    },
    pool::testing::pool,
};

/// Keeps the tar stream in the place of a file system, which needs Debian's `mkfs.erofs`.
#[derive(Debug)]
struct KeepTar;

impl Pack for KeepTar {
    fn pack(&self, target: &Path, stream: Stream<'_>) -> Result<(), PackError> {
        let mut tar = Vec::new();
        stream(&mut tar)?;
        let kept = fs::File::create_new(target).and_then(|mut file| file.write_all(&tar));
        kept.map_err(|source| PackError::Io {
            what: "kept",
            source,
        })
    }
}

struct Node {
    _folder: tempfile::TempDir,
    pool: Arc<Pool>,
    changes: Changes,
    images: Images,
}

impl Node {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pool = Arc::new(pool(folder.path(), Media::Ssd));
        let changes = Changes::new();
        Self {
            images: images(&pool, &changes),
            _folder: folder,
            pool,
            changes,
        }
    }

    /// As after a kill: nothing is remembered but what is on the pool.
    fn restart(&mut self) {
        let again = Pool::open(self.pool.root().to_owned(), self.pool.uuid(), Media::Ssd).unwrap();
        self.pool = Arc::new(again);
        self.images = images(&self.pool, &self.changes);
    }

    async fn fetched(&self, image: &OciReference) -> ImageState {
        loop {
            let state = self.images.ensure(image.clone()).state;
            let seen = self.changes.now();
            match state {
                // It may have ended before `seen` was read.
                ImageState::Fetching { .. } if self.is_fetching(image) => {
                    self.changes.since(seen).await;
                }
                ImageState::Fetching { .. } => {}
                other => return other,
            }
        }
    }

    fn is_fetching(&self, image: &OciReference) -> bool {
        self.images.list().iter().any(|status| {
            status.image == *image && matches!(status.state, ImageState::Fetching { .. })
        })
    }

    async fn ready(&self, image: &OciReference) -> PathBuf {
        match self.fetched(image).await {
            ImageState::Ready { path } => path,
            other => panic!("{other:?}"),
        }
    }

    async fn failed(&self, image: &OciReference) -> String {
        match self.fetched(image).await {
            ImageState::Failed(why) => why,
            other => panic!("{other:?}"),
        }
    }

    /// Forgets failures, as time does.
    fn forgive(&self) {
        for image in self.images.lock().images.values_mut() {
            if let State::Failed { again, .. } = &mut image.state {
                *again = Instant::now();
            }
        }
    }

    fn fetch_folders(&self) -> usize {
        fs::read_dir(self.pool.images().join("fetch"))
            .unwrap()
            .count()
    }
}

fn images(pool: &Arc<Pool>, changes: &Changes) -> Images {
    let pools = vec![pool.clone()];
    Images::new(
        Arc::new(move || pools.clone()),
        Arc::new(KeepTar),
        Reach::Anywhere,
        changes.clone(),
    )
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
    let tar = fs::read(&path).unwrap();
    let found = contents(&tar);
    assert_eq!(found["bin/hello"], "file:two");
    assert!(!found.contains_key("big"));
    assert_eq!(node.fetch_folders(), 0);

    let asked = registry.requests().len();
    node.restart();
    let again = node.ready(&image).await;
    let config = node.images.config(&image).unwrap();
    assert_eq!(
        (again, config.cmd),
        (path.clone(), vec!["/bin/hello".to_owned()])
    );
    assert_eq!(registry.requests().len(), asked);

    let other = registry.image(&[Layer::default().file("other", b"").tar()]);
    node.images.delete(&other).unwrap();
    assert!(path.exists());
    node.images.delete(&image).unwrap();
    assert!(!path.exists() && node.images.list().is_empty());
    let gone = node.images.config(&image).unwrap_err();
    assert_eq!(gone, StorageError::NoImage(image));
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

#[tokio::test]
async fn what_came_before_a_kill_is_kept() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    let mut node = Node::new();
    // Each try brings something, until the registry goes away.
    registry.behave(|b| (b.cut, b.no_ranges) = (Some((100_000, 1)), false));
    let waiting = node.images.ensure(image.clone());
    assert!(matches!(waiting.state, ImageState::Fetching { .. }));
    node.ready(&image).await;
    node.images.delete(&image).unwrap();

    let folder = fetch::folder(&node.pool, &image);
    fs::create_dir(&folder).unwrap();
    let packed = gzip(&layers()[0]);
    let digest = Digest::of(&packed);
    fs::write(
        folder.join(format!("{}.partial", digest.hex())),
        &packed[..70_000],
    )
    .unwrap();
    node.restart();
    node.ready(&image).await;
    assert!(
        registry
            .requests()
            .iter()
            .any(|request| request.ends_with("bytes=70000-"))
    );
}

#[tokio::test]
async fn wrong_beginnings_and_registries_without_ranges_start_anew() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    let digest = Digest::of(&gzip(&layers()[0]));
    for no_ranges in [true, false] {
        registry.behave(|b| b.no_ranges = no_ranges);
        let node = Node::new();
        let folder = fetch::folder(&node.pool, &image);
        fs::create_dir(&folder).unwrap();
        fs::write(
            folder.join(format!("{}.partial", digest.hex())),
            vec![7; 50_000],
        )
        .unwrap();
        if !no_ranges {
            let why = node.failed(&image).await;
            assert!(why.contains("another digest"), "{why}");
            node.forgive();
        }
        node.ready(&image).await;
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
    assert!(
        fs::read_dir(node.pool.images().join("build"))
            .unwrap()
            .next()
            .is_none()
    );
}

#[tokio::test]
async fn a_registry_may_want_a_token_and_an_index_may_lead_to_the_image() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    let digest = Digest::new(*image.digest());
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

#[tokio::test]
async fn a_failure_waits_before_the_next_try() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    registry.behave(|b| b.down = true);
    let node = Node::new();
    assert!(node.failed(&image).await.contains("503"));
    let asked = registry.requests().len();
    registry.behave(|b| b.down = false);
    assert!(node.failed(&image).await.contains("503"));
    assert_eq!(registry.requests().len(), asked);
    node.forgive();
    node.ready(&image).await;
}

#[tokio::test]
async fn asked_for_twice_it_is_fetched_once_and_unwanted_it_ends() {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    registry.behave(|b| b.hold = true);
    let node = Node::new();
    for _ in 0..3 {
        let status = node.images.ensure(image.clone());
        assert!(matches!(status.state, ImageState::Fetching { .. }));
    }
    node.images.delete(&image).unwrap();
    assert!(node.images.list().is_empty());
    assert_eq!(node.fetch_folders(), 0);
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
    // Every claim was given back: what is left is the image itself.
    node.images.delete(&image).unwrap();
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
