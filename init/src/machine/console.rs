//! [`ConsoleRing`]: the memory in which a VMM keeps what its guest last wrote.
//!
//! The VMM belongs to whoever took it over, so nothing in the ring is believed: any position is
//! possible, and may change at any time.

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use loam_node_api::{
    WorkloadId,
    machine::ConsoleChunk,
    vmm::console::{RING, RING_OFFSET, SIZE},
};
use rustix::{
    fs::{MemfdFlags, SealFlags},
    io::pread,
};

/// The most that one read returns (see [`ConsoleChunk`]).
const MAX_CHUNK: u64 = 64 << 10;

/// How much a VMM writes at most before it moves the position on: so much of the oldest output may
/// be overwritten already.
const SLACK: u64 = 16 << 10;

const KEPT: u64 = RING as u64 - SLACK;

#[derive(Debug)]
pub struct ConsoleRing(OwnedFd);

impl ConsoleRing {
    pub fn make(id: &WorkloadId) -> io::Result<Self> {
        let name = CString::new(format!("console {id}"))?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::NOEXEC_SEAL;
        let file = rustix::fs::memfd_create(&name, flags)?;
        rustix::fs::ftruncate(&file, SIZE as u64)?;
        // A VMM that could shrink the file would make our reads fail.
        let seals = SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals)?;
        Ok(Self(file))
    }

    /// Position after the last byte that was ever written.
    pub fn position(&self) -> u64 {
        let mut bytes = [0; 8];
        match pread(&self.0, &mut bytes, 0) {
            Ok(8) => u64::from_le_bytes(bytes),
            _ => 0,
        }
    }

    /// The output from `from` on, or from the oldest that is kept.
    pub fn read(&self, from: u64) -> io::Result<ConsoleChunk> {
        let end = self.position();
        let start = from.max(oldest(end)).min(end);
        let length = (end - start).min(MAX_CHUNK) as usize;
        let mut bytes = vec![0; length];
        let ring = RING as u64;
        let first = ((ring - start % ring) as usize).min(length);
        let (head, tail) = bytes.split_at_mut(first);
        self.fill(head, start % ring)?;
        self.fill(tail, 0)?;
        // What the VMM wrote meanwhile may have gone over what was read.
        let still = oldest(self.position())
            .saturating_sub(start)
            .min(length as u64);
        bytes.drain(..still as usize);
        Ok(ConsoleChunk {
            start: start + still,
            bytes,
        })
    }

    fn fill(&self, mut bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let mut offset = RING_OFFSET as u64 + offset;
        while !bytes.is_empty() {
            match pread(&self.0, &mut *bytes, offset)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => {
                    bytes = &mut bytes[read..];
                    offset += read as u64;
                }
            }
        }
        Ok(())
    }
}

impl AsFd for ConsoleRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Before the ring was full once, nothing is overwritten.
fn oldest(position: u64) -> u64 {
    if position <= RING as u64 - SLACK {
        0
    } else {
        position - KEPT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::io::pwrite;

    fn ring() -> ConsoleRing {
        ConsoleRing::make(&"1.web".parse().unwrap()).unwrap()
    }

    /// Writes as the VMM does: bytes first, then the position.
    fn write(ring: &ConsoleRing, bytes: &[u8]) {
        let position = ring.position();
        for (n, byte) in bytes.iter().enumerate() {
            let offset = (position + n as u64) % RING as u64 + RING_OFFSET as u64;
            pwrite(&ring.0, &[*byte], offset).unwrap();
        }
        set_position(ring, position + bytes.len() as u64);
    }

    fn set_position(ring: &ConsoleRing, position: u64) {
        pwrite(&ring.0, &position.to_le_bytes(), 0).unwrap();
    }

    #[test]
    fn reads_what_was_written() {
        let ring = ring();
        assert_eq!(
            ring.read(0).unwrap(),
            ConsoleChunk {
                start: 0,
                bytes: vec![]
            }
        );
        write(&ring, b"hello ");
        write(&ring, b"world");
        assert_eq!(ring.read(0).unwrap().bytes, b"hello world");
        assert_eq!(
            ring.read(6).unwrap(),
            ConsoleChunk {
                start: 6,
                bytes: b"world".to_vec()
            }
        );
        assert_eq!(
            ring.read(99).unwrap(),
            ConsoleChunk {
                start: 11,
                bytes: vec![]
            }
        );
    }

    #[test]
    fn reads_over_the_end_of_the_ring() {
        let ring = ring();
        set_position(&ring, RING as u64 - 3);
        write(&ring, b"abcdef");
        let from = RING as u64 - 3;
        assert_eq!(
            ring.read(from).unwrap(),
            ConsoleChunk {
                start: from,
                bytes: b"abcdef".to_vec()
            }
        );
    }

    #[test]
    fn what_was_overwritten_is_skipped() {
        let ring = ring();
        let position = 5 * RING as u64 + 7;
        set_position(&ring, position);
        let chunk = ring.read(0).unwrap();
        assert_eq!(chunk.start, position - KEPT);
        assert_eq!(chunk.bytes.len() as u64, MAX_CHUNK);
    }

    #[test]
    fn cannot_be_resized() {
        let ring = ring();
        assert!(rustix::fs::ftruncate(&ring.0, 0).is_err());
        assert!(rustix::fs::ftruncate(&ring.0, 2 * SIZE as u64).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_position_is_read_without_harm(position: u64, from: u64) {
            let ring = ring();
            set_position(&ring, position);
            let chunk = ring.read(from).unwrap();
            prop_assert!(chunk.bytes.len() as u64 <= MAX_CHUNK);
            prop_assert!(chunk.start <= position);
            prop_assert!(chunk.start + chunk.bytes.len() as u64 <= position);
        }
    }
}
