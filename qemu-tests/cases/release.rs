//! The image as farmers boot it: it joins the grid that it was made for, whatever it is offered.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, ensure};
use loam_deployment::Version;
use qemu_tests::{
    grid::Grid,
    node::{Node, NodeOptions, Uplink},
};
use xtask::image::{self, Media, More, NonFree, Purpose, daemons, media};

use crate::demo::{Hello, count, wait_start};

/// What a farmer's stick and memory are promised to hold at most.
const MOST_BYTES: u64 = 40_000_000;

#[test]
#[ignore = "slow: an image and a boot of its own"]
fn a_released_image_joins_its_own_grid_and_has_no_debug_port() -> anyhow::Result<()> {
    let (grid, other) = (Grid::start()?, Grid::start()?);
    let own = toml::from_str(&grid.node_config(Uplink::Ipv4AndIpv6)?)?;
    let purpose = Purpose::Release(own);
    let image = image::build_from(&purpose, NonFree::Without, purpose.gone(), Media::All)?;
    // docs/promises.md.
    let size = fs::metadata(&image.uki)?.len();
    ensure!(size <= MOST_BYTES, "it has {size} bytes");
    let options = NodeOptions {
        image: Some(image.disk),
        offered_grid: Some(other.node_config(Uplink::Ipv4AndIpv6)?),
        ..NodeOptions::default()
    };
    // It waits until the node is registered here.
    let mut node = Node::boot(&grid, options)?;
    ensure!(
        other.latest_nodes()?.is_empty(),
        "it joined what QEMU offered"
    );

    let alice = grid.tenant("alice")?;
    let hello = Hello::default();
    let contract = alice.deploy(&node, &hello.toml(&grid))?;
    let report = contract.wait_running(Version(1))?;
    let more = image.more.context("all media were asked for")?;
    is_named(&report.image, &image.uki, &more)?;
    let web = node.forward(hello.port)?;
    wait_start(web)?;
    ensure!(count(web)? == 1);
    let answered = node
        .qemu()?
        .debug_port()?
        .is_answered_within(Duration::from_secs(10))?;
    ensure!(!answered, "it has a debug port");
    contract.cancel()
}

/// All that carry the image's name have the one that the node tells.
fn is_named(told: &str, uki: &Path, more: &More) -> anyhow::Result<()> {
    ensure!(told.contains(".release."), "{told}");
    for medium in [uki, &more.iso, &more.network] {
        let checked = media::check::check(medium)?;
        ensure!(checked.wrong.is_empty(), "{medium:?}: {checked:?}");
        ensure!(
            checked.version.as_deref() == Some(told),
            "{medium:?}: {checked:?}"
        );
    }
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(&more.manifest)?)?;
    ensure!(manifest["metadata"]["component"]["version"] == told);
    let tool = Command::new(daemons::folder(daemons::Profile::Release).join("loam"))
        .arg("version")
        .output()?;
    let said = String::from_utf8(tool.stdout)?;
    ensure!(said.contains(told), "{said}");
    Ok(())
}
