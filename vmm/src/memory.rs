//! Where guest memory lies, and the mapping behind it.
//!
//! | from | to | what |
//! |---|---|---|
//! | 0 | 3 GiB | memory (less the legacy hole 0xa0000..0x100000, which holds the ACPI tables) |
//! | 3 GiB | 4 GiB | PCI memory windows, I/O APIC, local APICs |
//! | 4 GiB | | the rest of memory |

use loam_deployment::Bytes;
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress,
};

pub type GuestMemory = GuestMemoryMmap<()>;

const GIB: u64 = 1 << 30;

/// Memory below 4 GiB ends here.
pub const HOLE_START: u64 = 3 * GIB;
/// Memory above the hole starts here.
pub const HOLE_END: u64 = 4 * GIB;

/// The last kibibyte below 640 KiB: the extended BIOS data area by custom, given to nobody.
pub const EBDA_START: u64 = 0x9_fc00;
/// The legacy video and BIOS hole.
pub const LEGACY_HOLE_START: u64 = 0xa_0000;
/// ACPI tables, where operating systems look for the root pointer.
pub const ACPI_START: u64 = 0xe_0000;
pub const HIGH_MEMORY_START: u64 = 0x10_0000;

/// BARs are handed out from here.
pub const PCI_WINDOW_START: u64 = 0xe000_0000;
pub const PCI_WINDOW_END: u64 = 0xfebf_ffff;
pub const IO_APIC: u32 = 0xfec0_0000;
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// Three pages that KVM needs for real mode on Intel; one page before them for the identity map.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
pub const KVM_TSS: usize = 0xfffb_d000;

/// A kernel, an initramfs and the boot tables do not fit into less.
pub const SMALLEST: Bytes = Bytes::mib(32);
/// Beyond every machine that we know; keeps sums of addresses far from overflow.
pub const LARGEST: Bytes = Bytes::gib(16 << 10);
const PAGE: u64 = 4096;

#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    #[error(
        "memory of {0} cannot be given to a VM; give between {SMALLEST} and {LARGEST} in steps of 4KiB"
    )]
    Size(Bytes),
    #[error("cannot map {size} of guest memory: {error}")]
    Map {
        size: Bytes,
        error: vm_memory::mmap::FromRangesError,
    },
    #[error("guest memory refused an address: {0}")]
    Access(#[from] vm_memory::GuestMemoryError),
}

/// The ranges of guest memory of this size: start and length, in rising order.
pub fn ranges(size: Bytes) -> Result<Vec<(GuestAddress, usize)>, MemoryError> {
    let bytes = size.get();
    if size < SMALLEST || size > LARGEST || !bytes.is_multiple_of(PAGE) {
        return Err(MemoryError::Size(size));
    }
    let low = bytes.min(HOLE_START);
    let mut ranges = vec![(GuestAddress(0), low as usize)];
    if bytes > low {
        ranges.push((GuestAddress(HOLE_END), (bytes - low) as usize));
    }
    Ok(ranges)
}

/// Where memory below the hole ends.
pub fn low_end(memory: &GuestMemory) -> u64 {
    memory
        .find_region(GuestAddress(0))
        .map_or(0, |region| region.len())
}

pub fn map(size: Bytes) -> Result<GuestMemory, MemoryError> {
    let memory = GuestMemory::from_ranges(&ranges(size)?)
        .map_err(|error| MemoryError::Map { size, error })?;
    for region in memory.iter() {
        let host = region.get_host_address(MemoryRegionAddress(0))?;
        for advice in [libc::MADV_HUGEPAGE, libc::MADV_DONTDUMP] {
            // Advice only: a kernel without huge pages still runs the guest.
            // SAFETY: the range is exactly the mapping that `region` owns, and neither advice
            // changes what the memory holds.
            unsafe { libc::madvise(host.cast(), region.len() as usize, advice) };
        }
    }
    Ok(memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_memory_lies_below_the_hole() {
        assert_eq!(
            ranges(Bytes::mib(256)).unwrap(),
            [(GuestAddress(0), 256 << 20)]
        );
        assert_eq!(ranges(Bytes::gib(3)).unwrap(), [(GuestAddress(0), 3 << 30)]);
    }

    #[test]
    fn large_memory_goes_round_the_hole() {
        assert_eq!(
            ranges(Bytes::gib(8)).unwrap(),
            [(GuestAddress(0), 3 << 30), (GuestAddress(4 << 30), 5 << 30)]
        );
    }

    #[test]
    fn refuses_sizes_that_no_vm_can_have() {
        for bytes in [0, 4096, (256 << 20) + 1, u64::MAX, !4095] {
            assert!(ranges(Bytes(bytes)).is_err(), "{bytes}");
        }
    }
}
