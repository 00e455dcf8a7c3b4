//! [`ConsoleRing`]: the memory in which a VMM keeps what its guest last wrote, and [`ConsoleTail`],
//! which is what stays of it when the machine has ended.
//!
//! The VMM belongs to whoever took it over, so nothing in the ring is believed: any position is
//! possible, and may change at any time.

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use loam_node_api::{
    WorkloadId,
    machine::ConsoleChunk,
    vmm::console::{RING, RING_OFFSET, SIZE},
};
use rustix::{
    fs::{MemfdFlags, SealFlags},
    io::{pread, pwrite},
};

/// The most that one read returns (see [`ConsoleChunk`]).
const MAX_CHUNK: u64 = 64 << 10;

/// How much a VMM writes at most before it moves the position on: so much of the oldest output may
/// be overwritten already.
const SLACK: u64 = 16 << 10;

const KEPT: u64 = RING as u64 - SLACK;

/// How much of a console outlives its machine.
pub const MAX_TAIL: usize = 64 << 10;

#[derive(Debug)]
pub struct ConsoleRing(OwnedFd);

/// The end of a console that nobody writes to any longer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsoleTail {
    /// Position of the first of `bytes`.
    start: u64,
    /// At most [`MAX_TAIL`].
    bytes: Vec<u8>,
}

/// What there is of a machine's console.
#[derive(Debug)]
pub enum Console {
    Ring(Arc<ConsoleRing>),
    Tail(ConsoleTail),
}

impl Console {
    /// Position after the last byte that was ever written.
    pub fn position(&self) -> u64 {
        match self {
            Self::Ring(ring) => ring.position(),
            Self::Tail(tail) => tail.position(),
        }
    }

    /// The output from `from` on, or from the oldest that is kept.
    pub fn read(&self, from: u64) -> io::Result<ConsoleChunk> {
        match self {
            Self::Ring(ring) => ring.read(from),
            Self::Tail(tail) => Ok(tail.read(from)),
        }
    }

    /// How much memory it takes that no machine's limit counts.
    pub fn kept(&self) -> u64 {
        match self {
            Self::Ring(_) => 0,
            Self::Tail(tail) => tail.bytes.len() as u64,
        }
    }

    /// Gives the ring's memory back when its machine has ended.
    pub fn shrink(&mut self) {
        if let Self::Ring(_) = self {
            *self = Self::Tail(self.tail());
        }
    }

    /// Gives up what is kept of a machine that has ended, but for how much it was.
    pub fn clear(&mut self) {
        if let Self::Tail(tail) = self {
            *tail = ConsoleTail {
                start: tail.position(),
                bytes: Vec::new(),
            };
        }
    }

    /// What a console of the same machine goes on from. What cannot be read is lost.
    pub fn tail(&self) -> ConsoleTail {
        match self {
            Self::Ring(ring) => ring.tail().unwrap_or_else(|error| {
                tracing::error!(%error, "the end of a console was lost");
                ConsoleTail::default()
            }),
            Self::Tail(tail) => tail.clone(),
        }
    }
}

impl ConsoleTail {
    fn position(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn read(&self, from: u64) -> ConsoleChunk {
        let start = from.clamp(self.start, self.position());
        ConsoleChunk {
            start,
            bytes: self.bytes[(start - self.start) as usize..].to_vec(),
        }
    }
}

impl ConsoleRing {
    /// A ring that goes on from `before`: an empty tail for a new machine.
    pub fn make(id: &WorkloadId, before: &ConsoleTail) -> io::Result<Self> {
        let name = CString::new(format!("console {id}"))?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::NOEXEC_SEAL;
        let file = rustix::fs::memfd_create(&name, flags)?;
        rustix::fs::ftruncate(&file, SIZE as u64)?;
        // A VMM that could shrink the file would make our reads fail.
        let seals = SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals)?;
        let ring = Self(file);
        ring.go_on_from(before)?;
        Ok(ring)
    }

    fn go_on_from(&self, before: &ConsoleTail) -> io::Result<()> {
        let first = (RING as u64 - before.start % RING as u64) as usize;
        let (head, rest) = before.bytes.split_at(first.min(before.bytes.len()));
        self.put(head, RING_OFFSET as u64 + before.start % RING as u64)?;
        self.put(rest, RING_OFFSET as u64)?;
        self.put(&before.position().to_le_bytes(), 0)
    }

    fn put(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = pwrite(&self.0, bytes, offset)?;
            bytes = &bytes[written..];
            offset += written as u64;
        }
        Ok(())
    }

    /// The last [`MAX_TAIL`] bytes.
    fn tail(&self) -> io::Result<ConsoleTail> {
        let chunk = self.read(self.position().saturating_sub(MAX_TAIL as u64))?;
        Ok(ConsoleTail {
            start: chunk.start,
            bytes: chunk.bytes,
        })
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

    fn ring() -> ConsoleRing {
        ConsoleRing::make(&"1.web".parse().unwrap(), &ConsoleTail::default()).unwrap()
    }

    /// Writes as the VMM does: bytes first, then the position.
    fn write(ring: &ConsoleRing, bytes: &[u8]) {
        let position = ring.position();
        for (n, byte) in bytes.iter().enumerate() {
            let offset = position.wrapping_add(n as u64) % RING as u64 + RING_OFFSET as u64;
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

    #[test]
    fn a_tail_is_read_as_its_ring_was() {
        let ring = ring();
        set_position(&ring, RING as u64 - 3);
        write(&ring, b"abcdef");
        let position = ring.position();
        let mut console = Console::Ring(Arc::new(ring));
        console.shrink();
        assert!(matches!(console, Console::Tail(_)));
        assert_eq!(console.position(), position);
        assert_eq!(console.read(position - 6).unwrap().bytes, b"abcdef");
        assert_eq!(console.read(position - 2).unwrap().bytes, b"ef");
        assert_eq!(console.read(u64::MAX).unwrap().start, position);
        let all = console.read(0).unwrap();
        assert_eq!(all.start, position - MAX_TAIL as u64);
        assert_eq!(all.bytes.len(), MAX_TAIL);
        console.clear();
        let nothing = console.read(0).unwrap();
        assert_eq!((nothing.start, nothing.bytes.len()), (position, 0));
    }

    #[test]
    fn a_new_ring_goes_on_from_an_old_ones_tail() {
        for position in [0, 10, RING as u64 - 3, 7 * RING as u64 + 5] {
            let old = ring();
            set_position(&old, position);
            write(&old, b"old ");
            let new = ConsoleRing::make(&"1.web".parse().unwrap(), &old.tail().unwrap()).unwrap();
            assert_eq!(new.position(), position + 4);
            write(&new, b"new");
            let chunk = new.read(position).unwrap();
            assert_eq!(
                (chunk.start, chunk.bytes.as_slice()),
                (position, &b"old new"[..])
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Also of a ring of which the VMM says nonsense.
        #[test]
        fn any_tail_can_be_gone_on_from(position: u64) {
            let old = ring();
            set_position(&old, position);
            let tail = old.tail().unwrap();
            prop_assert_eq!(tail.position(), position);
            let new = ConsoleRing::make(&"1.web".parse().unwrap(), &tail).unwrap();
            prop_assert_eq!(new.position(), position);
        }

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
