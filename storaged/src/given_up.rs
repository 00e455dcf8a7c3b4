//! What owners gave up while its disk was away.
//!
//! A volume on a disk that never comes back must not hold up its owner for ever: it can be deleted like
//! any other, by a version of its deployment that leaves it out, and a later one that names it gets a
//! new one. Each pool keeps what was given up and why, so that the old one is neither taken for the new
//! one nor a rival of it when the disk comes back after all: it is then deleted, by the reason that
//! stood. A record that contradicts the reason, as of a volume that was named later, wins over it; so
//! what is kept here longer than needed does no harm.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use loam_deployment::Version;
use loam_node_api::storage::{Deletion, StorageError, VolumeKey};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{durable, pool::Pool, provision, volume, whereabouts};

/// What `given-up/<name>@<pool>.json` says.
#[derive(Serialize, Deserialize)]
struct Record {
    key: VolumeKey,
    /// On whose disk it is.
    pool: Uuid,
    why: Deletion,
}

/// What one pool keeps of it.
#[derive(Debug)]
pub struct GivenUp {
    folder: PathBuf,
    reasons: Mutex<BTreeMap<(VolumeKey, Uuid), Deletion>>,
}

impl GivenUp {
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        let mut reasons = BTreeMap::new();
        for path in durable::entries(&folder)? {
            match read(&path) {
                Ok(record) => {
                    reasons.insert((record.key, record.pool), record.why);
                }
                // Then both volumes count, and neither is used: nothing is lost.
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "it cannot be read which volume was given up");
                }
            }
        }
        Ok(Self {
            folder,
            reasons: Mutex::new(reasons),
        })
    }

    fn write(&self, key: &VolumeKey, pool: Uuid, why: Deletion) -> io::Result<()> {
        let record = Record {
            key: key.clone(),
            pool,
            why,
        };
        durable::write(&self.path(key, pool), &serde_json::to_vec(&record)?)?;
        self.lock().insert((key.clone(), pool), why);
        Ok(())
    }

    fn remove(&self, key: &VolumeKey, pool: Uuid) -> io::Result<()> {
        durable::remove(&self.path(key, pool))?;
        self.lock().remove(&(key.clone(), pool));
        Ok(())
    }

    fn reason(&self, key: &VolumeKey, pool: Uuid) -> Option<Deletion> {
        self.lock().get(&(key.clone(), pool)).copied()
    }

    fn on(&self, pool: Uuid) -> Vec<VolumeKey> {
        let reasons = self.lock();
        let keys = reasons.keys().filter(|(_, home)| *home == pool);
        keys.map(|(key, _)| key.clone()).collect()
    }

    fn path(&self, key: &VolumeKey, pool: Uuid) -> PathBuf {
        self.folder
            .join(format!("{}@{pool}.json", volume::file_name(key)))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(VolumeKey, Uuid), Deletion>> {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps on each of `pools` that can take it, and on one at least, that the volume on the disk of
/// `home`, which is away, is given up.
pub fn write(
    pools: &[Arc<Pool>],
    key: &VolumeKey,
    home: Uuid,
    why: Deletion,
) -> Result<(), StorageError> {
    let mut result = Err(StorageError::NoPool);
    for pool in pools {
        let (at, its) = (pool.clone(), key.clone());
        let written = pool.run(move || at.given_up().write(&its, home, why));
        match written.map(|written| written.map_err(|error| error.to_string())) {
            Ok(Ok(())) => result = Ok(()),
            Ok(Err(error)) if result.is_err() => {
                result = Err(StorageError::Io(format!(
                    "pool {} cannot keep that {key} is given up: {error}",
                    pool.uuid()
                )));
            }
            Err(hangs) if result.is_err() => result = Err(hangs),
            _ => {}
        }
    }
    result
}

/// Why the volume on the disk of `home`, which this version of its deployment named last, is given up.
pub fn reason(
    pools: &[Arc<Pool>],
    key: &VolumeKey,
    home: Uuid,
    version: Version,
) -> Option<Deletion> {
    let mut reasons = pools
        .iter()
        .filter_map(|pool| reason_on(pool, key, home, version));
    reasons.next()
}

/// The same, as far as one pool knows.
pub fn reason_on(pool: &Pool, key: &VolumeKey, home: Uuid, version: Version) -> Option<Deletion> {
    let why = pool.given_up().reason(key, home);
    why.filter(|why| allows(*why, version))
}

/// By what an owner gives a volume up; for people.
pub fn by_what(key: &VolumeKey) -> String {
    match key {
        VolumeKey::Data(_) => "a version of the deployment that leaves the volume out".to_owned(),
        VolumeKey::Root { machine, .. } => {
            format!(
                "a version of the deployment that leaves out the machine {}",
                machine.name
            )
        }
    }
}

/// Whether a volume may go for this reason that this version of its deployment named last.
pub fn allows(why: Deletion, named: Version) -> bool {
    match why {
        Deletion::Unnamed { by } => by > named,
        Deletion::Cancelled => true,
    }
}

/// Deletes what was given up and is there again, and then forgets why.
pub fn bury(pools: &[Arc<Pool>]) {
    for home in pools {
        let mut keys: Vec<_> = pools
            .iter()
            .flat_map(|pool| pool.given_up().on(home.uuid()))
            .collect();
        keys.sort();
        keys.dedup();
        for key in keys {
            let (at, pools) = (home.clone(), pools.to_vec());
            // If it does not answer now, it is done when it comes the next time; until then it is not
            // shown.
            home.post(move || bury_one(&pools, &at, &key));
        }
    }
}

fn bury_one(pools: &[Arc<Pool>], home: &Arc<Pool>, key: &VolumeKey) {
    if let Some(volume) = home.volumes().get(key)
        && let Some(why) = reason(pools, key, home.uuid(), volume.version)
        && let Err(error) = provision::delete(home, key, why)
    {
        tracing::error!(%key, pool = %home.uuid(), %error, "cannot delete a volume that was given up");
        return;
    }
    // A record that cannot be read now may yet say that it is this one.
    if home.volumes().unreadable(key).is_some() {
        return;
    }
    // Another disk that is away may have its successor, of which there are but notes.
    whereabouts::share_one(pools, key);
    for pool in pools {
        let (at, key, home) = (pool.clone(), key.clone(), home.uuid());
        pool.post(move || {
            if let Err(error) = at.given_up().remove(&key, home) {
                tracing::warn!(%key, pool = %at.uuid(), %error, "cannot forget that a volume was given up");
            }
        });
    }
}

fn read(path: &Path) -> io::Result<Record> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

#[cfg(test)]
mod tests {
    use loam_deployment::{
        Bytes,
        payload::{Filesystem, Media},
    };
    use loam_node_api::storage::VolumeSpec;

    use super::*;
    use crate::{
        placement::Placement,
        pool::testing::{self, settle},
    };

    /// Of its predecessor on A it was said that it is given up, and B alone knows that it is on D.
    fn successor_on_d() -> ([tempfile::TempDir; 3], [Arc<Pool>; 3], VolumeKey) {
        let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
        // D is of the only medium that the second is wanted on.
        let media = [Media::Ssd, Media::Ssd, Media::Hdd];
        let at = |n: usize| Arc::new(testing::pool(folders[n].path(), media[n]));
        let [a, b, d] = [at(0), at(1), at(2)];
        let key = VolumeKey::Data("7.a".parse().unwrap());
        let placement = Placement::default();
        let make = |pools: &[Arc<Pool>], media, version| {
            let spec = VolumeSpec {
                size: Bytes::mib(1),
                media,
                filesystem: Filesystem::Raw,
            };
            placement.ensure(pools, &key, &spec, Version(version))
        };
        make(std::slice::from_ref(&a), Media::Ssd, 3).unwrap();
        let all = [a.clone(), b.clone(), d.clone()];
        whereabouts::share(&all);
        settle(&all);
        let rest = [b.clone(), d.clone()];
        let by = Version(4);
        let why = Deletion::Unnamed { by };
        placement.delete(&rest, &key, why).unwrap();
        make(&rest, Media::Hdd, 5).unwrap();
        settle(&rest);
        (folders, [a, b, d], key)
    }

    fn share(pools: &[Arc<Pool>]) {
        whereabouts::share(pools);
        // What is buried asks for more.
        for _ in 0..3 {
            settle(pools);
        }
    }

    fn missing_on(pools: &[Arc<Pool>], key: &VolumeKey) -> Option<Uuid> {
        let note = whereabouts::missing(pools, key).unwrap();
        note.map(|note| note.pool)
    }

    #[test]
    fn a_volume_that_is_buried_takes_no_note_of_its_successor_with_it() {
        let (_folders, [a, b, d], key) = successor_on_d();
        // D goes as A comes back, and A is slow.
        let pools = [a.clone(), b.clone()];
        let (release, held) = std::sync::mpsc::channel::<()>();
        a.post(move || assert!(held.recv().is_err()));
        whereabouts::share(&pools);
        settle(std::slice::from_ref(&b));
        assert_eq!(missing_on(&[b], &key), Some(d.uuid()));
        drop(release);
        share(&pools);
        assert!(!a.volumes().has(&key));
        // A hears of it, too.
        for pool in &pools {
            let pool = std::slice::from_ref(pool);
            assert_eq!(missing_on(pool, &key), Some(d.uuid()));
        }
    }

    #[test]
    fn a_note_that_cannot_be_read_when_a_volume_is_buried_may_be_of_its_successor() {
        let (_folders, [a, b, _], key) = successor_on_d();
        let note = b.root().join("elsewhere");
        let note = fs::read_dir(note).unwrap().next().unwrap().unwrap();
        fs::write(note.path(), "{").unwrap();
        let again = Pool::open(b.root().to_owned(), b.uuid(), Media::Ssd).unwrap();
        let pools = [a.clone(), Arc::new(again)];
        share(&pools);
        assert!(!a.volumes().has(&key));
        whereabouts::missing(&pools, &key).unwrap_err();
    }

    #[test]
    fn a_pool_that_goes_on_saying_what_was_given_up_takes_no_note_with_it() {
        let (_folders, [a, b, d], key) = successor_on_d();
        // A folder in the place of B's record: it cannot be removed, as if the disk refused.
        let record = b.given_up().path(&key, a.uuid());
        fs::remove_file(&record).unwrap();
        fs::create_dir(&record).unwrap();
        let all = [a.clone(), b.clone(), d.clone()];
        share(&all);
        assert_eq!(b.given_up().on(a.uuid()), std::slice::from_ref(&key));
        assert!(!a.volumes().has(&key) && d.volumes().has(&key));
        let pools = [a, b];
        share(&pools);
        for pool in &pools {
            let pool = std::slice::from_ref(pool);
            assert_eq!(missing_on(pool, &key), Some(d.uuid()));
        }
        // And nothing says that it is missing once it is not.
        share(&all);
        assert_eq!(missing_on(&all, &key), None);
    }

    #[test]
    fn one_pool_that_keeps_it_is_enough_and_what_cannot_be_read_gives_up_nothing() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let pools = folders
            .each_ref()
            .map(|folder| Arc::new(testing::pool(folder.path(), Media::Ssd)));
        let key = VolumeKey::Data("7.a".parse().unwrap());
        let (home, why) = (Uuid::new_v4(), Deletion::Unnamed { by: Version(3) });
        // Folders in the place of what is to be written, which nothing replaces.
        for pool in &pools {
            fs::create_dir(pool.given_up().path(&key, home)).unwrap();
        }
        write(&[], &key, home, why).unwrap_err();
        write(&pools, &key, home, why).unwrap_err();
        assert_eq!(reason(&pools, &key, home, Version(1)), None);
        fs::remove_dir(pools[0].given_up().path(&key, home)).unwrap();
        write(&pools, &key, home, why).unwrap();

        let again = |garbage: bool| {
            let pool = &pools[0];
            if garbage {
                fs::write(pool.given_up().path(&key, home), "{").unwrap();
            }
            let root = pool.root().to_owned();
            let again = [Arc::new(Pool::open(root, pool.uuid(), Media::Ssd).unwrap())];
            [2, 3].map(|named| reason(&again, &key, home, Version(named)))
        };
        assert_eq!(again(false), [Some(why), None]);
        assert_eq!(reason(&pools, &key, Uuid::new_v4(), Version(1)), None);
        assert_eq!(again(true), [None, None]);
    }
}
