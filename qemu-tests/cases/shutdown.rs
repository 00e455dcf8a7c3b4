//! The power button: machines end in good order, then the node; switched on, all comes back.

use anyhow::ensure;
use loam_deployment::Version;
use qemu_tests::{
    grid::Grid,
    node::{Node, NodeOptions},
    wait::wait_for,
};

use crate::{Hello, count};

#[test]
fn the_power_button_ends_machines_first_and_loses_nothing() -> anyhow::Result<()> {
    let grid = Grid::start()?;
    let mut node = Node::boot(&grid, NodeOptions::default())?;
    let alice = grid.tenant("alice")?;
    let contract = alice.deploy(&node, &Hello::default().toml(&grid))?;
    contract.wait_running(Version(1))?;
    let web = node.forward(8080)?;
    ensure!(count(web)? == 1);

    let logs = node.press_power_button_and_wait()?;
    let at = |what: &str| {
        logs.find(what)
            .ok_or_else(|| anyhow::anyhow!("`{what}` is not in the log"))
    };
    // The guest switched itself off: its command was asked to end, and its disks are whole.
    ensure!(at("PoweredOff")? < at("machines have ended; now the daemons")?);

    node.switch_on()?;
    let web = node.forward(8080)?;
    let after = wait_for("the machine to answer again", || Ok(count(web).ok()))?;
    ensure!(after == 2, "1 was acknowledged, then came {after}");
    Ok(())
}
