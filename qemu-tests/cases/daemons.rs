//! Daemons are killed in turn while a client downloads from a machine, which writes to its volume,
//! and while the node fetches an image for another: nothing is lost.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
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
use xtask::registry::Fault;

use crate::demo::{Hello, count, start, wait_start, wait_start_after};

/// More than the client takes while the daemons are killed; it ends the download itself.
const BYTES: u64 = 1 << 40;

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
    let contract = alice.deploy(&node, &Hello::default().toml(&grid))?;
    contract.wait_running(Version(1))?;
    let web = node.forward(8080)?;
    let started = wait_start(web)?;

    // Bob's image comes to a halt within its only layer, so that storaged is at work.
    let bob = grid.tenant("bob")?;
    let image = grid.add_other_hello("bobs")?;
    let layer = image.layers()[0];
    grid.registry
        .fail_always(layer, Fault::HoldAfter(100 << 10));
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

    let received = AtomicU64::new(0);
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        let download = scope.spawn(|| -> anyhow::Result<()> {
            // Slow enough for the emulated node, and never silent for long.
            let path = format!("/download?bytes={BYTES}&rate=100000");
            let result = http::download(web, &path, |piece| {
                let offset = received.load(Ordering::SeqCst);
                let wrong = hello::pattern::first_wrong(offset, piece);
                ensure!(wrong.is_none(), "byte {wrong:?} is wrong");
                received.fetch_add(piece.len() as u64, Ordering::SeqCst);
                ensure!(!enough.load(Ordering::SeqCst), "enough");
                Ok(())
            });
            match result {
                Err(error) if error.to_string() == "enough" => Ok(()),
                Err(error) => Err(error),
                Ok(_) => Err(anyhow!("the download ended before it was told to")),
            }
        });
        let flows = |what: &str| {
            let before = received.load(Ordering::SeqCst);
            wait_for(what, || {
                ensure!(!download.is_finished(), "the download broke off");
                Ok((received.load(Ordering::SeqCst) > before + 50_000).then_some(()))
            })
        };
        let killed = (|| {
            flows("the download to begin")?;
            let mut written = 0;
            for daemon in (0..rounds).flat_map(|_| ["noded", "netd", "storaged", "clockd"]) {
                node.kill_daemon(daemon)?;
                flows(&format!("the download to go on after the end of {daemon}"))?;
                // Each answer says that the number is on the volume.
                written += 1;
                ensure!(
                    count(web)? == written,
                    "a write was lost with the end of {daemon}"
                );
            }
            Ok::<_, anyhow::Error>(())
        })();
        enough.store(true, Ordering::SeqCst);
        let downloaded = download
            .join()
            .map_err(|_| anyhow!("the download panicked"))?;
        downloaded.and(killed)
    })?;

    ensure!(start(web)? == started, "the machine was restarted");
    // The new daemons go on where the old ones were: with Bob's image,
    grid.registry.clear_faults();
    his.wait_running(Version(1))?;
    wait_start(node.forward(theirs.port)?)?;
    // and with Alice's machine.
    let second = Hello {
        greeting: "two",
        ..Hello::default()
    };
    contract.wait_running(contract.update(&second.toml(&grid))?)?;
    wait_start_after(web, &started)?;
    Ok(())
}
