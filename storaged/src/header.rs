//! The loam header: one sector by which a disk is known to be ours, outside of its file system.
//!
//! A pool's file system ends [`TAIL`] before the end of its disk, and the header is the first
//! sector after the file system. `mkfs.btrfs`, told a size, writes nothing there, so a header that
//! says [`State::Formatting`] outlives a power cut in the middle of making the file system. And it
//! is read before anything is mounted: whose pool it is, and which of two copies is the one to use,
//! is known without touching the file system.
//!
//! | offset | length | what |
//! |---|---|---|
//! | 0 | 16 | `LOAM-DISK-HEADER` |
//! | 16 | 4 | format, little endian: 2 |
//! | 20 | 4 | state, little endian: 1 formatting, 2 pool |
//! | 24 | 16 | UUID of the file system |
//! | 40 | 8 | size of the file system in bytes, little endian; also where this header is |
//! | 48 | 16 | UUID of the set of pools that belong together: those of one node |
//! | 64 | 32 | the node's key; zeroes until it has one |
//! | 96 | 16 | the machine that it was used in last (see [`crate::machine`]); zeroes if unknown |
//! | 112 | 8 | when it was in use last, to a day, in seconds since 1970, little endian |
//! | 120 | 16 | the disk that it was used on last (see [`DiskTag`]) |
//! | 136 | 16 | the kernel's id of the boot in which its set was begun, if that is when it joined; else zeroes |
//! | 152 | 16 | the kernel's id of the boot in which it was used last; zeroes if unknown |
//! | 480 | 32 | SHA-256 of bytes 0 to 479 |
//!
//! It is there twice, [`COPY`] apart, and written one after the other: whatever a power cut does to
//! one of them, the other is whole; and one unreadable sector takes no pool away.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use loam_deployment::NodeKey;
use loam_node_api::clock::UnixTime;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::machine::Machine;

/// What stays free at the end of the disk. More than any partition table's or RAID's backup takes.
pub const TAIL: u64 = 4 << 20;

/// A sector, which disks write whole or not at all.
pub const LENGTH: usize = 512;

/// From the first header to the second: another physical sector, even on disks that have large ones
/// and say that they have small ones.
pub const COPY: u64 = 64 << 10;

pub const MAGIC: &[u8; 16] = b"LOAM-DISK-HEADER";
const FORMAT: u32 = 2;
const SUM_AT: usize = LENGTH - 32;

/// In seconds.
const DAY: u64 = 24 * 3600;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The file system may be half made; nothing of value was ever on it.
    Formatting,
    Pool,
}

/// Names a disk, by a digest of its [`crate::disk::SysDisk::id`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskTag(pub [u8; 16]);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub state: State,
    pub uuid: Uuid,
    /// A multiple of 1 MiB.
    pub filesystem_size: u64,
    pub set: Uuid,
    pub node: Option<NodeKey>,
    pub machine: Option<Machine>,
    /// When it was taken into use last, or a later moment at which it was still in use, in seconds since
    /// 1970: later than each time before, also by a clock that stands still or was ahead then.
    pub used: u64,
    pub disk: DiskTag,
    /// The boot in which its set was begun, if it is of that boot.
    pub first_boot: Option<Uuid>,
    /// The boot in which it was used last.
    pub last_boot: Option<Uuid>,
}

/// How a pool is taken into use.
#[derive(Clone, Copy, Debug)]
pub struct Use {
    pub machine: Option<Machine>,
    pub disk: DiskTag,
    /// Seconds since 1970.
    pub now: u64,
    /// When it was used last on the disk in whose place this one is used, in seconds since 1970; 0 if there
    /// is none. That one must not win later, and leave behind what is written here.
    pub instead_of: u64,
    pub boot: Option<Uuid>,
    /// Whether this node's set was begun in this boot.
    pub set_is_new: bool,
}

/// What is where a header would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Nothing,
    Header(Header),
    /// Made by a Loam that writes another format.
    OtherFormat(u32),
}

impl DiskTag {
    pub fn of(id: &str) -> Self {
        let mut tag = [0; 16];
        tag.copy_from_slice(&Sha256::digest(id)[..16]);
        Self(tag)
    }
}

impl Header {
    /// For a disk of `disk_size` bytes that is about to be made a pool of `set`.
    pub fn for_disk(disk_size: u64, set: Uuid, disk: DiskTag) -> Self {
        Self {
            state: State::Formatting,
            uuid: Uuid::new_v4(),
            filesystem_size: filesystem_size(disk_size),
            set,
            node: None,
            machine: None,
            used: 0,
            disk,
            first_boot: None,
            last_boot: None,
        }
    }

