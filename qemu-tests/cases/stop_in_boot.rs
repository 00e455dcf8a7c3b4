//! A stop that comes while the guest boots reaches it: it ends in good order, and not by force.

use anyhow::ensure;
use loam_deployment::Version;
use qemu_tests::{
    grid::Grid,
    node::{Node, NodeOptions},
};

use crate::demo::{Hello, wait_start};

#[test]
#[ignore = "slow: two boots"]
fn a_stop_during_boot_reaches_the_guest() -> anyhow::Result<()> {
    let grid = Grid::start()?;
    let mut node = Node::boot(&grid, NodeOptions::default())?;
    let alice = grid.tenant("alice")?;
    let mark = node.log_mark()?;
    let contract = alice.deploy(&node, &Hello::default().toml(&grid))?;
    node.wait_logged_since(mark, "init", "machine started")?;

    let logs = node.press_power_button_and_wait()?;
    let end = logs
        .lines()
        .find(|line| line.contains("machine ended"))
        .unwrap_or_default();
    ensure!(
        end.contains("PoweredOff"),
        "the stop did not reach the guest: `{end}`"
    );

    node.switch_on()?;
    contract.wait_running(Version(1))?;
    let start = wait_start(node.forward(8080)?)?;
    // Else the stop came after the boot, and this case has shown nothing.
    ensure!(
        start.farewell.is_none(),
        "the server ran already when it was stopped: {start:?}"
    );
    Ok(())
}
