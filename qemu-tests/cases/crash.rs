//! A machine whose command ends: what its owner sees, and when it is started again.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use loam_deployment::{
    Version,
    report::{Report, State, WorkloadReport},
};
use loam_node_api::path::TENANT_PORT;
use qemu_tests::{folder, grid::Grid, http, node::Node, tenant::Contract, wait::wait_for};

use crate::{
    cli::Cli,
    demo::{Hello, count, start, wait_start, wait_start_after},
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
    let tenant_port = node.forward(TENANT_PORT)?;
    let mut started = wait_start(web)?;
    ensure!(count(web)? == 1);
    let mut told = false;
    // Of its own each, as the console keeps the words of the lives before.
    for (crash, status) in (1..=4).zip(11..) {
        let before = wait_for("the report that it runs", || {
            let report = contract.report()?;
            let running =
                |report: &Report| web_of(report).is_some_and(|web| web.state == State::Running);
            Ok(report.filter(running))
        })?;
        http::post(web, &format!("/exit?status={status}"))?;
        let is_back = || start(web).is_ok_and(|now| now != started);
        told |= told_while_it_waits(&contract, tenant_port, &before, status, is_back)?;
        started = wait_start_after(web, &started)?;
        ensure!(
            count(web)? == crash + 1,
            "the volume is not the same after crash {crash}"
        );
        if crash >= 3 && told {
            break;
        }
    }
    ensure!(
        told,
        "each time it ran again before its owner could read why it had ended"
    );
    contract.cancel()?;

    // One that is not to be started again stays to be looked at.
    let file = folder::of_case()?.join("once.toml");
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

/// Whether the owner could read why the machine ended, and what it wrote last, while it waits for
/// its next start. Not if it is on its way again when we look: each wait is twice the one before; nor if it
/// is back before the next report may be written.
fn told_while_it_waits(
    contract: &Contract<'_>,
    tenant_port: SocketAddr,
    before: &Report,
    status: i32,
    is_back: impl Fn() -> bool,
) -> anyhow::Result<bool> {
    wait_for("the report of a machine that ended", || {
        let Some(report) = contract.report()?.filter(|report| report != before) else {
            return Ok(is_back().then_some(false));
        };
        let Some(web) = web_of(&report).filter(|web| web.state == State::Failed) else {
            return Ok(Some(false));
        };
        let console = contract.console(tenant_port, "web")?;
        if contract.report()?.as_ref() != Some(&report) {
            return Ok(Some(false));
        }
        ensure!(
            web.exit_status == Some(status)
                && web.detail == format!("its command ended with status {status}"),
            "while it waits it is told as {web:?}"
        );
        ensure!(
            console.contains(&format!("hello: bye, status {status}")),
            "while it waits its last lines are gone: {console}"
        );
        Ok(Some(true))
    })
}

fn web_of(report: &Report) -> Option<&WorkloadReport> {
    let mut workloads = report.workloads.iter();
    workloads.find_map(|(name, web)| (name.as_str() == "web").then_some(web))
}
