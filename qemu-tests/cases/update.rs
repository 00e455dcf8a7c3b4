//! A new version replaces the old one; the volume's data stays.

use anyhow::ensure;
use loam_deployment::Version;
use qemu_tests::{
    grid::Grid,
    http,
    node::{Node, NodeOptions},
    wait::wait_for,
};

use crate::{Hello, count};

#[test]
fn a_new_version_replaces_the_machine_and_keeps_its_data() -> anyhow::Result<()> {
    let grid = Grid::start()?;
    let mut node = Node::boot(&grid, NodeOptions::default())?;
    let alice = grid.tenant("alice")?;
    let contract = alice.deploy(&node, &Hello::default().toml(&grid))?;
    contract.wait_running(Version(1))?;
    let web = node.forward(8080)?;
    ensure!(count(web)? == 1);
    ensure!(count(web)? == 2);

    let second = Hello {
        greeting: "two",
        ..Hello::default()
    };
    // With two processors, too.
    let toml = second.toml(&grid).replace("cpus = 1", "cpus = 2");
    let version = contract.update(&toml)?;
    contract.wait_running(version)?;
    let page = wait_for("the new version to answer", || {
        Ok(http::get_text(web, "/")
            .ok()
            .filter(|page| page.contains("GREETING=two")))
    })?;
    let counter: u64 = page
        .lines()
        .find_map(|line| line.strip_prefix("counter: "))
        .and_then(|number| number.parse().ok())
        .unwrap_or_default();
    ensure!(counter >= 3, "the volume lost its data: {page}");
    Ok(())
}
