//! Pools on block devices, with a btrfs: what memory and folders cannot show.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use loam_deployment::{
    Bytes, NodeKey, Version,
    payload::{Filesystem, Media},
};
use loam_node_api::storage::{Deletion, DiskState, StorageError, VolumeKey, VolumeSpec};
use loam_storaged::{
    format,
    header::{self, Found, Header},
    mount,
    placement::{self, Placement},
    pool::{Health, Pool},
    secret,
};
use rustix::fs::{fstatvfs, syncfs};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    loops::{Loop, Mounts, run, sparse},
    node::{Node, SIZE},
};

pub fn key(name: &str) -> VolumeKey {
    VolumeKey::Data(format!("7.{name}").parse().unwrap())
}

pub fn wish(mib: u64) -> VolumeSpec {
    VolumeSpec {
        size: Bytes::mib(mib),
        media: Media::Any,
        filesystem: Filesystem::Raw,
    }
}

/// A file system that answers nobody until this is dropped: also when the test fails, for a thread
/// that waits for it could never be ended.
struct Freeze<'a>(&'a str);

impl<'a> Freeze<'a> {
    fn of(root: &'a str) -> Self {
        run("fsfreeze", &["--freeze", root], "util-linux");
        Self(root)
    }
}

impl Drop for Freeze<'_> {
    fn drop(&mut self) {
        run("fsfreeze", &["--unfreeze", self.0], "util-linux");
    }
}

/// How many bytes are free in the file system of `file`.
pub fn free(file: &File) -> u64 {
    // What is not referred to any more is free once a transaction has ended.
    syncfs(file).unwrap();
    let room = fstatvfs(file).unwrap();
    room.f_bfree * room.f_frsize
}

/// A pool on a disk of its own, as [`Inventory`] opens it.
pub fn open(disk: &Loop, folder: &Path) -> (Arc<Pool>, Header) {
    let header = format::format(&disk.sys, Uuid::new_v4(), folder).unwrap();
    let root = format::mount_point(folder, &header);
    mount::btrfs(&disk.sys.device, &root).unwrap();
    let pool = Pool::open(root, header.uuid, Media::Ssd).unwrap();
    (
        Arc::new(pool.on(disk.sys.device.clone(), header, None)),
        header,
    )
}

fn fill(folder: &Path, mut make: impl FnMut(&Path) -> std::io::Result<()>) {
    fs::create_dir_all(folder).unwrap();
    for n in 0.. {
        if let Err(error) = make(&folder.join(n.to_string())) {
            assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
            return;
        }
    }
}

#[test]
fn a_pool_without_space_for_data_or_metadata_still_deletes() {
    let folder = tempfile::tempdir().unwrap();
    let _mounts = Mounts(folder.path().to_owned());
    let disk = Loop::attach(&sparse(folder.path(), "disk", SIZE), "full");
    let (pool, _) = open(&disk, folder.path());
    let pools = [pool.clone()];
    let placement = Placement::default();
    for name in ["a", "b"] {
        placement
            .ensure(&pools, &key(name), &wish(20), Version(1))
            .unwrap();
        let data = pool.volumes().get(&key(name)).unwrap().path.unwrap();
        fs::OpenOptions::new()
            .write(true)
            .open(data)
            .and_then(|file| file.write_all_at(&vec![7; 20 << 20], 0))
            .unwrap();
    }
    syncfs(File::open(pool.root()).unwrap()).unwrap();
    // A folder that its predecessor did not know, and what that was about to write.
    fs::remove_dir(pool.root().join("given-up")).unwrap();
    fs::create_dir(pool.root().join("rest")).unwrap();
    fs::create_dir(pool.root().join("images/build/folder")).unwrap();
    fs::write(pool.root().join("volumes/half.raw"), b"half").unwrap();
    let chunk = vec![7; 8 << 20];
    fill(&pool.root().join("data"), |path| fs::write(path, &chunk));
    fill(&pool.root().join("data-rest"), |path| {
        fs::write(path, &chunk[..64 << 10])
    });
    // Folders take nothing but metadata.
    fill(&pool.root().join("metadata"), |path| fs::create_dir(path));
    fs::create_dir(pool.root().join("one more")).unwrap_err();

    // The node starts anew, and what a mount gives back is taken at once.
    let (root, uuid) = (pool.root().to_owned(), pool.uuid());
    drop((pool, pools));
    mount::unmount_synced(&root).unwrap();
    mount::btrfs(&disk.sys.device, &root).unwrap();
    fill(&root.join("rest"), |path| fs::create_dir(path));
    let pool = Arc::new(Pool::open(root, uuid, Media::Ssd).unwrap());
    let pools = [pool.clone()];

    let why = Deletion::Cancelled;
    placement.delete(&pools, &key("a"), why).unwrap();
    let by = Version(2);
    placement
        .delete(&pools, &key("b"), Deletion::Unnamed { by })
        .unwrap();
    assert!(placement::list(&pools).is_empty());
    let left = fs::read_dir(pool.root().join("volumes")).unwrap().count();
    assert_eq!(left, 0);
}

