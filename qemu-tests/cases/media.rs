//! Whatever a farmer boots it from, and by whichever firmware, a machine becomes a node.

use std::{fs, io::Write as _, path::PathBuf, process::Command};

use anyhow::{Context as _, ensure};
use qemu_tests::{
    grid::Grid,
    node::{Node, NodeOptions, tested_image},
};
use xtask::{program, qemu::Medium};

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

/// Tools that have nothing to do with ours.
#[test]
fn media_are_what_others_take_for_a_disk_and_a_cd() -> anyhow::Result<()> {
    let disk = tested_image()?;
    let said = program::run(Command::new("sgdisk").arg("--verify").arg(&disk))?;
    ensure!(said.contains("No problems found"), "{said}");
    let table = program::run(Command::new("sgdisk").arg("--print").arg(&disk))?;
    for (kind, name) in [("EF02", "loam BIOS"), ("EF00", "loam A")] {
        let line = table.lines().find(|line| line.contains(name));
        ensure!(line.is_some_and(|line| line.contains(kind)), "{table}");
    }

    // The slot alone, as fsck wants it.
    let (start, length) = (4096 * 512, 128 << 20);
    let mut slot = tempfile::NamedTempFile::new()?;
    slot.write_all(&fs::read(&disk)?[start..start + length])?;
    let said = program::run(
        Command::new("fsck.vfat")
            .arg("-n")
            .arg("-v")
            .arg(slot.path()),
    )?;
    ensure!(
        said.contains("2 files") || said.contains("files, "),
        "{said}"
    );

    let mut xorriso = Command::new("xorriso");
    xorriso.arg("-indev").arg(iso()?);
    xorriso.args([
        "-report_el_torito",
        "plain",
        "-find",
        "/",
        "-exec",
        "report_lba",
    ]);
    let said = program::run(&mut xorriso)?;
    for words in [
        "BIOS  y   none",
        "UEFI  y   none",
        "boot-info-table",
        "/BOOT/LOAM/BOOT.CFG",
    ] {
        ensure!(said.contains(words), "{words}: {said}");
    }
    Ok(())
}
