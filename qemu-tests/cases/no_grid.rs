//! A machine that was started from an image of no grid says so, and what to do.

use qemu_tests::{folder, node::tested_image, wait::LIMIT};
use xtask::{
    image,
    qemu::{NodeConfig, accel::Choice},
};

#[test]
#[ignore = "slow: a boot of its own"]
fn an_image_without_a_grid_says_what_to_do() -> anyhow::Result<()> {
    let node = NodeConfig::new(folder::new("node")?, tested_image()?)
        .accel(Choice::of_environment()?.decide(&image::linux()))
        .start()?;
    let console = node.console();
    console.wait_for("this image was made for no grid", LIMIT)?;
    // What is known all the same is shown.
    console.wait_for("address   10.0.2.15", LIMIT)?;
    console.wait_for("noded running", LIMIT)?;
    anyhow::ensure!(!node.logs().text().contains("daemon ended"));
    Ok(())
}
