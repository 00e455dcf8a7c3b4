//! On which pool a volume is.

use std::sync::Arc;

use loam_deployment::{Bytes, Version, payload::Media};
use loam_node_api::storage::{Deletion, StorageError, Volume, VolumeKey, VolumeSpec};

use crate::{pool::Pool, whereabouts};

/// A sector of a virtio disk: a volume is a whole number of them.
const SECTOR: u64 = 512;

/// Makes the volume exist on one of `pools` with this size, or grows it; notes `version` if it is
/// the newest that named the volume.
///
/// Only one call of this or of [`delete`] may be under way at a time.
pub fn ensure(
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
    match home(pools, key) {
        Some((pool, has)) => change(pool, &has, spec, version),
        None => create(pools, key, spec, version),
    }
}

/// Every volume of every pool.
pub fn list(pools: &[Arc<Pool>]) -> Vec<Volume> {
    let mut volumes: Vec<Volume> = pools
        .iter()
        .flat_map(|pool| {
            pool.volumes()
                .list()
                .into_iter()
                .map(move |volume| (pool, volume))
        })
        .filter(|(pool, volume)| {
            home(pools, &volume.key).is_some_and(|(home, _)| home.uuid() == pool.uuid())
        })
        .map(|(_, volume)| volume)
        .collect();
    volumes.sort_by(|a, b| a.key.cmp(&b.key));
    volumes
}

/// The volume as [`list`] shows it.
pub fn find(pools: &[Arc<Pool>], key: &VolumeKey) -> Option<Volume> {
    home(pools, key).map(|(_, volume)| volume)
}

/// Removes the volume wherever it is, unless its record contradicts the reason.
pub fn delete(pools: &[Arc<Pool>], key: &VolumeKey, why: Deletion) -> Result<(), StorageError> {
    if let Deletion::Unnamed { by } = why {
        let named = pools
            .iter()
            .filter_map(|pool| pool.volumes().get(key))
            .map(|volume| volume.version)
            .max();
        if let Some(named) = named
            && by <= named
        {
            let key = key.clone();
            return Err(StorageError::StillNamed { key, named, by });
        }
    }
    for pool in pools {
        if let Some(volume) = pool.volumes().get(key) {
            pool.volumes()
                .delete(key)
                .map_err(|error| failed(key, &error))?;
            pool.with_ledger(|ledger| ledger.release_volume(volume.spec.size));
            tracing::info!(%key, pool = %pool.uuid(), "deleted a volume");
        }
    }
    whereabouts::forget(pools, key).map_err(|error| failed(key, &error))
}

/// Where the volume is. Should a disk that was away have come back after its volume was made anew
/// elsewhere, the one that was there first is the tenant's data.
fn home<'a>(pools: &'a [Arc<Pool>], key: &VolumeKey) -> Option<(&'a Arc<Pool>, Volume)> {
    pools
        .iter()
        .filter_map(|pool| Some((pool.volumes().created(key)?, pool)))
        .min_by_key(|(created, pool)| (*created, pool.uuid()))
        .and_then(|(_, pool)| Some((pool, pool.volumes().get(key)?)))
}

fn change(
    pool: &Pool,
    has: &Volume,
    spec: &VolumeSpec,
    version: Version,
) -> Result<Volume, StorageError> {
    let key = &has.key;
    let changed = |has: String, wanted: String| {
        Err(StorageError::Changed {
            key: key.clone(),
            has,
            wanted,
        })
    };
    if spec.size < has.spec.size {
        return Err(StorageError::Shrink {
            key: key.clone(),
            has: has.spec.size,
            wanted: spec.size,
        });
    }
    if spec.filesystem != has.spec.filesystem {
        return changed(
            format!("{:?}", has.spec.filesystem),
            format!("{:?}", spec.filesystem),
        );
    }
    if spec.media != Media::Any && spec.media != pool.media() {
        return changed(format!("{:?}", pool.media()), format!("{:?}", spec.media));
    }
    if !pool.volumes().has_data(key) {
        return Err(StorageError::Io(format!(
            "the data of {key} is gone from pool {}; delete the volume to have a new one",
            pool.uuid()
        )));
    }
    // A deployment of the past, asked for late, takes nothing back.
    let version = version.max(has.version);
    if *spec == has.spec && version == has.version {
        return Ok(has.clone());
    }
    let more = Bytes(spec.size.get() - has.spec.size.get());
    pool.with_ledger(|ledger| ledger.promise_volume(more))
        .map_err(|full| StorageError::NoSpace {
            wanted: full.wanted,
            free: full.free,
        })?;
    pool.volumes().change(key, spec, version).map_err(|error| {
        pool.with_ledger(|ledger| ledger.release_volume(more));
        failed(key, &error)
    })
}

fn create(
    pools: &[Arc<Pool>],
    key: &VolumeKey,
    spec: &VolumeSpec,
    version: Version,
) -> Result<Volume, StorageError> {
    let fits = |pool: &&Arc<Pool>| {
        (spec.media == Media::Any || spec.media == pool.media()) && pool.is_writable()
    };
    if pools.is_empty() {
        return Err(StorageError::NoPool);
    }
    if let Some(pool) = whereabouts::missing(pools, key).map_err(|error| failed(key, &error))? {
        return Err(StorageError::Io(format!(
            "{key} is on pool {pool}, whose disk is missing; attach the disk, or delete the volume \
             to have a new, empty one"
        )));
    }
    let free = |pool: &Arc<Pool>| pool.with_ledger(|ledger| ledger.free_for_volumes());
    let Some(pool) = pools.iter().filter(fits).max_by_key(|pool| free(pool)) else {
        return Err(StorageError::NoSpace {
            wanted: spec.size,
            free: Bytes(0),
        });
    };
    pool.with_ledger(|ledger| ledger.promise_volume(spec.size))
        .map_err(|full| StorageError::NoSpace {
            wanted: full.wanted,
            free: full.free,
        })?;
    let made = pool.volumes().create(key, spec, version);
    match made {
        Ok(volume) => {
            whereabouts::note(pools, key, pool.uuid());
            tracing::info!(%key, size = %spec.size, pool = %pool.uuid(), "made a volume");
            Ok(volume)
        }
        Err(error) => {
            pool.with_ledger(|ledger| ledger.release_volume(spec.size));
            Err(failed(key, &error))
        }
    }
}

fn failed(key: &VolumeKey, error: &dyn std::error::Error) -> StorageError {
    StorageError::Io(format!("{key}: {error}"))
}

#[cfg(test)]
#[path = "placement_tests.rs"]
mod tests;
