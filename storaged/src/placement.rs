//! On which pool a volume is.
//!
//! Which pool is decided from what is known in memory, and what is decided is done on that pool's own
//! thread. So each pool makes and removes its volumes one after the other, and one that hangs holds up
//! nobody but those who need it.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use loam_deployment::{Bytes, Version, payload::Media};
use loam_node_api::{
    page::Changes,
    storage::{Deletion, StorageError, Volume, VolumeKey, VolumeSpec},
};
use uuid::Uuid;

use crate::{given_up, pool::Pool, provision, whereabouts};

/// A sector of a virtio disk: a volume is a whole number of them.
const SECTOR: u64 = 512;

#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// Where volumes are being made. Until one is there or has failed, every call for it goes to the
    /// same pool, so that two calls never make it on two.
    making: Arc<Mutex<BTreeMap<VolumeKey, Making>>>,
    changes: Changes,
}

#[derive(Debug)]
struct Making {
    pool: Uuid,
    calls: usize,
}

/// Held by a call that makes a volume, until it is done or dropped undone.
struct Claim {
    placement: Placement,
    key: VolumeKey,
    /// Where it is to be made, and the pools that are told of it, if it is not there yet.
    new: Option<(Arc<Pool>, Vec<Arc<Pool>>)>,
}

impl Placement {
    /// `changes` hears of each volume that is another than before.
    pub fn new(changes: Changes) -> Self {
        Self {
            making: Arc::default(),
            changes,
        }
    }

    /// Makes the volume exist on one of `pools` with this size, or grows it; notes `version` if it is
    /// the newest that named the volume.
    pub fn ensure(
        &self,
        pools: &[Arc<Pool>],
        key: &VolumeKey,
        spec: &VolumeSpec,
        version: Version,
    ) -> Result<Volume, StorageError> {
        if spec.size.get() == 0 || !spec.size.get().is_multiple_of(SECTOR) {
            return Err(StorageError::Io(format!(
                "{key} has a size of {}; a size is a multiple of {SECTOR} bytes, and not 0",
                spec.size
            )));
        }
        self.check_records(pools, key)?;
        let (pool, claim) = self.choose(pools, key, spec, version)?;
        let noting = whereabouts::note(pools, key, &pool);
        if claim.new.is_some() {
            // Before it is made: should this disk go missing at once, the others know.
            noting.wait().map_err(|error| {
                StorageError::Io(format!("no other pool can note where {key} is: {error}"))
            })?;
        }
        let (at, key, spec) = (pool.clone(), key.clone(), spec.clone());
        let changes = self.changes.clone();
        let pools = pools.to_vec();
        pool.run(move || {
            let ensure = || provision::ensure(&pools, &at, &key, &spec, version);
            let result = telling(&changes, &at, &key, ensure);
            if result.is_ok() {
                // What they say of it may be another than before.
                drop(whereabouts::note(&pools, &key, &at));
            }
            drop(claim);
            result
        })?
    }

    /// Removes the volume wherever it is, unless its record contradicts the reason. One whose disk is
    /// missing is given up: as good as removed.
    pub fn delete(
        &self,
        pools: &[Arc<Pool>],
        key: &VolumeKey,
        why: Deletion,
    ) -> Result<(), StorageError> {
        self.check_records(pools, key)?;
        for pool in pools {
            if let Some(volume) = pool.volumes().get(key) {
                provision::check_reason(key, volume.version, why)?;
            }
        }
        let away = whereabouts::away(pools, key);
        for note in &away {
            provision::check_reason(key, note.version, why)?;
        }
        for note in &away {
            given_up::write(pools, key, note.pool, why)?;
            tracing::info!(%key, pool = %note.pool, "a volume whose disk is missing is given up");
            self.changes.note();
        }
        let making = self.lock().get(key).map(|making| making.pool);
        for pool in pools {
            if !pool.volumes().has(key) && making != Some(pool.uuid()) {
                continue;
            }
            let (at, key, changes) = (pool.clone(), key.clone(), self.changes.clone());
            pool.run(move || telling(&changes, &at, &key, || provision::delete(&at, &key, why)))??;
        }
        whereabouts::forget(pools, key);
        Ok(())
    }

    /// A volume whose record cannot be read is somebody's all the same: on no pool is it made anew, or
    /// deleted, as long as one says nothing of it.
    fn check_records(&self, pools: &[Arc<Pool>], key: &VolumeKey) -> Result<(), StorageError> {
        for pool in pools {
            if pool.volumes().unreadable(key).is_some() {
                let (at, key, changes) = (pool.clone(), key.clone(), self.changes.clone());
                pool.run(move || {
                    telling(&changes, &at, &key, || provision::read_again(&at, &key))
                })??;
            }
        }
        Ok(())
    }

