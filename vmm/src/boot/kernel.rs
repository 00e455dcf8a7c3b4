//! The kernel: bzImage or ELF vmlinux, told apart by their first bytes.

use std::io::{Read, Seek};

use linux_loader::{
    bootparam::setup_header,
    loader::{BzImage, Elf, KernelLoader},
};
use vm_memory::GuestAddress;

use crate::{
    boot::{BootError, descriptor::Descriptor},
    memory::{GuestMemory, HIGH_MEMORY_START},
};

/// The 64-bit entry point lies this far behind the start of a bzImage's protected-mode part.
const ENTRY_64: u64 = 0x200;
/// `xloadflags`: the kernel has the 64-bit entry point.
const XLF_KERNEL_64: u16 = 1 << 0;
/// What Linux takes on x86 (`COMMAND_LINE_SIZE` less the zero byte), for ELF files, which don't say.
const ELF_COMMAND_LINE_LIMIT: usize = 2047;
/// An ELF kernel also uses memory behind its file's end for its first allocations (`brk`).
const ELF_SLACK: u64 = 4 << 20;

#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    pub entry: GuestAddress,
    /// The kernel may use memory up to here before it looks at the memory map.
    pub end: u64,
    /// Only of a bzImage.
    pub header: Option<setup_header>,
}

impl Kernel {
    pub fn load(memory: &GuestMemory, mut image: Descriptor<'_>) -> Result<Self, BootError> {
        let mut magic = [0; 4];
        image
            .read_exact(&mut magic)
            .and_then(|()| image.rewind())
            .map_err(|error| BootError::Read {
                what: "the kernel",
                error,
            })?;
        if magic == *b"\x7fELF" {
            Self::load_elf(memory, image)
        } else {
            Self::load_bzimage(memory, image)
        }
    }

    fn load_elf(memory: &GuestMemory, mut image: Descriptor<'_>) -> Result<Self, BootError> {
        let start = GuestAddress(HIGH_MEMORY_START);
        let loaded = Elf::load(memory, None, &mut image, Some(start))
            .map_err(|error| BootError::Kernel(error.to_string()))?;
        Ok(Self {
            entry: loaded.kernel_load,
            end: loaded.kernel_end.saturating_add(ELF_SLACK),
            header: None,
        })
    }

    fn load_bzimage(memory: &GuestMemory, mut image: Descriptor<'_>) -> Result<Self, BootError> {
        let start = GuestAddress(HIGH_MEMORY_START);
        let loaded = BzImage::load(memory, Some(start), &mut image, None)
            .map_err(|error| BootError::Kernel(error.to_string()))?;
        let header = loaded
            .setup_header
            .ok_or_else(|| BootError::Kernel("no setup header".into()))?;
        if header.version < 0x020c || header.xloadflags & XLF_KERNEL_64 == 0 {
            return Err(BootError::Not64Bit);
        }
        // It unpacks itself to its preferred address and needs `init_size` bytes there.
        let unpacked = header
            .pref_address
            .saturating_add(u64::from(header.init_size));
        Ok(Self {
            entry: GuestAddress(start.0 + ENTRY_64),
            end: loaded.kernel_end.max(unpacked),
            header: Some(header),
        })
    }

    pub fn command_line_limit(&self) -> usize {
        self.header.map_or(ELF_COMMAND_LINE_LIMIT, |header| {
            header.cmdline_size as usize
        })
    }

    /// The initramfs must end at or below this address.
    pub fn initrd_limit(&self) -> u64 {
        // Without a header: what every 64-bit Linux says.
        self.header
            .map_or(0x7fff_ffff, |header| u64::from(header.initrd_addr_max))
            .saturating_add(1)
    }
}
