//! [`Staging`]: what a pool holds of an attempt, and what is remembered of it.
//!
//! | path on the pool | what |
//! |---|---|
//! | `images/attempts/<name>.json` | the [`Record`]: which attempt, and how often it failed |
//! | `images/fetch/<name>/` | its layers, whole or in part; never without a record |
//!
//! `<name>` is the SHA-256 of the reference, and of whose the image is, not the image's digest: two who
//! name one digest at two registries, or with two logins, share neither fate nor files.
//!
//! The record outlives storaged, so that an image that kills it while it is built is not built
//! again at once, for ever.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use loam_node_api::image::Image;
use loam_oci::digest::Digest;
use serde::{Deserialize, Serialize};

use super::claim::SpaceClaim;
use crate::{durable, pool::Pool};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    #[serde(flatten)]
    pub image: Image,
    /// In a row, those that [`Self::deaths`] counts not included.
    pub failures: u32,
    /// How often storaged ended while it built this, or had to end the build.
    pub deaths: u32,
    pub building: bool,
    /// Whether the image itself was at fault last.
    pub is_flawed: bool,
    /// Why it failed last.
    pub why: Option<String>,
}

impl Record {
    pub fn new(image: Image) -> Self {
        Self {
            image,
            failures: 0,
            deaths: 0,
            building: false,
            is_flawed: false,
            why: None,
        }
    }
}

/// What a killed predecessor left of an attempt, its bytes already in the pool's ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    pub record: Record,
    pub bytes: u64,
}

#[derive(Debug)]
pub struct Staging {
    pool: Arc<Pool>,
    record: Mutex<Record>,
    claim: SpaceClaim,
    began: Mutex<Instant>,
}

impl Staging {
    /// Blocks, as all of this does that changes something.
    pub fn begin(pool: &Arc<Pool>, record: Record) -> io::Result<Self> {
        let staging = Self {
            pool: pool.clone(),
            record: Mutex::new(record),
            claim: SpaceClaim::recorded(pool, 0),
            began: Mutex::new(Instant::now()),
        };
        staging.note(|_| {})?;
        make_folder(&staging.folder())?;
        Ok(staging)
    }

    pub fn resume(pool: &Arc<Pool>, leftover: Leftover) -> Self {
        Self {
            claim: SpaceClaim::recorded(pool, leftover.bytes),
            pool: pool.clone(),
            record: Mutex::new(leftover.record),
            began: Mutex::new(Instant::now()),
        }
    }

    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    pub fn claim(&self) -> &SpaceClaim {
        &self.claim
    }

    pub fn folder(&self) -> PathBuf {
        self.pool.images().join("fetch").join(self.name())
    }

    pub fn record(&self) -> Record {
        self.lock().clone()
    }

