//! The buffers of a request: ranges of guest memory that were checked when the chain was popped.

use vm_memory::{Bytes, GuestAddress};

use crate::memory::GuestMemory;

/// A range of guest memory, all of it mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub address: GuestAddress,
    pub len: u32,
}

/// Bytes of all segments together; fits, since a chain has at most 2^32 bytes.
pub fn total(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| u64::from(segment.len)).sum()
}

/// The part of the segments that begins `skip` bytes in and is at most `limit` bytes long.
pub fn part(segments: &[Segment], skip: u64, limit: u64) -> impl Iterator<Item = Segment> + '_ {
    let mut skip = skip;
    let mut limit = limit;
    segments.iter().filter_map(move |segment| {
        let skipped = skip.min(u64::from(segment.len));
        skip -= skipped;
        let len = (u64::from(segment.len) - skipped).min(limit);
        limit -= len;
        (len > 0).then(|| Segment {
            address: GuestAddress(segment.address.0 + skipped),
            len: len as u32,
        })
    })
}

/// Copies from the segments, `skip` bytes in; returns how many bytes there were.
pub fn read(memory: &GuestMemory, segments: &[Segment], skip: u64, target: &mut [u8]) -> usize {
    let mut done = 0;
    for segment in part(segments, skip, target.len() as u64) {
        let here = &mut target[done..done + segment.len as usize];
        if memory.read_slice(here, segment.address).is_err() {
            break;
        }
        done += here.len();
    }
    done
}

/// Copies to the segments, `skip` bytes in; returns how many bytes had room.
pub fn write(memory: &GuestMemory, segments: &[Segment], skip: u64, source: &[u8]) -> usize {
    let mut done = 0;
    for segment in part(segments, skip, source.len() as u64) {
        let here = &source[done..done + segment.len as usize];
        if memory.write_slice(here, segment.address).is_err() {
            break;
        }
        done += here.len();
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(address: u64, len: u32) -> Segment {
        Segment {
            address: GuestAddress(address),
            len,
        }
    }

    #[test]
    fn a_part_crosses_segments() {
        let segments = [segment(0x100, 4), segment(0x200, 0), segment(0x300, 8)];
        let parts: Vec<_> = part(&segments, 2, 5).collect();
        assert_eq!(parts, [segment(0x102, 2), segment(0x300, 3)]);
        assert_eq!(part(&segments, 12, 1).count(), 0);
        assert_eq!(total(&segments), 12);
    }
}
