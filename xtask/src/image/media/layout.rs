//! What all media have in common: sectors, identifiers that follow from what is on them, and the marks that
//! firmware looks for in the first sector.

use anyhow::{Result, ensure};
use sha2::{Digest as _, Sha256};

/// Of sticks and disks, and of GRUB's block lists.
pub const SECTOR: u64 = 512;
pub const MEBIBYTE: u64 = 1 << 20;

/// EFI system partition, C12A7328-F81F-11D2-BA4B-00A0C93EC93B as it lies on disk.
pub const ESP: [u8; 16] = *b"\x28\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b";
/// BIOS boot partition, 21686148-6449-6E6F-744E-656564454649.
pub const BIOS_BOOT: [u8; 16] = *b"Hah!IdontNeedEFI";

/// Identifiers of a medium: those of two media of one image are equal, of two images not, so that none is taken for
/// another where both are plugged in.
#[derive(Debug, Clone)]
pub struct Identity(Sha256);

impl Identity {
    /// Of a medium with this UKI on it.
    pub fn of(medium: &str, uki: &[u8]) -> Self {
        Self(Sha256::new().chain_update(medium).chain_update(uki))
    }

    /// A random UUID by its form (RFC 9562, version 8), as it lies on disk.
    pub fn guid(&self, of: &str) -> [u8; 16] {
        let mut guid = [0; 16];
        guid.copy_from_slice(&self.bytes(of)[..16]);
        // The first three fields are little-endian there.
        guid[7] = guid[7] & 0x0f | 0x80;
        guid[8] = guid[8] & 0x3f | 0x80;
        guid
    }

    /// A FAT volume's serial number.
    pub fn serial(&self) -> u32 {
        let bytes = self.bytes("volume");
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    fn bytes(&self, of: &str) -> [u8; 32] {
        self.0.clone().chain_update(of).finalize().into()
    }
}

/// Where a boot sector's code ends: behind it are the disk's number and the four partitions.
const CODE_END: usize = 440;
const PARTITIONS: usize = 446;
const PARTITION: usize = 16;
const ACTIVE: u8 = 0x80;

/// Puts boot code into the first sector of a disk with a protective MBR (UEFI specification, 5.2.3).
pub fn make_bios_bootable(disk: &mut [u8], code: &[u8]) -> Result<()> {
    ensure!(code.len() >= CODE_END, "boot code is a sector");
    disk[..CODE_END].copy_from_slice(&code[..CODE_END]);
    // Many a BIOS boots nothing without an active partition, and a UEFI takes no table whose protective one is:
    // so another is, of no type and without a sector.
    disk[PARTITIONS + PARTITION] = ACTIVE;
    Ok(())
}

/// The sectors that a range of bytes begins at and takes.
pub fn sectors(range: &std::ops::Range<u64>) -> Result<(u64, u64)> {
    ensure!(
        range.start.is_multiple_of(SECTOR),
        "what GRUB is to read begins within a sector"
    );
    Ok((
        range.start / SECTOR,
        (range.end - range.start).div_ceil(SECTOR),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_follow_from_what_is_on_a_medium() {
        let one = Identity::of("disk", b"image");
        assert_eq!(
            one.guid("slot"),
            Identity::of("disk", b"image").guid("slot")
        );
        assert_ne!(one.guid("slot"), one.guid("state"));
        for other in [
            Identity::of("disk", b"other"),
            Identity::of("iso", b"image"),
        ] {
            assert_ne!(one.guid("slot"), other.guid("slot"));
            assert_ne!(one.serial(), other.serial());
        }
        let guid = one.guid("slot");
        assert_eq!((guid[7] >> 4, guid[8] >> 6), (8, 2));
    }

    #[test]
    fn sectors_begin_where_bytes_do() {
        assert_eq!(sectors(&(1024..1536)).unwrap(), (2, 1));
        assert_eq!(sectors(&(1024..1537)).unwrap(), (2, 2));
        assert!(sectors(&(1000..1536)).is_err());
    }
}
