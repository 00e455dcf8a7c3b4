//! [`Descriptor`]: reads a descriptor by position, so that several VMs may share one open file.

use std::{
    io::{self, Read, Seek, SeekFrom},
    os::fd::BorrowedFd,
};

use rustix::io::Errno;
use vm_memory::{ReadVolatile, VolatileMemoryError, VolatileSlice, bitmap::BitmapSlice};

#[derive(Clone, Debug)]
pub struct Descriptor<'a> {
    fd: BorrowedFd<'a>,
    position: u64,
    len: u64,
}

impl<'a> Descriptor<'a> {
    pub fn new(fd: BorrowedFd<'a>) -> io::Result<Self> {
        let len = rustix::fs::fstat(fd)?.st_size;
        Ok(Self {
            fd,
            position: 0,
            len: u64::try_from(len).map_err(io::Error::other)?,
        })
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Read for Descriptor<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = loop {
            match rustix::io::pread(self.fd, &mut *buffer, self.position) {
                Err(Errno::INTR) => continue,
                read => break read?,
            }
        };
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for Descriptor<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.len.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}

impl ReadVolatile for Descriptor<'_> {
    fn read_volatile<B: BitmapSlice>(
        &mut self,
        target: &mut VolatileSlice<B>,
    ) -> Result<usize, VolatileMemoryError> {
        // Through a buffer: this runs once per boot, and a buffer needs no unsafe code. Until the
        // target is full: callers take fewer bytes for the end of the file.
        let mut buffer = [0; 64 << 10];
        let mut done = 0;
        while done < target.len() {
            let wanted = (target.len() - done).min(buffer.len());
            let read = self
                .read(&mut buffer[..wanted])
                .map_err(VolatileMemoryError::IOError)?;
            if read == 0 {
                break;
            }
            target.offset(done)?.copy_from(&buffer[..read]);
            done += read;
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::fd::AsFd};

    use super::*;

    #[test]
    fn two_readers_of_one_open_file_do_not_disturb_each_other() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let mut one = Descriptor::new(file.as_fd()).unwrap();
        let mut two = one.clone();
        let mut text = [0; 4];
        one.seek(SeekFrom::End(-4)).unwrap();
        one.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"6789");
        two.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"0123");
        assert!(one.seek(SeekFrom::Current(-11)).is_err());
    }
}
