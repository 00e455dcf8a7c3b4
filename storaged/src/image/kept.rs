//! Finished images on pools.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use loam_deployment::{Bytes, payload::OciReference};
use loam_node_api::storage::ImageConfig;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use crate::{durable, pool::Pool};

/// An image on a pool, its space counted in the pool's ledger.
#[derive(Clone, Debug)]
pub struct Kept {
    pool: Arc<Pool>,
    image: FoundImage,
}

/// An image of a pool that has just come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundImage {
    /// Under which it was fetched. Other names of the same digest mean the same bytes.
    pub reference: OciReference,
    pub size: Bytes,
}

/// What `<digest>.json` says.
#[derive(Serialize, Deserialize)]
struct Record {
    reference: OciReference,
    size: Bytes,
    config: ImageConfig,
}

impl Kept {
    /// Takes over a finished, synced file. Durable when it returns; after an error
    /// nothing is left that is not counted.
    pub fn create(
        pool: &Arc<Pool>,
        reference: &OciReference,
        unfinished: &Path,
        config: ImageConfig,
    ) -> io::Result<Self> {
        let size = Bytes(fs::metadata(unfinished)?.len());
        let kept = Self {
            pool: pool.clone(),
            image: FoundImage {
                reference: reference.clone(),
                size,
            },
        };
        let record = Record {
            reference: reference.clone(),
            size,
            config,
        };
        let written = durable::rename(unfinished, &kept.path())
            .and_then(|()| durable::write(&kept.record(), &serde_json::to_vec(&record)?));
        pool.with_ledger(|ledger| ledger.record_image(size));
        match written {
            Ok(()) => Ok(kept),
            Err(error) => {
                kept.remove()?;
                Err(error)
            }
        }
    }

    /// One that a pool brought, counted by then.
    pub fn found(pool: &Arc<Pool>, image: FoundImage) -> Self {
        Self {
            pool: pool.clone(),
            image,
        }
    }

    /// Durable when it returns.
    pub fn remove(&self) -> io::Result<()> {
        durable::remove(&self.record())?;
        durable::remove(&self.path())?;
        self.pool
            .with_ledger(|ledger| ledger.release_image(self.image.size));
        Ok(())
    }

    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    pub fn reference(&self) -> &OciReference {
        &self.image.reference
    }

    pub fn size(&self) -> Bytes {
        self.image.size
    }

    /// Read anew each time: together, those of all images would take much memory.
    pub fn config(&self) -> io::Result<ImageConfig> {
        Ok(read(&self.record())?.config)
    }

    pub fn path(&self) -> PathBuf {
        let digest = Digest::of_manifest(&self.image.reference).hex();
        self.pool.images().join(format!("{digest}.erofs"))
    }

    fn record(&self) -> PathBuf {
        self.path().with_extension("json")
    }
}

/// The images in a pool's folder. Half-written ones are removed; what of them cannot be removed is
/// the second value, in bytes.
pub fn find(images: &Path) -> (Vec<FoundImage>, u64) {
    let (mut found, mut strays) = (Vec::new(), 0);
    let entries = match fs::read_dir(images) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::error!(folder = %images.display(), %error, "cannot list a pool's images");
            return (found, 0);
        }
    };
    // Either of the two files may be there without the other.
    let ends = |path: &PathBuf| {
        path.extension()
            .is_some_and(|e| e == "erofs" || e == "json")
    };
    let files: BTreeSet<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(ends)
        .map(|path| path.with_extension("erofs"))
        .collect();
    for path in files {
        match open(&path) {
            Ok(image) => found.push(image),
            // It can be fetched again.
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "removing an image that is not whole");
                for path in [path.with_extension("json"), path.clone()] {
                    if let Err(error) = durable::remove(&path) {
                        tracing::error!(path = %path.display(), %error, "cannot remove it");
                        strays += fs::metadata(&path).map_or(0, |metadata| metadata.len());
                    }
                }
            }
        }
    }
    (found, strays)
}

fn open(path: &Path) -> io::Result<FoundImage> {
    let Record {
        reference, size, ..
    } = read(&path.with_extension("json"))?;
    let digest = Digest::of_manifest(&reference).hex();
    let named = path.file_stem().is_some_and(|stem| *stem == *digest);
    if !named || fs::metadata(path)?.len() != size.get() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "its record is of another file",
        ));
    }
    Ok(FoundImage { reference, size })
}

fn read(record: &Path) -> io::Result<Record> {
    Ok(serde_json::from_slice(&fs::read(record)?)?)
}
