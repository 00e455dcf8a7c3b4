//! Cancelled, nothing of a contract is left on the node.

use std::{collections::BTreeSet, net::SocketAddr};

use anyhow::ensure;
use loam_deployment::Version;
use qemu_tests::{grid::Grid, http, node::Node, wait::wait_for};

use crate::demo::{Hello, count, start, wait_start};

/// Of nobody else's cases: the kernel's list of connections is searched for it.
const PORT: u16 = 8480;

pub fn case(grid: &Grid, node: &mut Node<'_>) -> anyhow::Result<()> {
    let before = Left::on(node)?;
    let (alice, bob) = (grid.tenant("cancels")?, grid.tenant("stays")?);
    let hers = Hello {
        port: PORT,
        subnet: "10.40.0",
        ..Hello::default()
    };
    let image = grid.add_other_hello("cancelled", Vec::new())?;
    let toml = hers.toml(grid).replace(
        &grid.hello_reference(),
        &grid.reference(&image, "cancelled"),
    );
    let hers = alice.deploy(node, &toml)?;
    let mut theirs = Hello {
        port: 8481,
        subnet: "10.41.0",
        ..Hello::default()
    };
    let his = bob.deploy(node, &theirs.toml(grid))?;
    hers.wait_running(Version(1))?;
    his.wait_running(Version(1))?;
    let (web, other) = (node.forward(PORT)?, node.forward(theirs.port)?);
    wait_start(web)?;
    let started = wait_start(other)?;
    ensure!(count(web)? == 1);

    // What is looked for below is there now: the looks themselves are shown to work.
    let with_both = Left::on(node)?;
    ensure!(with_both.machines.len() == before.machines.len() + 2);
    ensure!(with_both.namespaces.len() == before.namespaces.len() + 2);
    ensure!(
        with_both.links.len() >= before.links.len() + 2,
        "{with_both:?}"
    );
    ensure!(
        with_both.volumes.len() == before.volumes.len() + 4,
        "two volumes and two writable layers: {with_both:?}"
    );
    let hers_alone = image.digest().to_string().replace("sha256:", "");
    ensure!(
        with_both
            .images
            .iter()
            .any(|name| name.contains(&hers_alone)),
        "{hers_alone} is not in {with_both:?}"
    );
    let asked = ask_from_within(other)?;
    ensure!(
        asked.starts_with("ok"),
        "her port from his machine: {asked}"
    );
    ensure!(redirected(node)?, "a redirected connection is not listed");

    hers.cancel()?;
    wait_for("the machine to go", || {
        Ok((Left::on(node)?.machines.len() == before.machines.len() + 1).then_some(()))
    })?;
    wait_for("its network to go", || {
        let left = Left::on(node)?;
        Ok((left.namespaces.len() == before.namespaces.len() + 1).then_some(()))
    })?;
    wait_for("its volumes to go", || {
        Ok((Left::on(node)?.volumes.len() == before.volumes.len() + 2).then_some(()))
    })?;
    wait_for("its image to go", || {
        let images = Left::on(node)?.images;
        Ok(images
            .iter()
            .all(|name| !name.contains(&hers_alone))
            .then_some(()))
    })?;
    // Nobody answers at her port either way. But where a rule redirects, the packet leaves the node towards an
    // address that is gone, and the kernel notes the connection; without one it is dropped.
    wait_for("her connections to be forgotten", || {
        Ok((!redirected(node)?).then_some(()))
    })?;
    let asked = ask_from_within(other)?;
    ensure!(
        !redirected(node)?,
        "the cancelled contract's port is still redirected: {asked}"
    );
    ensure!(asked.starts_with("failed"), "{asked}");
    ensure!(start(other)? == started, "the other tenant was disturbed");

    // What was hers can be another's.
    theirs.port = PORT;
    his.wait_running(his.update(&theirs.toml(grid))?)?;
    let after = wait_start(node.forward(PORT)?)?;
    ensure!(
        after == started,
        "another machine than his answers at what was her port: {started:?}, then {after:?}"
    );
    his.cancel()?;
    wait_for("all to be as it was before", || {
        Ok((Left::on(node)? == before).then_some(()))
    })?;
    Ok(())
}

/// What his machine is told when it asks for the published port by the node's own address.
fn ask_from_within(other: SocketAddr) -> anyhow::Result<String> {
    http::get_text(other, &format!("/connect?to=10.0.2.15:{PORT}"))
}

/// Whether the kernel knows a connection that was made to the published port.
fn redirected(node: &Node<'_>) -> anyhow::Result<bool> {
    let connections = String::from_utf8(node.read("/proc/net/nf_conntrack")?)?;
    Ok(connections.contains(&format!("dport={PORT} ")))
}

/// Everything of contracts that can be seen on a node.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    machines: BTreeSet<String>,
    groups: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    links: BTreeSet<String>,
    volumes: BTreeSet<String>,
    images: BTreeSet<String>,
}

impl Left {
    fn on(node: &Node<'_>) -> anyhow::Result<Self> {
        let list = |path: &str| anyhow::Ok(BTreeSet::from_iter(node.list(path)?));
        let on_pools = |folder: &str, end: &str| {
            let mut files = BTreeSet::new();
            for pool in node.list("/pools")? {
                let names = node.list(&format!("/pools/{pool}/{folder}"))?;
                files.extend(names.into_iter().filter(|name| name.ends_with(end)));
            }
            anyhow::Ok(files)
        };
        Ok(Self {
            machines: list("/run/loam/machines")?,
            groups: list("/sys/fs/cgroup/machines")?,
            namespaces: list("/run/loam/netns")?,
            links: list("/sys/class/net")?,
            volumes: on_pools("volumes", ".raw")?,
            images: on_pools("images", ".erofs")?,
        })
    }
}
