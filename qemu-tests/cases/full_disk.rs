//! A volume that does not fit is the error of its own workload, and nobody else's.

use anyhow::{Context, ensure};
use loam_deployment::{Version, report::State};
use qemu_tests::{grid::Grid, node::Node, wait::wait_for};

use crate::demo::{Hello, count, start, wait_start};

pub fn case(grid: &Grid, node: &mut Node<'_>) -> anyhow::Result<()> {
    let (alice, bob) = (grid.tenant("fits")?, grid.tenant("too large")?);
    let hello = Hello {
        port: 8380,
        subnet: "10.23.0",
        ..Hello::default()
    };
    let hers = alice.deploy(node, &hello.toml(grid))?;
    hers.wait_running(Version(1))?;
    let web = node.forward(hello.port)?;
    let started = wait_start(web)?;
    ensure!(count(web)? == 1);

    let his = bob.deploy(
        node,
        r#"
        kind = "workload"
        [volume.huge]
        size = "1TiB"
        encrypted = false
        [volume.small]
        size = "64MiB"
        encrypted = false
        "#,
    )?;
    let report = wait_for("both volumes to be decided", || {
        Ok(his.report()?.filter(|report| {
            let states: Vec<_> = report.workloads.values().map(|w| w.state).collect();
            states.len() == 2 && !states.contains(&State::Pending)
        }))
    })?;
    let workload = |name: &str| {
        let name = name.parse().expect("a name");
        report
            .workloads
            .get(&name)
            .context("a workload without report")
    };
    let huge = workload("huge")?;
    ensure!(
        huge.state == State::Failed && huge.detail.contains("1TiB"),
        "{huge:?}"
    );
    ensure!(workload("small")?.state == State::Running, "{report:?}");
    ensure!(
        start(web)? == started && count(web)? == 2,
        "another tenant's machine was disturbed"
    );
    his.cancel()?;
    hers.cancel()
}
