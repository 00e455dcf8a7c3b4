//! The volumes of one pool: files that machines have as their disks.
//!
//! A volume is there when its `.json` is there. It is made under another name, filled, synced and
//! renamed; its `.json` is written last and removed first. A `.json` that cannot be read is of a
//! volume too, of which no more is known than its name: neither it nor its data is touched.
//!
//! What is there is kept in memory: [`Volumes::list`] and its like never touch the disk.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    ffi::OsStr,
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use loam_deployment::{Bytes, Version, payload::Filesystem};
use loam_node_api::storage::{Volume, VolumeKey, VolumeSpec};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    durable,
    program::{self, ProgramError},
};

/// What `<name>.json` says.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    key: VolumeKey,
    spec: VolumeSpec,
    /// The newest deployment that named it: no older one may drop it.
    version: Version,
}

/// What is known of a volume without a look at the disk.
#[derive(Clone, Debug)]
struct Known {
    record: Record,
    /// Space that its data took when it was measured last.
    used: Bytes,
    /// Its record is removed, but its data could not be, or is being.
    half_deleted: bool,
}

/// A volume whose record cannot be read.
#[derive(Clone, Debug)]
struct Unreadable {
    record: PathBuf,
    why: String,
    /// Of its data: as much as it may come to take.
    length: Bytes,
}

#[derive(Debug)]
pub struct Volumes {
    folder: PathBuf,
    found: Mutex<Found>,
}

/// A volume that is about to be made.
#[derive(Debug)]
struct Intended {
    spec: VolumeSpec,
    version: Version,
    /// By how many calls.
    calls: usize,
}

#[derive(Debug, Default)]
struct Found {
    known: BTreeMap<VolumeKey, Known>,
    /// By the names of their files, see [`file_name`].
    unreadable: BTreeMap<String, Unreadable>,
    intended: BTreeMap<VolumeKey, Intended>,
}

#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("{what}: {source}")]
    Io {
        what: &'static str,
        source: io::Error,
    },
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("it was deleted, but its data could not be removed yet")]
    HalfDeleted,
    #[error("its record {} cannot be read: {why}; it and its data are left alone", record.display())]
    Unreadable { record: PathBuf, why: String },
}

