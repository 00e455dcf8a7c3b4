//! The node's own small secrets, the same on every pool.
//!
//! A file is `LOAM-SECRET-2\n`, the version as 8 bytes (big endian), when it was stored as 8 bytes
//! (seconds since 1970, big endian), the SHA-256 of these two and the secret, and the secret. The
//! highest valid version is the secret; so each disk alone brings the node back, and a torn or rotten
//! copy is passed over, and replaced when the next pool comes.
//!
//! Two secrets of one version can only be if each was stored while the other's disk was away. Then the
//! one on a pool that is marked as a node's counts, and else the one that was stored first: it is what the
//! node is known by. (Pools of another set are not among ours, see [`crate::set`]. If pools of one set are
//! marked as two nodes', none gets what the other has.)

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    sync::Arc,
};

use loam_deployment::NodeKey;
use loam_node_api::storage::StorageError;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{durable, pool::Pool, time};

const MAGIC: &[u8] = b"LOAM-SECRET-2\n";

/// Keys and seeds are far smaller; a pool is no place for a database.
pub const MAX_SECRET: usize = 4 << 10;

/// One copy of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stored {
    version: u64,
    /// Seconds since 1970.
    since: u64,
    secret: Vec<u8>,
}

/// One copy, and whose pool it is on.
#[derive(Clone, Debug)]
struct Copy {
    stored: Stored,
    node: Option<NodeKey>,
}

impl Copy {
    /// The larger is the one that counts.
    fn rank(&self) -> (u64, bool, Reverse<u64>, &[u8]) {
        let stored = &self.stored;
        (
            stored.version,
            self.node.is_some(),
            Reverse(stored.since),
            &stored.secret,
        )
    }
}

/// A pool that is marked as a node's, and that node.
pub fn owner(pools: &[Arc<Pool>]) -> Result<Option<(Uuid, NodeKey)>, StorageError> {
    for pool in pools {
        let at = pool.clone();
        if let Some(node) = pool.run(move || at.node())? {
            return Ok(Some((pool.uuid(), node)));
        }
    }
    Ok(None)
}

/// `None` when no pool has it.
pub fn load(pools: &[Arc<Pool>], name: &str) -> Result<Option<Vec<u8>>, StorageError> {
    check_name(name)?;
    Ok(newest(pools, name)?.map(|stored| stored.secret))
}

/// On every pool that answers and can be written, when it returns.
pub fn store(pools: &[Arc<Pool>], name: &str, secret: &[u8]) -> Result<(), StorageError> {
    check_name(name)?;
    if secret.len() > MAX_SECRET {
        return Err(StorageError::Io(format!(
            "the secret `{name}` has {} bytes; at most {MAX_SECRET} are kept",
            secret.len()
        )));
    }
    let stored = Stored {
        version: newest(pools, name)?.map_or(0, |newest| newest.version) + 1,
        since: time::now().0,
        secret: secret.to_vec(),
    };
    let bytes = encode(&stored);
    let mut written = false;
    let mut failure = None;
    for pool in pools {
        let (path, bytes) = (pool.secrets().join(name), bytes.clone());
        let result = pool.run(move || durable::write(&path, &bytes));
        match result.and_then(|kept| kept.map_err(|error| failed("keep", name, &error))) {
            Ok(()) => written = true,
            Err(error) => {
                tracing::error!(%name, pool = %pool.uuid(), %error, "could not keep a secret on this pool");
                failure = Some(error);
            }
        }
    }
    match failure {
        _ if written => Ok(()),
        Some(error) => Err(error),
        None => Err(StorageError::NoPool),
    }
}

