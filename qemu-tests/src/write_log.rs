//! What QEMU's `blklogwrites` wrote down of a disk (the format of Linux's dm-log-writes): every
//! write, flush and discard, in the order in which they were done.
//!
//! A sector with the header, then entries: a sector with what was done, and behind it the bytes of a
//! write. The header's count moves only at a flush, so that after a sudden end entries lie behind it
//! that are whole all the same.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use anyhow::{Context, ensure};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;

const FLUSH: u64 = 1;
/// The write was on the disk, not only in its cache, before it was acknowledged.
const FUA: u64 = 2;
const DISCARD: u64 = 4;
/// A note of whoever recorded; `data_len` bytes of it follow.
const MARK: u64 = 8;

#[derive(Debug)]
pub struct WriteLog {
    pub(crate) file: File,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// All that was acknowledged before is kept.
    pub flush: bool,
    /// What it changes is kept at once.
    pub fua: bool,
    pub change: Change,
    /// Where it ends in the log's file.
    pub end: u64,
}

/// What is done to the disk, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Nothing,
    Write {
        offset: u64,
        length: u64,
        /// Where the bytes are in the log's file.
        data: u64,
    },
    Discard {
        offset: u64,
        length: u64,
    },
}

impl WriteLog {
    /// Reads the log of a disk that nobody writes any more.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        Self::of(file).with_context(|| format!("reading {}", path.display()))
    }

    fn of(file: File) -> anyhow::Result<Self> {
        let length = file.metadata()?.len();
        let mut header = [0; 28];
        file.read_exact_at(&mut header, 0)
            .context("it is too short for a header")?;
        let sector = u64::from(u32::from_le_bytes(
            header[24..].try_into().expect("four bytes"),
        ));
        ensure!(word(&header, 0) == MAGIC, "it is no log of writes");
        ensure!(word(&header, 8) == VERSION, "its version is unknown");
        ensure!(
            sector.is_power_of_two() && sector >= 512,
            "sectors of {sector} bytes"
        );
        let count = usize::try_from(word(&header, 16))?;

        let mut entries = Vec::new();
        let mut position = sector;
        while let Some(entry) = entry(&file, position, length, sector)? {
            position = entry.end;
            entries.push(entry);
        }
        ensure!(
            entries.len() >= count,
            "its header counts {count} entries, but what follows the first {} is none",
            entries.len()
        );
        Ok(Self { file, entries })
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// How many entries were whole when the log was `length` bytes long. What the disk had
    /// acknowledged at that time is among them.
    pub fn entries_within(&self, length: u64) -> usize {
        self.entries.partition_point(|entry| entry.end <= length)
    }
}

