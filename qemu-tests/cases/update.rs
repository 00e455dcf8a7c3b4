//! A new version replaces the old one; the volume's data stays.

use anyhow::ensure;
use loam_deployment::Version;
use qemu_tests::{grid::Grid, http, node::Node};

use crate::demo::{Hello, count, wait_start, wait_start_after};

pub fn case(grid: &Grid, node: &mut Node<'_>) -> anyhow::Result<()> {
    let alice = grid.tenant("updates")?;
    let first = Hello {
        port: 8280,
        subnet: "10.22.0",
        ..Hello::default()
    };
    let contract = alice.deploy(node, &first.toml(grid))?;
    contract.wait_running(Version(1))?;
    let web = node.forward(first.port)?;
    let before = wait_start(web)?;
    ensure!(before.processors == 1, "{before:?}");
    ensure!(count(web)? == 1);
    ensure!(count(web)? == 2);

    let second = Hello {
        greeting: "two",
        ..first
    };
    // With two processors, too.
    let toml = second.toml(grid).replace("cpus = 1", "cpus = 2");
    contract.wait_running(contract.update(&toml)?)?;
    let after = wait_start_after(web, &before)?;
    ensure!(
        after.processors == 2,
        "the second processor did not come: {after:?}"
    );
    ensure!(
        after.farewell.as_ref() == Some(&before.number),
        "the old version was not asked to end: {before:?}, then {after:?}"
    );
    let page = http::get_text(web, "/")?;
    ensure!(
        page.contains("GREETING=two") && page.contains("counter: 3\n"),
        "the volume lost its data, or the new environment did not come: {page}"
    );
    contract.cancel()
}
