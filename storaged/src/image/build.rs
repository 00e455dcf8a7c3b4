//! [`Build`]: the part of an image's way that takes a processor, from layers to a kept file.

use std::{
    io::{BufWriter, Write},
    path::Path,
    sync::Arc,
    time::Instant,
};

use loam_deployment::Bytes;
use loam_node_api::image::Image;
use loam_oci::{
    manifest::{DocumentError, Manifest},
    platform::Level,
};

use super::{
    blob,
    claim::SpaceClaim,
    config::Config,
    entries::{self, LayerFile, Step},
    erofs::Pack,
    failure::{FetchError, io},
    kept::Kept,
    layer::{Allowance, Unpacked},
    merged::{Merged, MergedError},
    pace::Patience,
    staging::Staging,
    stop::Stop,
    tree::{LayerIndex, Tree},
    watch::Watch,
};
use crate::{ledger::Full, sweep};

/// What a name takes in the file system at most: its inode, its place in its folder, and what its
/// data lacks to whole blocks.
const OVERHEAD_PER_NAME: u64 = 8 << 10;

/// What the smallest file system takes, and its builder's slack.
const OVERHEAD: u64 = 16 << 20;

#[derive(Debug)]
pub struct Build {
    pub image: Image,
    /// What its processor must have.
    pub level: Level,
    pub packer: Arc<dyn Pack>,
    pub stop: Stop,
    /// Unique among the fetches of this process.
    pub number: u64,
    pub patience: Patience,
    pub until: Instant,
    pub staging: Arc<Staging>,
}

impl Build {
    /// Blocks, for as long as it takes to read all layers twice and write the image.
    pub fn run(&self, manifest: &Manifest, config: Config) -> Result<Kept, FetchError> {
        // What kills storaged from here on is the image's fault, or might be.
        self.staging
            .note(|record| record.building = true)
            .map_err(io("note that the image is built"))?;
        let tree = self.merge(manifest, &config)?;
        let merged = Merged::new(&tree);
        let size = merged.data() + merged.names() * OVERHEAD_PER_NAME;
        // `mkfs.erofs` puts data aside before it puts it in place; then the image is copied.
        let pool = self.staging.pool();
        let space = size.saturating_mul(2);
        let _building = SpaceClaim::new(pool, space)?;
        // What would end the builder on its way is no fault of its own then.
        let free = pool.spare().map_err(io("look at the disk's space"))?;
        let wanted = Bytes(space);
        if wanted > free {
            return Err(Full { wanted, free }.into());
        }

        let name = format!("{}-{}.", self.image.reference.digest(), self.number);
        let folder = pool.images().join("build");
        let unfinished = folder.join(format!("{name}erofs"));
        let most = Bytes(space.saturating_add(OVERHEAD));
        let packed = self.pack(&merged, manifest, &unfinished, most);
        let packed = packed.and_then(|()| {
            if self.stop.is_set() {
                return Err(FetchError::Stopped);
            }
            Kept::create(pool, &self.image, &unfinished, config.run, self.level)
                .map_err(io("keep the finished image"))
        });
        // Its builder has ended. What cannot be removed is tried again when the pool comes next.
        sweep::all_of(&folder, &name);
        packed.map_err(|error| error.judged(&**pool, most))
    }

    /// Reads every layer once: checks it whole, and learns what of it shows.
    fn merge(&self, manifest: &Manifest, config: &Config) -> Result<Tree, FetchError> {
        let folder = self.staging.folder();
        let allowance = Allowance::new(&self.stop, self.until);
        let layers: Vec<LayerFile> = manifest
            .layers
            .iter()
            .zip(&config.diff_ids)
            .map(|(descriptor, expected)| (blob::path(&folder, descriptor.digest), *expected))
            .collect();
        let mut tree = Tree::default();
        entries::each(&layers, &allowance, |layer, step| {
            let index = LayerIndex::try_from(layer)
                .map_err(|_| FetchError::Document(DocumentError::Layers(manifest.layers.len())))?;
            let applied = match step {
                Step::Entry(entry) => tree.apply(index, entry),
                Step::End => tree.finish_layer(index),
            };
            applied.map_err(|source| FetchError::Tree { layer, source })
        })
        .map_err(|error| self.unless_stopped(error))?;
        Ok(tree)
    }

    fn pack(
        &self,
        merged: &Merged<'_>,
        manifest: &Manifest,
        target: &Path,
        most: Bytes,
    ) -> Result<(), FetchError> {
        let folder = self.staging.folder();
        let allowance = Allowance::new(&self.stop, self.until);
        let open = |layer: LayerIndex| {
            let descriptor = &manifest.layers[usize::from(layer)];
            Unpacked::open(&blob::path(&folder, descriptor.digest), allowance.clone())
        };
        let mut stream = |out: &mut dyn Write| -> Result<(), MergedError> {
            merged.write(&mut BufWriter::new(out), open)
        };
        let room = self.staging.pool().clone();
        let mut watch = Watch::new(&self.stop, &self.patience, most).on(room);
        self.packer
            .pack(target, &mut stream, &mut watch)
            .map_err(|error| self.unless_stopped(error.into()))
    }

    /// Whoever is told to stop fails in many ways.
    fn unless_stopped(&self, error: FetchError) -> FetchError {
        if self.stop.is_set() {
            FetchError::Stopped
        } else {
            error
        }
    }
}
