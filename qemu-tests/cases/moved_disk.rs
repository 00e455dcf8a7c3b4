//! The disk of another node, plugged beside a node's own: it is left alone, and whole when it is
//! moved back.

use std::os::unix::fs::symlink;

use anyhow::ensure;
use loam_deployment::Version;
use qemu_tests::{
    grid::Grid,
    node::{Node, NodeOptions},
    wait::wait_for,
};
use xtask::qemu::Disk;

use crate::demo::{Hello, count, wait_start};

const DISK: u64 = 4 << 30;

#[test]
#[ignore = "slow: two nodes, one after the other"]
fn a_disk_of_another_node_is_whole_when_it_is_moved_back() -> anyhow::Result<()> {
    let grid = Grid::start()?;
    let one_disk = || NodeOptions {
        disks: vec![DISK],
        ..NodeOptions::default()
    };
    let (alice, bob) = (grid.tenant("alice")?, grid.tenant("bob")?);
    let mut hers = Node::boot(&grid, one_disk())?;
    let contract = alice.deploy(&hers, &Hello::default().toml(&grid))?;
    contract.wait_running(Version(1))?;
    let web = hers.forward(8080)?;
    wait_start(web)?;
    ensure!(count(web)? == 1);
    hers.press_power_button_and_wait()?;

    // Its mainboard dies; the disk goes into another node, which runs.
    let options = NodeOptions {
        slots: 1,
        ..one_disk()
    };
    let mut his = Node::boot(&grid, options)?;
    let mark = his.log_mark()?;
    let disk = Disk::new("moved", DISK).slot(0);
    symlink(hers.disk("empty0"), his.disk(disk.name()))?;
    his.qemu()?.plug(&disk)?;
    let found = wait_for("the disk to be looked at", || {
        let logs = his.logged_since(mark)?;
        let mut lines = logs.lines().filter(|line| line.contains("-moved"));
        let found = lines.find(|line| {
            ["left alone", "pool is ready"]
                .iter()
                .any(|w| line.contains(w))
        });
        Ok(found.map(str::to_owned))
    })?;
    let key = hers.record()?.key;
    ensure!(
        found.contains("left alone") && found.contains(&format!("a pool of node {key}")),
        "the disk of node {key} was not left alone: {found}"
    );
    let key = key.to_string();
    wait_for("the screen to name the disk's node", || {
        Ok(his.console()?.contains(&key).then_some(()))
    })?;
    ensure!(his.list("/pools")?.len() == 1, "{:?}", his.list("/pools")?);
    let other = bob.deploy(&his, &Hello::default().toml(&grid))?;
    other.wait_running(Version(1))?;
    let web = his.forward(8080)?;
    wait_start(web)?;
    ensure!(count(web)? == 1);
    his.press_power_button_and_wait()?;

    hers.switch_on()?;
    let web = hers.forward(8080)?;
    wait_start(web)?;
    let counted = count(web)?;
    ensure!(
        counted == 2,
        "the disk was changed while it was in another node: 1 was acknowledged, then came {counted}"
    );
    Ok(())
}
