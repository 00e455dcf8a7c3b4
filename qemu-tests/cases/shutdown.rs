//! The power button: machines end in good order, then the node; switched on, all comes back.

use anyhow::ensure;
use loam_deployment::Version;
use qemu_tests::{
    grid::Grid,
    node::{Node, NodeOptions},
};

use crate::demo::{Hello, count, wait_start};

#[test]
fn the_power_button_ends_machines_first_and_loses_nothing() -> anyhow::Result<()> {
    let grid = Grid::start()?;
    let mut node = Node::boot(&grid, NodeOptions::default())?;
    let alice = grid.tenant("alice")?;
    let contract = alice.deploy(&node, &Hello::default().toml(&grid))?;
    contract.wait_running(Version(1))?;
    let web = node.forward(8080)?;
    let before = wait_start(web)?;
    ensure!(before.farewell.is_none(), "{before:?}");
    ensure!(count(web)? == 1);

    let logs = node.press_power_button_and_wait()?;
    let at = |what: &str| {
        logs.find(what)
            .ok_or_else(|| anyhow::anyhow!("`{what}` is not in the log"))
    };
    // The guest switched itself off, while the daemons still ran.
    ensure!(at("PoweredOff")? < at("machines have ended; now the daemons")?);

    node.switch_on()?;
    let web = node.forward(8080)?;
    let after = wait_start(web)?;
    // Written when the command was asked to end, and synced by nobody but the guest's own end.
    ensure!(
        after.farewell.as_ref() == Some(&before.number),
        "the command was not asked to end, or what it wrote then is lost: {before:?}, then {after:?}"
    );
    let counted = count(web)?;
    ensure!(counted == 2, "1 was acknowledged, then came {counted}");
    Ok(())
}
