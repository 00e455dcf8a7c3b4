//! Making an empty disk a pool, so that a power cut at any moment is made good by doing it again.
//!
//! 1. The header is written with [`State::Formatting`]: from here on the disk is ours.
//! 2. `mkfs.btrfs` makes the file system with the header's UUID, in front of the header.
//! 3. The file system is mounted, the pool's folders and its mark are made, and it is unmounted.
//! 4. The header is written with [`State::Pool`]: from here on the disk holds something.
//!
//! Each step is durable before the next begins. A cut before 1 leaves an empty disk; one before 4
//! leaves a disk that [`crate::probe`] calls half-made, which is formatted again.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use crate::{
    disk::SysDisk,
    header::{DiskTag, Header, State},
    mount, pool,
    probe::{self, Finding, LABEL},
    program::{self, ProgramError},
};

#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    #[error("the disk changed since it was looked at: {0:?}")]
    Changed(Box<Finding>),
    #[error("{what}: {source}")]
    Io {
        what: &'static str,
        source: io::Error,
    },
    #[error(transparent)]
    Program(#[from] ProgramError),
}

/// Makes `disk` a pool of `set`. Looks everywhere first, with the disk held alone, whether it may.
pub fn format(disk: &SysDisk, set: Uuid, pools: &Path) -> Result<Header, FormatError> {
    let mut header = claim(disk, set)?;
    make_filesystem(&disk.device, &header)?;
    furnish(&disk.device, &header, pools)?;
    header.state = State::Pool;
    let file = OpenOptions::new()
        .write(true)
        .open(&disk.device)
        .map_err(io("open the disk"))?;
    header.write(&file).map_err(io("write the header"))?;
    Ok(header)
}

fn claim(disk: &SysDisk, set: Uuid) -> Result<Header, FormatError> {
    // Exclusive: the kernel refuses while the disk is mounted or part of something.
    let exclusive = rustix::fs::OFlags::EXCL.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(exclusive)
        .open(&disk.device)
        .map_err(io("open the disk alone"))?;
    let size = disk.size.get();
    match probe::probe(&file, size).map_err(io("read the disk"))? {
        Finding::Empty | Finding::HalfMade(_) => {}
        other => return Err(FormatError::Changed(Box::new(other))),
    }
    let header = Header::for_disk(size, set, DiskTag::of(&disk.id));
    header.write(&file).map_err(io("write the header"))?;
    Ok(header)
}

fn make_filesystem(device: &Path, header: &Header) -> Result<(), FormatError> {
    let mut mkfs = program::command("mkfs.btrfs")?;
    // `--force`: what a cut attempt left is no reason to stop. `--nodiscard`: a discard of the
    // whole disk takes minutes on some, and an empty disk has nothing to discard. Two copies of
    // the metadata, on SSDs too: one bad sector must not take a whole pool.
    mkfs.args([
        "--quiet",
        "--force",
        "--nodiscard",
        "--metadata",
        "dup",
        "--data",
        "single",
    ])
    .args(["--label", LABEL, "--uuid", &header.uuid.to_string()])
    .args(["--byte-count", &header.filesystem_size.to_string()])
    .arg(device);
    program::run(mkfs)?;
    File::open(device)
        .and_then(|disk| disk.sync_all())
        .map_err(io("sync the disk"))
}

fn furnish(device: &Path, header: &Header, pools: &Path) -> Result<(), FormatError> {
    let target = mount_point(pools, header);
    mount::btrfs(device, &target).map_err(io("mount the new file system"))?;
    let furnished = pool::furnish(&target, header.uuid);
    mount::unmount_synced(&target).map_err(io("unmount the new file system"))?;
    furnished.map_err(io("make the pool's folders"))
}

pub fn mount_point(pools: &Path, header: &Header) -> PathBuf {
    pools.join(header.uuid.to_string())
}

fn io(what: &'static str) -> impl Fn(io::Error) -> FormatError {
    move |source| FormatError::Io { what, source }
}
