//! Disks that hold somebody's data are never written.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};
use gptman::{GPT, GPTPartitionEntry};
use qemu_tests::{
    folder,
    grid::Grid,
    node::{Node, NodeOptions},
    wait::wait_for,
};

const SECTOR: u64 = 512;
/// Large enough that size is no reason to leave a disk alone.
const SIZE: u64 = 2 << 30;
/// Around these a disk's first and last things lie: tables, superblocks, labels and their copies.
const PLACES: [u64; 5] = [0, 64 << 10, 1 << 20, 64 << 20, SIZE];
/// What is written on both sides of each.
const AROUND: u64 = 32 << 10;

#[test]
fn disks_that_hold_something_are_never_written() -> anyhow::Result<()> {
    let folder = folder::of_case()?;
    let disks = [
        Foreign::make(&folder, "mbr", mbr)?,
        Foreign::make(&folder, "gpt", gpt)?,
        Foreign::make(&folder, "ext4", ext4)?,
    ];

    let grid = Grid::start()?;
    let options = NodeOptions {
        disks: vec![2 << 30],
        full_disks: disks.iter().map(|disk| disk.file.clone()).collect(),
        ..NodeOptions::default()
    };
    let mut node = Node::boot(&grid, options)?;
    // Registered means that the empty disk is a pool already; the others are told of.
    ensure!(
        node.list("/pools")?.len() == 1,
        "{:?}",
        node.list("/pools")?
    );
    for number in 0..disks.len() {
        wait_for(&format!("the notice about disk {number}"), || {
            let (logs, disk) = (node.logs()?, format!("full{number}"));
            let told = logs.lines().any(|line| {
                line.contains("left alone: the disk holds something") && line.contains(&disk)
            });
            Ok(told.then_some(()))
        })?;
    }
    wait_for("the notices on the screen", || {
        Ok(node.console()?.contains("left alone").then_some(()))
    })?;
    // A daemon that was started anew looks at them again.
    node.kill_daemon("storaged")?;
    node.cut_power();
    for disk in &disks {
        disk.check_untouched()?;
    }
    Ok(())
}

/// A disk of somebody else's.
struct Foreign {
    file: PathBuf,
    /// A copy of it, made before the node saw it.
    before: PathBuf,
    /// 512-byte blocks that the file takes: zeroes written where it has holes would add to them.
    blocks: u64,
}

impl Foreign {
    fn make(
        folder: &Path,
        name: &str,
        fill: fn(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let (file, before) = (folder.join(name), folder.join(format!("{name}.before")));
        File::create(&file)?.set_len(SIZE)?;
        fill(&file).with_context(|| format!("making the disk {name}"))?;
        run(Command::new("cp")
            .arg("--sparse=always")
            .args([&file, &before]))?;
        Ok(Self {
            blocks: blocks(&file)?,
            file,
            before,
        })
    }

    fn check_untouched(&self) -> anyhow::Result<()> {
        let name = self.file.display();
        let blocks = blocks(&self.file)?;
        ensure!(
            blocks == self.blocks,
            "{name} was written: {} blocks before, {blocks} after",
            self.blocks
        );
        let (mut before, mut after) = (File::open(&self.before)?, File::open(&self.file)?);
        ensure!(
            after.metadata()?.len() == SIZE,
            "{name} has another size now"
        );
        let (mut old, mut new) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        for offset in (0..SIZE).step_by(old.len()) {
            before.read_exact(&mut old)?;
            after.read_exact(&mut new)?;
            // Whole first: byte by byte, gigabytes take minutes without optimisation.
            if old != new
                && let Some(byte) = old.iter().zip(&new).position(|(old, new)| old != new)
            {
                anyhow::bail!("{name} was changed at byte {}", offset + byte as u64);
            }
        }
        Ok(())
    }
}

fn blocks(file: &Path) -> anyhow::Result<u64> {
    let file = File::open(file)?;
    // Blocks are counted once they have a place on the disk.
    file.sync_all()?;
    Ok(file.metadata()?.blocks())
}

/// An MBR with one Linux partition from sector 2048 on.
fn mbr(file: &Path) -> anyhow::Result<()> {
    let mut sector = [0; SECTOR as usize];
    sector[446..462].copy_from_slice(&[
        0x00, 0x20, 0x21, 0x00, 0x83, 0xff, 0xff, 0xff, 0x00, 0x08, 0x00, 0x00, 0x00, 0x00, 0x10,
        0x00,
    ]);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    let disk = File::options().write(true).open(file)?;
    write_pattern(&disk, SECTOR, SIZE)?;
    Ok(disk.write_all_at(&sector, 0)?)
}

/// A GPT, both copies, with one partition.
fn gpt(file: &Path) -> anyhow::Result<()> {
    const LINUX_DATA: [u8; 16] =
        *b"\xaf\x3d\xc6\x0f\x83\x84\x72\x47\x8e\x79\x3d\x69\xd8\x47\x7d\xe4";
    /// Header and entries, at both ends.
    const TABLE: u64 = 34 * SECTOR;
    let mut disk = File::options().read(true).write(true).open(file)?;
    write_pattern(&disk, TABLE, SIZE - TABLE)?;
    let mut table = GPT::new_from(&mut disk, SECTOR, *b"somebody's disk ")?;
    table[1] = GPTPartitionEntry {
        partition_type_guid: LINUX_DATA,
        unique_partition_guid: *b"somebody's data ",
        starting_lba: (1 << 20) / SECTOR,
        ending_lba: (SIZE - (1 << 20)) / SECTOR - 1,
        attribute_bits: 0,
        partition_name: "data".into(),
    };
    GPT::write_protective_mbr_into(&mut disk, SECTOR)?;
    disk.seek(SeekFrom::Start(0))?;
    table.write_into(&mut disk)?;
    Ok(())
}

/// A file system on the whole disk, without a partition table, with files over 80 MiB of it.
fn ext4(file: &Path) -> anyhow::Result<()> {
    let files = file.with_extension("files");
    fs::create_dir(&files)?;
    for number in 0..80 {
        let mut content = vec![0; 1 << 20];
        pattern(number << 20, &mut content);
        fs::write(files.join(number.to_string()), content)?;
    }
    run(Command::new("mkfs.ext4")
        .args(["-q", "-F", "-d"])
        .args([&*files, file]))?;
    Ok(fs::remove_dir_all(files)?)
}

/// Around each of [`PLACES`], within `from` and `to`.
fn write_pattern(disk: &File, from: u64, to: u64) -> anyhow::Result<()> {
    for place in PLACES {
        let start = place.saturating_sub(AROUND).max(from);
        let end = (place + AROUND).min(to);
        let mut bytes = vec![0; (end - start) as usize];
        pattern(start, &mut bytes);
        disk.write_all_at(&bytes, start)?;
    }
    Ok(())
}

/// Bytes that are never zero and tell their offset, which is a multiple of 8.
fn pattern(offset: u64, bytes: &mut [u8]) {
    for (word, at) in bytes.chunks_mut(8).zip((offset..).step_by(8)) {
        let told = (at | 1 << 63).to_be_bytes().map(|byte| byte ^ 0x5a);
        word.copy_from_slice(&told[..word.len()]);
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command
        .output()
        .with_context(|| format!("running {}", command.get_program().display()))?;
    ensure!(
        output.status.success(),
        "{}: {}",
        command.get_program().display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
