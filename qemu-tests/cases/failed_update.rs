//! An update that cannot work says why, and the old version goes on.

use anyhow::{Context, ensure};
use loam_deployment::{Version, report::Verdict};
use qemu_tests::{grid::Grid, node::Node, wait::wait_for};

use crate::demo::{Hello, count, start, wait_start, wait_start_after};

pub fn case(grid: &Grid, node: &mut Node<'_>) -> anyhow::Result<()> {
    let alice = grid.tenant("fails to update")?;
    let hello = Hello {
        port: 8680,
        subnet: "10.60.0",
        ..Hello::default()
    };
    let contract = alice.deploy(node, &hello.toml(grid))?;
    contract.wait_running(Version(1))?;
    let web = node.forward(hello.port)?;
    let started = wait_start(web)?;
    ensure!(count(web)? == 1);

    let good = Hello {
        greeting: "two",
        ..hello
    }
    .toml(grid);
    // Nobody has this image.
    let reference = grid.hello_reference();
    let (repository, _) = reference.split_once('@').unwrap_or((&reference, ""));
    let gone = format!("{repository}@sha256:{}", "5e".repeat(32));
    let no_image = good.replace(&reference, &gone);
    // No disk has room for this.
    let no_room = good.replace("size = \"64MiB\"", "size = \"1TiB\"");
    for (toml, reason) in [(no_image, "has no manifest"), (no_room, "no pool")] {
        let version = contract.update(&toml)?;
        wait_for(&format!("version {version} to be told why"), || {
            let Some(report) = contract
                .report()?
                .filter(|report| report.version == version)
            else {
                return Ok(None);
            };
            ensure!(report.verdict == Verdict::Accepted, "{report:?}");
            let told = report
                .workloads
                .values()
                .any(|workload| workload.detail.contains(reason));
            Ok(told.then_some(()))
        })?;
        let stopped =
            format!("the old version was stopped for a new one that cannot run: {reason}");
        let now = start(web).context(stopped.clone())?;
        ensure!(now == started, stopped);
    }
    ensure!(count(web)? == 2, "the old version lost its data");

    contract.wait_running(contract.update(&good)?)?;
    wait_start_after(web, &started)?;
    ensure!(count(web)? == 3, "the new version lost the old one's data");
    contract.cancel()
}
