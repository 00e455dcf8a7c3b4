//! [`Build`]: the part of an image's way that takes a processor, from layers to a kept file.

use std::{
    fmt::Debug,
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
    time::Instant,
};

use loam_node_api::image::Image;
use loam_oci::{
    manifest::{DocumentError, Manifest},
    platform::Level,
};

use super::{
    aside::{Aside, Ground},
    blob,
    config::Config,
    entries::{self, LayerFile, Step},
    failure::{FetchError, io},
    finish::finish,
    kept::Kept,
    layer::Allowance,
    pace::Patience,
    space::{OfPool, Space},
    staging::Staging,
    stop::Stop,
    tree::{LayerIndex, Tree},
};
use crate::sweep;

/// Hears how far a build is. On a node nobody listens; a test may hold a build up by it.
pub trait Listener: Debug + Send + Sync {
    /// All layers are read, and nothing of the image's file is written before this returns.
    fn all_is_read(&self, stop: &Stop);
}

#[derive(Debug)]
pub struct Nobody;

impl Listener for Nobody {
    fn all_is_read(&self, _: &Stop) {}
}

#[derive(Debug)]
pub struct Build {
    pub image: Image,
    /// What its processor must have.
    pub level: Level,
    pub listener: Arc<dyn Listener>,
    pub stop: Stop,
    /// Unique among the fetches of this process.
    pub number: u64,
    pub patience: Patience,
    pub until: Instant,
    pub staging: Arc<Staging>,
}

impl Build {
    /// Blocks, for as long as it takes to read all layers and write the image.
    pub fn run(&self, manifest: &Manifest, config: Config) -> Result<Kept, FetchError> {
        // What kills storaged from here on is the image's fault, or might be.
        self.staging
            .note(|record| record.building = true)
            .map_err(io("note that the image is built"))?;
        let pool = self.staging.pool();
        let folder = pool.images().join("build");
        let space = OfPool::new(pool)?;
        let ground = Ground {
            folder: &folder,
            space: &space,
        };
        let (tree, layers) = self.read(manifest, &config, ground)?;
        self.listener.all_is_read(&self.stop);

        let name = format!("{}-{}.", self.image.reference.digest(), self.number);
        let unfinished = folder.join(format!("{name}erofs"));
        let made = write(&tree, &layers, &unfinished, &space, &self.stop);
        let kept = made.and_then(|()| {
            if self.stop.is_set() {
                return Err(FetchError::Stopped);
            }
            Kept::create(pool, &self.image, &unfinished, config.run, self.level)
                .map_err(io("keep the finished image"))
        });
        // What cannot be removed is tried again when the pool comes next.
        sweep::all_of(&folder, &name);
        kept
    }

    fn read(
        &self,
        manifest: &Manifest,
        config: &Config,
        ground: Ground<'_>,
    ) -> Result<(Tree, Vec<Aside>), FetchError> {
        let folder = self.staging.folder();
        let allowance = Allowance::new(&self.stop, self.until);
        let layers: Vec<LayerFile> = manifest
            .layers
            .iter()
            .zip(&config.diff_ids)
            .map(|(descriptor, expected)| (blob::path(&folder, descriptor.digest), *expected))
            .collect();
        // Whoever is told to stop fails in many ways, and so does whoever has no time left.
        read(&layers, ground, &allowance).map_err(|error| {
            if self.stop.is_set() {
                FetchError::Stopped
            } else if matches!(error, FetchError::Tar { .. }) && Instant::now() > self.until {
                FetchError::Unread(self.patience.build)
            } else {
                error
            }
        })
    }
}

/// Reads every layer once: checks it whole, learns what of it shows, and puts its data aside.
pub fn read(
    layers: &[LayerFile],
    ground: Ground<'_>,
    allowance: &Allowance,
) -> Result<(Tree, Vec<Aside>), FetchError> {
    let mut tree = Tree::default();
    let mut asides = Vec::with_capacity(layers.len());
    entries::each(layers, ground, allowance, |layer, step| {
        let index = LayerIndex::try_from(layer)
            .map_err(|_| FetchError::Document(DocumentError::Layers(layers.len())))?;
        let applied = match step {
            Step::Entry(entry, data) => tree.apply(index, entry, data),
            Step::End(aside) => {
                asides.push(aside);
                tree.finish_layer(index)
            }
        };
        applied.map_err(|source| FetchError::Tree { layer, source })
    })?;
    Ok((tree, asides))
}

/// Makes a file that is nobody's to change. Durable when it returns.
pub fn write(
    tree: &Tree,
    layers: &[Aside],
    target: &Path,
    space: &dyn Space,
    stop: &Stop,
) -> Result<(), FetchError> {
    let image: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o400)
        .open(target)
        .map_err(io("make the image's file"))?;
    finish(tree, layers, &image, space, stop)?;
    image.sync_all().map_err(io("sync the image's file"))
}
