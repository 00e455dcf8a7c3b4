//! Whether a disk is empty, ours, or somebody's. Reads only.
//!
//! The rule is strict on purpose, for the price of a mistake is a stranger's data:
//!
//! - **Empty**: the first and the last [`EDGE`] are all zeroes, and so are thousands of places between
//!   (see [`crate::sample`]). A disk whose beginning and end alone were wiped is not empty if anything
//!   else says so.
//! - **Ours**: a valid [`Header`] with its own btrfs, and nothing where btrfs never writes. A disk
//!   that was ours and then was partitioned or formatted by someone is theirs. If something is behind
//!   it alone, it may have been copied onto a disk that was used before: it is not used, and in doubt.
//! - Everything else is foreign.
//!
//! The medium that the node booted from is of the last kind, whether or not it says that it is
//! removable: it holds a partition table with an EFI system partition.

use std::{fs::File, io, num::NonZeroU64, os::unix::fs::FileExt};

use rustix::fs::Advice;
use uuid::Uuid;

use crate::{
    header::{COPY, Found, Header, LENGTH, State, TAIL},
    sample, signature,
};

/// What must be zero at both ends of an empty disk. Every file system in [`signature`] has its
/// first superblock, and every volume manager and RAID its metadata, within this much (the most is
/// what DDF sets aside: 32 MiB before its anchor).
pub const EDGE: u64 = 33 << 20;

/// Btrfs never writes before its superblock, nor between it and the first MiB
/// (btrfs on-disk format, `BTRFS_BLOCK_RESERVED_1M_FOR_SUPER`).
const SUPERBLOCK: u64 = 64 << 10;
const SUPERBLOCK_LENGTH: u64 = 4 << 10;
const FIRST_BLOCK: u64 = 1 << 20;

/// The most that the generation of a file system can be that was made and not yet used: `mkfs.btrfs`
/// leaves 6, the first mount with the pool's folders 8. One in use adds one every half a minute.
const MADE: u64 = 16;

/// The label of every pool's file system.
pub const LABEL: &str = "loam";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// As far as was looked.
    Empty,
    /// We began to make it a pool and were cut; nothing of value is on it.
    HalfMade(Header),
    Pool {
        header: Header,
        /// Of its btrfs: counts what was ever written.
        generation: u64,
    },
    /// A pool that cannot be used as it is, and may be this node's, for nobody else took the disk; the text
    /// says why. Of another Loam's there is no header that can be read.
    Unusable {
        what: String,
        header: Option<Header>,
    },
    /// The text says what was found, as in "a GPT partition table".
    Foreign(String),
}

