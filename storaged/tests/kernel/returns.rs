//! Disks that come back under another name.

use loam_node_api::storage::DiskState;

use crate::{
    loops::{Loop, Mounts, sparse},
    node::{Node, SIZE},
};

#[test]
fn a_disk_that_is_there_twice_for_a_while_is_used_when_its_old_name_goes() {
    let folder = tempfile::tempdir().unwrap();
    let _mounts = Mounts(folder.path().to_owned());
    let file = sparse(folder.path(), "disk", SIZE);
    let old = Loop::attach(&file, "hung");
    let node = Node::boot(folder.path().join("boot"), 1, &[&old]);
    let uuid = node.pool(&old).unwrap();

    // Plugged in anew, before the kernel has let go of what hung.
    let new = Loop::attach(&file, "hung");
    node.plug(&new);
    let state = |node: &Node| {
        let disks = node.inventory.disks();
        let disk = disks.into_iter().find(|disk| disk.device == new.sys.device);
        disk.map(|disk| disk.state)
    };
    while !matches!(state(&node), Some(DiskState::Foreign(_))) {
        std::thread::yield_now();
    }
    old.unplug(&node.folder.join("sys"));
    while state(&node) != Some(DiskState::Pool(uuid.clone())) {
        std::thread::yield_now();
    }
    node.end(&[&new]);
}
