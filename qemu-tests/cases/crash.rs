//! A machine whose command ends: what its owner sees, and when it is started again.

use anyhow::{Context, ensure};
use loam_deployment::Version;
use qemu_tests::{grid::Grid, http, node::Node, wait::wait_for};

use crate::{
    cli::Cli,
    demo::{Hello, count, wait_start, wait_start_after},
};

pub fn case(grid: &Grid, node: &mut Node<'_>) -> anyhow::Result<()> {
    let hello = Hello {
        port: 8580,
        subnet: "10.50.0",
        ..Hello::default()
    };
    // `restart = "always"` is what holds when nothing is said.
    let alice = grid.tenant("always")?;
    let contract = alice.deploy(node, &hello.toml(grid))?;
    contract.wait_running(Version(1))?;
    let web = node.forward(hello.port)?;
    let mut started = wait_start(web)?;
    ensure!(count(web)? == 1);
    for crash in 1..=3 {
        http::post(web, "/exit?status=7")?;
        started = wait_start_after(web, &started)?;
        ensure!(
            count(web)? == crash + 1,
            "the volume is not the same after crash {crash}"
        );
    }
    contract.cancel()?;

    // One that is not to be started again stays to be looked at.
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("once.toml");
    let once = Hello {
        port: 8581,
        subnet: "10.51.0",
        ..Hello::default()
    };
    let toml = once
        .toml(grid)
        .replace("cpus = 1", "cpus = 1\n            restart = \"never\"");
    std::fs::write(&file, toml)?;
    let loam = Cli::register(grid, node)?;
    let file = file.to_str().context("a folder's name is not UTF-8")?;
    let deployed: serde_json::Value =
        serde_json::from_str(&loam.run(&["deploy", file, "--json"])?)?;
    let id = deployed["contract"].to_string();
    let web = node.forward(once.port)?;
    wait_start(web)?;
    http::post(web, "/exit?status=7")?;
    let status = wait_for("the end to be shown", || {
        let lines: serde_json::Value =
            serde_json::from_str(&loam.run(&["status", &id, "--json"])?)?;
        let web = lines
            .as_array()
            .and_then(|lines| lines.iter().find(|line| line["workload"] == "web"));
        let failed = web.filter(|web| web["state"] == "failed");
        Ok(failed.map(|web| web["exit_status"].clone()))
    })?;
    ensure!(status == 7, "its exit status is told as {status}");
    let logs = loam.run(&["logs", &id, "web"])?;
    ensure!(
        logs.contains("hello: bye, status 7"),
        "its last lines are gone: {logs}"
    );
    loam.run(&["cancel", "--yes", &id])?;
    Ok(())
}
