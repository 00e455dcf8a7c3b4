//! A stick that lay in a drawer for two years joins with a dead clock battery and serves, and its
//! clock is put right.

use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use loam_clockd::local_server::LocalServer;
use loam_deployment::Version;
use loam_node_api::{clock::Clock, path};
use qemu_tests::{
    grid::Grid,
    node::{Node, NodeOptions},
    wait::wait_for,
};
use xtask::qemu::HOST;

use crate::demo::{Hello, start, wait_start};

const DAY: Duration = Duration::from_secs(24 * 3600);

#[test]
fn a_node_with_a_dead_clock_battery_joins_and_learns_the_time() -> anyhow::Result<()> {
    let grid = Grid::start()?;
    // By the chain's block, which the node knows, the server's certificate begins tomorrow.
    let tomorrow = SystemTime::now() + DAY;
    let mut server = LocalServer::valid(HOST, tomorrow, tomorrow + DAY)?;
    // The day of its build stands where the image has it (xtask's `image::base`).
    let built = SystemTime::now() - 2 * 365 * DAY;
    let time = format!(
        "built = {}\nnts = [\"{}\"]\nauthorities = \"\"\"{}\"\"\"\n",
        built.duration_since(SystemTime::UNIX_EPOCH)?.as_secs(),
        server.nts(HOST),
        server.authority
    );
    let mut node = Node::boot(
        &grid,
        NodeOptions {
            battery_clock: Some("2000-01-01T00:00:00"),
            time: Some(time),
            ..NodeOptions::default()
        },
    )?;
    // It is registered and serves, with nobody to ask for the time: no boot waits for it. What it
    // knows is the time of the chain's block.
    let alice = grid.tenant("alice")?;
    let contract = alice.deploy(&node, &Hello::default().toml(&grid))?;
    contract.wait_running(Version(1))?;
    let web = node.forward(8080)?;
    let started = wait_start(web)?;
    let clock = known(&node)?;
    ensure!(!clock.set, "who set it? {clock:?}");
    let floor = wait_for("the floor to follow the chain", || {
        let clock = known(&node)?;
        let before = loam_node_api::clock::UnixTime::kernel().0 - 3600;
        Ok((clock.floor.0 > before).then_some(clock.floor))
    })?;

    server.start()?;
    let clock = wait_for("the clock to be set", || {
        let clock = known(&node)?;
        Ok(clock.set.then_some(clock))
    })?;
    ensure!(
        clock.authenticated && clock.source.ends_with("(NTS)"),
        "{clock:?}"
    );
    ensure!(clock.floor >= floor, "{clock:?}");
    let uptime = node.read("/proc/uptime")?;
    let stat = String::from_utf8(node.read("/proc/stat")?)?;
    let booted: f64 = stat
        .lines()
        .find_map(|line| line.strip_prefix("btime "))
        .context("no btime in /proc/stat")?
        .parse()?;
    let up: f64 = String::from_utf8(uptime)?
        .split(' ')
        .next()
        .context("an empty /proc/uptime")?
        .parse()?;
    let off = booted + up - loam_node_api::clock::UnixTime::kernel().0 as f64;
    ensure!(off.abs() < 60.0, "the kernel's clock is off by {off} s");
    // A step of a quarter of a century is nothing to a machine.
    ensure!(start(web)? == started, "the machine was started anew");
    Ok(())
}

/// What clockd says that is known.
fn known(node: &Node<'_>) -> anyhow::Result<Clock> {
    Ok(serde_json::from_slice(&node.read(path::CLOCK)?)?)
}