    /// The pool that has the volume, is making it, or is to make it.
    fn choose(
        &self,
        pools: &[Arc<Pool>],
        key: &VolumeKey,
        spec: &VolumeSpec,
        version: Version,
    ) -> Result<(Arc<Pool>, Claim), StorageError> {
        let mut making = self.lock();
        let there = home(pools, key)?;
        let chosen = match there {
            Some(pool) => pool.clone(),
            None => {
                let begun = making.get(key).map(|making| making.pool);
                let begun = pools.iter().find(|pool| Some(pool.uuid()) == begun);
                match begun {
                    Some(pool) => pool.clone(),
                    None => roomiest(pools, key, spec)?.clone(),
                }
            }
        };
        let pool = chosen.uuid();
        making
            .entry(key.clone())
            .and_modify(|making| making.calls += 1)
            .or_insert(Making { pool, calls: 1 });
        let new = there.is_none();
        let claim = Claim {
            placement: self.clone(),
            key: key.clone(),
            new: new.then(|| {
                chosen.volumes().intend(key, spec, version);
                (chosen.clone(), pools.to_vec())
            }),
        };
        Ok((chosen, claim))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<VolumeKey, Making>> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut making = self.placement.lock();
        if let Entry::Occupied(mut entry) = making.entry(self.key.clone()) {
            entry.get_mut().calls -= 1;
            if entry.get().calls == 0 {
                entry.remove();
            }
        }
        drop(making);
        if let Some((pool, pools)) = self.new.take() {
            pool.volumes().made_or_not(&self.key);
            if !pool.volumes().has(&self.key) {
                whereabouts::forget(&pools, &self.key);
            }
        }
    }
}

/// Every volume of every pool, and each that is missing, in the order of their keys.
pub fn list(pools: &[Arc<Pool>]) -> Vec<Volume> {
    let mut keys = whereabouts::all_away(pools);
    keys.extend(pools.iter().flat_map(|pool| pool.volumes().keys()));
    keys.iter().filter_map(|key| find(pools, key)).collect()
}

/// The volume as [`list`] shows it.
pub fn find(pools: &[Arc<Pool>], key: &VolumeKey) -> Option<Volume> {
    let copies = copies(pools, key).map(|(_, volume)| volume);
    let there = copies.reduce(|one, other| Volume {
        path: None,
        used: Bytes(one.used.get() + other.used.get()),
        version: one.version.max(other.version),
        ..one
    });
    let missing = || {
        let note = whereabouts::missing(pools, key).ok()??;
        Some(Volume {
            key: note.key,
            spec: note.spec,
            path: None,
            used: Bytes(0),
            version: note.version,
        })
    };
    let mut volume = there.or_else(missing)?;
    let unreadable = |pool: &Arc<Pool>| pool.volumes().unreadable(key).is_some();
    if pools.iter().any(unreadable) {
        volume.path = None;
    }
    Some(volume)
}

/// The pools that have the volume, but for what was given up before its disk came back.
fn copies<'a>(
    pools: &'a [Arc<Pool>],
    key: &VolumeKey,
) -> impl Iterator<Item = (&'a Arc<Pool>, Volume)> {
    let copies = pools
        .iter()
        .filter_map(|pool| Some((pool, pool.volumes().get(key)?)));
    copies.filter(|(pool, volume)| {
        given_up::reason(pools, key, pool.uuid(), volume.version).is_none()
    })
}

/// The pool that has the volume.
///
/// Two can only have one each if it was made anew while the disk of one was away and no other pool had
/// a note of it. Which of them its owner misses more nobody here can know, no clock and no version says
/// it. So neither is used, and neither is hidden or lost.
fn home<'a>(
    pools: &'a [Arc<Pool>],
    key: &VolumeKey,
) -> Result<Option<&'a Arc<Pool>>, StorageError> {
    let copies: Vec<_> = copies(pools, key).collect();
    if let [] | [_] = copies[..] {
        return Ok(copies.first().map(|(pool, _)| *pool));
    }
    let told = copies
        .iter()
        .map(|(pool, volume)| format!("{} (version {})", pool.uuid(), volume.version));
    let told: Vec<_> = told.collect();
    Err(StorageError::Io(format!(
        "{key} is there more than once, as it was made anew while a disk was away: on the pools {}; \
         none is used, so that none is lost. Detach all of these disks but one, or have them all \
         deleted by {}",
        told.join(", "),
        given_up::by_what(key)
    )))
}

/// Where a new volume is made.
fn roomiest<'a>(
    pools: &'a [Arc<Pool>],
    key: &VolumeKey,
    spec: &VolumeSpec,
) -> Result<&'a Arc<Pool>, StorageError> {
    if pools.is_empty() {
        return Err(StorageError::NoPool);
    }
    if let Some(note) =
        whereabouts::missing(pools, key).map_err(|error| provision::failed(key, &error))?
    {
        return Err(StorageError::Io(format!(
            "{key} is on pool {}, whose disk is missing; attach the disk, or give up what is on it \
             by {}: a later version that names it has a new, empty one",
            note.pool,
            given_up::by_what(key)
        )));
    }
    let fits: Vec<_> = pools
        .iter()
        .filter(|pool| spec.media == Media::Any || spec.media == pool.media())
        .filter(|pool| pool.is_writable())
        .collect();
    let free = |pool: &&Arc<Pool>| pool.with_ledger(|ledger| ledger.free_for_volumes());
    let answering = fits.iter().filter(|pool| pool.answers());
    match (answering.copied().max_by_key(free), fits.first()) {
        (Some(pool), _) => Ok(pool),
        (None, Some(hanging)) => Err(StorageError::Hangs(hanging.uuid().to_string())),
        (None, None) => Err(StorageError::NoSpace {
            wanted: spec.size,
            free: Bytes(0),
        }),
    }
}

/// Tells who listens if the volume is another after `act`, and only then: a caller that acts on every
/// change would otherwise wake itself for ever.
fn telling<T>(changes: &Changes, pool: &Pool, key: &VolumeKey, act: impl FnOnce() -> T) -> T {
    let shown = || {
        let volume = pool.volumes().get(key)?;
        Some((volume.spec, volume.version))
    };
    let before = shown();
    let result = act();
    if shown() != before {
        changes.note();
    }
    result
}

#[cfg(test)]
#[path = "placement_tests.rs"]
mod tests;
