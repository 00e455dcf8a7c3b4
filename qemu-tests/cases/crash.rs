//! A machine whose command ends: what its owner sees, and when it is started again.

use anyhow::{Context, ensure};
use loam_deployment::{
    Version,
    report::{Report, State},
};
use loam_node_api::path::TENANT_PORT;
use qemu_tests::{folder, grid::Grid, http, node::Node, wait::wait_for};
use serde_json::{Value, json};

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
    let tenant_port = node.forward(TENANT_PORT)?;
    let mut started = wait_start(web)?;
    ensure!(count(web)? == 1);
    // Of its own each, as the console keeps the words of the lives before.
    for (crash, status) in (1_u32..=3).zip(11..) {
        http::post(web, &format!("/exit?status={status}"))?;
        started = wait_start_after(web, &started)?;
        ensure!(
            count(web)? == u64::from(crash) + 1,
            "the volume is not the same after crash {crash}"
        );
        // It may be back before the next report may be written.
        let told = wait_for("the report that it was started again", || {
            let report = contract.report()?;
            Ok(report.and_then(|report| restarted(&report, crash)))
        })?;
        let how = format!("before that, its command ended with status {status}");
        ensure!(told.ends_with(&how), "after crash {crash} it says: {told}");
        let console = contract.console(tenant_port, "web")?;
        ensure!(
            console.contains(&format!("hello: bye, status {status}")),
            "its last lines are gone: {console}"
        );
    }
    contract.cancel()?;

    stays_ended(grid, node)
}

/// A machine that is not to be started again.
struct Once {
    port: u16,
    subnet: &'static str,
    /// What ends it.
    asked: &'static str,
    /// What its owner is then told.
    status: Value,
    detail: &'static str,
    last_words: &'static str,
}

/// Those that are not to be started again stay to be looked at, whatever ended them.
fn stays_ended(grid: &Grid, node: &mut Node<'_>) -> anyhow::Result<()> {
    const RESET: &str = "the guest has reset itself";
    let loam = Cli::register(grid, node)?;
    let mut machines = Vec::new();
    for once in [
        Once {
            port: 8581,
            subnet: "10.51.0",
            asked: "/exit?status=7",
            status: json!(7),
            detail: "its command ended with status 7",
            last_words: "hello: bye, status 7",
        },
        Once {
            port: 8582,
            subnet: "10.52.0",
            asked: "/sysrq?key=c",
            status: Value::Null,
            detail: RESET,
            last_words: "Kernel panic - not syncing: sysrq triggered crash",
        },
        Once {
            port: 8583,
            subnet: "10.53.0",
            asked: "/sysrq?key=b",
            status: Value::Null,
            detail: RESET,
            last_words: "sysrq: Resetting",
        },
    ] {
        let hello = Hello {
            port: once.port,
            subnet: once.subnet,
            ..Hello::default()
        };
        let text = hello
            .toml(grid)
            .replace("cpus = 1", "cpus = 1\n            restart = \"never\"");
        let file = folder::of_case()?.join(format!("once-{}.toml", once.port));
        std::fs::write(&file, text)?;
        let file = file.to_str().context("a folder's name is not UTF-8")?;
        let deployed: Value = serde_json::from_str(&loam.run(&["deploy", file, "--json"])?)?;
        let id = deployed["contract"].to_string();
        let web = node.forward(hello.port)?;
        wait_start(web)?;
        http::post(web, once.asked)?;
        machines.push((id, once));
    }
    for (id, once) in machines {
        let web = wait_for("the end to be shown", || {
            let lines: Vec<Value> = serde_json::from_str(&loam.run(&["status", &id, "--json"])?)?;
            let mut lines = lines.into_iter();
            Ok(lines.find(|line| line["workload"] == "web" && line["state"] == "failed"))
        })?;
        ensure!(
            web["exit_status"] == once.status && web["detail"] == once.detail,
            "its end is told as {web}"
        );
        let logs = loam.run(&["logs", &id, "web"])?;
        ensure!(
            logs.contains(once.last_words),
            "its last lines are gone: {logs}"
        );
        loam.run(&["cancel", "--yes", &id])?;
    }
    Ok(())
}

/// What is said of a machine that runs once it was started again so often.
fn restarted(report: &Report, times: u32) -> Option<String> {
    let mut workloads = report.workloads.iter();
    let (_, web) = workloads.find(|(name, _)| name.as_str() == "web")?;
    (web.state == State::Running && web.restarts == times).then(|| web.detail.clone())
}
