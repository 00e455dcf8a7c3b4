//! From descriptors to a guest whose first CPU may be entered: Linux's 64-bit boot protocol
//! (kernel's `Documentation/arch/x86/boot.rst`), for bzImage and ELF vmlinux alike.
//!
//! | from | what |
//! |---|---|
//! | 0x500 | global descriptor table |
//! | 0x7000 | zero page (`boot_params`) |
//! | 0x8ff0 | top of the first stack |
//! | 0x9000..0xf000 | page tables |
//! | 0x20000 | command line |
//! | 0xe0000 | ACPI tables |
//! | 0x100000 | kernel (bzImage), or where the ELF file says |
//! | end of low memory | initramfs, downwards |

pub mod descriptor;
pub mod initrd;
pub mod kernel;
pub mod page_tables;
pub mod registers;
pub mod zero_page;

use vm_memory::{Bytes, GuestAddress};

use crate::{
    boot::{descriptor::Descriptor, initrd::Initrd, kernel::Kernel},
    memory::GuestMemory,
};

const COMMAND_LINE: GuestAddress = GuestAddress(0x2_0000);
/// From the command line's place up to the EBDA; Linux itself takes 2047 on x86.
const COMMAND_LINE_LIMIT: usize = 0x1_0000;

/// What the first CPU needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub instruction: GuestAddress,
    pub zero_page: GuestAddress,
    pub page_tables: GuestAddress,
}

#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error("cannot read {what}: {error}")]
    Read {
        what: &'static str,
        error: std::io::Error,
    },
    #[error("the kernel is neither a bzImage nor an ELF vmlinux for x86-64 that fits: {0}")]
    Kernel(String),
    #[error(
        "the kernel's bzImage cannot be entered in 64-bit mode; use one built with CONFIG_X86_64"
    )]
    Not64Bit,
    #[error(
        "kernel and initramfs do not fit: the kernel takes memory up to {kernel_end:#x}, the initramfs {initrd} bytes, and {limit:#x} is the end; give the machine more memory"
    )]
    TooLittleMemory {
        kernel_end: u64,
        initrd: u64,
        limit: u64,
    },
    #[error("the kernel's command line has {0} bytes, its kernel takes {1}")]
    CommandLine(usize, usize),
    #[error("the kernel's command line contains a zero byte")]
    CommandLineZero,
    #[error("guest memory refused an address while booting: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

/// Loads everything; `rsdp` is where the ACPI tables' root pointer was put.
pub fn load(
    memory: &GuestMemory,
    kernel: Descriptor<'_>,
    initrds: &[Descriptor<'_>],
    command_line: &str,
    rsdp: GuestAddress,
) -> Result<Entry, BootError> {
    let kernel = Kernel::load(memory, kernel)?;
    let initrd = Initrd::load(memory, &kernel, initrds)?;
    write_command_line(memory, &kernel, command_line)?;
    registers::write_descriptor_table(memory)?;
    let zero_page = zero_page::write(memory, &kernel, initrd, COMMAND_LINE, rsdp)?;
    Ok(Entry {
        instruction: kernel.entry,
        zero_page,
        page_tables: page_tables::write(memory)?,
    })
}

fn write_command_line(
    memory: &GuestMemory,
    kernel: &Kernel,
    command_line: &str,
) -> Result<(), BootError> {
    let limit = kernel.command_line_limit().min(COMMAND_LINE_LIMIT - 1);
    if command_line.len() > limit {
        return Err(BootError::CommandLine(command_line.len(), limit));
    }
    if command_line.as_bytes().contains(&0) {
        return Err(BootError::CommandLineZero);
    }
    memory.write_slice(command_line.as_bytes(), COMMAND_LINE)?;
    memory.write_obj(
        0_u8,
        GuestAddress(COMMAND_LINE.0 + command_line.len() as u64),
    )?;
    Ok(())
}
