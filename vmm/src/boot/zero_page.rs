//! The zero page: `boot_params` with the memory map (kernel's `Documentation/arch/x86/zero-page.rst`).

use linux_loader::{
    bootparam::{boot_e820_entry, boot_params},
    configurator::{BootConfigurator, BootParams, linux::LinuxBootConfigurator},
};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::{
    boot::{BootError, initrd::Initrd, kernel::Kernel},
    memory::{
        ACPI_START, EBDA_START, GuestMemory, HIGH_MEMORY_START, HOLE_END, LEGACY_HOLE_START,
        low_end,
    },
};

const ZERO_PAGE: GuestAddress = GuestAddress(0x7000);
/// "Some other boot loader".
const LOADER: u8 = 0xff;
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
const BOOT_FLAG: u16 = 0xaa55;
/// What an ELF kernel's header, which we have to make up, says: the protocol's version 2.15.
const PROTOCOL: u16 = 0x020f;
const LOADED_HIGH: u8 = 1 << 0;

/// `E820_TYPE_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    Usable = 1,
    Reserved = 2,
}

/// The memory map that the guest is told: start, length, kind; in rising order.
pub fn memory_map(memory: &GuestMemory) -> Vec<(u64, u64, Kind)> {
    let mut map = vec![
        (0, EBDA_START, Kind::Usable),
        (EBDA_START, LEGACY_HOLE_START - EBDA_START, Kind::Reserved),
        (ACPI_START, HIGH_MEMORY_START - ACPI_START, Kind::Reserved),
        (
            HIGH_MEMORY_START,
            low_end(memory) - HIGH_MEMORY_START,
            Kind::Usable,
        ),
    ];
    if let Some(high) = memory.find_region(GuestAddress(HOLE_END)) {
        map.push((HOLE_END, high.len(), Kind::Usable));
    }
    map
}

pub fn write(
    memory: &GuestMemory,
    kernel: &Kernel,
    initrd: Option<Initrd>,
    command_line: GuestAddress,
    rsdp: GuestAddress,
) -> Result<GuestAddress, BootError> {
    let mut params = boot_params {
        acpi_rsdp_addr: rsdp.0,
        ..Default::default()
    };
    match kernel.header {
        Some(header) => params.hdr = header,
        None => {
            params.hdr.header = HEADER_MAGIC;
            params.hdr.boot_flag = BOOT_FLAG;
            params.hdr.version = PROTOCOL;
            params.hdr.loadflags = LOADED_HIGH;
            params.hdr.kernel_alignment = 2 << 20;
        }
    }
    params.hdr.type_of_loader = LOADER;
    params.hdr.cmd_line_ptr = command_line.0 as u32;
    if let Some(initrd) = initrd {
        params.hdr.ramdisk_image = initrd.address.0 as u32;
        params.ext_ramdisk_image = (initrd.address.0 >> 32) as u32;
        params.hdr.ramdisk_size = initrd.size as u32;
        params.ext_ramdisk_size = (initrd.size >> 32) as u32;
    }
    for (slot, (addr, size, kind)) in params.e820_table.iter_mut().zip(memory_map(memory)) {
        *slot = boot_e820_entry {
            addr,
            size,
            r#type: kind as u32,
        };
        params.e820_entries += 1;
    }
    LinuxBootConfigurator::write_bootparams(&BootParams::new(&params, ZERO_PAGE), memory)
        .map_err(|error| BootError::Kernel(error.to_string()))?;
    Ok(ZERO_PAGE)
}

#[cfg(test)]
mod tests {
    use loam_deployment::Bytes as Size;
    use vm_memory::Bytes;

    use super::*;
    use crate::memory;

    #[test]
    fn the_map_is_rising_and_covers_memory_on_both_sides_of_the_hole() {
        let memory = memory::map(Size::gib(5)).unwrap();
        let map = memory_map(&memory);
        for pair in map.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:?}");
        }
        let usable: u64 = map
            .iter()
            .filter(|(_, _, kind)| *kind == Kind::Usable)
            .map(|(_, len, _)| len)
            .sum();
        assert_eq!(usable, (5 << 30) - (HIGH_MEMORY_START - EBDA_START));
        assert_eq!(map.last(), Some(&(4 << 30, 2 << 30, Kind::Usable)));
    }

    #[test]
    fn the_page_says_where_things_are() {
        let memory = memory::map(Size::mib(64)).unwrap();
        let kernel = Kernel {
            entry: GuestAddress(0x100_0000),
            end: 0x200_0000,
            header: None,
        };
        let initrd = Initrd {
            address: GuestAddress(0x300_0000),
            size: 0x1234,
        };
        let page = write(
            &memory,
            &kernel,
            Some(initrd),
            GuestAddress(0x2_0000),
            GuestAddress(0xe_0000),
        )
        .unwrap();
        let params: boot_params = memory.read_obj(page).unwrap();
        assert_eq!({ params.hdr.header }, HEADER_MAGIC);
        assert_eq!({ params.acpi_rsdp_addr }, 0xe_0000);
        assert_eq!({ params.hdr.ramdisk_image }, 0x300_0000);
        assert_eq!({ params.hdr.ramdisk_size }, 0x1234);
        assert_eq!({ params.hdr.cmd_line_ptr }, 0x2_0000);
        assert_eq!(params.e820_entries, 4);
    }
}