impl Volumes {
    /// Finds the volumes in `folder`, and removes data that never became, or no longer is, one.
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        let (mut records, mut data) = (BTreeSet::new(), BTreeSet::new());
        for path in durable::entries(&folder)? {
            match path.extension().and_then(OsStr::to_str) {
                Some("json") => records.insert(path),
                Some("raw") => data.insert(path),
                _ => continue,
            };
        }
        for path in data {
            if !records.contains(&path.with_extension("json")) {
                tracing::info!(path = %path.display(), "removing the data of a volume that was not finished or was deleted");
                // Nothing is ever made in its place, so it may stay.
                if let Err(error) = durable::remove(&path) {
                    tracing::error!(path = %path.display(), %error, "cannot remove it");
                }
            }
        }
        let volumes = Self {
            folder,
            found: Mutex::default(),
        };
        for path in records {
            if let Err(error) = volumes.take_in(&path) {
                tracing::error!(path = %path.display(), %error, "a volume's record is unreadable; the volume is left alone");
            }
        }
        Ok(volumes)
    }

    /// Reads a record, and keeps what it says, or that it says nothing.
    fn take_in(&self, path: &Path) -> io::Result<()> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let data = path.with_extension("raw");
        let result = read(path);
        let mut found = self.found();
        match result {
            Ok(record) => {
                let known = Known {
                    used: used(&data),
                    record,
                    half_deleted: false,
                };
                found.unreadable.remove(&*name);
                found.known.insert(known.record.key.clone(), known);
                Ok(())
            }
            Err(error) => {
                let unreadable = Unreadable {
                    record: path.to_owned(),
                    why: error.to_string(),
                    length: Bytes(fs::metadata(&data).map_or(0, |data| data.len())),
                };
                found.unreadable.insert(name.into_owned(), unreadable);
                Err(error)
            }
        }
    }

    /// Why nothing is known of a volume that is here.
    pub fn unreadable(&self, key: &VolumeKey) -> Option<VolumeError> {
        let found = self.found();
        let unreadable = found.unreadable.get(&file_name(key))?.clone();
        Some(VolumeError::Unreadable {
            record: unreadable.record,
            why: unreadable.why,
        })
    }

    /// Looks once more at a record that could not be read: a disk may fail for a while only.
    pub fn read_again(&self, key: &VolumeKey) -> Result<(), VolumeError> {
        if self.unreadable(key).is_some() {
            // What comes of it is kept, and told next.
            let _ = self.take_in(&self.record(key));
        }
        self.unreadable(key).map_or(Ok(()), Err)
    }

    /// The space that all that is here may come to take.
    pub fn promised(&self) -> Bytes {
        let found = self.found();
        let known = found.known.values().map(|known| known.record.spec.size);
        let unreadable = found.unreadable.values().map(|volume| volume.length);
        let sum = known.chain(unreadable).map(Bytes::get);
        Bytes(sum.fold(0, u64::saturating_add))
    }

    /// How much of that they did not take when they were measured last. Of one whose record cannot be read
    /// that is not known: nothing. One that is on its way out takes no more, and seems to have taken nothing
    /// before its space is free.
    pub fn unused(&self) -> Bytes {
        let found = self.found();
        let kept = found.known.values().filter(|known| !known.half_deleted);
        let left = kept.map(|known| {
            let promised = known.record.spec.size.get();
            promised.saturating_sub(known.used.get())
        });
        Bytes(left.fold(0, u64::saturating_add))
    }

    pub fn list(&self) -> Vec<Volume> {
        self.found()
            .known
            .values()
            .map(|known| self.describe(known))
            .collect()
    }

    pub fn keys(&self) -> Vec<VolumeKey> {
        self.found().known.keys().cloned().collect()
    }

    pub fn has(&self, key: &VolumeKey) -> bool {
        self.found().known.contains_key(key)
    }

    /// False only if it is surely not here, nor about to be made.
    pub fn may_have(&self, key: &VolumeKey) -> bool {
        let found = self.found();
        found.known.contains_key(key)
            || found.intended.contains_key(key)
            || found.unreadable.contains_key(&file_name(key))
    }

    /// The volume is about to be made, and may be said to be here.
    pub fn intend(&self, key: &VolumeKey, spec: &VolumeSpec, version: Version) {
        let mut found = self.found();
        let first = || Intended {
            spec: spec.clone(),
            version,
            calls: 0,
        };
        let intended = found.intended.entry(key.clone());
        intended.or_insert_with(first).calls += 1;
    }

    /// What others may note of a volume that is here or about to be made.
    pub fn about(&self, key: &VolumeKey) -> Option<(VolumeSpec, Version)> {
        let found = self.found();
        let known = found.known.get(key).map(|known| &known.record);
        let known = known.map(|record| (record.spec.clone(), record.version));
        let intended = found.intended.get(key);
        let intended = intended.map(|made| (made.spec.clone(), made.version));
        // What is made in the place of one that was given up is named by a newer version.
        let (intended, known) = (intended.into_iter(), known.into_iter());
        intended.chain(known).max_by_key(|(_, version)| *version)
    }

    /// Ends what [`Volumes::intend`] began.
    pub fn made_or_not(&self, key: &VolumeKey) {
        if let Entry::Occupied(mut intended) = self.found().intended.entry(key.clone()) {
            intended.get_mut().calls -= 1;
            if intended.get().calls == 0 {
                intended.remove();
            }
        }
    }

    pub fn get(&self, key: &VolumeKey) -> Option<Volume> {
        self.found()
            .known
            .get(key)
            .map(|known| self.describe(known))
    }

    /// Whether its record is gone and its data is not: it is on its way out, whatever else is known.
    pub fn is_half_deleted(&self, key: &VolumeKey) -> bool {
        let found = self.found();
        found.known.get(key).is_some_and(|known| known.half_deleted)
    }

    /// Looks at how much space each volume's data takes.
    pub fn measure(&self) {
        for key in self.keys() {
            let used = used(&self.data(&key));
            if let Some(known) = self.found().known.get_mut(&key) {
                known.used = used;
            }
        }
    }

    /// False when the data of a volume is gone though its record is not.
    pub fn has_data(&self, key: &VolumeKey) -> Result<bool, VolumeError> {
        let data = self.data(key).try_exists();
        data.map_err(io("look for the volume's data"))
    }

    /// Makes a volume that is not there: whatever is, known or not, is never replaced. Durable when it
    /// returns.
    pub fn create(
        &self,
        key: &VolumeKey,
        spec: &VolumeSpec,
        version: Version,
    ) -> Result<Volume, VolumeError> {
        let data = self.data(key);
        let unfinished = durable::unfinished(&data).map_err(io("name the volume"))?;
        let made = make(&unfinished, spec).and_then(|()| {
            durable::rename_new(&unfinished, &data).map_err(io("finish the volume's data"))
        });
        if let Err(error) = made {
            // The next opening of the pool would do it too; the space is wanted now.
            if let Err(error) = durable::remove(&unfinished) {
                tracing::warn!(%error, "could not remove an unfinished volume");
            }
            return Err(error);
        }
        let record = Record {
            key: key.clone(),
            spec: spec.clone(),
            version,
        };
        let path = self.record(key);
        let kept = encode(&record)
            .and_then(|json| durable::write_new(&path, &json).map_err(io("write the record")));
        if let Err(error) = kept {
            // The name is ours since the data has it. Else the next call would find it taken.
            let removed = match &error {
                VolumeError::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => {
                    Ok(())
                }
                _ => durable::remove(&path),
            };
            if let Err(error) = removed.and_then(|()| durable::remove(&data)) {
                tracing::warn!(%key, %error, "could not remove an unfinished volume");
            }
            return Err(error);
        }
        Ok(self.know(record))
    }

    /// Grows a volume that is there to the size in `spec`, and keeps `spec` and `version`.
    pub fn change(
        &self,
        key: &VolumeKey,
        spec: &VolumeSpec,
        version: Version,
    ) -> Result<Volume, VolumeError> {
        if self.is_half_deleted(key) {
            return Err(VolumeError::HalfDeleted);
        }
        let data = OpenOptions::new()
            .write(true)
            .open(self.data(key))
            .map_err(io("open the volume's data"))?;
        let length = data
            .metadata()
            .map_err(io("look at the volume's data"))?
            .len();
        // Never shorter, even if an earlier growth was cut before it was recorded.
        if length < spec.size.get() {
            data.set_len(spec.size.get())
                .map_err(io("grow the volume"))?;
            data.sync_all().map_err(io("sync the volume"))?;
        }
        self.keep(Record {
            key: key.clone(),
            spec: spec.clone(),
            version,
        })
    }

    /// Absent is success. Durable when it returns.
    pub fn delete(&self, key: &VolumeKey) -> Result<(), VolumeError> {
        durable::remove(&self.record(key)).map_err(io("remove the volume's record"))?;
        if let Some(known) = self.found().known.get_mut(key) {
            known.half_deleted = true;
        }
        durable::remove(&self.data(key)).map_err(io("remove the volume's data"))?;
        self.found().known.remove(key);
        Ok(())
    }

    fn keep(&self, record: Record) -> Result<Volume, VolumeError> {
        let json = encode(&record)?;
        durable::write(&self.record(&record.key), &json).map_err(io("write the record"))?;
        Ok(self.know(record))
    }

    fn know(&self, record: Record) -> Volume {
        let known = Known {
            used: used(&self.data(&record.key)),
            record,
            half_deleted: false,
        };
        let volume = self.describe(&known);
        self.found().known.insert(volume.key.clone(), known);
        volume
    }

    fn describe(&self, known: &Known) -> Volume {
        let record = &known.record;
        Volume {
            key: record.key.clone(),
            spec: record.spec.clone(),
            path: Some(self.data(&record.key)),
            used: known.used,
            version: record.version,
        }
    }

    fn data(&self, key: &VolumeKey) -> PathBuf {
        self.folder.join(format!("{}.raw", file_name(key)))
    }

    fn record(&self, key: &VolumeKey) -> PathBuf {
        self.folder.join(format!("{}.json", file_name(key)))
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Unique to the key.
pub fn file_name(key: &VolumeKey) -> String {
    match key {
        VolumeKey::Data(id) => format!("data-{id}"),
        VolumeKey::Root { machine, image } => {
            let sum = Sha256::digest(image.to_string());
            format!("root-{machine}-{}", hex::encode(&sum[..16]))
        }
    }
}

/// Space that a file takes.
fn used(path: &Path) -> Bytes {
    // Always units of 512 bytes (stat(2)).
    Bytes(fs::metadata(path).map_or(0, |data| data.blocks() * 512))
}

fn read(path: &Path) -> io::Result<Record> {
    let record: Record = serde_json::from_slice(&fs::read(path)?)?;
    if path.file_stem() != Some(OsStr::new(&file_name(&record.key))) {
        let wrong = format!("it says to be of {}", record.key);
        return Err(io::Error::new(io::ErrorKind::InvalidData, wrong));
    }
    Ok(record)
}

fn encode(record: &Record) -> Result<Vec<u8>, VolumeError> {
    serde_json::to_vec(record).map_err(|error| io("write the record")(error.into()))
}

fn make(path: &Path, spec: &VolumeSpec) -> Result<(), VolumeError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(io("make the volume's file"))?;
    file.set_len(spec.size.get())
        .map_err(io("size the volume's file"))?;
    match spec.filesystem {
        Filesystem::Raw => {}
        Filesystem::Ext4 => {
            let mut mkfs = program::command("mkfs.ext4")?;
            // No blocks kept for root, for the volume's size is the tenant's. What is lazy is done
            // by the guest's kernel in the background. A new sparse file has nothing to discard.
            mkfs.args(["-q", "-F", "-m", "0", "-E"])
                .arg("lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0")
                .arg(path);
            program::run(mkfs)?;
        }
        Filesystem::Btrfs => {
            let mut mkfs = program::command("mkfs.btrfs")?;
            mkfs.args(["--quiet", "--nodiscard"]).arg(path);
            program::run(mkfs)?;
        }
    }
    file.sync_all().map_err(io("sync the volume"))
}

fn io(what: &'static str) -> impl Fn(io::Error) -> VolumeError {
    move |source| VolumeError::Io { what, source }
}

#[cfg(test)]
#[path = "volume_tests.rs"]
mod tests;
