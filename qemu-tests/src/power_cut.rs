//! What a disk may hold after its power was cut at some moment of a [`WriteLog`].
//!
//! All that was acknowledged before the last flush is there, and each write with FUA. Of what came
//! after, a disk with a cache keeps what it likes: all, nothing, some writes, some sectors of one. A
//! sector is never torn. Since each sector holds one of the bytes that were written to it, a random
//! choice of sectors in the log's order gives all that a random order could.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use anyhow::Context;
use rand::{Rng, SeedableRng, rngs::StdRng};
use rustix::fs::{FallocateFlags, fallocate};

use crate::write_log::{Change, WriteLog};

/// What a disk writes as a whole or not at all.
const SECTOR: u64 = 512;

/// Held in memory at a time.
const PIECE: u64 = 1 << 20;

/// What a cache lost of the writes that no flush had reached.
#[derive(Clone, Copy, Debug)]
enum Lost {
    All,
    Nothing,
    Writes,
    Sectors,
}

/// Makes `image`, a disk of `bytes` that was empty at the start of the log and whose power was cut
/// after the first `done` entries. The same seed gives the same image.
pub fn image(
    log: &WriteLog,
    done: usize,
    seed: u64,
    bytes: u64,
    image: &Path,
) -> anyhow::Result<()> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(image)
        .with_context(|| format!("making {}", image.display()))?;
    file.set_len(bytes)?;
    let mut random = StdRng::seed_from_u64(seed);
    let lost = match random.random_range(0..4) {
        0 => Lost::All,
        1 => Lost::Nothing,
        2 => Lost::Writes,
        _ => Lost::Sectors,
    };
    let entries = &log.entries()[..done];
    let flushed = entries.iter().rposition(|entry| entry.flush);
    let flushed = flushed.map_or(0, |last| last + 1);
    for (number, entry) in entries.iter().enumerate() {
        let is_kept = number < flushed
            || entry.fua
            || match lost {
                Lost::All => false,
                Lost::Nothing => true,
                Lost::Writes => random.random(),
                Lost::Sectors => {
                    apply(log, &entry.change, &file, || random.random())?;
                    continue;
                }
            };
        if is_kept {
            apply(log, &entry.change, &file, || true)?;
        }
    }
    Ok(())
}

/// Does what an entry did, to those sectors that `chosen` takes.
fn apply(
    log: &WriteLog,
    change: &Change,
    image: &File,
    mut chosen: impl FnMut() -> bool,
) -> anyhow::Result<()> {
    match *change {
        Change::Nothing => Ok(()),
        // One request, done or not.
        Change::Discard { offset, length } => {
            if chosen() {
                clear(image, offset, length)?;
            }
            Ok(())
        }
        Change::Write {
            offset,
            length,
            data,
        } => {
            for piece in (0..length).step_by(PIECE as usize) {
                let mut bytes = vec![0; PIECE.min(length - piece) as usize];
                log.file.read_exact_at(&mut bytes, data + piece)?;
                write(image, offset + piece, &bytes, &mut chosen)?;
            }
            Ok(())
        }
    }
}

/// Neighbours that share a fate are written at once.
fn write(
    image: &File,
    offset: u64,
    bytes: &[u8],
    mut chosen: impl FnMut() -> bool,
) -> anyhow::Result<()> {
    let sectors = bytes.chunks(SECTOR as usize);
    let fates: Vec<bool> = sectors.map(|_| chosen()).collect();
    let mut at = 0;
    for run in fates.chunk_by(|one, next| one == next) {
        let length = (run.len() * SECTOR as usize).min(bytes.len() - at);
        let part = &bytes[at..at + length];
        if run[0] {
            // Sparse as the node's own: most of what a node writes first are zeros.
            if part.iter().all(|byte| *byte == 0) {
                clear(image, offset + at as u64, length as u64)?;
            } else {
                image.write_all_at(part, offset + at as u64)?;
            }
        }
        at += length;
    }
    Ok(())
}

