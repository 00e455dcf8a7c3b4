//! A disk that is slow, fails, is pulled and put back: whose data is on it feels it, nobody else.

use std::time::Duration;

use anyhow::ensure;
use loam_deployment::Version;
use qemu_tests::{
    folder,
    grid::Grid,
    http,
    nbd::{EIO, Mood, NbdDisk},
    node::{Node, NodeOptions},
    wait::{LIMIT, wait_for},
};
use xtask::qemu::Disk;

use crate::{
    demo::{Hello, count, record, records, wait_start},
    spoiled::{BYTES, disks, on_spoiled, on_steady, wait_pools},
};

/// A volume on the disk that is not spoiled.
const VOLUME: &str = r#"
kind = "workload"
[volume.more]
size = "64MiB"
media = "ssd"
encrypted = false
"#;

#[test]
#[ignore = "slow: a disk is slow, fails, is pulled and put back"]
fn a_disk_that_fails_or_is_pulled_costs_nobody_else_anything() -> anyhow::Result<()> {
    let grid = Grid::start()?;
    let server = NbdDisk::serve(&folder::of_case()?, BYTES)?;
    let spoiled = Disk::over("spoiled", server.driver()).slot(0);
    let mut node = Node::boot(
        &grid,
        NodeOptions {
            disks: Vec::new(),
            more_disks: disks(spoiled.clone()),
            slots: 1,
            ..NodeOptions::default()
        },
    )?;
    wait_pools(&node, 2)?;
    let (alice, bob) = (grid.tenant("alice")?, grid.tenant("bob")?);
    let hers = alice.deploy(&node, &on_spoiled(&Hello::default().toml(&grid)))?;
    let other = Hello {
        port: 8081,
        subnet: "10.21.0",
        ..Hello::default()
    };
    let his = bob.deploy(&node, &on_steady(&other.toml(&grid)))?;
    hers.wait_running(Version(1))?;
    his.wait_running(Version(1))?;
    let (web, others) = (node.forward(8080)?, node.forward(8081)?);
    wait_start(web)?;
    wait_start(others)?;
    record(web, 0)?;
    let before = count(others)?;

    // A second for each request.
    server.set(Mood::Slow(Duration::from_secs(1)));
    let writer = std::thread::spawn(move || http::post(web, "/record"));
    let slow = bob.deploy(&node, VOLUME)?;
    slow.wait_running(Version(1))?;
    ensure!(count(others)? == before + 1);
    server.set(Mood::Well);
    // Its patience may have ended, but not the write.
    drop(writer.join());
    let written = wait_for("the slow record", || {
        Ok(Some(records(web)?).filter(|count| *count == 2))
    })?;

    // It hangs for a while and goes on: so does what waited for it.
    server.set(Mood::Hangs);
    let writer = std::thread::spawn(move || http::post(web, "/record"));
    server.wait_held()?;
    ensure!(count(others)? == before + 2);
    server.set(Mood::Well);
    drop(writer.join());
    let written = wait_for("the record that waited", || {
        Ok(Some(records(web)?).filter(|count| *count > written))
    })?;

    // Errors all the time: hers to see, and nobody else's.
    server.set(Mood::Fails(EIO));
    let error = http::post(web, "/record").expect_err("a disk that fails kept a record");
    ensure!(error.to_string().contains(": 500 "), "{error:#}");
    ensure!(count(others)? == before + 3);
    let another = bob.deploy(&node, VOLUME)?;
    another.wait_running(Version(1))?;

    // Pulled, and put back in good health. What her machine had open is gone with the mount: started
    // anew, it finds all that was acknowledged.
    let replug = |node: &mut Node<'_>, acknowledged: u64| -> anyhow::Result<u64> {
        node.qemu()?.unplug(&spoiled, LIMIT)?;
        wait_pools(node, 1)?;
        let before = count(others)?;
        server.set(Mood::Well);
        node.qemu()?.plug(&spoiled)?;
        wait_pools(node, 2)?;
        let there = wait_for("her machine to answer again", || Ok(records(web).ok()))?;
        ensure!(
            there >= acknowledged,
            "{acknowledged} were acknowledged, {there} are there"
        );
        let number = wait_for("her machine to write again", || {
            Ok(http::post(web, "/record").ok())
        })?;
        ensure!(count(others)? == before + 1);
        Ok(number.trim().parse()?)
    };
    let mut written = replug(&mut node, written)?;

    // Errors by turns: what is acknowledged between them is kept, too.
    server.set(Mood::FailsByTurns(EIO));
    for _ in 0..8 {
        if let Ok(number) = http::post(web, "/record") {
            written = number.trim().parse()?;
        }
    }
    count(others)?;
    replug(&mut node, written)?;
    Ok(())
}
