//! A disk's file or block device, read and written in whole sectors at positions.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use rustix::{
    fs::{self, fdatasync},
    io::Errno,
};

use crate::backend::iovecs::Iovecs;

pub const SECTOR: u64 = 512;

/// Zeroes are written so many at a time. Holes are kept by pieces of this size: where each of them
/// ends is not asked, since a file system looks for the next hole through all data before it.
const PIECE: u64 = 64 << 10;
static ZEROES: [u8; PIECE as usize] = [0; PIECE as usize];

#[derive(Debug)]
pub struct DiskFile {
    file: File,
    sectors: u64,
}

impl DiskFile {
    /// Takes the file's length for the disk's; a last part of a sector is not offered.
    pub fn new(file: OwnedFd) -> io::Result<Self> {
        let mut file = File::from(file);
        let sectors = file.seek(SeekFrom::End(0))? / SECTOR;
        Ok(Self { file, sectors })
    }

    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Where `len` bytes from `sector` on begin, if they are whole sectors of the disk.
    pub fn range(&self, sector: u64, len: u64) -> Option<u64> {
        let end = sector.checked_add(len / SECTOR)?;
        (len.is_multiple_of(SECTOR) && end <= self.sectors).then(|| sector * SECTOR)
    }

    pub fn read(&self, position: u64, target: Iovecs<'_>) -> io::Result<()> {
        transfer(position, target, |iovecs, position| {
            // SAFETY: the vectors point to mapped guest memory, which the guest expects to be
            // written; nothing in this process borrows from it.
            unsafe {
                libc::preadv(
                    self.file.as_raw_fd(),
                    iovecs.as_ptr(),
                    iovecs.len() as libc::c_int,
                    position,
                )
            }
        })
    }

    pub fn write(&self, position: u64, source: Iovecs<'_>) -> io::Result<()> {
        transfer(position, source, |iovecs, position| {
            // SAFETY: the vectors point to mapped guest memory.
            unsafe {
                libc::pwritev(
                    self.file.as_raw_fd(),
                    iovecs.as_ptr(),
                    iovecs.len() as libc::c_int,
                    position,
                )
            }
        })
    }

    /// Returns when what was written is on the disk.
    pub fn flush(&self) -> io::Result<()> {
        Ok(fdatasync(&self.file)?)
    }

    /// The range reads as zeros afterwards, whatever lies below. What was never written stays so.
    ///
    /// In place, never by `fallocate`. btrfs puts new extents in the place of what that clears, and an old
    /// one is free only when no block of it is referred to: a guest that clears all but a block again and
    /// again would hold many times its disk's size, which others were promised.
    pub fn write_zeroes(&self, position: u64, len: u64) -> io::Result<()> {
        let end = position + len;
        let mut position = position;
        while let Some(data) = self.data_from(position).filter(|data| *data < end) {
            let next = end.min((data / PIECE + 1) * PIECE);
            let zeroes = &ZEROES[..(next - data) as usize];
            self.file.write_all_at(zeroes, data)?;
            position = next;
        }
        Ok(())
    }

    /// The first byte from `position` on that may have been written.
    fn data_from(&self, position: u64) -> Option<u64> {
        match fs::seek(&self.file, fs::SeekFrom::Data(position)) {
            Ok(data) => Some(data.max(position)),
            Err(Errno::NXIO) => None,
            // A block device knows no holes. Of other errors the write tells.
            Err(_) => Some(position),
        }
    }
}

/// Repeats a call until all is done: the kernel may do less than asked.
fn transfer(
    mut position: u64,
    mut iovecs: Iovecs<'_>,
    mut call: impl FnMut(&[libc::iovec], i64) -> isize,
) -> io::Result<()> {
    while !iovecs.is_done() {
        match call(iovecs.rest(), position as i64) {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            done @ 1.. => {
                iovecs.advance(done as usize);
                position += done as u64;
            }
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn disk(len: u64) -> DiskFile {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        DiskFile::new(file.into()).unwrap()
    }

    fn bytes(disk: &DiskFile, position: u64, len: u64) -> Vec<u8> {
        let mut bytes = vec![1; len as usize];
        disk.file.read_exact_at(&mut bytes, position).unwrap();
        bytes
    }

    fn allocated(disk: &DiskFile) -> u64 {
        disk.file.sync_all().unwrap();
        disk.file.metadata().unwrap().blocks() * 512
    }

    #[test]
    fn what_was_never_written_stays_so_when_it_is_zeroed() {
        let disk = disk(1 << 40);
        disk.write_zeroes(0, 1 << 40).unwrap();
        assert_eq!(allocated(&disk), 0);

        disk.file.write_all_at(&[9; 512], 5 * MIB).unwrap();
        disk.file.write_all_at(&[9; 8192], 7 * MIB - 4096).unwrap();
        disk.write_zeroes(MIB + 512, 1 << 39).unwrap();
        assert!(allocated(&disk) <= 3 * PIECE);
        assert!(bytes(&disk, 0, 8 * MIB).iter().all(|byte| *byte == 0));
        assert_eq!(disk.file.metadata().unwrap().len(), 1 << 40);
    }

    #[test]
    fn zeroes_end_where_they_should() {
        let disk = disk(MIB);
        for (first, end) in [
            (0, SECTOR),
            (SECTOR, 3 * SECTOR),
            (PIECE - SECTOR, PIECE + SECTOR),
            (PIECE, 2 * PIECE),
            (3 * SECTOR, MIB - SECTOR),
            (0, MIB),
        ] {
            disk.file.write_all_at(&vec![9; MIB as usize], 0).unwrap();
            disk.write_zeroes(first, end - first).unwrap();
            let bytes = bytes(&disk, 0, MIB);
            let wrong = bytes.iter().enumerate().find(|(at, byte)| {
                let cleared = (first..end).contains(&(*at as u64));
                **byte != if cleared { 0 } else { 9 }
            });
            assert_eq!(wrong, None, "{first} to {end}");
        }
    }

    #[test]
    fn zeroes_that_cannot_be_written_are_told() {
        // A device that takes nothing, and answers each question for data with 0.
        let full = DiskFile {
            file: File::options().write(true).open("/dev/full").unwrap(),
            sectors: 8,
        };
        let error = full.write_zeroes(SECTOR, SECTOR).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn what_knows_no_holes_is_written_throughout() {
        let (_reader, pipe) = io::pipe().unwrap();
        let pipe = DiskFile {
            file: File::from(OwnedFd::from(pipe)),
            sectors: 8,
        };
        assert_eq!(pipe.data_from(SECTOR), Some(SECTOR));
    }

    /// Each test is a process of its own: a call that the filter does not know ends it.
    #[test]
    fn zeroes_pass_the_filter() {
        let filters = crate::seccomp::Filters::build().unwrap();
        let disk = disk(MIB);
        disk.file.write_all_at(&[9; 512], 0).unwrap();
        let filtered = std::thread::spawn(move || {
            crate::seccomp::apply(Some(&filters.device)).unwrap();
            let done = disk.write_zeroes(0, MIB).and_then(|()| disk.flush());
            (done, disk)
        });
        let (done, disk) = filtered.join().unwrap();
        done.unwrap();
        assert_eq!(bytes(&disk, 0, 512), [0; 512]);
    }
}
