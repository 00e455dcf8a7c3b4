//! Each pool's notes of which volumes are on the others.
//!
//! Without them, a volume whose disk is missing would look like one that was never made, and be
//! made anew, empty, elsewhere; its owner would find the data gone, and find it back when the disk
//! returns, without what was written since.

use std::{fs, io, path::PathBuf, sync::Arc};

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

/// Writes down on every pool which volumes the others have.
pub fn share(pools: &[Arc<Pool>]) {
    for home in pools {
        for volume in home.volumes().list() {
            note(pools, &volume.key, home.uuid());
        }
    }
}

/// Writes down on all pools but `home` that the volume is there. What cannot be written is logged:
/// it only matters when a disk goes missing later.
pub fn note(pools: &[Arc<Pool>], key: &VolumeKey, home: Uuid) {
    for pool in pools
        .iter()
        .filter(|pool| pool.uuid() != home && pool.is_writable())
    {
        if read(pool, key).is_ok_and(|noted| noted == Some(home)) {
            continue;
        }
        let written = serde_json::to_vec(&Note {
            key: key.clone(),
            pool: home,
        })
        .map_err(io::Error::from)
        .and_then(|json| durable::write(&path(pool, key), &json));
        if let Err(error) = written {
            tracing::warn!(%key, pool = %pool.uuid(), %error, "cannot note where a volume is");
        }
    }
}

/// The pool that has the volume and is not among `pools`.
pub fn missing(pools: &[Arc<Pool>], key: &VolumeKey) -> io::Result<Option<Uuid>> {
    for pool in pools {
        if let Some(home) = read(pool, key)?
            && pools.iter().all(|pool| pool.uuid() != home)
        {
            return Ok(Some(home));
        }
    }
    Ok(None)
}

pub fn forget(pools: &[Arc<Pool>], key: &VolumeKey) -> io::Result<()> {
    pools
        .iter()
        .try_for_each(|pool| durable::remove(&path(pool, key)))
}

fn read(pool: &Pool, key: &VolumeKey) -> io::Result<Option<Uuid>> {
    match fs::read(path(pool, key)) {
        Ok(json) => Ok(Some(serde_json::from_slice::<Note>(&json)?.pool)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn path(pool: &Pool, key: &VolumeKey) -> PathBuf {
    pool.elsewhere()
        .join(format!("{}.json", volume::file_name(key)))
}