/// Gives each pool what the others have and it lacks, and replaces what does not count.
pub fn level(pools: &[Arc<Pool>]) {
    let mut newest = BTreeMap::<String, Copy>::new();
    let mut held = Vec::new();
    for pool in pools {
        let at = pool.clone();
        let (node, found) = match pool.run(move || (at.node(), read_all(&at.secrets()))) {
            Ok((node, Ok(found))) => (node, found),
            Ok((_, Err(error))) => {
                tracing::error!(pool = %pool.uuid(), %error, "cannot read the node's secrets on this pool");
                continue;
            }
            // It is levelled when it answers again.
            Err(_) => continue,
        };
        for (name, stored) in &found {
            let stored = stored.clone();
            let copy = Copy { stored, node };
            let best = newest.entry(name.clone()).or_insert_with(|| copy.clone());
            if best.rank() < copy.rank() {
                *best = copy;
            }
        }
        held.push((pool, node, found));
    }
    for (pool, node, found) in held {
        for (name, best) in &newest {
            if found.get(name) == Some(&best.stored) {
                continue;
            }
            if let (Some(its), Some(others)) = (node, best.node)
                && its != others
            {
                tracing::error!(%name, pool = %pool.uuid(), node = %its, other = %others, "pools of one set are marked as two nodes'; this one keeps its own secrets");
                continue;
            }
            let (path, bytes) = (pool.secrets().join(name), encode(&best.stored));
            let written = pool.run(move || durable::write(&path, &bytes));
            if let Ok(Err(error)) = written {
                tracing::error!(%name, pool = %pool.uuid(), %error, "cannot copy a secret to this pool");
            }
        }
    }
}

