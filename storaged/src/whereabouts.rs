//! Each pool's notes of which volumes are on the others.
//!
//! Without them, a volume whose disk is missing would look like one that was never made, and be
//! made anew, empty, elsewhere; its owner would find the data gone, and find it back when the disk
//! returns, without what was written since.
//!
//! They are read once, when the pool comes, and written on the pool's own thread, each after a look
//! whether it is still true: a volume that is deleted meanwhile leaves none behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use loam_node_api::storage::VolumeKey;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{durable, pool::Pool, volume};

/// What `elsewhere/<name>.json` says.
#[derive(Serialize, Deserialize)]
struct Note {
    key: VolumeKey,
    pool: Uuid,
}

/// The notes on one pool.
#[derive(Debug)]
pub struct Notes {
    folder: PathBuf,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    homes: BTreeMap<VolumeKey, Uuid>,
    /// File names of notes that say nothing any more: of these volumes nothing is known.
    unreadable: BTreeSet<String>,
}

impl Notes {
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        let mut noted = Noted::default();
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let read =
                fs::read(entry.path()).and_then(|json| Ok(serde_json::from_slice::<Note>(&json)?));
            match read {
                Ok(note) => {
                    noted.homes.insert(note.key, note.pool);
                }
                Err(error) => {
                    let name = entry.file_name().to_string_lossy().into_owned();
                    tracing::error!(path = %entry.path().display(), %error, "a note of where a volume is cannot be read");
                    noted.unreadable.insert(name);
                }
            }
        }
        Ok(Self {
            folder,
            noted: Mutex::new(noted),
        })
    }

    /// Where the volume is, if it is noted.
    fn home(&self, key: &VolumeKey) -> io::Result<Option<Uuid>> {
        let noted = self.lock();
        if noted.unreadable.contains(&file_name(key)) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the note of where it is cannot be read",
            ));
        }
        Ok(noted.homes.get(key).copied())
    }

    fn write(&self, key: &VolumeKey, home: Uuid) -> io::Result<()> {
        if self.home(key).is_ok_and(|noted| noted == Some(home)) {
            return Ok(());
        }
        let json = serde_json::to_vec(&Note {
            key: key.clone(),
            pool: home,
        })?;
        durable::write(&self.folder.join(file_name(key)), &json)?;
        let mut noted = self.lock();
        noted.unreadable.remove(&file_name(key));
        noted.homes.insert(key.clone(), home);
        Ok(())
    }

    fn remove(&self, key: &VolumeKey) -> io::Result<()> {
        if self.home(key).is_ok_and(|home| home.is_none()) {
            return Ok(());
        }
        durable::remove(&self.folder.join(file_name(key)))?;
        let mut noted = self.lock();
        noted.unreadable.remove(&file_name(key));
        noted.homes.remove(key);
        Ok(())
    }

    fn all(&self) -> Vec<(VolumeKey, Uuid)> {
        let noted = self.lock();
        noted
            .homes
            .iter()
            .map(|(k, home)| (k.clone(), *home))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts the notes on every pool right: the volumes of the others, and none that is gone.
pub fn share(pools: &[Arc<Pool>]) {
    for pool in pools {
        let (at, pools) = (pool.clone(), pools.to_vec());
        pool.post(move || {
            for home in &pools {
                for key in home.volumes().keys() {
                    write(&at, &key, home);
                }
            }
            for (key, home) in at.notes().all() {
                let gone = |pool: &Arc<Pool>| pool.uuid() == home && !pool.volumes().may_have(&key);
                if pools.iter().any(gone) {
                    remove(&at, &key);
                }
            }
        });
    }
}

/// Writes down on all pools but `home` that the volume is there. What cannot be written is logged:
/// it only matters when a disk goes missing later, and [`share`] makes it good.
pub fn note(pools: &[Arc<Pool>], key: &VolumeKey, home: &Arc<Pool>) {
    for pool in pools {
        let (at, key, home) = (pool.clone(), key.clone(), home.clone());
        pool.post(move || write(&at, &key, &home));
    }
}

/// Removes the notes of a volume that is on none of `pools` any more.
pub fn forget(pools: &[Arc<Pool>], key: &VolumeKey) {
    for pool in pools {
        let (at, key, pools) = (pool.clone(), key.clone(), pools.to_vec());
        pool.post(move || {
            // It may have been made anew before this job's turn.
            if pools.iter().all(|pool| !pool.volumes().may_have(&key)) {
                remove(&at, &key);
            }
        });
    }
}

/// The pool that has the volume and is not among `pools`.
pub fn missing(pools: &[Arc<Pool>], key: &VolumeKey) -> io::Result<Option<Uuid>> {
    for pool in pools {
        if let Some(home) = pool.notes().home(key)?
            && pools.iter().all(|pool| pool.uuid() != home)
        {
            return Ok(Some(home));
        }
    }
    Ok(None)
}

fn write(at: &Pool, key: &VolumeKey, home: &Pool) {
    // Looked at here and now: the volume may have been deleted since this was asked for.
    if home.uuid() == at.uuid() || !home.volumes().has(key) || !at.is_writable() {
        return;
    }
    if let Err(error) = at.notes().write(key, home.uuid()) {
        tracing::warn!(%key, pool = %at.uuid(), %error, "cannot note where a volume is");
    }
}

fn remove(at: &Pool, key: &VolumeKey) {
    if let Err(error) = at.notes().remove(key) {
        tracing::warn!(%key, pool = %at.uuid(), %error, "cannot remove the note of a volume that is gone");
    }
}

fn file_name(key: &VolumeKey) -> String {
    format!("{}.json", volume::file_name(key))
}

#[cfg(test)]
mod tests {
    use loam_deployment::{
        Bytes, Version,
        payload::{Filesystem, Media},
    };
    use loam_node_api::storage::VolumeSpec;

    use super::*;
    use crate::pool::testing::{self, settle};

    fn make(pool: &Pool, key: &VolumeKey) {
        let spec = VolumeSpec {
            size: Bytes::mib(1),
            media: Media::Any,
            filesystem: Filesystem::Raw,
        };
        pool.volumes().create(key, &spec, Version(1)).unwrap();
    }

    #[test]
    fn a_note_is_written_only_if_it_is_still_true() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [one, two] = folders
            .each_ref()
            .map(|folder| Arc::new(testing::pool(folder.path(), Media::Ssd)));
        let both = [one.clone(), two.clone()];
        let key = VolumeKey::Data("7.a".parse().unwrap());

        make(&one, &key);
        share(&both);
        settle(&both);
        let away = std::slice::from_ref(&two);
        assert_eq!(missing(away, &key).unwrap(), Some(one.uuid()));
        // Read back by the next opening.
        let again = Pool::open(two.root().to_owned(), two.uuid(), Media::Ssd).unwrap();
        assert_eq!(missing(&[Arc::new(again)], &key).unwrap(), Some(one.uuid()));

        // Deleted between the look at its pool and the writing: held up by a job before it.
        forget(&both, &key);
        one.volumes().delete(&key).unwrap();
        settle(&both);
        share(&both);
        settle(&both);
        assert_eq!(missing(away, &key).unwrap(), None);

        make(&one, &key);
        let (release, held) = std::sync::mpsc::channel::<()>();
        two.post(move || assert!(held.recv().is_err()));
        note(&both, &key, &one);
        one.volumes().delete(&key).unwrap();
        forget(&both, &key);
        drop(release);
        settle(&both);
        assert_eq!(missing(away, &key).unwrap(), None);
    }

    #[test]
    fn a_note_that_cannot_be_read_is_not_taken_for_none() {
        let folder = tempfile::tempdir().unwrap();
        let pool = testing::pool(folder.path(), Media::Ssd);
        let key = VolumeKey::Data("7.a".parse().unwrap());
        let path = pool.root().join("elsewhere").join(file_name(&key));
        fs::write(path, b"{").unwrap();
        let again = Pool::open(pool.root().to_owned(), pool.uuid(), Media::Ssd).unwrap();
        let again = [Arc::new(again)];
        missing(&again, &key).unwrap_err();
        let other = VolumeKey::Data("7.b".parse().unwrap());
        assert_eq!(missing(&again, &other).unwrap(), None);
        forget(&again, &key);
        settle(&again);
        assert_eq!(missing(&again, &key).unwrap(), None);
    }
}
