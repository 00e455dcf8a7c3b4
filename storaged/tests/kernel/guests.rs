//! What a guest can take of its pool through the disk that the VMM makes of a volume.

use std::{fs::File, os::unix::fs::FileExt};

use loam_deployment::{
    Bytes, Version,
    payload::{Filesystem, Media},
};
use loam_node_api::storage::{VolumeKey, VolumeSpec};
use loam_vmm::backend::disk_file::DiskFile;

use crate::{
    loops::{Loop, Mounts, sparse},
    node::SIZE,
    pools::{free, open},
};

#[test]
fn a_guest_takes_no_more_of_a_pool_than_its_volume() {
    let folder = tempfile::tempdir().unwrap();
    let _mounts = Mounts(folder.path().to_owned());
    let disk = Loop::attach(&sparse(folder.path(), "disk", SIZE), "guest");
    let (pool, _) = open(&disk, folder.path());
    let size = Bytes::mib(64);
    let key = VolumeKey::Data("7.data".parse().unwrap());
    let spec = VolumeSpec {
        size,
        media: Media::Any,
        filesystem: Filesystem::Raw,
    };
    pool.volumes().create(&key, &spec, Version(1)).unwrap();
    let path = pool.volumes().get(&key).unwrap().path.unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    let guests = DiskFile::new(file.try_clone().unwrap().into()).unwrap();

    let before = free(&file);
    let ones = vec![1; 1 << 20];
    for round in 0..6 {
        // All is written anew but a page of each round before. An extent is free only when no page
        // of it is referred to.
        let from = round * 4096;
        let write = |at: u64| {
            let len = (size.get() - at).min(ones.len() as u64);
            file.write_all_at(&ones[..len as usize], at).unwrap();
        };
        (from..size.get()).step_by(ones.len()).for_each(write);
        guests.flush().unwrap();
        guests.write_zeroes(from, size.get() - from).unwrap();
        guests.flush().unwrap();
    }
    let taken = before - free(&file);
    assert!(taken < (size.get() + size.get() / 8), "{taken}");
}
