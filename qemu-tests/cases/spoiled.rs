//! Two disks of which one is to be spoiled, and how a deployment chooses between them: a virtio disk
//! is of the kind that turns, an NVMe disk is not.

use anyhow::Context;
use qemu_tests::{node::Node, wait::wait_for};
use xtask::qemu::{Bus, Disk};

use crate::{MOUNTS, pools};

/// Smaller than the other, so that whatever may choose its disk chooses the other.
pub const BYTES: u64 = 3 << 30;
const STEADY: u64 = 6 << 30;

pub fn disks(spoiled: Disk) -> Vec<Disk> {
    vec![Disk::new("steady", STEADY).bus(Bus::Nvme), spoiled]
}

/// The deployment with its volume `data` on the spoiled disk.
pub fn on_spoiled(toml: &str) -> String {
    toml.replace("[volume.data]", "[volume.data]\nmedia = \"hdd\"")
}

pub fn on_steady(toml: &str) -> String {
    toml.replace("[volume.data]", "[volume.data]\nmedia = \"ssd\"")
}

/// Waits until so many pools are mounted.
pub fn wait_pools(node: &Node<'_>, number: usize) -> anyhow::Result<()> {
    wait_for(&format!("{number} pools"), || {
        Ok((pools(&node.read(MOUNTS)?).len() == number).then_some(()))
    })
}

/// The name of the pool on the spoiled disk, which is the only one on virtio.
pub fn spoiled_pool(node: &Node<'_>) -> anyhow::Result<String> {
    let mounts = String::from_utf8(node.read(MOUNTS)?)?;
    let mut pools = mounts.lines().filter_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let pool = mount.split(' ').nth(4)?.strip_prefix("/pools/")?;
        source.contains(" /dev/vd").then(|| pool.to_owned())
    });
    pools
        .next()
        .with_context(|| format!("no pool is on a virtio disk:\n{mounts}"))
}
