//! Whether a disk is empty, ours, or somebody's. Reads only.
//!
//! The rule is strict on purpose, for the price of a mistake is a stranger's data:
//!
//! - **Empty**: the first and the last [`EDGE`] are all zeroes, and so is every place further in
//!   where a copy of a superblock would be. A disk whose beginning alone was wiped is not empty if
//!   it says so.
//! - **Ours**: a valid [`Header`] with its own btrfs, and nothing where btrfs never writes. A disk
//!   that was ours and then was partitioned or formatted by someone is theirs.
//! - Everything else is foreign.

use std::{fs::File, io, os::unix::fs::FileExt};

use uuid::Uuid;

use crate::{
    header::{Header, LENGTH, State},
    signature,
};

/// What must be zero at both ends of an empty disk. Every file system in [`signature`] has its
/// first superblock, and every volume manager its metadata, within this much.
pub const EDGE: u64 = 16 << 20;

/// Btrfs never writes before its superblock, nor between it and the first MiB
/// (btrfs on-disk format, `BTRFS_BLOCK_RESERVED_1M_FOR_SUPER`).
const SUPERBLOCK: u64 = 64 << 10;
const SUPERBLOCK_LENGTH: u64 = 4 << 10;
const FIRST_BLOCK: u64 = 1 << 20;

/// The label of every pool's file system.
pub const LABEL: &str = "loam";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    Empty,
    /// We began to make it a pool and were cut; nothing of value is on it.
    HalfMade(Header),
    Pool(Header),
    /// The text says what was found, as in "a GPT partition table".
    Foreign(String),
}

/// Looks at a disk (or a file that stands for one) of `size` bytes.
pub fn probe(disk: &File, size: u64) -> io::Result<Finding> {
    let superblock = Superblock::read(disk)?;
    let Some(header) = find_header(disk, size, superblock.as_ref())? else {
        return without_header(disk, size);
    };
    let foreign = |what: String| {
        Ok(Finding::Foreign(format!(
            "what was the Loam disk {} now holds {what}",
            header.uuid
        )))
    };
    // What another program wrote over our disk begins before the first block of btrfs.
    let gaps = [
        (0, SUPERBLOCK),
        (SUPERBLOCK + SUPERBLOCK_LENGTH, FIRST_BLOCK),
    ];
    for (from, to) in gaps {
        if let Some(at) = first_data(disk, from, to)? {
            return foreign(name_or(disk, size, at)?);
        }
    }
    let after_header = header.filesystem_size + LENGTH as u64;
    if let Some(at) = first_data(disk, after_header, size)? {
        return foreign(name_or(disk, size, at)?);
    }
    match (header.state, superblock) {
        (State::Pool, Some(found)) if found.complete && found.uuid == header.uuid => {
            Ok(Finding::Pool(header))
        }
        (State::Pool, Some(found)) => foreign(format!("another btrfs file system, {}", found.uuid)),
        // Not made anew by itself: the tenants' data may still be there to be rescued.
        (State::Pool, None) => foreign("no file system: its superblock is gone".to_owned()),
        (State::Formatting, Some(found)) if found.uuid == header.uuid => {
            Ok(Finding::HalfMade(header))
        }
        (State::Formatting, Some(found)) => {
            foreign(format!("another btrfs file system, {}", found.uuid))
        }
        (State::Formatting, None) => {
            match first_data(disk, SUPERBLOCK, SUPERBLOCK + SUPERBLOCK_LENGTH)? {
                Some(at) => foreign(name_or(disk, size, at)?),
                None => Ok(Finding::HalfMade(header)),
            }
        }
    }
}

fn without_header(disk: &File, size: u64) -> io::Result<Finding> {
    if let Some(name) = signature::find(disk, size)? {
        return Ok(Finding::Foreign(name));
    }
    let edges = [(0, EDGE.min(size)), (size.saturating_sub(EDGE), size)];
    for (from, to) in edges {
        if let Some(at) = first_data(disk, from, to)? {
            return Ok(Finding::Foreign(format!("unknown data at byte {at}")));
        }
    }
    Ok(Finding::Empty)
}

/// The header is right after the file system. When the disk was resized since, the file system's
/// own superblock still says where that is.
fn find_header(
    disk: &File,
    size: u64,
    superblock: Option<&Superblock>,
) -> io::Result<Option<Header>> {
    let at = crate::header::filesystem_size(size);
    if let Some(header) = Header::read(disk, at)? {
        return Ok(Some(header));
    }
    match superblock {
        Some(found) if found.label == LABEL && found.total_bytes < size => {
            Header::read(disk, found.total_bytes)
        }
        _ => Ok(None),
    }
}

fn name_or(disk: &File, size: u64, at: u64) -> io::Result<String> {
    Ok(signature::find(disk, size)?
        // Our own file system is no news.
        .filter(|name| !name.contains("btrfs"))
        .unwrap_or_else(|| format!("unknown data at byte {at}")))
}

/// Where the first byte other than zero is.
fn first_data(disk: &File, from: u64, to: u64) -> io::Result<Option<u64>> {
    let mut chunk = vec![0; 256 << 10];
    let mut at = from;
    while at < to {
        let length = chunk
            .len()
            .min(usize::try_from(to - at).unwrap_or(usize::MAX));
        disk.read_exact_at(&mut chunk[..length], at)?;
        if let Some(offset) = chunk[..length].iter().position(|byte| *byte != 0) {
            return Ok(Some(at + offset as u64));
        }
        at += length as u64;
    }
    Ok(None)
}

/// What we need of a btrfs superblock (btrfs on-disk format, `struct btrfs_super_block`).
struct Superblock {
    /// False while `mkfs.btrfs` is at work (its temporary magic).
    complete: bool,
    uuid: Uuid,
    total_bytes: u64,
    label: String,
}

impl Superblock {
    fn read(disk: &File) -> io::Result<Option<Self>> {
        let mut block = vec![0; SUPERBLOCK_LENGTH as usize];
        match disk.read_exact_at(&mut block, SUPERBLOCK) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let complete = match &block[0x40..0x48] {
            b"_BHRfS_M" => true,
            b"!BHRfS_M" => false,
            _ => return Ok(None),
        };
        let mut total = [0; 8];
        total.copy_from_slice(&block[0x70..0x78]);
        let label = block[0x12b..0x22b]
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default();
        Ok(Some(Self {
            complete,
            uuid: Uuid::from_slice(&block[0x20..0x30]).unwrap_or_default(),
            total_bytes: u64::from_le_bytes(total),
            label: String::from_utf8_lossy(label).into_owned(),
        }))
    }
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