/// Looks at a disk (or a file that stands for one) of `size` bytes, as far as it takes to know a pool.
/// A disk that is empty by this may only be one whose ends were wiped: see [`probe`].
pub fn glance(disk: &impl FileExt, size: u64) -> io::Result<Finding> {
    let superblock = Superblock::read(disk)?;
    let header = match find_header(disk, size, superblock.as_ref())? {
        Found::Header(header) => header,
        Found::Nothing => return without_header(disk, size),
        Found::OtherFormat(format) => {
            return Ok(Finding::Unusable {
                what: format!("a pool of another version of Loam, of format {format}"),
                header: None,
            });
        }
    };
    // Its header is wrong: the one that was written when it was done is torn or lost.
    let in_use = superblock
        .as_ref()
        .is_some_and(|found| found.complete && found.generation > MADE);
    let header = Header {
        state: if in_use { State::Pool } else { header.state },
        ..header
    };
    let foreign = |what: String| {
        Ok(Finding::Foreign(format!(
            "what was the Loam disk {} now holds {what}",
            header.uuid
        )))
    };
    // What another program wrote over our disk begins before the first block of btrfs, or ends behind
    // our headers.
    let first = header.filesystem_size;
    let behind = first + COPY + LENGTH as u64;
    // A pool that was copied to a larger disk never grows into what is behind it. Another's marks are next
    // to it or at the disk's end; the rest may take hours to read, at every start. But what is still to be
    // made a pool is written to everywhere.
    let (next, last) = match header.state {
        State::Pool => (
            size.min(behind.saturating_add(TAIL)),
            behind.max(size.saturating_sub(EDGE)),
        ),
        State::Formatting => (size, size),
    };
    let find = |from, to| match header.state {
        State::Pool => first_legible_data(disk, from, to),
        State::Formatting => first_data(disk, from, to),
    };
    let gaps = [
        (0, SUPERBLOCK),
        (SUPERBLOCK + SUPERBLOCK_LENGTH, FIRST_BLOCK),
        (first + LENGTH as u64, first + COPY),
    ];
    for (from, to) in gaps {
        if let Some(at) = find(from, to)? {
            return foreign(name_or(disk, size, at));
        }
    }
    let is_whole =
        |found: &Superblock| found.is_of(&header) && found.complete && found.devices <= 1;
    for (from, to) in [(behind, next), (last.max(next), size)] {
        let Some(at) = find(from, to)? else {
            continue;
        };
        let what = name_or(disk, size, at);
        // What it was copied onto may have left that, or another has begun to take the disk.
        if header.state == State::Pool && superblock.as_ref().is_some_and(is_whole) {
            return Ok(Finding::Unusable {
                what: format!(
                    "Loam pool {}, but {what} behind it: if the pool was copied here, zero the disk \
                     from byte {behind} to its end, else wipe its beginning, too",
                    header.uuid
                ),
                header: Some(header),
            });
        }
        return foreign(what);
    }
    match (header.state, superblock) {
        (_, Some(found)) if !found.is_of(&header) => {
            foreign(format!("another btrfs file system, {}", found.uuid))
        }
        (State::Pool, Some(found)) if found.complete && found.devices <= 1 => Ok(Finding::Pool {
            header,
            generation: found.generation,
        }),
        (State::Pool, Some(_)) => foreign("a btrfs file system of several disks".to_owned()),
        // Not made anew by itself: the tenants' data may still be there to be rescued.
        (State::Pool, None) => Ok(Finding::Unusable {
            what: format!(
                "what was the Loam disk {} now holds no file system: its superblock is gone",
                header.uuid
            ),
            header: Some(header),
        }),
        (State::Formatting, Some(_)) => Ok(Finding::HalfMade(header)),
        (State::Formatting, None) => {
            match first_data(disk, SUPERBLOCK, SUPERBLOCK + SUPERBLOCK_LENGTH)? {
                Some(at) => foreign(name_or(disk, size, at)),
                None => Ok(Finding::HalfMade(header)),
            }
        }
    }
}

/// So many places are asked for before they are read: a disk then answers in the order that suits it,
/// and nobody waits for each single answer.
const AHEAD: usize = 64;

/// As [`glance`], and looks at an empty disk everywhere: what is empty by this may be formatted.
pub fn probe(disk: &File, size: u64) -> io::Result<Finding> {
    let finding = glance(disk, size)?;
    if finding != Finding::Empty {
        return Ok(finding);
    }
    let hint = |at, length, advice| {
        if let Err(error) = rustix::fs::fadvise(disk, at, NonZeroU64::new(length), advice) {
            tracing::debug!(%error, "the kernel takes no advice about this disk");
        }
    };
    // What is read is read once, here and there.
    hint(0, 0, Advice::Random);
    let soon = |place: &u64| hint(*place, sample::WINDOW, Advice::WillNeed);
    let places = sample::places(size);
    places.iter().take(AHEAD).for_each(soon);
    let mut window = vec![0; sample::WINDOW as usize];
    let zeroes = window.clone();
    for (index, &place) in places.iter().enumerate() {
        places.get(index + AHEAD).into_iter().for_each(soon);
        disk.read_exact_at(&mut window, place)?;
        if window != zeroes {
            let offset = window.iter().position(|byte| *byte != 0).unwrap_or(0);
            let at = place + offset as u64;
            return Ok(Finding::Foreign(
                signature::name_copy(&window, place)
                    .map_or_else(|| format!("unknown data at byte {at}"), str::to_owned),
            ));
        }
    }
    hint(0, 0, Advice::DontNeed);
    Ok(Finding::Empty)
}

fn without_header(disk: &impl FileExt, size: u64) -> io::Result<Finding> {
    if let Some(name) = signature::find(disk, size)? {
        return Ok(Finding::Foreign(name));
    }
    let edges = [(0, EDGE.min(size)), (size.saturating_sub(EDGE), size)];
    for (from, to) in edges {
        if let Some(at) = first_data(disk, from, to)? {
            return Ok(Finding::Foreign(name_at(disk, at)));
        }
    }
    Ok(Finding::Empty)
}