fn clear(image: &File, offset: u64, length: u64) -> anyhow::Result<()> {
    let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(image, how, offset, length).context("making a hole")
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use proptest::prelude::*;

    use super::*;
    use crate::write_log::testing::{self, Done};

    const SECTORS: u64 = 8;

    /// The first byte of each sector; all bytes of a sector are the same.
    fn cut(done: &[Done], after: usize, seed: u64) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let log = testing::log(&testing::bytes(done, 0)).unwrap();
        image(&log, after, seed, SECTORS * SECTOR, &path).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len() as u64, SECTORS * SECTOR);
        let sectors = bytes.chunks(SECTOR as usize).map(|sector| {
            assert!(
                sector.iter().all(|byte| *byte == sector[0]),
                "a torn sector"
            );
            sector[0]
        });
        sectors.collect()
    }

    fn write(first: u64, count: u64, byte: u8, fua: bool) -> Done {
        Done::Write {
            first,
            count,
            byte,
            fua,
        }
    }

    /// What a sector may hold after a cut.
    fn allowed(done: &[Done], sector: u64) -> BTreeSet<u8> {
        let mut allowed = BTreeSet::from([0]);
        let mut last = 0;
        for done in done {
            let (byte, is_kept) = match *done {
                Done::Flush => {
                    // One of those before may be the last that was done, whichever was kept.
                    allowed = BTreeSet::from([last]);
                    continue;
                }
                Done::Write {
                    first,
                    count,
                    byte,
                    fua,
                } if (first..first + count).contains(&sector) => (byte, fua),
                Done::Discard { first, count } if (first..first + count).contains(&sector) => {
                    (0, false)
                }
                _ => continue,
            };
            if is_kept {
                allowed.clear();
            }
            allowed.insert(byte);
            last = byte;
        }
        allowed
    }

    fn done() -> impl Strategy<Value = Done> {
        let range = (0..SECTORS).prop_flat_map(|first| (Just(first), 1..=SECTORS - first));
        prop_oneof![
            1 => Just(Done::Flush),
            1 => range.clone().prop_map(|(first, count)| Done::Discard { first, count }),
            4 => (range, 1..=u8::MAX, prop::bool::weighted(0.2))
                .prop_map(|((first, count), byte, fua)| write(first, count, byte, fua)),
        ]
    }

    proptest! {
        #[test]
        fn nothing_flushed_is_missing_and_nothing_is_made_up(
            done in prop::collection::vec(done(), 0..12),
            share in 0.0..=1.0,
            seed: u64,
        ) {
            let after = (done.len() as f64 * share) as usize;
            let sectors = cut(&done, after, seed);
            for (number, byte) in (0..).zip(&sectors) {
                let allowed = allowed(&done[..after], number);
                prop_assert!(allowed.contains(byte), "sector {number}: {byte} is none of {allowed:?}");
            }
            prop_assert_eq!(sectors, cut(&done, after, seed));
        }
    }

    #[test]
    fn what_no_flush_reached_comes_out_in_every_way() {
        let done = [
            write(0, 4, 1, false),
            Done::Flush,
            write(0, 2, 2, false),
            write(2, 2, 3, false),
        ];
        let seen: BTreeSet<Vec<u8>> = (0..400)
            .map(|seed| cut(&done, 4, seed)[..4].to_vec())
            .collect();
        let mut every = BTreeSet::new();
        for kept in 0..16_u8 {
            let sector = |number: u8, new: u8| if kept >> number & 1 == 1 { new } else { 1 };
            every.insert(vec![sector(0, 2), sector(1, 2), sector(2, 3), sector(3, 3)]);
        }
        assert_eq!(seen, every);
    }

    #[test]
    fn what_came_after_the_cut_never_happened() {
        let done = [write(0, 8, 1, true), write(0, 8, 2, true), Done::Flush];
        assert_eq!(cut(&done, 0, 1), [0; 8]);
        assert_eq!(cut(&done, 1, 1), [1; 8]);
        assert_eq!(cut(&done, 2, 1), [2; 8]);
    }
}