    pub fn taken_into_use(self, using: &Use) -> Self {
        Self {
            machine: using.machine,
            disk: using.disk,
            used: using
                .now
                .max(self.used.max(using.instead_of).saturating_add(1)),
            first_boot: match self.used {
                0 => using.boot.filter(|_| using.set_is_new),
                _ => self.first_boot,
            },
            last_boot: using.boot,
            ..self
        }
    }

    /// For a pool that was taken into use and is in use at `now` still, if that is a day or more later.
    pub fn still_used_at(self, now: UnixTime) -> Self {
        let used = match self.used.checked_add(DAY) {
            Some(next) if next <= now.0 && self.used != 0 => now.0,
            _ => self.used,
        };
        Self { used, ..self }
    }

    /// Reads the header whose file system has this size, if one is there. One copy that can be read is
    /// enough; of two that differ, the one counts that was written last.
    pub fn read(disk: &impl FileExt, filesystem_size: u64) -> io::Result<Found> {
        let mut best: Option<Self> = None;
        let mut other_format = None;
        let mut failure = None;
        for at in [filesystem_size, filesystem_size + COPY] {
            let mut sector = [0; LENGTH];
            match disk.read_exact_at(&mut sector, at) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
                Err(error) => {
                    failure = Some(error);
                    continue;
                }
            }
            match Self::decode(&sector) {
                Found::Header(header)
                    if header.filesystem_size == filesystem_size
                        && best.is_none_or(|best| best.stage() < header.stage()) =>
                {
                    best = Some(header);
                }
                Found::OtherFormat(format) => other_format = Some(format),
                _ => {}
            }
        }
        match (best, other_format, failure) {
            (Some(header), ..) => Ok(Found::Header(header)),
            (None, Some(format), _) => Ok(Found::OtherFormat(format)),
            (None, None, Some(error)) => Err(error),
            (None, None, None) => Ok(Found::Nothing),
        }
    }

    /// Grows with each that is written to one disk.
    fn stage(&self) -> (bool, u64, bool) {
        (self.state == State::Pool, self.used, self.node.is_some())
    }

    /// Writes `after` where `self` is. An error if it is not there: by the time that somebody writes, the
    /// kernel may have given the name of a disk that went to another one.
    pub fn replace(&self, device: &Path, after: &Self) -> io::Result<()> {
        let disk = File::options().read(true).write(true).open(device)?;
        match Self::read(&disk, self.filesystem_size)? {
            Found::Header(found) if found.uuid == self.uuid => after.write(&disk),
            _ => Err(io::Error::other(format!(
                "{} is another disk now",
                device.display()
            ))),
        }
    }

    /// Durable when it returns, in one place at least: a sector that cannot be written any more takes no
    /// pool away.
    pub fn write(&self, disk: &File) -> io::Result<()> {
        let write = |at| {
            disk.write_all_at(&self.encode(), at)?;
            disk.sync_all()
        };
        let first = write(self.filesystem_size);
        let second = write(self.filesystem_size + COPY);
        if let (Err(error), Ok(())) | (Ok(()), Err(error)) = (&first, &second) {
            tracing::warn!(pool = %self.uuid, %error, "one of the two copies of this pool's header cannot be written");
        }
        first.or(second)
    }

    pub fn encode(&self) -> [u8; LENGTH] {
        let mut sector = [0; LENGTH];
        let state: u32 = match self.state {
            State::Formatting => 1,
            State::Pool => 2,
        };
        let node = self.node.map_or([0; 32], |node| node.0);
        let machine = self.machine.map_or([0; 16], |machine| machine.0);
        let boot = |boot: Option<Uuid>| boot.map_or([0; 16], Uuid::into_bytes);
        let mut at = 0;
        for field in [
            MAGIC.as_slice(),
            &FORMAT.to_le_bytes(),
            &state.to_le_bytes(),
            self.uuid.as_bytes(),
            &self.filesystem_size.to_le_bytes(),
            self.set.as_bytes(),
            &node,
            &machine,
            &self.used.to_le_bytes(),
            &self.disk.0,
            &boot(self.first_boot),
            &boot(self.last_boot),
        ] {
            sector[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        }
        let sum = Sha256::digest(&sector[..SUM_AT]);
        sector[SUM_AT..].copy_from_slice(&sum);
        sector
    }

    pub fn decode(sector: &[u8; LENGTH]) -> Found {
        let sum = Sha256::digest(&sector[..SUM_AT]);
        if &sector[..16] != MAGIC || sector[SUM_AT..] != sum[..] {
            return Found::Nothing;
        }
        let mut rest = &sector[16..];
        match (take(&mut rest).map(u32::from_le_bytes), rest) {
            (Some(FORMAT), rest) => Self::fields(rest).map_or(Found::Nothing, Found::Header),
            (Some(format), _) => Found::OtherFormat(format),
            (None, _) => Found::Nothing,
        }
    }

    /// What comes after the format.
    fn fields(mut rest: &[u8]) -> Option<Self> {
        let rest = &mut rest;
        Some(Self {
            state: match u32::from_le_bytes(take(rest)?) {
                1 => State::Formatting,
                2 => State::Pool,
                _ => return None,
            },
            uuid: Uuid::from_bytes(take(rest)?),
            filesystem_size: u64::from_le_bytes(take(rest)?),
            set: Uuid::from_bytes(take(rest)?),
            node: Some(NodeKey(take(rest)?)).filter(|node| node.0 != [0; 32]),
            machine: Some(Machine(take(rest)?)).filter(|machine| machine.0 != [0; 16]),
            used: u64::from_le_bytes(take(rest)?),
            disk: DiskTag(take(rest)?),
            first_boot: Some(Uuid::from_bytes(take(rest)?)).filter(|boot| !boot.is_nil()),
            last_boot: Some(Uuid::from_bytes(take(rest)?)).filter(|boot| !boot.is_nil()),
        })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (field, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(*field)
}

/// The size of the file system on a disk of this size: whole MiB, with [`TAIL`] left.
pub fn filesystem_size(disk_size: u64) -> u64 {
    disk_size.saturating_sub(TAIL) & !((1 << 20) - 1)
}

#[cfg(test)]
pub mod testing {
    use super::*;

    /// A disk of which some sectors cannot be read.
    #[derive(Debug)]
    pub struct BadSectors<'a> {
        disk: &'a File,
        sectors: Vec<u64>,
    }

    impl<'a> BadSectors<'a> {
        /// Those that begin there.
        pub fn of(disk: &'a File, sectors: &[u64]) -> Self {
            let sectors = sectors.to_vec();
            Self { disk, sectors }
        }
    }

    impl FileExt for BadSectors<'_> {
        fn read_at(&self, bytes: &mut [u8], from: u64) -> io::Result<usize> {
            let to = from + bytes.len() as u64;
            let is_met = |sector: &u64| from < sector + LENGTH as u64 && *sector < to;
            if self.sectors.iter().any(is_met) {
                return Err(io::Error::from_raw_os_error(5));
            }
            self.disk.read_at(bytes, from)
        }

        fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
            self.disk.write_at(bytes, at)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Header {
        Header::for_disk(64 << 20, Uuid::new_v4(), DiskTag::of("a"))
    }

    #[test]
    fn written_and_read_back() {
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(64 << 20).unwrap();
        let mut header = header();
        let size = header.filesystem_size;
        assert_eq!(size, 60 << 20);
        assert_eq!(Header::read(&disk, size).unwrap(), Found::Nothing);
        for state in [State::Formatting, State::Pool] {
            header.state = state;
            header.write(&disk).unwrap();
            assert_eq!(Header::read(&disk, size).unwrap(), Found::Header(header));
        }
        header.node = Some(NodeKey([7; 32]));
        header.machine = Some(Machine([8; 16]));
        header.used = 1_800_000_000;
        header.first_boot = Some(Uuid::new_v4());
        header.last_boot = Some(Uuid::new_v4());
        header.write(&disk).unwrap();
        assert_eq!(Header::read(&disk, size).unwrap(), Found::Header(header));
    }

    #[test]
    fn one_of_the_two_is_enough() {
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(64 << 20).unwrap();
        let header = header();
        let size = header.filesystem_size;
        for torn in [size, size + COPY] {
            header.write(&disk).unwrap();
            disk.write_all_at(&[0xa5; 100], torn).unwrap();
            assert_eq!(Header::read(&disk, size).unwrap(), Found::Header(header));
        }
        disk.write_all_at(&[0xa5; 100], size).unwrap();
        assert_eq!(Header::read(&disk, size).unwrap(), Found::Nothing);
    }

    #[test]
    fn one_that_can_be_read_is_enough() {
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(64 << 20).unwrap();
        let header = header();
        let size = header.filesystem_size;
        let unreadable = |sectors: &[u64]| testing::BadSectors::of(&disk, sectors);
        // An error is no answer as long as nothing was read that is one.
        for sectors in [[size], [size + COPY]] {
            Header::read(&unreadable(&sectors), size).unwrap_err();
        }
        header.write(&disk).unwrap();
        for sectors in [[size], [size + COPY]] {
            let found = Header::read(&unreadable(&sectors), size).unwrap();
            assert_eq!(found, Found::Header(header));
        }
        Header::read(&unreadable(&[size, size + COPY]), size).unwrap_err();
    }

    #[test]
    fn each_use_is_later_than_the_one_before_by_whatever_clock() {
        let use_instead = |header: Header, now, instead_of| {
            header.taken_into_use(&Use {
                machine: None,
                disk: header.disk,
                now,
                instead_of,
                boot: None,
                set_is_new: false,
            })
        };
        let use_at = |header, now| use_instead(header, now, 0);
        let first = use_at(header(), 500);
        assert_eq!(first.used, 500);
        let mut before = first;
        for now in [500, 500, 3, 0] {
            let again = use_at(before, now);
            assert!(again.used > before.used, "at {now}");
            before = again;
        }
        assert_eq!(use_at(before, 900).used, 900);
        // Nor is one that it takes the place of the later one, by a clock that was ahead.
        let seven = Header { used: 7, ..before };
        assert_eq!(use_instead(seven, 3, 9).used, 10);
        assert_eq!(use_instead(seven, 3, 6).used, 8);
        assert_eq!(use_instead(seven, 900, 9).used, 900);
    }

    #[test]
    fn it_is_not_written_to_a_disk_that_has_its_name_now() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        let before = header();
        let after = Header { used: 7, ..before };
        let on_disk = || Header::read(file.as_file(), before.filesystem_size).unwrap();
        let error = before.replace(file.path(), &after).unwrap_err().to_string();
        assert!(error.contains("another disk"), "{error}");
        assert_eq!(on_disk(), Found::Nothing);
        let other = header();
        other.write(file.as_file()).unwrap();
        before.replace(file.path(), &after).unwrap_err();
        assert_eq!(on_disk(), Found::Header(other));
        before.write(file.as_file()).unwrap();
        before.replace(file.path(), &after).unwrap();
        assert_eq!(on_disk(), Found::Header(after));
    }

    #[test]
    fn a_pool_in_use_is_dated_anew_after_a_day() {
        let used = |used| Header { used, ..header() };
        let at = |header: Header, now| header.still_used_at(UnixTime(now)).used;
        assert_eq!(at(used(7), 6 + DAY), 7);
        assert_eq!(at(used(7), 7 + DAY), 7 + DAY);
        assert_eq!(at(used(7 + DAY), 3), 7 + DAY);
        assert_eq!(at(used(u64::MAX), u64::MAX), u64::MAX);
        // It was never taken into use, so it is not in use.
        assert_eq!(at(used(0), 9 * DAY), 0);
    }

    #[test]
    fn of_two_that_differ_the_later_counts() {
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(64 << 20).unwrap();
        let formatting = header();
        let size = formatting.filesystem_size;
        let made = Header {
            state: State::Pool,
            ..formatting
        };
        let used = Header { used: 7, ..made };
        let named = Header {
            node: Some(NodeKey([1; 32])),
            ..used
        };
        // One of the two could not be written.
        for (earlier, later) in [(formatting, made), (made, used), (used, named)] {
            for (at, stale) in [(size, size + COPY), (size + COPY, size)] {
                disk.write_all_at(&later.encode(), at).unwrap();
                disk.write_all_at(&earlier.encode(), stale).unwrap();
                assert_eq!(Header::read(&disk, size).unwrap(), Found::Header(later));
            }
        }
    }

    #[test]
    fn another_format_is_told_apart_from_nothing() {
        let mut sector = header().encode();
        sector[16..20].copy_from_slice(&1u32.to_le_bytes());
        assert_eq!(Header::decode(&sector), Found::Nothing);
        let sum = Sha256::digest(&sector[..SUM_AT]);
        sector[SUM_AT..].copy_from_slice(&sum);
        assert_eq!(Header::decode(&sector), Found::OtherFormat(1));
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_noticed(bit in 0..LENGTH * 8) {
            let mut sector = header().encode();
            sector[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Header::decode(&sector), Found::Nothing);
        }
    }
}