/// The data that begins at `at`, by what its block begins with if that is known and can be read.
fn name_at(disk: &impl FileExt, at: u64) -> String {
    let mut block = [0; 4 << 10];
    let from = at & !(block.len() as u64 - 1);
    let known = match disk.read_exact_at(&mut block, from) {
        Ok(()) => signature::name_copy(&block, from),
        Err(_) => None,
    };
    known.map_or_else(|| format!("unknown data at byte {at}"), str::to_owned)
}

/// The header is right after the file system. When the disk was resized since, or the pool copied to a
/// larger one, the file system's own superblock says where that is. A header at the end of the disk may
/// then be of the pool that was on it before.
fn find_header(
    disk: &impl FileExt,
    size: u64,
    superblock: Option<&Superblock>,
) -> io::Result<Found> {
    let at = crate::header::filesystem_size(size);
    let at_end = Header::read(disk, at)?;
    let Some(found) = superblock.filter(|found| {
        found.label == LABEL && found.total_bytes < size && found.total_bytes != at
    }) else {
        return Ok(at_end);
    };
    let behind = Header::read(disk, found.total_bytes)?;
    let is_own = |place: &Found| matches!(place, Found::Header(header) if found.is_of(header));
    match at_end {
        Found::Nothing => Ok(behind),
        _ if is_own(&behind) && !is_own(&at_end) => Ok(behind),
        _ => Ok(at_end),
    }
}

/// The data at `at`, by what it is of if that can be read.
fn name_or(disk: &impl FileExt, size: u64, at: u64) -> String {
    let name = signature::find(disk, size).unwrap_or_default();
    // Our own file system is no news.
    name.filter(|name| !name.contains("btrfs"))
        .unwrap_or_else(|| format!("unknown data at byte {at}"))
}

/// Where the first byte other than zero is.
fn first_data(disk: &impl FileExt, from: u64, to: u64) -> io::Result<Option<u64>> {
    let mut chunk = vec![0; 256 << 10];
    let zeroes = chunk.clone();
    let mut at = from;
    while at < to {
        let length = chunk
            .len()
            .min(usize::try_from(to - at).unwrap_or(usize::MAX));
        disk.read_exact_at(&mut chunk[..length], at)?;
        if chunk[..length] != zeroes[..length] {
            let offset = chunk.iter().position(|byte| *byte != 0).unwrap_or(0);
            return Ok(Some(at + offset as u64));
        }
        at += length as u64;
    }
    Ok(None)
}

/// As [`first_data`], where sectors that cannot be read are no reason to give up: nobody's file system
/// is one broken sector.
fn first_legible_data(disk: &impl FileExt, from: u64, to: u64) -> io::Result<Option<u64>> {
    const PIECE: usize = 4 << 10;
    /// Each may take seconds. A disk with more is not merely scratched.
    const MOST: usize = 64;
    let mut illegible = 0;
    let mut at = from;
    while at < to {
        let end = to.min(at + (256 << 10));
        match first_data(disk, at, end) {
            Ok(None) => {}
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                for piece in (at..end).step_by(PIECE) {
                    match first_data(disk, piece, end.min(piece + PIECE as u64)) {
                        Ok(None) => {}
                        Err(_) if illegible < MOST => illegible += 1,
                        other => return other,
                    }
                }
            }
            other => return other,
        }
        at = end;
    }
    Ok(None)
}

/// What we need of a btrfs superblock (btrfs on-disk format, `struct btrfs_super_block`).
struct Superblock {
    /// False while `mkfs.btrfs` is at work (its temporary magic).
    complete: bool,
    uuid: Uuid,
    /// `btrfstune -m` gives a file system another UUID than its blocks have; ours never have one.
    has_other_uuid: bool,
    generation: u64,
    devices: u64,
    total_bytes: u64,
    label: String,
}

impl Superblock {
    fn is_of(&self, header: &Header) -> bool {
        self.uuid == header.uuid && !self.has_other_uuid
    }

    fn read(disk: &impl FileExt) -> io::Result<Option<Self>> {
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
        /// `BTRFS_FEATURE_INCOMPAT_METADATA_UUID`
        const METADATA_UUID: u64 = 1 << 10;
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&block[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let label = block[0x12b..0x22b]
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default();
        Ok(Some(Self {
            complete,
            uuid: Uuid::from_slice(&block[0x20..0x30]).unwrap_or_default(),
            has_other_uuid: number(0xbc) & METADATA_UUID != 0,
            generation: number(0x48),
            devices: number(0x88),
            total_bytes: number(0x70),
            label: String::from_utf8_lossy(label).into_owned(),
        }))
    }
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "probe_medium_tests.rs"]
mod medium_tests;
