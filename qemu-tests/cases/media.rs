//! Whatever a farmer boots it from, and by whichever firmware, a machine becomes a node.

use std::path::PathBuf;

use anyhow::Context as _;
use qemu_tests::{
    grid::Grid,
    node::{Node, NodeOptions, tested_image},
};
use xtask::qemu::Medium;

/// Boots it until it is registered.
fn boots(grid: &Grid, image: PathBuf, medium: Medium, bios: bool) -> anyhow::Result<()> {
    let firmware = if bios { "a BIOS" } else { "UEFI" };
    let what = format!("{} as {medium:?} by {firmware}", image.display());
    eprintln!("booting {what}");
    let options = NodeOptions {
        image: Some(image),
        medium: Some(medium),
        bios,
        disks: vec![4 << 30],
        ..NodeOptions::default()
    };
    Node::boot(grid, options).with_context(|| format!("booting {what}"))?;
    Ok(())
}

fn iso() -> anyhow::Result<PathBuf> {
    Ok(tested_image()?.with_extension("iso"))
}

#[test]
fn a_cd_boots_by_a_bios() -> anyhow::Result<()> {
    boots(&Grid::start()?, iso()?, Medium::Cd, true)
}

#[test]
#[ignore = "slow: seven boots"]
fn every_medium_boots_by_either_firmware() -> anyhow::Result<()> {
    let grid = Grid::start()?;
    let disk = tested_image()?;
    let network = disk.with_file_name("loam-network");
    // A stick by UEFI is what all other cases boot.
    boots(&grid, disk, Medium::Stick, true)?;
    boots(&grid, iso()?, Medium::Stick, true)?;
    boots(&grid, iso()?, Medium::Stick, false)?;
    boots(&grid, iso()?, Medium::Cd, false)?;
    boots(&grid, network.clone(), Medium::Network, false)?;
    boots(&grid, network.clone(), Medium::Ipxe, false)?;
    boots(&grid, network, Medium::Ipxe, true)
}
