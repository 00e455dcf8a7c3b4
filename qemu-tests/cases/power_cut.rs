//! Power cuts that lose what a disk's cache held: one load is recorded, then disks as a cut at any
//! moment may have left them are opened by storaged, and booted with their machine.

use std::{collections::BTreeMap, fs, ops::RangeInclusive, path::PathBuf};

use anyhow::{Context, bail, ensure};
use loam_deployment::Version;
use loam_node_api::debug::{DebugRequest, DebugResponse};
use qemu_tests::{
    folder,
    grid::Grid,
    node::{Node, NodeOptions},
    power_cut,
    wait::{LIMIT, wait_for},
    write_log::WriteLog,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use xtask::qemu::{Bus, Disk, Node as Machine, NodeConfig, accel::Choice};

use crate::{
    MOUNTS,
    demo::{Hello, record, records, wait_start},
    pools,
};

const DISK: u64 = 3 << 30;
const NAME: &str = "data";
const SERIAL: &str = "cut-disk";

/// Records before and after another tenant's volumes are made.
const RECORDS: u64 = 25;

#[test]
fn a_cut_between_flushes_loses_nothing_acknowledged() -> anyhow::Result<()> {
    let grid = Grid::start()?;
    let mut load = Load::record(&grid)?;
    load.open(5)?;
    load.boot(1)
}

#[test]
#[ignore = "slow: 200 cut disks are opened and 10 are booted"]
fn many_cuts_between_flushes_lose_nothing_acknowledged() -> anyhow::Result<()> {
    let grid = Grid::start()?;
    let mut load = Load::record(&grid)?;
    load.open(200)?;
    load.boot(10)
}

/// A node that was under load until its power was cut, and what it had acknowledged by when.
struct Load<'a> {
    node: Node<'a>,
    log: WriteLog,
    /// The log's length when the record of this number (counted from 0) was acknowledged.
    records: Vec<u64>,
    /// Volumes' files, and the log's length when all of them were there.
    volumes: Vec<(u64, Volumes)>,
}

/// Volumes' files by their names.
type Volumes = BTreeMap<String, VolumeFile>;

/// What nothing changes that this load does once the volume is acknowledged.
#[derive(Debug, PartialEq, Eq)]
enum VolumeFile {
    Record(String),
    Data {
        length: u64,
        /// By the superblock, if there is one.
        ext4: Option<u64>,
    },
}

impl<'a> Load<'a> {
    fn record(grid: &'a Grid) -> anyhow::Result<Self> {
        let recording = folder::of_case()?.join("recording");
        let length = || Ok::<_, anyhow::Error>(fs::metadata(&recording)?.len());
        let mut node = Node::boot(
            grid,
            NodeOptions {
                disks: Vec::new(),
                more_disks: vec![Disk::new(NAME, DISK).log_writes(&recording)],
                ..NodeOptions::default()
            },
        )?;
        let (alice, bob) = (grid.tenant("alice")?, grid.tenant("bob")?);
        let hers = alice.deploy(&node, &Hello::default().toml(grid))?;
        hers.wait_running(Version(1))?;
        let there = |node: &Node<'_>| {
            let length = length()?;
            let volumes = volumes(node.qemu()?)?;
            let mut data = volumes.values().filter_map(|file| match file {
                VolumeFile::Data { ext4, .. } => Some(ext4),
                VolumeFile::Record(_) => None,
            });
            ensure!(
                data.clone().count() > 0 && data.all(Option::is_some),
                "volumes without file systems: {volumes:?}"
            );
            Ok((length, volumes))
        };
        let mut volumes = vec![there(&node)?];
        let web = node.forward(8080)?;
        wait_start(web)?;
        let mut records = Vec::new();
        let mut write = || {
            for _ in 0..RECORDS {
                record(web, records.len() as u64)?;
                records.push(length()?);
            }
            Ok::<_, anyhow::Error>(())
        };
        write()?;
        let his = bob.deploy(
            &node,
            r#"
            kind = "workload"
            [volume.one]
            size = "64MiB"
            encrypted = false
            [volume.two]
            size = "64MiB"
            encrypted = false
            "#,
        )?;
        write()?;
        his.wait_running(Version(1))?;
        volumes.push(there(&node)?);
        write()?;

