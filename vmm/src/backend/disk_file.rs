//! A disk's file or block device, read and written in whole sectors at positions.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::{
    fs::{FallocateFlags, fallocate, fdatasync},
    io::Errno,
};

use crate::backend::iovecs::Iovecs;

pub const SECTOR: u64 = 512;

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

    /// Gives the range's space back. What it reads as afterwards is undefined.
    pub fn discard(&self, position: u64, len: u64) -> io::Result<()> {
        self.allocate(
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            position,
            len,
        )
    }

    /// The range reads as zeros afterwards, whatever lies below.
    pub fn write_zeroes(&self, position: u64, len: u64) -> io::Result<()> {
        self.allocate(
            FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
            position,
            len,
        )
    }

    fn allocate(&self, flags: FallocateFlags, position: u64, len: u64) -> io::Result<()> {
        loop {
            match fallocate(&self.file, flags, position, len) {
                Err(Errno::INTR) => {}
                done => return Ok(done?),
            }
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
