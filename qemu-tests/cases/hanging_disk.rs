//! One of two disks does not answer: the watchdog is petted all the same, all else goes on, and the
//! node can be switched off although a process cannot be killed.

use std::time::Duration;

use anyhow::ensure;
use loam_deployment::Version;
use loam_node_api::path::TENANT_PORT;
use qemu_tests::{
    folder,
    grid::Grid,
    http,
    nbd::{Mood, NbdDisk},
    node::{Node, NodeOptions},
    wait::{LIMIT, wait_for},
};
use xtask::qemu::{Disk, WatchdogAction};

use crate::{
    demo::{Hello, count, record, records, wait_start},
    spoiled::{BYTES, disks, on_spoiled, on_steady, spoiled_pool, wait_pools},
};

/// Three times what the watchdog waits (init's `power::watchdog`).
const THRICE: Duration = Duration::from_secs(180);

#[test]
#[ignore = "slow: a disk hangs through a whole life of a machine and a power-off"]
fn a_hanging_disk_holds_up_nobody_else_and_no_shutdown() -> anyhow::Result<()> {
    hang(Duration::ZERO)
}

#[test]
#[ignore = "slow: the disk hangs for three times the watchdog's limit"]
fn a_disk_that_hangs_for_long_never_lets_the_watchdog_fire() -> anyhow::Result<()> {
    hang(THRICE)
}

/// `meanwhile` is how long nothing more happens before the node is switched off.
fn hang(meanwhile: Duration) -> anyhow::Result<()> {
    let grid = Grid::start()?;
    let server = NbdDisk::serve(&folder::of_case()?, BYTES)?;
    let mut node = Node::boot(
        &grid,
        NodeOptions {
            disks: Vec::new(),
            more_disks: disks(Disk::over("hanging", server.driver())),
            watchdog: Some(WatchdogAction::Tell),
            ..NodeOptions::default()
        },
    )?;
    node.wait_logged("watchdog armed")?;
    wait_pools(&node, 2)?;
    let hanging = spoiled_pool(&node)?;
    let (alice, bob) = (grid.tenant("alice")?, grid.tenant("bob")?);
    let hers = alice.deploy(&node, &on_spoiled(&Hello::default().toml(&grid)))?;
    hers.wait_running(Version(1))?;
    let web = node.forward(8080)?;
    wait_start(web)?;
    record(web, 0)?;

    server.set(Mood::Hangs);
    // Her machine is stuck from here on; nobody waits for this answer.
    std::thread::spawn(move || http::post(web, "/record"));
    server.wait_held()?;

    // Another that is to be on this disk is under way while all that follows is done.
    let late = Hello {
        port: 8082,
        subnet: "10.22.0",
        ..Hello::default()
    };
    let carol = grid.tenant("carol")?;
    let waiting = carol.deploy(&node, &on_spoiled(&late.toml(&grid)))?;

    let other = |greeting| Hello {
        port: 8081,
        subnet: "10.21.0",
        greeting,
    };
    let his = bob.deploy(&node, &on_steady(&other("one").toml(&grid)))?;
    his.wait_running(Version(1))?;
    let others = node.forward(8081)?;
    wait_start(others)?;
    let before = count(others)?;
    let version = his.update(&on_steady(&other("two").toml(&grid)))?;
    his.wait_running(version)?;
    let after = wait_for("the new version to answer", || {
        let page = http::get_text(others, "/").unwrap_or_default();
        Ok(page.contains("GREETING=two").then(|| count(others)))
    })??;
    ensure!(after > before, "{before}, then {after}");
    let tenant_port = node.forward(TENANT_PORT)?;
    let console = his.console(tenant_port, "web")?;
    ensure!(console.contains("hello: listening on port 80"), "{console}");
    his.cancel()?;
    wait_for("the cancelled machine to be gone", || {
        Ok(count(others).is_err().then_some(()))
    })?;
    wait_for("the report to name the disk that hangs", || {
        let report = waiting.report()?;
        let workloads = report.map(|report| report.workloads).unwrap_or_default();
        let mut details = workloads.values().map(|workload| &workload.detail);
        Ok(details
            .any(|detail| detail.contains(&hanging))
            .then_some(()))
    })?;

    let fired = node.qemu()?.wait_event("WATCHDOG", meanwhile);
    ensure!(fired.is_err(), "the watchdog fired: {fired:?}");
    let mark = node.log_mark()?;
    node.qemu()?.press_power_button()?;
    // PID 1 comes to its end though the disk hangs. Then the kernel resets each virtio device, since Linux 6.12.118
    // (`virtio_dev_shutdown`), and in that QEMU waits for the disk.
    node.wait_logged_since(mark, "init", "not written out")?;
    server.set(Mood::Well);
    let off = node.qemu()?.wait_event("SHUTDOWN", LIMIT)?;
    ensure!(off["data"]["reason"] == "guest-shutdown", "{off}");
    // Else nothing was stuck, and this case has shown nothing.
    ensure!(
        node.logged_since(mark)?
            .contains("some processes cannot be killed"),
        "all processes could be killed"
    );
    let fired = node.qemu()?.wait_event("WATCHDOG", Duration::ZERO);
    ensure!(fired.is_err(), "the watchdog fired: {fired:?}");
    node.cut_power();

    node.switch_on()?;
    let web = node.forward(8080)?;
    let there = wait_for("her machine to answer again", || Ok(records(web).ok()))?;
    ensure!(
        [1, 2].contains(&there),
        "1 was acknowledged, then there were {there}"
    );
    // What waited for the disk is made on it now.
    wait_start(node.forward(late.port)?)?;
    Ok(())
}
