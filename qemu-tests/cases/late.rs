//! Power returns before disk, network and chain do, and these come back one by one: the machine waits
//! for the last of them, and has its data. Each is the last once here; all orders are tried with
//! noded alone (`after_a_power_cut_machines_come_back_whatever_returns_first`).

use anyhow::ensure;
use loam_deployment::Version;
use qemu_tests::{
    grid::Grid,
    node::{Node, NodeOptions},
};
use xtask::qemu::Disk;

use crate::demo::{Hello, check_back, count, wait_start};

/// What noded says on a node that has no disk. A node that has one disk alone makes no other of
/// itself without it, however late that comes: there is nothing on which it could begin.
const NO_DISK: &str = "waiting for an empty disk";
/// What storaged says when it searches no longer.
const LOOKED_AT: &str = "every disk has been looked at";
/// What noded says of a chain that does not answer.
const SILENT: &str = "the chain cannot be read";
/// What netd says once it has an address.
const LEASED: &str = "\"leased\"";

#[test]
#[ignore = "slow: three boots after a power cut, each without disk, network and chain"]
fn whatever_comes_back_last_the_machine_comes_back_with_its_data() -> anyhow::Result<()> {
    let grid = Grid::start()?;
    let disk = Disk::new("late", 4 << 30).slot(0);
    let mut node = Node::boot(
        &grid,
        NodeOptions {
            disks: Vec::new(),
            loose_disks: vec![disk.clone()],
            slots: 1,
            ..NodeOptions::default()
        },
    )?;
    let key = node.record()?.key;
    let alice = grid.tenant("alice")?;
    let contract = alice.deploy(&node, &Hello::default().toml(&grid))?;
    contract.wait_running(Version(1))?;
    let web = node.forward(8080)?;
    wait_start(web)?;
    let mut acknowledged = count(web)?;

    // The disk last, when the search for disks is over.
    lose_all(&grid, &mut node)?;
    node.wait_logged(LOOKED_AT)?;
    node.wait_logged(NO_DISK)?;
    grid.wake_chain()?;
    node.qemu()?.set_link(true)?;
    node.wait_logged(LEASED)?;
    node.qemu()?.plug(&disk)?;
    acknowledged = check_back(&mut node, key, acknowledged)?;

    // The chain last, and all the others before it in the other order.
    lose_all(&grid, &mut node)?;
    node.wait_logged(NO_DISK)?;
    node.qemu()?.plug(&disk)?;
    node.wait_logged(SILENT)?;
    node.qemu()?.set_link(true)?;
    node.wait_logged(LEASED)?;
    grid.wake_chain()?;
    acknowledged = check_back(&mut node, key, acknowledged)?;

    // The network last: the chain answers whom it does not reach.
    lose_all(&grid, &mut node)?;
    node.wait_logged(NO_DISK)?;
    grid.wake_chain()?;
    node.qemu()?.plug(&disk)?;
    node.wait_logged(SILENT)?;
    ensure!(
        !node.logs()?.contains(LEASED),
        "the node has an address without a cable"
    );
    node.qemu()?.set_link(true)?;
    check_back(&mut node, key, acknowledged)?;
    Ok(())
}

/// Pulls the power plug, and gives power back to a node without its disk, its cable and its chain.
fn lose_all(grid: &Grid, node: &mut Node<'_>) -> anyhow::Result<()> {
    node.cut_power();
    grid.silence_chain()?;
    node.switch_on()?;
    node.qemu()?.set_link(false)
}
