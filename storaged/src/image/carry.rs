//! Takes layers' data from where it was put aside to the image's file.

use std::{fs::File, io, os::unix::fs::FileExt};

use rustix::{
    fd::{AsFd, AsRawFd},
    io::Errno,
    ioctl::{Setter, opcode},
};

use super::{
    aside::Aside,
    erofs::{
        format::BLOCK,
        live::{Extent, Live},
    },
    failure::{FetchError, io as io_error},
    space::Space,
    stop::Stop,
};

/// What is copied at once.
const PIECE: usize = 1 << 20;

/// What is shared at once: btrfs waits until the disk has it.
const SHARED: u64 = 64 << 20;

/// What of a layer shows, to the places that it has in `image`. Ends soon when `stop` is set.
pub fn carry(
    aside: &Aside,
    live: &Live,
    image: &File,
    space: &dyn Space,
    stop: &Stop,
) -> Result<(), FetchError> {
    let Some(from) = aside.blocks() else {
        return Ok(());
    };
    let transfer = Transfer {
        from,
        to: image,
        stop,
    };
    let is_shared = match live {
        Live::Whole(all) => transfer
            .share(all)
            .map_err(io_error("share an image's data"))?,
        Live::Parts(_) => false,
    };
    if is_shared {
        return transfer.go_on();
    }
    space.take(live.blocks() * BLOCK)?;
    let mut piece = vec![0; PIECE];
    live.extents()
        .iter()
        .try_for_each(|extent| transfer.copy(extent, &mut piece))
}

struct Transfer<'a> {
    from: &'a File,
    to: &'a File,
    stop: &'a Stop,
}

impl Transfer<'_> {
    fn go_on(&self) -> Result<(), FetchError> {
        if self.stop.is_set() {
            return Err(FetchError::Stopped);
        }
        Ok(())
    }

    /// False where the file system's files cannot share data. Ends early, and well, when it is to stop.
    fn share(&self, extent: &Extent) -> io::Result<bool> {
        let bytes = u64::from(extent.blocks) * BLOCK;
        let mut done = 0;
        while done < bytes && !self.stop.is_set() {
            let length = SHARED.min(bytes - done);
            let from = u64::from(extent.from) * BLOCK + done;
            let to = u64::from(extent.to) * BLOCK + done;
            match share_range(self.from, from, length, self.to, to) {
                Ok(()) => done += length,
                // As the manual page has it, `ioctl_ficlonerange(2)`; and that of one that knows no such call.
                Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY) if done == 0 => {
                    return Ok(false);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// By reading and writing: `copy_file_range` would share blocks.
    fn copy(&self, extent: &Extent, piece: &mut [u8]) -> Result<(), FetchError> {
        let bytes = u64::from(extent.blocks) * BLOCK;
        let mut done = 0;
        while done < bytes {
            self.go_on()?;
            let length = (bytes - done).min(piece.len() as u64);
            let piece = &mut piece[..length as usize];
            self.from
                .read_exact_at(piece, u64::from(extent.from) * BLOCK + done)
                .map_err(io_error("read an image's data"))?;
            self.to
                .write_all_at(piece, u64::from(extent.to) * BLOCK + done)
                .map_err(io_error("write an image's data"))?;
            done += length;
        }
        Ok(())
    }
}

/// `struct file_clone_range` (`include/uapi/linux/fs.h`).
#[repr(C)]
struct CloneRange {
    from: i64,
    from_at: u64,
    length: u64,
    to_at: u64,
}

/// Has `to` share bytes of `from`. All three numbers are multiples of the file system's blocks.
fn share_range(from: &File, from_at: u64, length: u64, to: &File, to_at: u64) -> Result<(), Errno> {
    const FICLONERANGE: rustix::ioctl::Opcode = opcode::write::<CloneRange>(0x94, 13);
    let range = CloneRange {
        from: from.as_raw_fd().into(),
        from_at,
        length,
        to_at,
    };
    // SAFETY: the kernel reads a `struct file_clone_range` by this number and writes nothing to it; both files
    // are open for as long as the call takes.
    unsafe { rustix::ioctl::ioctl(to.as_fd(), Setter::<FICLONERANGE, CloneRange>::new(range)) }
}

#[cfg(test)]
#[path = "carry_tests.rs"]
mod tests;
