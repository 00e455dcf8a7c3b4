//! From a TOML file to an answer, with the real command line.

use anyhow::ensure;
use qemu_tests::{grid::Grid, http, node::Node};

use crate::{cli::Cli, demo::wait_start};

pub fn case(grid: &Grid, node: &mut Node<'_>) -> anyhow::Result<()> {
    let key = node.record()?.key;
    let loam = Cli::register(grid, node)?;
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/hello.toml");
    let deployed = loam.run(&["deploy", example, "--json"])?;
    let deployed: serde_json::Value = serde_json::from_str(&deployed)?;
    ensure!(deployed["outcome"] == "runs", "{deployed}");

    let web = node.forward(8080)?;
    wait_start(web)?;
    let page = http::get_text(web, "/")?;
    ensure!(page.contains("counter: 1\n"), "{page}");
    ensure!(
        page.contains("TOKEN=hunter2\n"),
        "the sealed secret did not arrive: {page}"
    );

    let contract = deployed["contract"].to_string();
    let logs = loam.run(&["logs", &contract, "web"])?;
    ensure!(logs.contains("hello: listening on port 80"), "{logs}");
    let status = loam.run(&["status"])?;
    ensure!(
        status.contains("running") && status.contains("tcp://10.0.2.15:8080"),
        "{status}"
    );
    ensure!(loam.run(&["list"])?.contains("running"));
    ensure!(loam.run(&["node", "list"])?.contains(&key.to_string()));
    ensure!(
        !node.console()?.contains("hunter2"),
        "a secret is on the node's screen"
    );
    ensure!(
        !node.logs()?.contains("hunter2"),
        "a secret is in the node's log"
    );
    loam.run(&["cancel", "--yes", &contract])?;
    Ok(())
}