#[test]
fn a_frozen_disk_holds_up_nobody_and_nothing_is_lost_when_it_thaws() {
    let folder = tempfile::tempdir().unwrap();
    let _mounts = Mounts(folder.path().to_owned());
    let frozen_disk = Loop::attach(&sparse(folder.path(), "frozen", SIZE), "frozen");
    let other_disk = Loop::attach(&sparse(folder.path(), "other", SIZE), "other");
    let (frozen, _) = open(&frozen_disk, folder.path());
    let (other, _) = open(&other_disk, folder.path());
    let pools = [frozen.clone(), other.clone()];
    let placement = Placement::default();
    for pool in &pools {
        let name = if pool.uuid() == frozen.uuid() {
            "there"
        } else {
            "here"
        };
        let one = std::slice::from_ref(pool);
        placement
            .ensure(one, &key(name), &wish(4), Version(1))
            .unwrap();
    }
    secret::store(&pools, "seed", b"me").unwrap();

    let root = frozen.root().to_str().unwrap();
    let freeze = Freeze::of(root);
    let hangs = StorageError::Hangs(frozen.uuid().to_string());
    // Waited for once; after that, nobody waits.
    let error = placement
        .ensure(&pools, &key("there"), &wish(8), Version(2))
        .unwrap_err();
    assert_eq!(error, hangs);
    // Its thread may have begun after we did.
    let mut tries = 0;
    while frozen.answers() && tries < 1000 {
        thread::sleep(Duration::from_millis(10));
        tries += 1;
    }
    assert!(!frozen.answers());
    let error = placement
        .delete(&pools, &key("there"), Deletion::Cancelled)
        .unwrap_err();
    assert_eq!(error, hangs);
    assert_eq!(placement::list(&pools).len(), 2);
    placement
        .ensure(&pools, &key("new"), &wish(4), Version(1))
        .unwrap();
    placement
        .delete(&pools, &key("here"), Deletion::Cancelled)
        .unwrap();
    assert_eq!(secret::load(&pools, "seed").unwrap().unwrap(), b"me");

    drop(freeze);
    while !frozen.answers() {
        thread::yield_now();
    }
    assert_eq!(frozen.health(), Health::Well);
    // What had begun was done to its end.
    let volume = frozen.run({
        let frozen = frozen.clone();
        move || frozen.volumes().get(&key("there")).unwrap()
    });
    let volume = volume.unwrap();
    assert_eq!(
        (volume.spec.size, volume.version),
        (Bytes::mib(8), Version(2))
    );
}

#[test]
fn the_header_is_written_while_the_pool_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let _mounts = Mounts(folder.path().to_owned());
    let disk = Loop::attach(&sparse(folder.path(), "disk", SIZE), "named");
    let (pool, header) = open(&disk, folder.path());
    let at = pool.clone();
    pool.run(move || at.name_node(NodeKey([5; 32])))
        .unwrap()
        .unwrap();
    let file = fs::File::open(&disk.sys.device).unwrap();
    let Found::Header(found) = Header::read(&file, header.filesystem_size).unwrap() else {
        panic!("no header")
    };
    assert_eq!(found.node, Some(NodeKey([5; 32])));
}

