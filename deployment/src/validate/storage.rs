//! Volumes and object stores.

use super::{
    Result,
    machine::{ciphertext, size},
};
use crate::{
    limits,
    payload::{Filesystem, ObjectStore, Volume},
};

pub(super) fn volume(volume: &Volume, path: &str) -> Result {
    let min = match volume.filesystem {
        Filesystem::Btrfs => limits::BTRFS_MIN,
        Filesystem::Ext4 | Filesystem::Raw => limits::DISK_MIN,
    };
    size(
        &format!("{path}.size"),
        volume.size,
        min,
        limits::VOLUME_MAX,
        limits::DISK_UNIT,
    )
}

pub(super) fn object_store(store: &ObjectStore, path: &str) -> Result {
    let (min, max) = (limits::DISK_MIN, limits::VOLUME_MAX);
    size(
        &format!("{path}.size"),
        store.size,
        min,
        max,
        limits::DISK_UNIT,
    )?;
    ciphertext(
        &store.sealed_password.ciphertext,
        &format!("{path}.sealed_password"),
    )
}
