//! Daemons are killed in turn while a client downloads from a machine, another writes to its volume
//! without a pause, and the node fetches an image for a second machine: nothing is lost.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    thread,
};

use anyhow::{anyhow, ensure};
use loam_deployment::Version;
use qemu_tests::{
    grid::Grid,
    http,
    node::{Node, NodeOptions},
    wait::{LIMIT, wait_for},
};
use rand::{RngCore, SeedableRng, rngs::StdRng};
use xtask::registry::Fault;

use crate::demo::{Hello, record, records, start, wait_start, wait_start_after};

/// More than the client takes while the daemons are killed; it ends the download itself.
const BYTES: u64 = 1 << 40;

/// What Bob's image has beside the server. At [`RATE`] it comes for four minutes, more than two lives
/// of storaged.
const BALLAST: usize = 24 << 20;
/// Bytes a second, slow enough for the emulated node. storaged gives up a registry that sends less
/// than 64 KiB.
const RATE: u64 = 100_000;

#[test]
fn killing_daemons_loses_nothing() -> anyhow::Result<()> {
    kill_daemons(2)
}

#[test]
#[ignore = "slow: kills each daemon a hundred times"]
fn killing_daemons_a_hundred_times_loses_nothing() -> anyhow::Result<()> {
    kill_daemons(100)
}

fn kill_daemons(rounds: u64) -> anyhow::Result<()> {
    let grid = Grid::start()?;
    let mut node = Node::boot(&grid, NodeOptions::default())?;
    let alice = grid.tenant("alice")?;
    // Her volume has room for more records than there is time for.
    let hers = |greeting| {
        let hello = Hello {
            greeting,
            ..Hello::default()
        };
        hello
            .toml(&grid)
            .replace("size = \"64MiB\"", "size = \"1GiB\"")
    };
    let contract = alice.deploy(&node, &hers("one"))?;
    contract.wait_running(Version(1))?;
    let web = node.forward(8080)?;
    let started = wait_start(web)?;

    // Bob's image comes slowly and never whole, so that storaged is at work at each kill. Every other
    // life of storaged goes on where the one before was, the others have to begin anew.
    let bob = grid.tenant("bob")?;
    let mut ballast = vec![0; BALLAST];
    StdRng::seed_from_u64(0).fill_bytes(&mut ballast);
    let image = grid.add_other_hello("bobs", ballast)?;
    let layer = image.layers()[0];
    let drip = |ranges| {
        let rate = RATE;
        let fault = Fault::Drip { rate, ranges };
        grid.registry.fail_always(layer, fault);
    };
    drip(true);
    let theirs = Hello {
        port: 8081,
        subnet: "10.30.0",
        ..Hello::default()
    };
    let toml = theirs
        .toml(&grid)
        .replace(&grid.hello_reference(), &grid.reference(&image, "bobs"));
    let his = bob.deploy(&node, &toml)?;
    ensure!(
        grid.registry.wait_for_gets(layer, 1, LIMIT),
        "Bob's image was not asked for"
    );

    let (received, recorded) = (AtomicU64::new(0), AtomicU64::new(0));
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        let download = scope.spawn(|| {
            // Slow enough for the emulated node, and never silent for long.
            let path = format!("/download?bytes={BYTES}&rate=100000");
            let result = http::download(web, &path, |piece| {
                let offset = received.load(SeqCst);
                let wrong = hello::pattern::first_wrong(offset, piece);
                ensure!(wrong.is_none(), "byte {wrong:?} is wrong");
                received.fetch_add(piece.len() as u64, SeqCst);
                ensure!(!enough.load(SeqCst), "enough");
                Ok(())
            });
            match result {
                Err(error) if error.to_string() == "enough" => Ok(()),
                Err(error) => Err(error),
                Ok(_) => Err(anyhow!("the download ended before it was told to")),
            }
        });
        // A request that fails is a failure: neither a machine nor its packets need any daemon.
        let writer = scope.spawn(|| {
            while !enough.load(SeqCst) {
                let acknowledged = record(web, recorded.load(SeqCst))?;
                recorded.store(acknowledged, SeqCst);
            }
            Ok::<_, anyhow::Error>(())
        });
        let ends = SetOnDrop(&enough);
        let go_on = |what: &str| {
            let (bytes, number) = (received.load(SeqCst), recorded.load(SeqCst));
            wait_for(
                &format!("download and writes to go on after {what}"),
                || {
                    ensure!(!download.is_finished(), "the download broke off");
                    ensure!(!writer.is_finished(), "the writes broke off");
                    // Of two more records the second was begun after we were called.
                    let both = received.load(SeqCst) > bytes + 50_000
                        && recorded.load(SeqCst) > number + 1;
                    Ok(both.then_some(()))
                },
            )
        };
        let killed = (|| {
            go_on("their begin")?;
            for round in 0..rounds {
                for daemon in ["noded", "netd", "storaged", "clockd"] {
                    drip(round % 2 == 0);
                    let asked = grid.registry.gets(layer);
                    node.kill_daemon(daemon)?;
                    if daemon == "storaged" {
                        ensure!(
                            grid.registry.wait_for_gets(layer, asked + 1, LIMIT),
                            "the new storaged does not go on with Bob's image"
                        );
                    }
                    go_on(&format!("the end of {daemon}"))?;
                }
            }
            Ok(())
        })();
        drop(ends);
        let downloaded = download
            .join()
            .map_err(|_| anyhow!("the download panicked"))?;
        let written = writer.join().map_err(|_| anyhow!("the writer panicked"))?;
        downloaded.and(written).and(killed)
    })?;

    ensure!(start(web)? == started, "the machine was restarted");
    let acknowledged = recorded.into_inner();
    let check_records = || {
        let there = records(web)?;
        ensure!(
            there == acknowledged,
            "{acknowledged} records were acknowledged, {there} are there"
        );
        Ok(())
    };
    check_records()?;
    // The new daemons go on where the old ones were: with Bob's image,
    grid.registry.clear_faults();
    his.wait_running(Version(1))?;
    wait_start(node.forward(theirs.port)?)?;
    // and with Alice's machine.
    contract.wait_running(contract.update(&hers("two"))?)?;
    wait_start_after(web, &started)?;
    check_records()
}

/// Ends the threads that look at it, also when a panic goes by.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}
