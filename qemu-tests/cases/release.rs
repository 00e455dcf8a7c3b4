//! The image as farmers boot it: it joins the grid that it was made for, whatever it is offered.

use std::time::Duration;

use anyhow::ensure;
use loam_deployment::Version;
use qemu_tests::{
    grid::Grid,
    node::{Node, NodeOptions, Uplink},
};
use xtask::image::{self, Purpose};

use crate::demo::{Hello, count, wait_start};

#[test]
#[ignore = "slow: an image and a boot of its own"]
fn a_released_image_joins_its_own_grid_and_has_no_debug_port() -> anyhow::Result<()> {
    let (grid, other) = (Grid::start()?, Grid::start()?);
    let own = toml::from_str(&grid.node_config(Uplink::Ipv4AndIpv6)?)?;
    let image = image::build_for(&Purpose::Release(own))?;
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
    contract.wait_running(Version(1))?;
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
