//! What is done to a volume on one pool, with the pool's ledger: all of it on that pool's own thread.

use std::sync::Arc;

use loam_deployment::{Bytes, Version, payload::Media};
use loam_node_api::storage::{Deletion, StorageError, Volume, VolumeKey, VolumeSpec};

use crate::{given_up, pool::Pool};

/// Makes the volume, or grows it and keeps the newest version that named it.
pub fn ensure(
    pools: &[Arc<Pool>],
    pool: &Pool,
    key: &VolumeKey,
    spec: &VolumeSpec,
    version: Version,
) -> Result<Volume, StorageError> {
    if let Some(old) = pool.volumes().get(key)
        && let Some(why) = given_up::reason(pools, key, pool.uuid(), old.version)
    {
        // Its disk has just come back.
        delete(pool, key, why)?;
    }
    match pool.volumes().get(key) {
        Some(has) => change(pool, &has, spec, version),
        None => create(pool, key, spec, version),
    }
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
            key: Box::new(key.clone()),
            has,
            wanted,
        })
    };
    if spec.size < has.spec.size {
        return Err(StorageError::Shrink {
            key: Box::new(key.clone()),
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
    if pool.volumes().is_half_deleted(key) {
        return Err(StorageError::Io(format!(
            "{key} was deleted, but its data could not be removed yet"
        )));
    }
    let has_data = pool.volumes().has_data(key);
    if !has_data.map_err(|error| failed(key, &error))? {
        return Err(StorageError::Io(format!(
            "the data of {key} is gone from pool {}; {} gives it up, and a later one that names it has \
             a new, empty one",
            pool.uuid(),
            given_up::by_what(key)
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
    pool: &Pool,
    key: &VolumeKey,
    spec: &VolumeSpec,
    version: Version,
) -> Result<Volume, StorageError> {
    pool.with_ledger(|ledger| ledger.promise_volume(spec.size))
        .map_err(|full| StorageError::NoSpace {
            wanted: full.wanted,
            free: full.free,
        })?;
    match pool.volumes().create(key, spec, version) {
        Ok(volume) => {
            tracing::info!(%key, size = %spec.size, pool = %pool.uuid(), "made a volume");
            Ok(volume)
        }
        Err(error) => {
            pool.with_ledger(|ledger| ledger.release_volume(spec.size));
            Err(failed(key, &error))
        }
    }
}

/// Absent is success.
pub fn delete(pool: &Pool, key: &VolumeKey, why: Deletion) -> Result<(), StorageError> {
    // It may have been made or named since it was looked for.
    let Some(volume) = pool.volumes().get(key) else {
        return Ok(());
    };
    check_reason(key, volume.version, why)?;
    pool.volumes()
        .delete(key)
        .map_err(|error| failed(key, &error))?;
    pool.with_ledger(|ledger| ledger.release_volume(volume.spec.size));
    tracing::info!(%key, pool = %pool.uuid(), "deleted a volume");
    Ok(())
}

/// Looks once more at a record that could not be read.
pub fn read_again(pool: &Pool, key: &VolumeKey) -> Result<(), StorageError> {
    let volumes = pool.volumes();
    let guessed = volumes.promised();
    let result = volumes.read_again(key);
    pool.with_ledger(|ledger| {
        ledger.release_volume(guessed);
        ledger.record_volume(volumes.promised());
    });
    result.map_err(|error| {
        StorageError::Io(format!("{key} is on pool {}, but {error}", pool.uuid()))
    })?;
    tracing::info!(%key, pool = %pool.uuid(), "a volume's record can be read again");
    Ok(())
}

/// Whether a volume may be deleted that this version of its deployment named last.
pub fn check_reason(key: &VolumeKey, named: Version, why: Deletion) -> Result<(), StorageError> {
    match why {
        Deletion::Unnamed { by } if !given_up::allows(why, named) => {
            Err(StorageError::StillNamed {
                key: Box::new(key.clone()),
                named,
                by,
            })
        }
        Deletion::Unnamed { .. } | Deletion::Cancelled => Ok(()),
    }
}

pub fn failed(key: &VolumeKey, error: &dyn std::error::Error) -> StorageError {
    StorageError::Io(format!("{key}: {error}"))
}
