//! The loam header: one sector by which a disk is known to be ours, outside of its file system.
//!
//! A pool's file system ends [`TAIL`] before the end of its disk, and the header is the first
//! sector after the file system. `mkfs.btrfs`, told a size, writes nothing there, so a header that
//! says [`State::Formatting`] outlives a power cut in the middle of making the file system.
//!
//! | offset | length | what |
//! |---|---|---|
//! | 0 | 16 | `LOAM-DISK-HEADER` |
//! | 16 | 4 | format, little endian: 1 |
//! | 20 | 4 | state, little endian: 1 formatting, 2 pool |
//! | 24 | 16 | UUID of the file system |
//! | 40 | 8 | size of the file system in bytes, little endian; also where this header is |
//! | 480 | 32 | SHA-256 of bytes 0 to 479 |

use std::{fs::File, io, os::unix::fs::FileExt};

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// What stays free at the end of the disk. More than any partition table's or RAID's backup takes.
pub const TAIL: u64 = 4 << 20;

/// A sector, which disks write whole or not at all.
pub const LENGTH: usize = 512;

const MAGIC: &[u8; 16] = b"LOAM-DISK-HEADER";
const FORMAT: u32 = 1;
const SUM_AT: usize = LENGTH - 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The file system may be half made; nothing of value was ever on it.
    Formatting,
    Pool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub state: State,
    pub uuid: Uuid,
    /// A multiple of 1 MiB.
    pub filesystem_size: u64,
}

impl Header {
    /// For a disk of `disk_size` bytes that is about to be made a pool.
    pub fn for_disk(disk_size: u64) -> Self {
        Self {
            state: State::Formatting,
            uuid: Uuid::new_v4(),
            filesystem_size: filesystem_size(disk_size),
        }
    }

    /// Reads the header whose file system has this size, if one is there.
    pub fn read(disk: &File, filesystem_size: u64) -> io::Result<Option<Self>> {
        let mut sector = [0; LENGTH];
        match disk.read_exact_at(&mut sector, filesystem_size) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        Ok(Self::decode(&sector).filter(|header| header.filesystem_size == filesystem_size))
    }

    /// Durable when it returns.
    pub fn write(&self, disk: &File) -> io::Result<()> {
        disk.write_all_at(&self.encode(), self.filesystem_size)?;
        disk.sync_all()
    }

    pub fn encode(&self) -> [u8; LENGTH] {
        let mut sector = [0; LENGTH];
        sector[..16].copy_from_slice(MAGIC);
        sector[16..20].copy_from_slice(&FORMAT.to_le_bytes());
        let state: u32 = match self.state {
            State::Formatting => 1,
            State::Pool => 2,
        };
        sector[20..24].copy_from_slice(&state.to_le_bytes());
        sector[24..40].copy_from_slice(self.uuid.as_bytes());
        sector[40..48].copy_from_slice(&self.filesystem_size.to_le_bytes());
        let sum = Sha256::digest(&sector[..SUM_AT]);
        sector[SUM_AT..].copy_from_slice(&sum);
        sector
    }

    pub fn decode(sector: &[u8; LENGTH]) -> Option<Self> {
        let sum = Sha256::digest(&sector[..SUM_AT]);
        if &sector[..16] != MAGIC || sector[SUM_AT..] != sum[..] {
            return None;
        }
        let word = |at: usize| sector[at..at + 4].try_into().map(u32::from_le_bytes).ok();
        let state = match (word(16)?, word(20)?) {
            (FORMAT, 1) => State::Formatting,
            (FORMAT, 2) => State::Pool,
            _ => return None,
        };
        Some(Self {
            state,
            uuid: Uuid::from_slice(&sector[24..40]).ok()?,
            filesystem_size: u64::from_le_bytes(sector[40..48].try_into().ok()?),
        })
    }
}

/// The size of the file system on a disk of this size: whole MiB, with [`TAIL`] left.
pub fn filesystem_size(disk_size: u64) -> u64 {
    disk_size.saturating_sub(TAIL) & !((1 << 20) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn written_and_read_back() {
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(64 << 20).unwrap();
        let mut header = Header::for_disk(64 << 20);
        assert_eq!(header.filesystem_size, 60 << 20);
        assert_eq!(Header::read(&disk, header.filesystem_size).unwrap(), None);
        for state in [State::Formatting, State::Pool] {
            header.state = state;
            header.write(&disk).unwrap();
            assert_eq!(
                Header::read(&disk, header.filesystem_size).unwrap(),
                Some(header)
            );
        }
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_noticed(bit in 0..LENGTH * 8) {
            let mut sector = Header::for_disk(1 << 30).encode();
            sector[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Header::decode(&sector), None);
        }
    }
}
