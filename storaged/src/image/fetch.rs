//! The whole way of one image: manifest, configuration, layers, merged tree, file system.

use std::{
    fs::{self, DirBuilder},
    io::{self, BufWriter, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use futures::{StreamExt, TryStreamExt, stream};
use loam_deployment::{Bytes, payload::OciReference};

use super::{
    address::Reach,
    blob::{self, BlobError},
    digest::Digest,
    erofs::{Pack, PackError},
    kept::{Kept, SpaceClaim},
    layer::{Allowance, Unpacked},
    manifest::{Config, Descriptor, Document, Manifest, ManifestError},
    merged::Merged,
    registry::{Registry, RegistryError},
    tarball::{TarError, Tarball},
    tree::{LayerIndex, Tree, TreeError},
};
use crate::{durable, ledger::Full, pool::Pool};

/// Layers fetched at a time: hides the distance to the registry, leaves room for others.
const CONNECTIONS: usize = 3;

/// What a name takes in the file system at most: its inode, its place in its folder, and what its
/// data lacks to whole blocks.
const OVERHEAD_PER_NAME: u64 = 8 << 10;

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("the index leads to another index")]
    NestedIndex,
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("layer {layer}: {source}")]
    Tar { layer: usize, source: TarError },
    #[error("layer {layer}: {source}")]
    Tree { layer: usize, source: TreeError },
    #[error("layer {layer} unpacks to {found}; the configuration says {expected}")]
    DiffId {
        layer: usize,
        expected: Digest,
        found: Digest,
    },
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error("no disk is ready; attach an empty one")]
    NoPool,
    #[error("no disk has room for it: {0}")]
    NoSpace(#[from] Full),
    #[error("{what}: {source}")]
    Io {
        what: &'static str,
        source: io::Error,
    },
    #[error("it is no longer wanted")]
    Stopped,
}

/// How far a fetch is. Read by those who ask.
#[derive(Debug, Default)]
pub struct Progress {
    pub done: AtomicU64,
    /// 0 until the manifest is here.
    pub total: AtomicU64,
}

#[derive(Debug)]
pub struct Fetch {
    pub image: OciReference,
    pub pools: Vec<Arc<Pool>>,
    pub progress: Arc<Progress>,
    pub stop: Arc<AtomicBool>,
    pub packer: Arc<dyn Pack>,
    /// Held while an image is built: one at a time, for each takes a core and much memory.
    pub building: Arc<tokio::sync::Semaphore>,
    pub reach: Reach,
    /// Unique among the fetches of this process.
    pub number: u64,
}