/// The entry at `position`; none if there is none, or not all of it.
fn entry(file: &File, position: u64, length: u64, sector: u64) -> anyhow::Result<Option<Entry>> {
    if length.saturating_sub(position) < sector {
        return Ok(None);
    }
    let mut fields = [0; 32];
    file.read_exact_at(&mut fields, position)?;
    let [first, count, flags, noted] = [0, 8, 16, 24].map(|at| word(&fields, at));
    if (flags == 0 && count == 0) || flags & !(FLUSH | FUA | DISCARD | MARK) != 0 {
        return Ok(None);
    }
    let data = position + sector;
    let (Some(offset), Some(bytes)) = (first.checked_mul(sector), count.checked_mul(sector)) else {
        return Ok(None);
    };
    let behind = match flags {
        flags if flags & MARK != 0 => noted.checked_next_multiple_of(sector),
        flags if flags & DISCARD != 0 => Some(0),
        _ => Some(bytes),
    };
    let end = behind.and_then(|behind| data.checked_add(behind));
    let Some(end) = end.filter(|end| *end <= length) else {
        return Ok(None);
    };
    let change = match flags {
        flags if flags & MARK != 0 || bytes == 0 => Change::Nothing,
        flags if flags & DISCARD != 0 => Change::Discard {
            offset,
            length: bytes,
        },
        _ => Change::Write {
            offset,
            length: bytes,
            data,
        },
    };
    Ok(Some(Entry {
        flush: flags & FLUSH != 0,
        fua: flags & FUA != 0,
        change,
        end,
    }))
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Makes logs as QEMU does.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    pub(crate) const SECTOR: u64 = 512;

    /// What an entry does, in sectors: a write fills each with its own byte.
    #[derive(Clone, Debug)]
    pub(crate) enum Done {
        Flush,
        Write {
            first: u64,
            count: u64,
            byte: u8,
            fua: bool,
        },
        Discard {
            first: u64,
            count: u64,
        },
    }

    /// The header counts the first `counted` of them.
    pub(crate) fn bytes(done: &[Done], counted: usize) -> Vec<u8> {
        let mut bytes = sector(&[MAGIC, VERSION, counted as u64, SECTOR]);
        for done in done {
            match *done {
                Done::Flush => bytes.extend(sector(&[0, 0, FLUSH, 0])),
                Done::Discard { first, count } => {
                    bytes.extend(sector(&[first, count, DISCARD, 0]));
                }
                Done::Write {
                    first,
                    count,
                    byte,
                    fua,
                } => {
                    let flags = if fua { FUA } else { 0 };
                    bytes.extend(sector(&[first, count, flags, 0]));
                    bytes.extend(vec![byte; (count * SECTOR) as usize]);
                }
            }
        }
        bytes
    }

    pub(crate) fn log(bytes: &[u8]) -> anyhow::Result<WriteLog> {
        let file = tempfile::tempfile()?;
        file.write_all_at(bytes, 0)?;
        WriteLog::of(file)
    }

    fn sector(words: &[u64]) -> Vec<u8> {
        let mut sector: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        sector.resize(SECTOR as usize, 0);
        sector
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{testing::*, *};

    fn some() -> Vec<Done> {
        vec![
            Done::Write {
                first: 8,
                count: 2,
                byte: 1,
                fua: false,
            },
            Done::Flush,
            Done::Discard {
                first: 0,
                count: 16,
            },
            Done::Write {
                first: 3,
                count: 1,
                byte: 2,
                fua: true,
            },
        ]
    }

    #[test]
    fn reads_on_behind_the_count() {
        for counted in 0..=4 {
            let log = log(&bytes(&some(), counted)).unwrap();
            let seen: Vec<_> = log
                .entries()
                .iter()
                .map(|entry| (entry.flush, entry.fua, entry.change.clone()))
                .collect();
            let write = |offset, length, data| Change::Write {
                offset,
                length,
                data,
            };
            let discard = Change::Discard {
                offset: 0,
                length: 8192,
            };
            assert_eq!(
                seen,
                [
                    (false, false, write(4096, 1024, 1024)),
                    (true, false, Change::Nothing),
                    (false, false, discard),
                    (false, true, write(1536, 512, 3584)),
                ]
            );
        }
    }

    #[test]
    fn what_is_cut_off_or_was_never_written_is_no_entry() {
        let whole = bytes(&some(), 2);
        assert_eq!(
            log(&whole[..whole.len() - 1]).unwrap().entries().len(),
            3,
            "half of the last write's bytes"
        );
        let mut holes = whole.clone();
        holes.extend([0; 4096]);
        assert_eq!(log(&holes).unwrap().entries().len(), 4);
        let mut strange = whole;
        strange.extend([0xff; 4096]);
        assert_eq!(log(&strange).unwrap().entries().len(), 4);
    }

    #[test]
    fn what_is_counted_must_be_there() {
        let error = log(&bytes(&some(), 5)).unwrap_err();
        assert!(error.to_string().contains("counts 5"), "{error}");
        assert!(log(&[7; 512]).is_err());
        assert!(log(&[]).is_err());
    }

    #[test]
    fn a_length_tells_what_was_done_by_then() {
        let log = log(&bytes(&some(), 0)).unwrap();
        let ends: Vec<u64> = log.entries().iter().map(|entry| entry.end).collect();
        assert_eq!(ends, [2048, 2560, 3072, 4096]);
        let within: Vec<usize> = [512, 2047, 2048, 3071, 9000]
            .iter()
            .map(|length| log.entries_within(*length))
            .collect();
        assert_eq!(within, [0, 0, 1, 2, 4]);
    }

    proptest! {
        #[test]
        fn garbage_is_no_panic(garbage in prop::collection::vec(any::<u8>(), 0..8192)) {
            let mut bytes = bytes(&[], 0);
            bytes.extend(garbage);
            for entry in log(&bytes).unwrap().entries() {
                prop_assert!(entry.end <= bytes.len() as u64);
            }
        }
    }
}
