//! What an image takes of its pool.

use std::{fs::File, os::unix::fs::FileExt};

use loam_deployment::Bytes;
use loam_storaged::image::{copy::copy, pace::Patience, stop::Stop, watch::Watch};
use rustix::fs::copy_file_range;

use crate::{
    loops::{Loop, Mounts, sparse},
    node::SIZE,
    pools::{free, open},
};

/// As `mkfs.erofs` makes one of many short files and a few of a block.
#[test]
fn an_image_holds_no_more_than_its_file_is_long() {
    const MIB: u64 = 1 << 20;
    const ASIDE: u64 = 1 << 40;
    const BLOCK: u64 = 4096;
    let folder = tempfile::tempdir().unwrap();
    let _mounts = Mounts(folder.path().to_owned());
    let disk = Loop::attach(&sparse(folder.path(), "disk", SIZE), "image");
    let (pool, _) = open(&disk, folder.path());
    let images = pool.images();
    let root = File::open(&images).unwrap();
    let before = free(&root);

    let packed = images.join("packed");
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&packed)
        .unwrap();
    let piece = vec![7; MIB as usize];
    (0..64).for_each(|n| file.write_all_at(&piece, ASIDE + n * MIB).unwrap());
    file.sync_all().unwrap();
    for n in 0..64 {
        let (mut from, mut to) = (ASIDE + n * MIB, n * BLOCK);
        let shared = copy_file_range(&file, Some(&mut from), &file, Some(&mut to), BLOCK as usize);
        assert_eq!(shared.unwrap(), BLOCK as usize);
    }
    file.set_len(64 * BLOCK).unwrap();
    let held = before - free(&root);
    assert!(held > 60 * MIB, "nothing is shared here: {held}");

    let mut watch = Watch::new(&Stop::default(), &Patience::USUAL, Bytes::gib(1));
    copy(&file, &images.join("image"), &mut watch).unwrap();
    drop(file);
    std::fs::remove_file(packed).unwrap();
    let held = before - free(&root);
    assert!(held < 4 * MIB, "{held}");
}
