//! Power goes while a machine runs; machine and data come back by themselves.

use loam_deployment::Version;
use qemu_tests::{
    grid::Grid,
    node::{Node, NodeOptions},
};

use crate::demo::{Hello, check_back, count, wait_start};

#[test]
#[ignore = "slow: two boots; a cut between flushes boots a node, too"]
fn after_a_power_cut_machine_and_data_come_back() -> anyhow::Result<()> {
    let grid = Grid::start()?;
    let mut node = Node::boot(&grid, NodeOptions::default())?;
    let key = node.record()?.key;
    let alice = grid.tenant("alice")?;
    let contract = alice.deploy(&node, &Hello::default().toml(&grid))?;
    contract.wait_running(Version(1))?;
    let web = node.forward(8080)?;
    wait_start(web)?;
    // Each answer says that the count was on the volume before it was given.
    let acknowledged = count(web)?.max(count(web)?);

    node.cut_power();
    node.switch_on()?;
    check_back(&mut node, key, acknowledged)?;
    Ok(())
}
