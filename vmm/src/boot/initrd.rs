//! The initramfs: archives one after the other, each at a multiple of 4 bytes, as Linux's unpacker
//! wants them (kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`).

use vm_memory::{Bytes, GuestAddress};

use crate::{
    boot::{BootError, descriptor::Descriptor, kernel::Kernel},
    memory::{GuestMemory, low_end},
};

const ALIGNMENT: u64 = 4;
const PAGE: u64 = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initrd {
    pub address: GuestAddress,
    pub size: u64,
}

impl Initrd {
    /// As high in low memory as the kernel allows; none without archives.
    pub fn load(
        memory: &GuestMemory,
        kernel: &Kernel,
        archives: &[Descriptor<'_>],
    ) -> Result<Option<Self>, BootError> {
        let size = archives.iter().try_fold(0_u64, |sum, archive| {
            sum.checked_add(archive.len().checked_next_multiple_of(ALIGNMENT)?)
        });
        let limit = low_end(memory).min(kernel.initrd_limit());
        let too_little = |initrd| BootError::TooLittleMemory {
            kernel_end: kernel.end,
            initrd,
            limit,
        };
        let size = size.ok_or_else(|| too_little(u64::MAX))?;
        if size == 0 {
            return if kernel.end <= limit {
                Ok(None)
            } else {
                Err(too_little(0))
            };
        }
        let address = limit
            .checked_sub(size)
            .map(|address| address & !(PAGE - 1))
            .filter(|address| *address >= kernel.end)
            .ok_or_else(|| too_little(size))?;

        let mut at = address;
        for archive in archives {
            let len = archive.len();
            memory.read_exact_volatile_from(
                GuestAddress(at),
                &mut archive.clone(),
                len as usize,
            )?;
            // The padding is zero already: nothing was written to this memory before.
            at += len.next_multiple_of(ALIGNMENT);
        }
        Ok(Some(Self {
            address: GuestAddress(address),
            size,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::fd::AsFd};

    use loam_deployment::Bytes as Size;

    use super::*;
    use crate::memory;

    const KERNEL: Kernel = Kernel {
        entry: GuestAddress(0x10_0000),
        end: 16 << 20,
        header: None,
    };

    fn file(bytes: &[u8]) -> std::fs::File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn archives_follow_each_other_at_multiples_of_four() {
        let memory = memory::map(Size::mib(64)).unwrap();
        let (one, two) = (file(b"first"), file(b"second!"));
        let archives = [&one, &two].map(|file| Descriptor::new(file.as_fd()).unwrap());
        let initrd = Initrd::load(&memory, &KERNEL, &archives).unwrap().unwrap();
        assert_eq!(initrd.size, 16);
        assert_eq!(initrd.address, GuestAddress((64 << 20) - 4096));
        let mut bytes = [0; 16];
        memory.read_slice(&mut bytes, initrd.address).unwrap();
        assert_eq!(&bytes, b"first\0\0\0second!\0");
    }

    #[test]
    fn stays_off_the_kernel() {
        let memory = memory::map(Size::mib(32)).unwrap();
        let large = tempfile::tempfile().unwrap();
        large.set_len((16 << 20) + 1).unwrap();
        let archives = [Descriptor::new(large.as_fd()).unwrap()];
        let error = Initrd::load(&memory, &KERNEL, &archives).unwrap_err();
        assert!(
            matches!(error, BootError::TooLittleMemory { .. }),
            "{error}"
        );
        large.set_len(16 << 20).unwrap();
        let archives = [Descriptor::new(large.as_fd()).unwrap()];
        assert!(Initrd::load(&memory, &KERNEL, &archives).unwrap().is_some());
    }

    #[test]
    fn no_archive_no_initramfs() {
        let memory = memory::map(Size::mib(32)).unwrap();
        assert_eq!(Initrd::load(&memory, &KERNEL, &[]).unwrap(), None);
    }
}
