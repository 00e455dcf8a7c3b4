//! A contract that is suspended, and a deployment whose time has passed: machines stop, volumes
//! stay.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::ensure;
use loam_deployment::Version;
use qemu_tests::{grid::Grid, node::Node, tenant::Contract, wait::wait_for};

use crate::demo::{Hello, count, start, wait_start};

/// Far enough ahead for the node to read the deployment before it passes.
const AHEAD: Duration = Duration::from_secs(60);

pub fn case(grid: &Grid, node: &mut Node<'_>) -> anyhow::Result<()> {
    let alice = grid.tenant("suspended")?;
    let hello = Hello {
        port: 8780,
        subnet: "10.70.0",
        ..Hello::default()
    };
    let toml = hello.toml(grid);
    let contract = alice.deploy(node, &toml)?;
    contract.wait_running(Version(1))?;
    let web = node.forward(hello.port)?;
    wait_start(web)?;
    ensure!(count(web)? == 1);
    // What is looked for below is there now.
    let machine = format!("{}.web", contract.id);
    ensure!(node.list("/sys/fs/cgroup/machines")?.contains(&machine));

    grid.suspend(&contract)?;
    wait_stopped(node, &contract)?;
    ensure!(start(web).is_err(), "a suspended machine answers");
    grid.resume(&contract)?;
    wait_start(web)?;
    let counted = count(web)?;
    ensure!(
        counted == 2,
        "1 was acknowledged before the suspension, then came {counted}"
    );

    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let until = (now + AHEAD).as_secs();
    contract.update(&format!("valid_until = {until}\n{toml}"))?;
    wait_stopped(node, &contract)?;
    ensure!(
        SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() >= until,
        "the machine was stopped before its time was over"
    );
    contract.wait_running(contract.update(&toml)?)?;
    wait_start(web)?;
    let counted = count(web)?;
    ensure!(
        counted == 3,
        "2 was acknowledged before the time was over, then came {counted}"
    );
    contract.cancel()
}

/// Waits until no machine of the contract is left; its volume must be.
fn wait_stopped(node: &Node<'_>, contract: &Contract<'_>) -> anyhow::Result<()> {
    let machine = format!("{}.web", contract.id);
    wait_for("the machine to stop", || {
        let machines = node.list("/sys/fs/cgroup/machines")?;
        Ok((!machines.contains(&machine)).then_some(()))
    })?;
    let volume = format!("data-{}.data.raw", contract.id);
    let mut volumes = Vec::new();
    for pool in node.list("/pools")? {
        volumes.extend(node.list(&format!("/pools/{pool}/volumes"))?);
    }
    ensure!(
        volumes.contains(&volume),
        "{volume} is gone; there are {volumes:?}"
    );
    Ok(())
}
