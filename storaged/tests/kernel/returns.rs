//! Disks that come back under another name.

use std::fs;

use loam_node_api::storage::DiskState;
use loam_storaged::{boot::Boot, format, header, mount};
use uuid::Uuid;

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

#[test]
fn what_is_mounted_of_a_disk_that_went_while_nobody_looked_holds_up_no_pool() {
    let folder = tempfile::tempdir().unwrap();
    let _mounts = Mounts(folder.path().to_owned());
    for same_name in [false, true] {
        let boot = folder.path().join(format!("same-name-{same_name}"));
        let file = sparse(folder.path(), &format!("disk-{same_name}"), SIZE);
        let old = Loop::attach(&file, "disk");
        let (set, pools) = (Uuid::new_v4(), boot.join("pools"));
        fs::create_dir_all(&pools).unwrap();
        let header = format::format(&old.sys, set, &pools).unwrap();
        // As a storaged leaves it that is killed.
        mount::btrfs(&old.sys.device, &format::mount_point(&pools, &header)).unwrap();
        Boot::open(&boot.join("run/storaged.json")).change(|decided| {
            decided.set = Some(set);
            decided.runs_on.insert(header.uuid, old.sys.id.clone());
            decided.mounted.insert(header.uuid, old.sys.seq);
        });
        let was = old.sys.clone();
        drop(old);
        let mut new = Loop::attach(&file, "disk");
        if same_name {
            fs::rename(&new.sys.device, &was.device).unwrap();
            (new.sys.name, new.sys.device) = (was.name, was.device);
        }
        let node = Node::boot(boot, 1, &[&new]);
        assert_eq!(
            node.pool(&new),
            Some(header.uuid.to_string()),
            "{same_name}"
        );
        node.end(&[&new]);
    }
}

#[test]
fn a_disk_that_was_cut_while_its_file_system_was_furnished_is_made_a_pool() {
    let folder = tempfile::tempdir().unwrap();
    let _mounts = Mounts(folder.path().to_owned());
    let disk = Loop::attach(&sparse(folder.path(), "disk", SIZE), "disk");
    let boot = folder.path().join("boot");
    let pools = boot.join("pools");
    fs::create_dir_all(&pools).unwrap();
    let header = format::format(&disk.sys, Uuid::new_v4(), &pools).unwrap();
    let half_made = header::Header {
        state: header::State::Formatting,
        ..header
    };
    let device = fs::OpenOptions::new().write(true).open(&disk.sys.device);
    half_made.write(&device.unwrap()).unwrap();
    // The storaged that did this was killed, and the kernel was not.
    mount::btrfs(&disk.sys.device, &format::mount_point(&pools, &header)).unwrap();
    let node = Node::boot(boot, 1, &[&disk]);
    assert!(node.pool(&disk).is_some(), "{:?}", node.states());
    node.end(&[&disk]);
}
