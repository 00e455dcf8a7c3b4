//! Daemons are killed in turn while a client downloads from a machine: not a byte is lost.

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
    wait::wait_for,
};

use crate::{Hello, count};

/// More than the client takes while the daemons are killed; it ends the download itself.
const BYTES: u64 = 1 << 30;

#[test]
fn killing_daemons_loses_no_byte_of_a_download() -> anyhow::Result<()> {
    let grid = Grid::start()?;
    let mut node = Node::boot(&grid, NodeOptions::default())?;
    let alice = grid.tenant("alice")?;
    let contract = alice.deploy(&node, &Hello::default().toml(&grid))?;
    contract.wait_running(Version(1))?;
    let web = node.forward(8080)?;

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
            for daemon in ["noded", "netd", "storaged"] {
                node.kill_daemon(daemon)?;
                flows(&format!("the download to go on after the end of {daemon}"))?;
            }
            Ok::<_, anyhow::Error>(())
        })();
        enough.store(true, Ordering::SeqCst);
        let downloaded = download
            .join()
            .map_err(|_| anyhow!("the download panicked"))?;
        downloaded.and(killed)
    })?;

    // The new daemons know the machine: an update still goes through.
    let second = Hello {
        greeting: "two",
        ..Hello::default()
    };
    contract.wait_running(contract.update(&second.toml(&grid))?)?;
    wait_for("the machine to answer", || Ok(count(web).ok()))?;
    Ok(())
}