#[test]
fn of_a_disk_and_its_copy_the_same_one_is_used_at_every_boot() {
    let folder = tempfile::tempdir().unwrap();
    let _mounts = Mounts(folder.path().to_owned());
    let at = |boot: &str| folder.path().join(boot);
    let original = Loop::attach(&sparse(folder.path(), "z", SIZE), "z-original");
    let node = Node::boot(at("first"), 1, &[&original]);
    let uuid = node.pool(&original).unwrap();
    node.inventory.node_is(NodeKey([1; 32])).unwrap();
    node.end(&[&original]);

    run(
        "cp",
        &[
            "--sparse=always",
            at("z").to_str().unwrap(),
            at("a").to_str().unwrap(),
        ],
        "coreutils",
    );
    let copy = Loop::attach(&at("a"), "a-copy");
    for boot in ["second", "third"] {
        let node = Node::boot(at(boot), 1, &[&original, &copy]);
        assert_eq!(node.pool(&original), Some(uuid.clone()));
        assert!(node.is_foreign(&copy, &uuid), "{:?}", node.states());
        assert_eq!(node.inventory.pools().len(), 1);
        // The original goes while the node runs: nobody steps in, and it is used when it is back.
        node.pull(&original);
        node.pull(&copy);
        node.plug(&copy);
        node.wait(&copy, |state| state.is_some());
        assert!(
            node.is_foreign(&copy, "until this node restarts"),
            "{:?}",
            node.states()
        );
        node.plug(&original);
        node.wait(&original, |state| matches!(state, Some(DiskState::Pool(_))));
        assert!(node.is_foreign(&copy, &uuid));
        node.end(&[&original, &copy]);
    }
    // Alone, after a restart, the copy is the pool.
    let node = Node::boot(at("fourth"), 1, &[&copy]);
    assert_eq!(node.pool(&copy), Some(uuid));
    node.end(&[&copy]);
}

#[test]
#[ignore = "slow: waits until a silent disk is given up"]
fn a_copy_is_not_used_while_a_disk_that_may_be_its_original_is_silent() {
    let folder = tempfile::tempdir().unwrap();
    let _mounts = Mounts(folder.path().to_owned());
    let at = |boot: &str| folder.path().join(boot);
    let original = Loop::attach(&sparse(folder.path(), "z", SIZE), "z-original");
    let other = Loop::attach(&sparse(folder.path(), "o", SIZE), "other");
    let node = Node::boot(at("first"), 1, &[&original, &other]);
    let uuid = node.pool(&original).unwrap();
    node.inventory.node_is(NodeKey([1; 32])).unwrap();
    node.end(&[&original, &other]);
    let (from, to) = (at("z"), at("a"));
    let files = [from.to_str().unwrap(), to.to_str().unwrap()];
    run("cp", &["--sparse=always", files[0], files[1]], "coreutils");
    let copy = Loop::attach(&to, "a-copy");

    // What the kernel shows of the original cannot be opened.
    let silent = Loop::attach(&from, "z-original");
    fs::remove_file(&silent.sys.device).unwrap();
    let node = Node::boot(at("second"), 1, &[&silent, &other, &copy]);
    assert!(node.pool(&other).is_some(), "{:?}", node.states());
    assert_eq!(node.pool(&copy), None);
    // It answers after all, and is used; what stood still since is not.
    node.plug(&original);
    node.wait(&copy, |state| matches!(state, Some(DiskState::Foreign(_))));
    assert!(
        node.is_foreign(&copy, "copy of pool"),
        "{:?}",
        node.states()
    );
    silent.unplug(&node.folder.join("sys"));
    node.wait(&original, |state| matches!(state, Some(DiskState::Pool(_))));
    node.end(&[&original, &other, &copy]);

    // The farmer takes it out.
    let node = Node::boot(at("third"), 1, &[&silent, &other, &copy]);
    assert_eq!(node.pool(&copy), None);
    node.pull(&silent);
    node.wait(&copy, |state| matches!(state, Some(DiskState::Pool(_))));
    assert_eq!(node.pool(&copy), Some(uuid));
    // And puts it back.
    node.plug(&original);
    node.wait(&original, |state| state.is_some());
    assert!(
        node.is_foreign(&original, "take that one out"),
        "{:?}",
        node.states()
    );
    node.end(&[&original, &other, &copy]);
    // From then on the copy is the pool, though more had been written to the original.
    let node = Node::boot(at("fourth"), 1, &[&original, &copy]);
    assert!(node.pool(&copy).is_some(), "{:?}", node.states());
    node.end(&[&original, &copy]);
}

