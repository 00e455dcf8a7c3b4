//! A stock kernel in a machine, with its modules in the initial file system: what we ask of a guest is
//! what any Linux has.

use anyhow::ensure;
use loam_deployment::Version;
use loam_node_api::path::GUEST_KERNEL;
use qemu_tests::{
    grid::Grid,
    node::{Node, NodeOptions},
};

use crate::demo::{Hello, count, wait_start};

#[test]
#[ignore = "slow: an image and a boot of its own"]
fn a_stock_kernel_is_a_guest_too() -> anyhow::Result<()> {
    let image = xtask::image::build_for(&xtask::image::Purpose::StockGuest)?;
    let grid = Grid::start()?;
    let options = NodeOptions {
        image: Some(image.disk),
        ..NodeOptions::default()
    };
    let mut node = Node::boot(&grid, options)?;
    let kernel = node.read(GUEST_KERNEL)?;
    ensure!(!kernel.starts_with(b"\x7fELF"), "that is our own kernel");
    let alice = grid.tenant("stock")?;
    let hello = Hello::default();
    let contract = alice.deploy(&node, &hello.toml(&grid))?;
    contract.wait_running(Version(1))?;
    let web = node.forward(hello.port)?;
    wait_start(web)?;
    // Its volume counts: disks, network and console are there.
    ensure!(count(web)? == 1);
    contract.cancel()
}
