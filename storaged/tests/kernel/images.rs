//! What an image takes of its pool.

use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use loam_deployment::{Version, payload::Media};
use loam_oci::digest::Digest;
use loam_storaged::{
    image::{
        aside::{Aside, Ground},
        build,
        entries::LayerFile,
        failure::FetchError,
        layer::Allowance,
        space::OfPool,
        stop::Stop,
        tree::Tree,
    },
    placement::Placement,
    pool::Pool,
};
use rustix::fs::syncfs;

use crate::{
    loops::{Loop, Mounts, run, sparse},
    node::SIZE,
    pools::{free, key, open, wish},
};

const MIB: u64 = 1 << 20;

/// A layer of files, of which no two blocks near to one another are the same.
fn layer(folder: &Path, name: &str, files: &[(&str, usize)]) -> LayerFile {
    let mut tar = tar::Builder::new(Vec::new());
    for (number, (name, length)) in files.iter().enumerate() {
        let mut data = vec![0; *length];
        for (at, block) in data.chunks_mut(4096).enumerate() {
            block.fill(((number + at) % 255 + 1) as u8);
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(*length as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, &data[..]).unwrap();
    }
    let bytes = tar.into_inner().unwrap();
    let path = folder.join(name);
    fs::write(&path, &bytes).unwrap();
    (path, Digest::of(&bytes))
}

fn read(
    pool: &Arc<Pool>,
    layers: &[LayerFile],
    space: &OfPool,
) -> Result<(Tree, Vec<Aside>), FetchError> {
    let folder = pool.images().join("build");
    let ground = Ground {
        folder: &folder,
        space,
    };
    let until = Instant::now() + Duration::from_secs(600);
    build::read(layers, ground, &Allowance::new(&Stop::default(), until))
}

fn claimed(pool: &Pool) -> u64 {
    pool.with_ledger(|ledger| ledger.promised_to_images()).get()
}

/// What is free once all is written, and what was removed is gone.
fn left(pool: &Pool) -> u64 {
    let root = File::open(pool.root()).unwrap();
    // What nobody refers to any more goes with the transaction after the one that says so.
    for _ in 0..3 {
        syncfs(&root).unwrap();
    }
    free(&root)
}

fn mounted(image: &Path, at: PathBuf) -> PathBuf {
    fs::create_dir(&at).unwrap();
    let options = ["-t", "erofs", "-o", "loop,ro"];
    let paths = [image.to_str().unwrap(), at.to_str().unwrap()];
    run("mount", &[&options[..], &paths].concat(), "mount");
    at
}

#[test]
fn an_image_shares_what_was_put_aside_and_holds_no_more_than_its_file_is_long() {
    let folder = tempfile::tempdir().unwrap();
    let _mounts = Mounts(folder.path().to_owned());
    let disk = Loop::attach(&sparse(folder.path(), "disk", SIZE), "image");
    let (pool, _) = open(&disk, folder.path());
    let build = pool.images().join("build");
    let target = build.join("x.erofs");

    // Of the first all shows. Of the second, a block here and there of what btrfs has in long extents.
    let size = 16 * MIB as usize;
    let whole = layer(folder.path(), "whole", &[("whole", size)]);
    let names: Vec<String> = (0..1024).map(|n| format!("part/{n}")).collect();
    let parts: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(n, name)| (name.as_str(), if n % 64 == 0 { 4096 } else { 16 << 10 }))
        .collect();
    let lower = layer(folder.path(), "lower", &parts);
    let hidden: Vec<String> = (0..1024)
        .filter(|n| n % 64 > 0)
        .map(|n| format!("part/.wh.{n}"))
        .collect();
    let whiteouts: Vec<_> = hidden.iter().map(|name| (name.as_str(), 0)).collect();
    let upper = layer(folder.path(), "upper", &whiteouts);

    let before = left(&pool);
    let space = OfPool::new(&pool).unwrap();
    let (tree, asides) = read(&pool, &[whole, lower, upper], &space).unwrap();
    build::write(&tree, &asides, &target, &space, &Stop::default()).unwrap();
    let blocks: u64 = asides.iter().map(|aside| u64::from(aside.count())).sum();
    let length = fs::metadata(&target).unwrap().len();
    assert!((16 * MIB..17 * MIB).contains(&length), "{length}");
    // Both, and what they share once.
    let held = before - left(&pool);
    assert!(held < blocks * 4096 + 4 * MIB, "{held}");
    assert!(claimed(&pool) >= blocks * 4096);
    drop((tree, asides, space));
    let held = before - left(&pool);
    assert!(held < length + 2 * MIB, "{held} of {length}");
    assert_eq!(claimed(&pool), 0);
    assert_eq!(fs::read_dir(&build).unwrap().count(), 1);

    let root = mounted(&target, folder.path().join("mounted"));
    let same = |name: &str, bytes: &[u8]| fs::read(root.join(name)).unwrap() == bytes;
    let packed = fs::read(folder.path().join("whole")).unwrap();
    assert!(same("whole", &packed[512..512 + size]));
    let mut archive = tar::Archive::new(File::open(folder.path().join("lower")).unwrap());
    let mut shown = 0;
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut data = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut data).unwrap();
        match root.join(&name).exists() {
            true => assert!(same(&name, &data), "{name}"),
            false => continue,
        }
        shown += 1;
    }
    assert_eq!(shown, 16);
    let mode = fs::metadata(&target).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o400);
}

/// Whatever it unpacks to, and though the ledger has room.
#[test]
fn a_build_takes_nothing_that_volumes_are_promised() {
    let folder = tempfile::tempdir().unwrap();
    let _mounts = Mounts(folder.path().to_owned());
    let disk = Loop::attach(&sparse(folder.path(), "disk", SIZE), "promised");
    let (pool, _) = open(&disk, folder.path());
    let pools = [pool.clone()];
    Placement::default()
        .ensure(&pools, &key("a"), &wish(300), Version(1))
        .unwrap();
    // What the ledger does not know of.
    let spare = pool.spare().unwrap().get();
    let other = vec![7; (spare - 40 * MIB) as usize];
    fs::write(pool.root().join("other"), other).unwrap();
    left(&pool);
    let spare = pool.spare().unwrap().get();
    assert!(spare < 60 * MIB, "{spare}");

    let large = layer(folder.path(), "large", &[("large", 100 * MIB as usize)]);
    let space = OfPool::new(&pool).unwrap();
    let error = read(&pool, &[large], &space).unwrap_err();
    assert!(matches!(error, FetchError::NoSpace(_)), "{error:?}");
    assert!(!error.is_flaw() && !error.is_death());
    drop(space);
    left(&pool);
    let after = pool.spare().unwrap().get();
    assert!(after + 2 * MIB > spare, "{after} of {spare}");
    assert_eq!(claimed(&pool), 0);
}

/// In older pools the folder in which images are made belonged to who made them.
#[test]
fn the_folder_of_builds_is_root_s() {
    let folder = tempfile::tempdir().unwrap();
    let _mounts = Mounts(folder.path().to_owned());
    let disk = Loop::attach(&sparse(folder.path(), "disk", SIZE), "folder");
    let (pool, _) = open(&disk, folder.path());
    let place = pool.images().join("build");
    chown(&place, Some(990), Some(990)).unwrap();
    let (root, uuid) = (pool.root().to_owned(), pool.uuid());
    drop(pool);
    Pool::open(root, uuid, Media::Ssd).unwrap();
    let found = fs::metadata(&place).unwrap();
    assert_eq!(
        (found.uid(), found.gid(), found.mode() & 0o777),
        (0, 0, 0o700)
    );
}