        // Whatever is under way is done, so that no entry of the log is half written.
        node.qemu()?.command("stop", serde_json::json!({}))?;
        node.cut_power();
        // Switched on again, the node records anew.
        let kept = folder::of_case()?.join("recorded");
        fs::rename(&recording, &kept)?;
        Ok(Self {
            node,
            log: WriteLog::read(&kept)?,
            records,
            volumes,
        })
    }

    fn acknowledged(&self, done: usize) -> usize {
        let within = |length: &&u64| self.log.entries_within(**length) <= done;
        self.records.iter().filter(within).count()
    }

    /// Plugs cut disks into one node, one after the other: storaged finds each to be a pool with
    /// every volume whole.
    fn open(&self, count: u64) -> anyhow::Result<()> {
        let first = self.log.entries_within(self.volumes[0].0);
        let opened = folder::of_case()?.join("opened");
        // To the node it is always the same disk. SCSI is unplugged at once.
        let disk = |seed: u64| {
            let disk = Disk::new(format!("cut{seed}"), DISK).bus(Bus::Scsi);
            disk.serial(Some(SERIAL))
        };
        let file = |seed: u64| opened.join(format!("cut{seed}.disk"));
        fs::create_dir_all(&opened)?;
        let image = std::env::var_os("LOAM_IMAGE").context("LOAM_IMAGE does not name the image")?;
        let mut config = NodeConfig::new(&opened, PathBuf::from(image))
            .cpus(1)
            .accel(Choice::of_environment()?.decide(&xtask::image::linux()))
            .debug_port();
        // It belongs to no grid: storaged alone has something to do.
        let mut node = None;
        for seed in 0..count {
            // Each fifth before any volume was there, maybe in the midst of making the pool.
            let done = match seed % 5 {
                4 => moment(0..=first, seed),
                _ => moment(first..=self.log.entries().len(), seed),
            };
            power_cut::image(&self.log, done, seed, DISK, &file(seed))?;
            let before = node.as_ref().map_or(0, |node: &Machine| node.logs().mark());
            let node = match &mut node {
                None => {
                    config = config.disk(disk(seed));
                    node.insert(config.start()?)
                }
                Some(node) => {
                    node.plug(&disk(seed))?;
                    node
                }
            };
            self.check_opened(node, done, before).with_context(|| {
                format!(
                    "{}, cut after {done} of {} writes",
                    file(seed).display(),
                    self.log.entries().len()
                )
            })?;
            node.unplug(&disk(seed), LIMIT)?;
            wait_for("storaged to let go of the disk", || {
                Ok(mounted(node)?.is_empty().then_some(()))
            })?;
            fs::remove_file(file(seed))?;
        }
        Ok(())
    }

    /// What storaged says of the disk comes behind the first `before` bytes of the log.
    fn check_opened(&self, node: &Machine, done: usize, before: usize) -> anyhow::Result<()> {
        wait_for("the disk to become a pool", || {
            node.check_on()?;
            let logs = node.logs().text();
            let new = logs.get(before..).unwrap_or_default();
            if new.contains("pool is ready") {
                return Ok(Some(()));
            }
            // One that failed is tried again. Of the stick that it booted from something else is said.
            let foreign = new.lines().find(|line| line.contains("left alone"));
            ensure!(foreign.is_none(), "{foreign:?}");
            Ok(None)
        })?;
        let mounted = mounted(node)?;
        ensure!(mounted.len() == 1, "mounted: {mounted:?}");
        let there = volumes(node)?;
        for (length, volumes) in &self.volumes {
            if self.log.entries_within(*length) <= done {
                for (name, file) in volumes {
                    ensure!(
                        there.get(name) == Some(file),
                        "{name} was acknowledged as {file:?}, and there is {there:?}"
                    );
                }
            }
        }
        Ok(())
    }

    /// Boots the node from cut disks: its machine answers with every acknowledged record, and adds
    /// another.
    fn boot(&mut self, count: u64) -> anyhow::Result<()> {
        for seed in 0..count {
            let first = self.log.entries_within(self.records[0]);
            let done = moment(first..=self.log.entries().len(), seed);
            let acknowledged = self.acknowledged(done);
            let disk = self.node.disk(NAME);
            power_cut::image(&self.log, done, seed, DISK, &disk)?;
            let kept = folder::of_case()?.join(format!("booted{seed}"));
            power_cut::image(&self.log, done, seed, DISK, &kept)?;
            self.node.switch_on()?;
            let web = self.node.forward(8080)?;
            let there = wait_for("the machine to answer again", || Ok(records(web).ok()))?;
            ensure!(
                there >= acknowledged as u64,
                "{}, cut after {done} of {} writes: {acknowledged} records were acknowledged, \
                 {there} are there",
                kept.display(),
                self.log.entries().len()
            );
            record(web, there)?;
            self.node.cut_power();
            fs::remove_file(kept)?;
        }
        Ok(())
    }
}

