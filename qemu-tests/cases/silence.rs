//! A chain that falls silent changes nothing that runs.

use anyhow::ensure;
use loam_deployment::Version;
use qemu_tests::{
    grid::Grid,
    node::{Node, NodeOptions},
};

use crate::{Hello, count};

#[test]
fn a_silent_chain_changes_nothing_that_runs() -> anyhow::Result<()> {
    let grid = Grid::start()?;
    let mut node = Node::boot(&grid, NodeOptions::default())?;
    let alice = grid.tenant("alice")?;
    let contract = alice.deploy(&node, &Hello::default().toml(&grid))?;
    contract.wait_running(Version(1))?;
    let web = node.forward(8080)?;
    ensure!(count(web)? == 1);

    grid.silence_chain()?;
    node.wait_logged("the chain cannot be read; what runs goes on")?;
    ensure!(count(web)? == 2);
    // Even with a noded that has seen nothing of the chain yet.
    node.kill_daemon("noded")?;
    ensure!(count(web)? == 3);
    grid.wake_chain()?;

    let second = Hello {
        greeting: "two",
        ..Hello::default()
    };
    contract.wait_running(contract.update(&second.toml(&grid))?)?;
    Ok(())
}
