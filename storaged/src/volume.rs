//! The volumes of one pool: files that machines have as their disks.
//!
//! A volume is there when its `.json` is there. It is made under another name, filled, synced and
//! renamed; its `.json` is written last and removed first.
//!
//! What is there is kept in memory: [`Volumes::list`] and its like never touch the disk.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
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
    /// Seconds since 1970. Should two pools have a volume of one key, the older is the tenant's.
    created: u64,
    /// The newest deployment that named it: no older one may drop it.
    version: Version,
}

/// What is known of a volume without a look at the disk.
#[derive(Clone, Debug)]
struct Known {
    record: Record,
    /// Space that its data took when it was measured last.
    used: Bytes,
    /// Its record is removed, but its data could not be.
    half_deleted: bool,
}

#[derive(Debug)]
pub struct Volumes {
    folder: PathBuf,
    records: Mutex<BTreeMap<VolumeKey, Known>>,
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
}

impl Volumes {
    /// Finds the volumes in `folder`, and removes data that never became, or no longer is, one.
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        let mut records = BTreeMap::new();
        let mut data = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            match path.extension().and_then(|end| end.to_str()) {
                Some("json") => match read(&path) {
                    Ok(record) => {
                        let known = Known {
                            used: used(&path.with_extension("raw")),
                            record,
                            half_deleted: false,
                        };
                        records.insert(known.record.key.clone(), known);
                    }
                    // Its data stays: an unreadable record may yet be read by a later version.
                    Err(error) => {
                        tracing::error!(path = %path.display(), %error, "a volume's record is unreadable; the volume is left alone");
                    }
                },
                Some("raw") => data.push(path),
                _ => {}
            }
        }
        for path in data {
            if !path.with_extension("json").exists() {
                tracing::info!(path = %path.display(), "removing the data of a volume that was not finished or was deleted");
                durable::remove(&path)?;
            }
        }
        Ok(Self {
            folder,
            records: Mutex::new(records),
        })
    }

    pub fn list(&self) -> Vec<Volume> {
        self.records()
            .values()
            .map(|known| self.describe(known))
            .collect()
    }

    pub fn keys(&self) -> Vec<VolumeKey> {
        self.records().keys().cloned().collect()
    }

    pub fn has(&self, key: &VolumeKey) -> bool {
        self.records().contains_key(key)
    }

    pub fn get(&self, key: &VolumeKey) -> Option<Volume> {
        self.records().get(key).map(|known| self.describe(known))
    }

    /// Seconds since 1970.
    pub fn created(&self, key: &VolumeKey) -> Option<u64> {
        self.records().get(key).map(|known| known.record.created)
    }

    /// Whether its record is gone and its data is not: it is on its way out, whatever else is known.
    pub fn is_half_deleted(&self, key: &VolumeKey) -> bool {
        let records = self.records();
        records.get(key).is_some_and(|known| known.half_deleted)
    }

    /// Looks at how much space each volume's data takes.
    pub fn measure(&self) {
        for key in self.keys() {
            let used = used(&self.data(&key));
            if let Some(known) = self.records().get_mut(&key) {
                known.used = used;
            }
        }
    }

    /// False when the data of a volume is gone though its record is not.
    pub fn has_data(&self, key: &VolumeKey) -> bool {
        self.data(key).exists()
    }

    /// Makes a volume that is not there. Durable when it returns.
    pub fn create(
        &self,
        key: &VolumeKey,
        spec: &VolumeSpec,
        version: Version,
    ) -> Result<Volume, VolumeError> {
        let data = self.data(key);
        let unfinished = durable::unfinished(&data).map_err(io("name the volume"))?;
        let made = make(&unfinished, spec).and_then(|()| {
            durable::rename(&unfinished, &data).map_err(io("finish the volume's data"))
        });
        if let Err(error) = made {
            // The next opening of the pool would do it too; the space is wanted now.
            if let Err(error) = durable::remove(&unfinished) {
                tracing::warn!(%error, "could not remove an unfinished volume");
            }
            return Err(error);
        }
        let created = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |t| t.as_secs());
        self.keep(Record {
            key: key.clone(),
            spec: spec.clone(),
            created,
            version,
        })
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
        let created = self.created(key).unwrap_or_default();
        self.keep(Record {
            key: key.clone(),
            spec: spec.clone(),
            created,
            version,
        })
    }

    /// Absent is success. Durable when it returns.
    pub fn delete(&self, key: &VolumeKey) -> Result<(), VolumeError> {
        durable::remove(&self.record(key)).map_err(io("remove the volume's record"))?;
        if let Some(known) = self.records().get_mut(key) {
            known.half_deleted = true;
        }
        durable::remove(&self.data(key)).map_err(io("remove the volume's data"))?;
        self.records().remove(key);
        Ok(())
    }

    fn keep(&self, record: Record) -> Result<Volume, VolumeError> {
        let json = serde_json::to_vec(&record).map_err(|e| io("write the record")(e.into()))?;
        durable::write(&self.record(&record.key), &json).map_err(io("write the record"))?;
        let known = Known {
            used: used(&self.data(&record.key)),
            record,
            half_deleted: false,
        };
        let volume = self.describe(&known);
        self.records().insert(volume.key.clone(), known);
        Ok(volume)
    }

    fn describe(&self, known: &Known) -> Volume {
        let record = &known.record;
        Volume {
            key: record.key.clone(),
            spec: record.spec.clone(),
            path: self.data(&record.key),
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

    fn records(&self) -> MutexGuard<'_, BTreeMap<VolumeKey, Known>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Unique to the key, and safe whatever an image is called.
pub fn file_name(key: &VolumeKey) -> String {
    match key {
        VolumeKey::Data(id) => format!("data-{id}"),
        VolumeKey::Root { machine, image } => {
            let sum = Sha256::digest(image.as_bytes());
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
    Ok(serde_json::from_slice(&fs::read(path)?)?)
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
            let mut mkfs = program::command("mkfs.ext4", None)?;
            // No blocks kept for root, for the volume's size is the tenant's. What is lazy is done
            // by the guest's kernel in the background. A new sparse file has nothing to discard.
            mkfs.args(["-q", "-F", "-m", "0", "-E"])
                .arg("lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0")
                .arg(path);
            program::run(mkfs)?;
        }
        Filesystem::Btrfs => {
            let mut mkfs = program::command("mkfs.btrfs", None)?;
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