/// How many entries of the log were done when the power went. Drawn by other dice than what was lost then,
/// or a late cut would always lose the same kind.
fn moment(among: RangeInclusive<usize>, seed: u64) -> usize {
    StdRng::seed_from_u64(!seed).random_range(among)
}

/// All volumes' files, each read at its start.
fn volumes(node: &Machine) -> anyhow::Result<Volumes> {
    let mut volumes = Volumes::new();
    for pool in mounted(node)? {
        let folder = format!("{pool}/volumes");
        let path = folder.clone();
        let names = match ask(node, &DebugRequest::List { path })? {
            DebugResponse::Names { names } => names,
            other => bail!("{other:?}"),
        };
        for name in names {
            let path = format!("{folder}/{name}");
            if name.ends_with(".json") {
                let record = String::from_utf8(read(node, path)?)?;
                volumes.insert(name, VolumeFile::Record(record));
            } else if name.ends_with(".raw") {
                let ext4 = ext4(&read(node, path.clone())?);
                let length = match ask(node, &DebugRequest::Length { path })? {
                    DebugResponse::Length { length } => length,
                    other => bail!("{other:?}"),
                };
                volumes.insert(name, VolumeFile::Data { length, ext4 });
            }
        }
    }
    Ok(volumes)
}

/// How many bytes an ext4 file system takes (the kernel's `ext4_super_block`), by the start of its
/// device.
fn ext4(start: &[u8]) -> Option<u64> {
    let superblock = start.get(1024..)?;
    let int = |at: usize| {
        Some(u32::from_le_bytes(
            superblock.get(at..at + 4)?.try_into().ok()?,
        ))
    };
    let (blocks, log_size, magic) = (int(4)?, int(24)?, superblock.get(56..58)?);
    (magic == [0x53, 0xef]).then(|| u64::from(blocks) << (10 + log_size.min(6)))
}

fn mounted(node: &Machine) -> anyhow::Result<Vec<String>> {
    Ok(pools(&read(node, MOUNTS.to_owned())?))
}

fn read(node: &Machine, path: String) -> anyhow::Result<Vec<u8>> {
    match ask(node, &DebugRequest::Read { path })? {
        DebugResponse::Bytes { bytes } => Ok(bytes),
        other => bail!("{other:?}"),
    }
}

fn ask(node: &Machine, request: &DebugRequest) -> anyhow::Result<DebugResponse> {
    node.debug_port()?.ask(request)
}
