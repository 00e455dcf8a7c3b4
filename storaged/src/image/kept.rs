//! Images on pools, and the space promised to them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use loam_deployment::{Bytes, payload::OciReference};
use loam_node_api::storage::ImageConfig;
use serde::{Deserialize, Serialize};

use crate::{durable, ledger::Full, pool::Pool};

/// An image on a pool, with the space that it is promised.
#[derive(Debug)]
pub struct Kept {
    pool: Arc<Pool>,
    digest: String,
    size: Bytes,
    config: ImageConfig,
}

/// What `<digest>.json` says.
#[derive(Serialize, Deserialize)]
struct Record {
    reference: OciReference,
    size: Bytes,
    config: ImageConfig,
}

impl Kept {
    /// Takes over a finished, synced file. Durable when it returns.
    pub fn create(
        pool: &Arc<Pool>,
        reference: &OciReference,
        unfinished: &Path,
        config: ImageConfig,
    ) -> io::Result<Self> {
        let size = Bytes(fs::metadata(unfinished)?.len());
        let digest = hex::encode(reference.digest());
        let kept = Self {
            pool: pool.clone(),
            digest,
            size,
            config,
        };
        durable::rename(unfinished, &kept.path())?;
        let record = Record {
            reference: reference.clone(),
            size,
            config: kept.config.clone(),
        };
        durable::write(&kept.record(), &serde_json::to_vec(&record)?)?;
        pool.with_ledger(|ledger| ledger.record_image(size));
        Ok(kept)
    }

    /// Durable when it returns.
    pub fn remove(&self) -> io::Result<()> {
        durable::remove(&self.record())?;
        durable::remove(&self.path())?;
        self.pool
            .with_ledger(|ledger| ledger.release_image(self.size));
        Ok(())
    }

    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    pub fn size(&self) -> Bytes {
        self.size
    }

    pub fn config(&self) -> &ImageConfig {
        &self.config
    }

    pub fn path(&self) -> PathBuf {
        self.pool.images().join(format!("{}.erofs", self.digest))
    }

    fn record(&self) -> PathBuf {
        self.pool.images().join(format!("{}.json", self.digest))
    }
}

/// The images on a pool that has just come. Half-written ones are removed.
pub fn find(pool: &Arc<Pool>) -> Vec<(OciReference, Kept)> {
    let mut found = Vec::new();
    let names = match fs::read_dir(pool.images()) {
        Ok(entries) => entries
            .flatten()
            .map(|entry| entry.path())
            .collect::<Vec<_>>(),
        Err(error) => {
            tracing::error!(pool = %pool.uuid(), %error, "cannot list this pool's images");
            return found;
        }
    };
    for path in names
        .iter()
        .filter(|path| path.extension().is_some_and(|end| end == "erofs"))
    {
        match open(pool, path) {
            Ok(image) => {
                pool.with_ledger(|ledger| ledger.record_image(image.1.size));
                found.push(image);
            }
            // It can be fetched again.
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "removing an image that is not whole");
                for path in [path.with_extension("json"), path.clone()] {
                    if let Err(error) = durable::remove(&path) {
                        tracing::error!(path = %path.display(), %error, "cannot remove it");
                    }
                }
            }
        }
    }
    found
}

fn open(pool: &Arc<Pool>, path: &Path) -> io::Result<(OciReference, Kept)> {
    let record: Record = serde_json::from_slice(&fs::read(path.with_extension("json"))?)?;
    let digest = hex::encode(record.reference.digest());
    let named = path.file_stem().is_some_and(|stem| stem == digest.as_str());
    if !named || fs::metadata(path)?.len() != record.size.get() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "its record is of another file",
        ));
    }
    let kept = Kept {
        pool: pool.clone(),
        digest,
        size: record.size,
        config: record.config,
    };
    Ok((record.reference, kept))
}

/// Space promised to an image for as long as this lives.
#[derive(Debug)]
pub struct SpaceClaim {
    pool: Arc<Pool>,
    bytes: Bytes,
}

impl SpaceClaim {
    pub fn new(pool: &Arc<Pool>, bytes: u64) -> Result<Self, Full> {
        let bytes = Bytes(bytes);
        pool.with_ledger(|ledger| ledger.promise_image(bytes))?;
        Ok(Self {
            pool: pool.clone(),
            bytes,
        })
    }
}

impl Drop for SpaceClaim {
    fn drop(&mut self) {
        self.pool
            .with_ledger(|ledger| ledger.release_image(self.bytes));
    }
}
