//! The disk of another node, plugged beside a node's own: it is left alone, and whole when it is
//! moved back.

use anyhow::ensure;
use loam_deployment::Version;
use qemu_tests::{
    grid::Grid,
    node::{Node, NodeOptions},
};

use crate::demo::{Hello, count, wait_start};

#[test]
fn a_disk_of_another_node_is_whole_when_it_is_moved_back() -> anyhow::Result<()> {
    let grid = Grid::start()?;
    let one_disk = || NodeOptions {
        disks: vec![4 << 30],
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

    // Its mainboard dies; the disk goes into another node.
    let options = NodeOptions {
        full_disks: vec![hers.disk("empty0")],
        ..one_disk()
    };
    let mut his = Node::boot(&grid, options)?;
    let mine = hers.record()?.key.to_string();
    his.wait_logged_since(0, "storaged", "left alone")?;
    let told = his
        .logs()?
        .lines()
        .any(|line| line.contains("left alone") && line.contains(&mine));
    ensure!(told, "the log does not say that the disk is of node {mine}");
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
