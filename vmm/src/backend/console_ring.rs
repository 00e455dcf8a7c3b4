//! The console ring: shared memory that keeps the guest's last output (layout:
//! [`loam_node_api::vmm::console`]).

use std::{
    fmt, io,
    os::fd::{AsFd, OwnedFd},
    ptr::{self, NonNull},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use loam_node_api::vmm::console::{RING, RING_OFFSET, SIZE};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::lock::Lock;

#[derive(Debug, thiserror::Error)]
pub enum RingError {
    #[error("the console's memory file has {0} bytes instead of {SIZE}")]
    Size(u64),
    #[error("cannot map the console's memory file: {0}")]
    Map(#[from] io::Error),
}

/// Writes to the ring; clones write to the same one, in turns.
#[derive(Clone, Debug)]
pub struct RingWriter(Arc<Mutex<Ring>>);

struct Ring {
    /// Start of a shared mapping of [`SIZE`] bytes.
    base: NonNull<u8>,
    position: u64,
}

// SAFETY: the mapping belongs to this value alone within the process, and is not bound to a thread.
unsafe impl Send for Ring {}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ring at {}", self.position)
    }
}

impl RingWriter {
    /// Goes on where an earlier VMM of the same machine stopped.
    pub fn new(file: OwnedFd) -> Result<Self, RingError> {
        let size = rustix::fs::fstat(file.as_fd())
            .map_err(io::Error::from)?
            .st_size as u64;
        if size != SIZE as u64 {
            return Err(RingError::Size(size));
        }
        // SAFETY: a new mapping at an address that the kernel chooses. The launcher sealed the file
        // against shrinking, so all of it stays backed.
        let base = unsafe {
            mmap(
                ptr::null_mut(),
                SIZE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &file,
                0,
            )
        }
        .map_err(io::Error::from)?;
        let base =
            NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at address zero"))?;
        let mut ring = Ring { base, position: 0 };
        ring.position = u64::from_le(ring.shared_position().load(Ordering::Acquire));
        Ok(Self(Arc::new(Mutex::new(ring))))
    }

    pub fn write(&self, bytes: &[u8]) {
        self.0.locked().write(bytes);
    }
}

impl Ring {
    fn shared_position(&self) -> &AtomicU64 {
        // SAFETY: the mapping starts at a page, so the position is aligned, and it lives as long
        // as `self`; other processes only read it, atomically.
        unsafe { self.base.cast::<AtomicU64>().as_ref() }
    }

    fn write(&mut self, bytes: &[u8]) {
        // What would be overwritten in the same call need not be written.
        let skipped = bytes.len().saturating_sub(RING);
        self.position = self.position.wrapping_add(skipped as u64);
        let mut rest = &bytes[skipped..];
        while !rest.is_empty() {
            let at = (self.position % RING as u64) as usize;
            let (now, later) = rest.split_at(rest.len().min(RING - at));
            // SAFETY: `at + now.len() <= RING`, so the target lies within the mapping; readers in
            // other processes expect bytes to change under them.
            unsafe {
                ptr::copy_nonoverlapping(
                    now.as_ptr(),
                    self.base.as_ptr().add(RING_OFFSET + at),
                    now.len(),
                );
            }
            self.position = self.position.wrapping_add(now.len() as u64);
            rest = later;
        }
        self.shared_position()
            .store(self.position.to_le(), Ordering::Release);
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, which nothing else points into.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), SIZE) };
    }
}

impl io::Write for RingWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        RingWriter::write(self, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{fs::File, os::unix::fs::FileExt};

    use super::*;

    pub fn file() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SIZE as u64).unwrap();
        file
    }

    /// Everything that the ring still holds, in order.
    pub fn contents(file: &File) -> Vec<u8> {
        let mut position = [0; 8];
        file.read_exact_at(&mut position, 0).unwrap();
        let position = u64::from_le_bytes(position);
        let kept = position.min(RING as u64);
        (position - kept..position)
            .map(|n| {
                let mut byte = [0];
                file.read_exact_at(&mut byte, RING_OFFSET as u64 + n % RING as u64)
                    .unwrap();
                byte[0]
            })
            .collect()
    }

    #[test]
    fn keeps_the_order_of_writes() {
        let file = file();
        let ring = RingWriter::new(file.try_clone().unwrap().into()).unwrap();
        ring.write(b"early, ");
        ring.clone().write(b"late");
        assert_eq!(contents(&file), b"early, late");
    }

    #[test]
    fn keeps_the_last_bytes_when_it_wraps() {
        let file = file();
        let ring = RingWriter::new(file.try_clone().unwrap().into()).unwrap();
        ring.write(&vec![b'a'; RING - 3]);
        ring.write(b"bcdefg");
        let kept = contents(&file);
        assert_eq!(kept.len(), RING);
        assert!(kept.ends_with(b"abcdefg"));

        ring.write(&[vec![b'x'; 2 * RING], b"end".to_vec()].concat());
        assert!(contents(&file).ends_with(b"xend"));
    }

    #[test]
    fn the_next_vmm_goes_on_where_the_last_stopped() {
        let file = file();
        for text in ["one ", "two"] {
            let ring = RingWriter::new(file.try_clone().unwrap().into()).unwrap();
            ring.write(text.as_bytes());
        }
        assert_eq!(contents(&file), b"one two");
    }

    #[test]
    fn refuses_a_file_of_another_size() {
        let file = file();
        file.set_len(SIZE as u64 - 1).unwrap();
        assert!(matches!(
            RingWriter::new(file.into()),
            Err(RingError::Size(_))
        ));
    }
}
