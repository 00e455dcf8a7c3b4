//! From a TOML file to an answer, with the real command line.

use std::{fs, process::Command};

use anyhow::{Context, ensure};
use loam_node_api::path::TENANT_PORT;
use qemu_tests::{
    grid::Grid,
    http,
    node::{Node, NodeOptions},
};

#[test]
fn a_deployment_becomes_a_machine_that_answers() -> anyhow::Result<()> {
    let grid = Grid::start()?;
    let mut node = Node::boot(&grid, NodeOptions::default())?;
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("config.toml");
    let tenant_port = node.forward(TENANT_PORT)?;
    let text = toml::to_string(&grid.config())?;
    let key = node.record()?.key;
    fs::write(
        &config,
        format!("{text}\n[nodes]\n{key} = \"{tenant_port}\"\n"),
    )?;
    let loam = |arguments: &[&str]| -> anyhow::Result<String> {
        let program = std::env::var_os("LOAM_CLI")
            .context("LOAM_CLI does not name `loam`; run `cargo xtask test`")?;
        let output = Command::new(program)
            .arg("--config")
            .arg(&config)
            .args(arguments)
            .env("HELLO_IMAGE", grid.hello_reference())
            .env("TOKEN", "hunter2")
            .output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "loam {}: {stderr}",
            arguments.join(" ")
        );
        Ok(String::from_utf8(output.stdout)?)
    };
    loam(&["key", "new"])?;
    loam(&["key", "register"])?;
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/hello.toml");
    let deployed = loam(&["deploy", example, "--json"])?;
    let deployed: serde_json::Value = serde_json::from_str(&deployed)?;
    ensure!(deployed["outcome"] == "runs", "{deployed}");

    let page = http::get_text(node.forward(8080)?, "/")?;
    ensure!(page.contains("counter: 1\n"), "{page}");
    ensure!(
        page.contains("TOKEN=hunter2\n"),
        "the sealed secret did not arrive: {page}"
    );

    let contract = deployed["contract"].to_string();
    let logs = loam(&["logs", &contract, "web"])?;
    ensure!(logs.contains("hello: listening on port 80"), "{logs}");
    let status = loam(&["status"])?;
    ensure!(
        status.contains("running") && status.contains("tcp://10.0.2.15:8080"),
        "{status}"
    );
    ensure!(loam(&["list"])?.contains("running"));
    ensure!(loam(&["node", "list"])?.contains(&key.to_string()));
    ensure!(
        !node.console()?.contains("hunter2"),
        "a secret is on the node's screen"
    );
    ensure!(
        !node.logs()?.contains("hunter2"),
        "a secret is in the node's log"
    );
    Ok(())
}