impl Fetch {
    /// The image is on a pool when this returns.
    pub async fn run(self) -> Result<Kept, FetchError> {
        let registry = Registry::new(&self.image, self.reach)?;
        let manifest = self.manifest(&registry).await?;
        let config = registry
            .small_blob(manifest.config.digest, manifest.config.size)
            .await?;
        let config = Config::parse(&config, manifest.layers.len())?;

        let layers = distinct(&manifest.layers);
        let compressed = layers.iter().map(|layer| layer.size).sum();
        let pool = self.choose_pool(compressed)?;
        let claim = SpaceClaim::new(&pool, compressed)?;
        self.progress.total.store(compressed, Ordering::Relaxed);
        let folder = folder(&pool, &self.image);
        make_folder(&folder).map_err(io("make a folder for the image's layers"))?;
        stream::iter(layers)
            .map(|layer| {
                let (registry, folder, done) = (&registry, &folder, &self.progress.done);
                async move { blob::fetch(registry, &layer, folder, done).await }
            })
            .buffer_unordered(CONNECTIONS)
            .try_collect::<()>()
            .await?;

        let turn = self.building.clone().acquire_owned().await;
        let built = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            self.build(&pool, &manifest, config, claim)
        });
        match built.await {
            Ok(built) => built,
            Err(_) => Err(FetchError::Stopped),
        }
    }

    async fn manifest(&self, registry: &Registry) -> Result<Manifest, FetchError> {
        let first = registry.manifest(Digest::new(*self.image.digest())).await?;
        match Document::parse(&first)? {
            Document::Manifest(manifest) => Ok(manifest),
            Document::Index(descriptor) => {
                let second = registry.manifest(descriptor.digest).await?;
                match Document::parse(&second)? {
                    Document::Manifest(manifest) => Ok(manifest),
                    Document::Index(_) => Err(FetchError::NestedIndex),
                }
            }
        }
    }

    /// Where some of the image is already, else where there is most room.
    fn choose_pool(&self, compressed: u64) -> Result<Arc<Pool>, FetchError> {
        let begun = self.pools.iter().find(|pool| {
            let free = pool.with_ledger(|ledger| ledger.free_for_images()).get();
            pool.is_writable() && folder(pool, &self.image).exists() && free >= compressed
        });
        let roomiest = || {
            let free = |pool: &&Arc<Pool>| pool.with_ledger(|ledger| ledger.free_for_images());
            self.pools
                .iter()
                .filter(|pool| pool.is_writable())
                .max_by_key(free)
        };
        begun.or_else(roomiest).cloned().ok_or(FetchError::NoPool)
    }

    /// Blocks, for as long as it takes to read all layers twice and write the image.
    fn build(
        &self,
        pool: &Arc<Pool>,
        manifest: &Manifest,
        config: Config,
        fetched: SpaceClaim,
    ) -> Result<Kept, FetchError> {
        let folder = folder(pool, &self.image);
        let tree = self.merge(&folder, manifest, &config)?;
        let merged = Merged::new(&tree);
        let size = merged.data() + merged.names() * OVERHEAD_PER_NAME;
        // `mkfs.erofs` puts data aside before it puts it in place.
        let building = SpaceClaim::new(pool, size.saturating_mul(2))?;

        let hex = hex::encode(self.image.digest());
        let unfinished = pool.images().join(format!("build/{hex}-{}", self.number));
        let packed = self
            .pack(&merged, &folder, manifest, &unfinished)
            .and_then(|()| {
                if self.stop.load(Ordering::Relaxed) {
                    return Err(FetchError::Stopped);
                }
                Kept::create(pool, &self.image, &unfinished, config.run)
                    .map_err(io("keep the finished image"))
            });
        if packed.is_err()
            && let Err(error) = durable::remove(&unfinished)
        {
            tracing::warn!(image = %self.image, %error, "could not remove an unfinished image");
        }
        drop((fetched, building));
        let kept = packed?;
        if let Err(error) = fs::remove_dir_all(&folder) {
            tracing::warn!(image = %self.image, %error, "could not remove an image's layers");
        }
        Ok(kept)
    }

    /// Reads every layer once: checks it whole, and learns what of it shows.
    fn merge(
        &self,
        folder: &Path,
        manifest: &Manifest,
        config: &Config,
    ) -> Result<Tree, FetchError> {
        let allowance = Allowance::new(self.stop.clone());
        let mut tree = Tree::default();
        for (layer, (descriptor, expected)) in
            manifest.layers.iter().zip(&config.diff_ids).enumerate()
        {
            let tar = |source: TarError| FetchError::Tar { layer, source };
            let path = blob::path(folder, descriptor.digest);
            let mut unpacked =
                Unpacked::open(&path, allowance.clone()).map_err(|e| tar(e.into()))?;
            let mut tarball = Tarball::new(&mut unpacked);
            let index = LayerIndex::try_from(layer)
                .map_err(|_| FetchError::Manifest(ManifestError::Layers(manifest.layers.len())))?;
            while let Some(entry) = tarball.next_entry().map_err(tar)? {
                tree.apply(index, entry)
                    .map_err(|source| FetchError::Tree { layer, source })?;
            }
            tarball.finish().map_err(tar)?;
            let found = unpacked.digest();
            if found != *expected {
                return Err(FetchError::DiffId {
                    layer,
                    expected: *expected,
                    found,
                });
            }
        }
        Ok(tree)
    }

    fn pack(
        &self,
        merged: &Merged<'_>,
        folder: &Path,
        manifest: &Manifest,
        target: &Path,
    ) -> Result<(), FetchError> {
        let allowance = Allowance::new(self.stop.clone());
        let open = |layer: LayerIndex| {
            let descriptor = &manifest.layers[usize::from(layer)];
            Unpacked::open(&blob::path(folder, descriptor.digest), allowance.clone())
        };
        let mut stream = |out: &mut dyn Write| merged.write(&mut BufWriter::new(out), open);
        Ok(self.packer.pack(target, &mut stream)?)
    }
}

/// What is here of an image that is being fetched.
pub fn folder(pool: &Pool, image: &OciReference) -> PathBuf {
    pool.images()
        .join("fetch")
        .join(hex::encode(image.digest()))
}

/// Builders name the layer that changes nothing again and again.
fn distinct(layers: &[Descriptor]) -> Vec<Descriptor> {
    let mut distinct: Vec<Descriptor> = Vec::new();
    for layer in layers {
        if !distinct.iter().any(|other| other.digest == layer.digest) {
            distinct.push(layer.clone());
        }
    }
    distinct
}

fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(path)
}

fn io(what: &'static str) -> impl Fn(io::Error) -> FetchError {
    move |source| FetchError::Io { what, source }
}

/// For those who show it.
pub fn shown(progress: &Progress) -> (Bytes, Option<Bytes>) {
    let total = progress.total.load(Ordering::Relaxed);
    let done = progress.done.load(Ordering::Relaxed);
    (Bytes(done), (total > 0).then_some(Bytes(total)))
}
