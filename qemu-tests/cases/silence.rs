//! A chain that falls silent changes nothing that runs.

use anyhow::ensure;
use loam_deployment::Version;
use qemu_tests::{grid::Grid, node::Node};

use crate::demo::{Hello, count, start, wait_start, wait_start_after};

/// What init says of a machine that is stopped on purpose.
const STOP: &str = "stopping machine";
/// What noded says of a chain that does not answer. It waits 20 s for an answer first (loam-chain's
/// `bounded_http`); by then a new noded has long seen all that is on the node.
const SILENT: &str = "the chain cannot be read; what runs goes on";

pub fn case(grid: &Grid, node: &mut Node<'_>) -> anyhow::Result<()> {
    let alice = grid.tenant("silent")?;
    let first = Hello {
        port: 8880,
        subnet: "10.24.0",
        ..Hello::default()
    };
    let contract = alice.deploy(node, &first.toml(grid))?;
    contract.wait_running(Version(1))?;
    let web = node.forward(first.port)?;
    let started = wait_start(web)?;
    ensure!(count(web)? == 1);

    let mark = node.log_mark()?;
    grid.silence_chain()?;
    node.wait_logged_since(mark, "noded", SILENT)?;
    ensure!(count(web)? == 2);

    // Even with a noded that has seen nothing of the chain yet.
    let mark = node.log_mark()?;
    node.kill_daemon("noded")?;
    node.wait_logged_since(mark, "noded", SILENT)?;
    ensure!(
        !node.logged_since(mark)?.contains(STOP),
        "a machine was stopped while the chain was silent"
    );
    ensure!(start(web)? == started, "the machine was restarted");
    ensure!(count(web)? == 3);
    grid.wake_chain()?;

    let mark = node.log_mark()?;
    let second = Hello {
        greeting: "two",
        ..first
    };
    contract.wait_running(contract.update(&second.toml(grid))?)?;
    wait_start_after(web, &started)?;
    let counted = count(web)?;
    ensure!(
        counted == 4,
        "3 was acknowledged while the chain was silent, then came {counted}"
    );
    // The words that were looked for in vain are what an update says.
    ensure!(
        node.logged_since(mark)?.contains(STOP),
        "`{STOP}` is not in the log of an update"
    );
    contract.cancel()
}
