//! [`Iovecs`]: segments of guest memory as the kernel takes them, so that files and taps are read
//! and written without copies.

use std::marker::PhantomData;

use vm_memory::{GuestMemoryBackend, GuestMemoryError};

use crate::{hw::virtio::segments::Segment, memory::GuestMemory};

/// The kernel takes no more at once (`UIO_MAXIOV`).
pub const MOST: usize = 1024;

/// Valid as long as guest memory is mapped.
#[derive(Debug)]
pub struct Iovecs<'m> {
    all: Vec<libc::iovec>,
    /// Those before are done.
    next: usize,
    memory: PhantomData<&'m GuestMemory>,
}

impl<'m> Iovecs<'m> {
    pub fn new(
        memory: &'m GuestMemory,
        segments: impl Iterator<Item = Segment>,
    ) -> Result<Self, GuestMemoryError> {
        let mut all = Vec::new();
        for segment in segments {
            // A segment that crosses two regions of memory lies in two places of ours.
            for slice in memory.get_slices(segment.address, segment.len as usize) {
                let slice = slice?;
                all.push(libc::iovec {
                    iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                    iov_len: slice.len(),
                });
            }
        }
        Ok(Self {
            all,
            next: 0,
            memory: PhantomData,
        })
    }

    /// What is left, as much as the kernel takes at once.
    pub fn rest(&self) -> &[libc::iovec] {
        let rest = &self.all[self.next..];
        &rest[..rest.len().min(MOST)]
    }

    pub fn is_done(&self) -> bool {
        self.all[self.next..].iter().all(|iovec| iovec.iov_len == 0)
    }

    /// Marks so many bytes as done.
    pub fn advance(&mut self, mut bytes: usize) {
        while let Some(iovec) = self.all.get_mut(self.next) {
            let done = bytes.min(iovec.iov_len);
            iovec.iov_base = iovec.iov_base.wrapping_byte_add(done);
            iovec.iov_len -= done;
            bytes -= done;
            if iovec.iov_len > 0 {
                return;
            }
            self.next += 1;
        }
    }
}
