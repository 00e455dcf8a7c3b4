//! Cancelled, nothing of a contract is left on the node.

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
fn nothing_is_left_of_a_cancelled_contract() -> anyhow::Result<()> {
    let grid = Grid::start()?;
    let mut node = Node::boot(&grid, NodeOptions::default())?;
    let links_before = node.list("/sys/class/net")?;
    let alice = grid.tenant("alice")?;
    let contract = alice.deploy(&node, &Hello::default().toml(&grid))?;
    contract.wait_running(Version(1))?;
    let web = node.forward(8080)?;
    ensure!(count(web)? == 1);
    // What is looked for below is there now: the look itself is shown to work.
    ensure!(!node.list("/run/loam/machines")?.is_empty());
    ensure!(!node.list("/run/loam/netns")?.is_empty());
    ensure!(node.list("/sys/class/net")? != links_before);
    ensure!(
        volumes(&node)?.len() == 2,
        "a volume and a root layer: {:?}",
        volumes(&node)?
    );

    contract.cancel()?;
    wait_for("the machine to go", || {
        Ok(node.list("/run/loam/machines")?.is_empty().then_some(()))
    })?;
    wait_for("its network to go", || {
        let links = node.list("/sys/class/net")?;
        Ok((node.list("/run/loam/netns")?.is_empty() && links == links_before).then_some(()))
    })?;
    wait_for("its volumes to go", || {
        Ok(volumes(&node)?.is_empty().then_some(()))
    })?;
    ensure!(
        http::get(web, "/").is_err(),
        "the published port still answers"
    );
    ensure!(
        node.list("/sys/fs/cgroup/machines")?
            .iter()
            .all(|name| !name.contains("web"))
    );
    Ok(())
}

/// Files of volumes on all pools.
fn volumes(node: &Node<'_>) -> anyhow::Result<Vec<String>> {
    let mut files = Vec::new();
    for pool in node.list("/pools")? {
        let names = node.list(&format!("/pools/{pool}/volumes"))?;
        files.extend(names.into_iter().filter(|name| name.ends_with(".raw")));
    }
    Ok(files)
}
