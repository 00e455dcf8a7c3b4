//! A registry that wants to be asked later: `loam deploy` says so and goes on waiting, and its machine runs
//! once the registry answers.

use std::{thread, time::Duration};

use anyhow::{Context, ensure};
use qemu_tests::{folder, grid::Grid, node::Node, wait::wait_for};
use serde_json::Value;
use xtask::registry::Fault;

use crate::{
    cli::Cli,
    demo::{Hello, wait_start},
};

const REPOSITORY: &str = "busy";
const LONG: Duration = Duration::from_secs(120);

pub fn case(grid: &Grid, node: &mut Node<'_>) -> anyhow::Result<()> {
    let image = grid.add_other_hello(REPOSITORY, vec![])?;
    grid.registry
        .fail_always(image.digest(), Fault::Status(429));
    let hello = Hello {
        port: 9180,
        subnet: "10.95.0",
        ..Hello::default()
    };
    let shown = format!("image = \"{}\"\n", grid.hello_reference());
    let busy = format!("image = \"{}\"\n", grid.reference(&image, REPOSITORY));
    let file = folder::of_case()?.join("busy.toml");
    std::fs::write(&file, hello.toml(grid).replace(&shown, &busy))?;
    let file = file.to_str().context("a folder's name is not UTF-8")?;
    let loam = Cli::register(grid, node)?;
    let (deployed, told) = thread::scope(|scope| {
        let deploying = scope.spawn(|| loam.run_told(&["deploy", file, "--json"]));
        let waited = wait_while_busy(grid, &loam, image.digest());
        // Also if that went wrong: it would wait on.
        grid.registry.clear_faults();
        let deployed = deploying
            .join()
            .map_err(|_| anyhow::anyhow!("the thread that deploys panicked"))?;
        waited.and(deployed)
    })?;
    ensure!(
        told.contains("wants to be asked later (it answers 429"),
        "while it waited it said: {told}"
    );
    wait_start(node.forward(hello.port)?)?;
    let deployed: Value = serde_json::from_str(&deployed)?;
    loam.run(&["cancel", "--yes", &deployed["contract"].to_string()])?;
    Ok(())
}

/// Until the registry was asked again and again, and the owner could read what is waited for.
fn wait_while_busy(grid: &Grid, loam: &Cli, image: xtask::oci::Digest) -> anyhow::Result<()> {
    ensure!(
        grid.registry.wait_for_gets(image, 3, LONG),
        "it was not asked again"
    );
    wait_for("the reason to be shown", || {
        let lines: Vec<Value> = serde_json::from_str(&loam.run(&["status", "--json"])?)?;
        let web = lines.iter().find(|line| line["workload"] == "web");
        let pending = web.filter(|web| web["state"] == "pending");
        let detail = pending.and_then(|web| web["detail"].as_str());
        Ok(detail
            .filter(|detail| detail.contains("asked later"))
            .map(|_| ()))
    })
}