    /// When the first byte of what is here, or of what comes next, was asked for.
    pub fn began(&self) -> Instant {
        *self.began.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the record. Durable when it returns; on an error it is remembered all the same.
    pub fn note(&self, change: impl FnOnce(&mut Record)) -> io::Result<()> {
        let record = {
            let mut record = self.lock();
            change(&mut record);
            record.clone()
        };
        durable::write(&self.record_path(), &serde_json::to_vec(&record)?)
    }

    /// Removes all layers, and gives their space back. What comes next has time of its own.
    pub fn clear(&self) -> io::Result<()> {
        *self.began.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        let removed = remove_folder(&self.folder());
        // Also after an error: some may be gone.
        self.recount();
        removed
    }

    /// Sets the claim to what is there. Nothing may be written meanwhile.
    pub fn recount(&self) {
        match bytes_in(&self.folder()) {
            Ok(bytes) => self.claim.shrink_to(bytes),
            Err(error) => {
                let folder = self.folder();
                tracing::warn!(folder = %folder.display(), %error, "cannot count an image's layers; their space stays claimed");
            }
        }
    }

    /// Removes the record too. Durable when it returns.
    pub fn remove(&self) -> io::Result<()> {
        self.clear()?;
        durable::remove(&self.record_path())
    }

    fn name(&self) -> String {
        name(&self.lock().image)
    }

    fn record_path(&self) -> PathBuf {
        let file = format!("{}.json", self.name());
        self.pool.images().join("attempts").join(file)
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For layers, where there is none.
pub fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(path)
}

/// No reference has a space, so no two images share a name; and none that is a contract's own has the
/// one by which those who know no logins look for it.
fn name(image: &Image) -> String {
    let Image {
        reference,
        only_for,
    } = image;
    let text = match only_for {
        None => reference.to_string(),
        Some(contract) => format!("{contract} {reference}"),
    };
    Digest::of(text.as_bytes()).hex()
}

/// What is on a pool that has just come, whose images folder this is. Removes what belongs to no
/// attempt, or to one whose image is finished; counts the rest.
///
/// Never fails: a pool is no worse for layers that cannot be removed, as long as they are counted.
/// The second value is what nobody owns and could not be removed.
pub fn find(images: &Path, is_ready: impl Fn(&Image) -> bool) -> (Vec<Leftover>, u64) {
    let mut records: BTreeMap<String, Record> = BTreeMap::new();
    let attempts = images.join("attempts");
    for path in names(&attempts) {
        match read(&path) {
            Ok(record) if !is_ready(&record.image) => {
                records.insert(name(&record.image), record);
            }
            unusable => {
                if let Err(error) = unusable {
                    tracing::warn!(path = %path.display(), %error, "removing the record of an attempt that cannot be read");
                }
                if let Err(error) = durable::remove(&path) {
                    tracing::error!(path = %path.display(), %error, "cannot remove it");
                }
            }
        }
    }
    let mut sizes: BTreeMap<String, u64> = BTreeMap::new();
    let mut strays = 0;
    for folder in names(&images.join("fetch")) {
        let owner = folder.file_name().and_then(|name| name.to_str());
        let owner = owner.filter(|name| records.contains_key(*name));
        match owner {
            Some(name) => {
                let bytes = bytes_in(&folder).unwrap_or_default();
                sizes.insert(name.to_owned(), bytes);
            }
            None => {
                if let Err(error) = remove_folder(&folder) {
                    tracing::error!(path = %folder.display(), %error, "cannot remove an unfinished image");
                    strays += bytes_in(&folder).unwrap_or_default();
                }
            }
        }
    }
    let leftovers = records.into_iter().map(|(name, record)| Leftover {
        bytes: sizes.get(&name).copied().unwrap_or_default(),
        record,
    });
    (leftovers.collect(), strays)
}

/// The record, changed and written if storaged ended while it built.
fn read(path: &Path) -> io::Result<Record> {
    let mut record: Record = serde_json::from_slice(&fs::read(path)?)?;
    let expected = format!("{}.json", name(&record.image));
    if path.file_name().is_none_or(|name| *name != *expected) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is the record of another attempt",
        ));
    }
    if std::mem::take(&mut record.building) {
        record.deaths = record.deaths.saturating_add(1);
        record.why = Some("storaged ended while it built the image".to_owned());
        // A pool without space for it builds nothing either.
        if let Err(error) = durable::write(path, &serde_json::to_vec(&record)?) {
            tracing::warn!(path = %path.display(), %error, "cannot note that a build was cut");
        }
    }
    Ok(record)
}

fn names(folder: &Path) -> Vec<PathBuf> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) => {
            tracing::error!(folder = %folder.display(), %error, "cannot list it");
            Vec::new()
        }
    }
}

/// Of all files in a folder, which may be absent or a file itself.
fn bytes_in(path: &Path) -> io::Result<u64> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        bytes += bytes_in(&entry?.path())?;
    }
    Ok(bytes)
}

/// Absent is success.
fn remove_folder(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
#[path = "staging_tests.rs"]
mod tests;
