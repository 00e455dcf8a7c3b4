//! The node's own small secrets, the same on every pool.
//!
//! A file is `LOAM-SECRET-1\n`, the version as 8 bytes (big endian), the SHA-256 of the version
//! and the secret, and the secret. The highest valid version is the secret; so
//! each disk alone brings the node back, and a torn or rotten copy is passed over.

use std::{fs, io, path::Path, sync::Arc};

use loam_node_api::storage::StorageError;
use sha2::{Digest, Sha256};

use crate::{durable, pool::Pool};

const MAGIC: &[u8] = b"LOAM-SECRET-1\n";

/// Keys and seeds are far smaller; a pool is no place for a database.
pub const MAX_SECRET: usize = 4 << 10;

/// `None` when no pool has it.
pub fn load(pools: &[Arc<Pool>], name: &str) -> Result<Option<Vec<u8>>, StorageError> {
    check_name(name)?;
    Ok(newest(pools, name)?.map(|(_, secret)| secret))
}

/// On every pool that can be written, when it returns.
pub fn store(pools: &[Arc<Pool>], name: &str, secret: &[u8]) -> Result<(), StorageError> {
    check_name(name)?;
    if secret.len() > MAX_SECRET {
        return Err(StorageError::Io(format!(
            "the secret `{name}` has {} bytes; at most {MAX_SECRET} are kept",
            secret.len()
        )));
    }
    let version = newest(pools, name)?.map_or(0, |(version, _)| version) + 1;
    let bytes = encode(version, secret);
    let mut written = false;
    let mut failure = None;
    for pool in pools {
        match durable::write(&pool.secrets().join(name), &bytes) {
            Ok(()) => written = true,
            Err(error) => {
                tracing::error!(%name, pool = %pool.uuid(), %error, "could not keep a secret on this pool");
                failure = Some(error);
            }
        }
    }
    match failure {
        _ if written => Ok(()),
        Some(error) => Err(StorageError::Io(format!(
            "keep the secret `{name}`: {error}"
        ))),
        None => Err(StorageError::NoPool),
    }
}

/// Gives a pool that has just come what the others have and it lacks.
pub fn replicate(pools: &[Arc<Pool>], to: &Pool) -> io::Result<()> {
    for from in pools.iter().filter(|pool| pool.uuid() != to.uuid()) {
        for entry in fs::read_dir(from.secrets())? {
            let entry = entry?;
            let target = to.secrets().join(entry.file_name());
            let bytes = fs::read(entry.path())?;
            if !target.exists() && decode(&bytes).is_some() {
                durable::write(&target, &bytes)?;
            }
        }
    }
    Ok(())
}

fn newest(pools: &[Arc<Pool>], name: &str) -> Result<Option<(u64, Vec<u8>)>, StorageError> {
    if pools.is_empty() {
        return Err(StorageError::NoPool);
    }
    let mut newest = None;
    let mut unreadable = None;
    for pool in pools {
        match read(&pool.secrets().join(name)) {
            Ok(Some(found)) => newest = newest.max(Some(found)),
            Ok(None) => {}
            Err(error) => {
                tracing::error!(%name, pool = %pool.uuid(), %error, "could not read a secret on this pool");
                unreadable = Some(error);
            }
        }
    }
    match (newest, unreadable) {
        // To answer "there is none" would make the node a new identity.
        (None, Some(error)) => Err(StorageError::Io(format!(
            "read the secret `{name}`: {error}"
        ))),
        (newest, _) => Ok(newest),
    }
}

fn read(path: &Path) -> io::Result<Option<(u64, Vec<u8>)>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(bytes) => match decode(&bytes) {
            Some(found) => Ok(Some(found)),
            None => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "its checksum is wrong",
            )),
        },
    }
}

fn encode(version: u64, secret: &[u8]) -> Vec<u8> {
    let version = version.to_be_bytes();
    [MAGIC, &version, &sum(&version, secret), secret].concat()
}

fn decode(bytes: &[u8]) -> Option<(u64, Vec<u8>)> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (version, rest) = rest.split_first_chunk::<8>()?;
    let (expected, secret) = rest.split_first_chunk::<32>()?;
    (sum(version, secret) == *expected).then(|| (u64::from_be_bytes(*version), secret.to_vec()))
}

fn sum(version: &[u8; 8], secret: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(version)
        .chain_update(secret)
        .finalize()
        .into()
}

/// A name is a file name.
fn check_name(name: &str) -> Result<(), StorageError> {
    let ok = (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b))
        && !name.starts_with('.');
    ok.then_some(()).ok_or_else(|| {
        StorageError::Io(format!(
            "`{name}` names no secret; expected up to 64 of a-z, 0-9, `-`, `_` and `.`, not beginning with a dot"
        ))
    })
}

#[cfg(test)]
mod tests {
    use loam_deployment::payload::Media;

    use super::*;
    use crate::pool::testing::pool;

    #[test]
    fn any_pool_alone_brings_it_back_and_the_newest_wins() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [one, two] = folders
            .each_ref()
            .map(|f| Arc::new(pool(f.path(), Media::Ssd)));
        let both = [one.clone(), two.clone()];

        assert_eq!(load(&[], "seed"), Err(StorageError::NoPool));
        assert_eq!(load(&both, "seed"), Ok(None));
        store(&both, "seed", b"old").unwrap();
        store(&both[..1], "seed", b"new").unwrap();
        assert_eq!(load(&both, "seed").unwrap().unwrap(), b"new");
        assert_eq!(load(&both[1..], "seed").unwrap().unwrap(), b"old");

        // A torn copy is passed over, but alone it is an error rather than "there is none".
        fs::write(one.secrets().join("seed"), b"LOAM-SEC").unwrap();
        assert_eq!(load(&both, "seed").unwrap().unwrap(), b"old");
        load(&both[..1], "seed").unwrap_err();

        let folder = tempfile::tempdir().unwrap();
        let three = Arc::new(pool(folder.path(), Media::Hdd));
        replicate(&both, &three).unwrap();
        assert_eq!(load(&[three], "seed").unwrap().unwrap(), b"old");
    }

    #[test]
    fn refuses_names_that_are_paths_and_what_is_too_large() {
        let folder = tempfile::tempdir().unwrap();
        let pools = [Arc::new(pool(folder.path(), Media::Ssd))];
        for name in ["", "../seed", "a/b", ".a", "A", &"a".repeat(65)] {
            store(&pools, name, b"x").unwrap_err();
        }
        store(&pools, "a", &[0; MAX_SECRET + 1]).unwrap_err();
        store(&pools, "a", &[0; MAX_SECRET]).unwrap();
    }
}