#[test]
fn disks_of_two_nodes_never_mix_and_a_disk_that_returns_has_the_same_volumes() {
    let folder = tempfile::tempdir().unwrap();
    let _mounts = Mounts(folder.path().to_owned());
    let at = |boot: &str| folder.path().join(boot);
    let disk =
        |name: &str| Loop::attach(&sparse(folder.path(), &format!("{name}.disk"), SIZE), name);
    let (ours, theirs, third) = (disk("ours"), disk("theirs"), disk("third"));
    let placement = Placement::default();
    for (disk, machine, seed) in [(&ours, 1, b"we  "), (&theirs, 2, b"they")] {
        let node = Node::boot(at(&disk.sys.id), machine, &[disk]);
        node.inventory.node_is(NodeKey([machine; 32])).unwrap();
        let pools = node.inventory.pools();
        let name = key(&disk.sys.id);
        placement
            .ensure(&pools, &name, &wish(4), Version(1))
            .unwrap();
        secret::store(&pools, "seed", seed).unwrap();
        drop(pools);
        node.end(&[disk]);
    }
    let they = NodeKey([2; 32]).to_string();

    // Cold, beside a blank disk, which joins ours.
    let node = Node::boot(at("cold"), 1, &[&theirs, &ours, &third]);
    assert!(node.is_foreign(&theirs, &they), "{:?}", node.states());
    assert!(node.pool(&ours).is_some() && node.pool(&third).is_some());
    let pools = node.inventory.pools();
    assert_eq!(placement::list(&pools).len(), 1);
    assert_eq!(secret::load(&pools, "seed").unwrap().unwrap(), b"we  ");
    drop(pools);
    // Ours goes and comes back: the same pool, with the same volume.
    let usable = || {
        let volumes = placement::list(&node.inventory.pools());
        volumes
            .iter()
            .filter(|volume| volume.path.is_some())
            .count()
    };
    node.pull(&ours);
    assert_eq!(usable(), 0);
    node.plug(&ours);
    node.wait(&ours, |state| matches!(state, Some(DiskState::Pool(_))));
    assert_eq!(usable(), 1);
    node.end(&[&theirs, &ours, &third]);

    // Hot.
    let node = Node::boot(at("hot"), 1, &[&ours]);
    node.plug(&theirs);
    node.wait(&theirs, |state| state.is_some());
    assert!(node.is_foreign(&theirs, &they), "{:?}", node.states());
    node.end(&[&ours, &theirs]);

    // In the machine that they came from, with ours beside them, it is the other way round.
    let node = Node::boot(at("other"), 2, &[&ours, &theirs]);
    assert!(node.pool(&theirs).is_some());
    assert!(node.is_foreign(&ours, &NodeKey([1; 32]).to_string()));
    node.end(&[&ours, &theirs]);
}

#[test]
fn beside_a_disk_that_cannot_be_read_no_node_begins_until_it_is_pulled() {
    let folder = tempfile::tempdir().unwrap();
    let _mounts = Mounts(folder.path().to_owned());
    let boot = folder.path().join("boot");
    let blank = Loop::attach(&sparse(folder.path(), "disk", SIZE), "blank");
    let broken = Loop::attach(&sparse(folder.path(), "broken", SIZE), "broken");
    // What the kernel shows cannot be opened.
    fs::remove_file(&broken.sys.device).unwrap();
    let node = Node::boot(boot, 1, &[&blank, &broken]);
    assert!(node.pool(&blank).is_none(), "{:?}", node.states());
    let none = node.inventory.secret("seed").unwrap_err();
    assert_eq!(none, StorageError::NoPool);
    node.pull(&broken);
    node.wait(&blank, |state| matches!(state, Some(DiskState::Pool(_))));
    assert_eq!(node.inventory.secret("seed"), Ok(None));
    // Not while there is one again that could have it.
    node.plug(&broken);
    node.wait(&broken, |state| matches!(state, Some(DiskState::Failed(_))));
    node.inventory.secret("seed").unwrap_err();
    node.end(&[&blank, &broken]);
}

#[test]
fn a_disk_of_an_older_format_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Loop::attach(&sparse(folder.path(), "disk", SIZE), "old");
    let file = fs::OpenOptions::new()
        .write(true)
        .open(&disk.sys.device)
        .unwrap();
    let header = Header::for_disk(SIZE, Uuid::new_v4(), header::DiskTag::of("old"));
    let mut sector = header.encode();
    sector[16] = 1;
    let sum = Sha256::digest(&sector[..480]);
    sector[480..].copy_from_slice(&sum);
    file.write_all_at(&sector, header.filesystem_size).unwrap();
    file.sync_all().unwrap();
    let node = Node::boot(folder.path().join("first"), 1, &[&disk]);
    assert!(
        node.is_foreign(&disk, "another version of Loam"),
        "{:?}",
        node.states()
    );
    node.end(&[&disk]);
}
