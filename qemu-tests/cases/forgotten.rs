//! A chain that has no record of a contract (a new endpoint that lies, or one that was set up anew)
//! costs nobody anything.

use anyhow::ensure;
use loam_deployment::Version;
use qemu_tests::{
    grid::Grid,
    node::{Node, NodeOptions},
};

use crate::demo::{Hello, count, start, wait_start, wait_start_after};

#[test]
#[ignore = "slow: two machines and a chain that goes back"]
fn a_contract_that_the_chain_forgot_keeps_what_it_has() -> anyhow::Result<()> {
    let grid = Grid::start()?;
    let mut node = Node::boot(&grid, NodeOptions::default())?;
    let (alice, bob) = (grid.tenant("alice")?, grid.tenant("bob")?);
    let theirs = Hello {
        port: 8081,
        subnet: "10.30.0",
        ..Hello::default()
    };
    let his = bob.deploy(&node, &theirs.toml(&grid))?;
    his.wait_running(Version(1))?;
    let other = node.forward(theirs.port)?;
    let before = wait_start(other)?;

    let snapshot = grid.snapshot_chain()?;
    let hers = alice.deploy(&node, &Hello::default().toml(&grid))?;
    hers.wait_running(Version(1))?;
    let web = node.forward(8080)?;
    let started = wait_start(web)?;
    ensure!(count(web)? == 1);

    let mark = node.log_mark()?;
    grid.revert_chain(&snapshot)?;
    // A noded that saw more of the chain does not follow it back; one that starts now knows no better.
    node.wait_logged_since(mark, "noded", "the chain cannot be read; what runs goes on")?;
    node.kill_daemon("noded")?;
    node.wait_logged_since(mark, "noded", "the chain has no record of it")?;
    // Once this has come true, noded has made and carried out a plan without her contract.
    let second = Hello {
        greeting: "two",
        ..theirs
    };
    his.update(&second.toml(&grid))?;
    wait_start_after(other, &before)?;
    let after = start(web).ok();
    ensure!(
        after.as_ref() == Some(&started),
        "a contract was ended by a chain that has no record of it: {started:?}, then {after:?}"
    );
    ensure!(count(web)? == 2, "its volume is not what it was");
    Ok(())
}