fn newest(pools: &[Arc<Pool>], name: &str) -> Result<Option<Stored>, StorageError> {
    if pools.is_empty() {
        return Err(StorageError::NoPool);
    }
    let mut newest: Option<Copy> = None;
    let mut unreadable = None;
    for pool in pools {
        let (at, path) = (pool.clone(), pool.secrets().join(name));
        let result =
            pool.run(move || read(&path).map(|found| found.map(|stored| (stored, at.node()))));
        match result.and_then(|found| found.map_err(|error| failed("read", name, &error))) {
            Ok(Some((stored, node))) => {
                let copy = Copy { stored, node };
                if newest.as_ref().is_none_or(|best| best.rank() < copy.rank()) {
                    newest = Some(copy);
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(%name, pool = %pool.uuid(), %error, "could not read a secret on this pool");
                unreadable = Some(error);
            }
        }
    }
    match (newest, unreadable) {
        // To answer "there is none" would make the node a new identity.
        (None, Some(error)) => Err(error),
        (newest, _) => Ok(newest.map(|copy| copy.stored)),
    }
}

fn read(path: &Path) -> io::Result<Option<Stored>> {
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

/// The secrets in a folder that are whole.
fn read_all(folder: &Path) -> io::Result<BTreeMap<String, Stored>> {
    let names: BTreeSet<_> = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()?;
    let mut found = BTreeMap::new();
    for name in names.into_iter().filter(|name| check_name(name).is_ok()) {
        if let Ok(Some(stored)) = read(&folder.join(&name)) {
            found.insert(name, stored);
        }
    }
    Ok(found)
}

fn failed(what: &str, name: &str, error: &io::Error) -> StorageError {
    StorageError::Io(format!("{what} the secret `{name}`: {error}"))
}

fn encode(stored: &Stored) -> Vec<u8> {
    let version = stored.version.to_be_bytes();
    let since = stored.since.to_be_bytes();
    let sum = sum(&version, &since, &stored.secret);
    [MAGIC, &version, &since, &sum, &stored.secret].concat()
}

fn decode(bytes: &[u8]) -> Option<Stored> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (version, rest) = rest.split_first_chunk::<8>()?;
    let (since, rest) = rest.split_first_chunk::<8>()?;
    let (expected, secret) = rest.split_first_chunk::<32>()?;
    (sum(version, since, secret) == *expected).then(|| Stored {
        version: u64::from_be_bytes(*version),
        since: u64::from_be_bytes(*since),
        secret: secret.to_vec(),
    })
}

fn sum(version: &[u8; 8], since: &[u8; 8], secret: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(version)
        .chain_update(since)
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
    use crate::{
        header::{DiskTag, Header},
        pool::testing::{hang, hasty_pool, pool},
    };

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
        level(&[one.clone(), two, three.clone()]);
        assert_eq!(load(&[three], "seed").unwrap().unwrap(), b"old");
        // The torn one is mended too.
        assert_eq!(load(&[one], "seed").unwrap().unwrap(), b"old");
    }

    #[test]
    fn of_two_of_one_version_the_first_counts_on_all_pools() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [one, two] = folders
            .each_ref()
            .map(|f| Arc::new(pool(f.path(), Media::Ssd)));
        let put = |pool: &Pool, version, since, secret: &[u8]| {
            let secret = secret.to_vec();
            let bytes = encode(&Stored {
                version,
                since,
                secret,
            });
            fs::write(pool.secrets().join("seed"), bytes).unwrap();
        };
        for both in [[one.clone(), two.clone()], [two.clone(), one.clone()]] {
            put(&one, 1, 200, b"zz: stored second");
            put(&two, 1, 100, b"aa: stored first");
            assert_eq!(load(&both, "seed").unwrap().unwrap(), b"aa: stored first");
            level(&both);
            for pool in &both {
                let alone = std::slice::from_ref(pool);
                assert_eq!(load(alone, "seed").unwrap().unwrap(), b"aa: stored first");
            }
            // A newer version counts whenever it was stored.
            put(&one, 2, 50, b"newer");
            level(&both);
            assert_eq!(
                load(std::slice::from_ref(&two), "seed").unwrap().unwrap(),
                b"newer"
            );
        }
    }

    /// A pool on a disk whose header names this node.
    fn marked(folder: &Path, node: u8) -> Arc<Pool> {
        let header = Header {
            node: Some(NodeKey([node; 32])),
            ..Header::for_disk(64 << 20, Uuid::nil(), DiskTag::of("a"))
        };
        Arc::new(pool(folder, Media::Ssd).on(folder.join("disk"), header, None))
    }

    #[test]
    fn a_pool_that_is_marked_never_loses_its_secrets_to_another_nodes_or_to_nobodys() {
        let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let we = marked(folders[0].path(), 1);
        let they = marked(folders[1].path(), 2);
        let nobody = Arc::new(pool(folders[2].path(), Media::Ssd));
        let put = |pool: &Pool, since, secret: &[u8]| {
            let secret = secret.to_vec();
            let bytes = encode(&Stored {
                version: 1,
                since,
                secret,
            });
            fs::write(pool.secrets().join("seed"), bytes).unwrap();
        };
        let has = |pool: &Arc<Pool>| load(std::slice::from_ref(pool), "seed").unwrap().unwrap();
        // Stored before ours, if its clock can be believed.
        for other in [&they, &nobody] {
            put(&we, 200, b"ours");
            put(other, 100, b"other");
            level(&[we.clone(), other.clone()]);
            level(&[other.clone(), we.clone()]);
            assert_eq!(has(&we), b"ours");
        }
        assert_eq!(has(&they), b"other");
        assert_eq!(has(&nobody), b"ours");
        let owners = |pool: &Arc<Pool>| owner(std::slice::from_ref(pool)).unwrap();
        assert_eq!(owners(&we), Some((we.uuid(), NodeKey([1; 32]))));
        assert_eq!(owners(&nobody), None);
    }

    #[test]
    fn a_pool_that_hangs_neither_hides_nor_loses_a_secret() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let hasty = Arc::new(hasty_pool(folders[0].path(), Media::Ssd));
        let patient = Arc::new(pool(folders[1].path(), Media::Ssd));
        let both = [hasty.clone(), patient.clone()];
        let hangs = Err(StorageError::Hangs(hasty.uuid().to_string()));
        let release = hang(&hasty);
        // It may have the secret: "there is none" would be a lie.
        assert_eq!(load(&both, "seed"), hangs);
        // A node that knows its secret may store it.
        store(std::slice::from_ref(&patient), "seed", b"kept").unwrap();
        assert_eq!(load(&both, "seed").unwrap().unwrap(), b"kept");
        store(&both, "seed", b"kept on").unwrap();
        drop(release);
        while !hasty.answers() {
            std::thread::yield_now();
        }
        level(&both);
        let found = fs::read(patient.secrets().join("seed")).unwrap();
        assert_eq!(decode(&found).unwrap().secret, b"kept on");
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
