//! The image as a disk to write to a USB stick: a GPT with one EFI system partition that holds
//! the UKI where every firmware looks for it.

use std::io::{Cursor, Write};

use anyhow::{Context, Result};
use fatfs::{FatType, FormatVolumeOptions, FsOptions};
use gptman::{GPT, GPTPartitionEntry};

const SECTOR: u64 = 512;
/// Where the partition starts, and what every end is rounded up to.
const MEBIBYTE: u64 = 1 << 20;
/// FAT tables, folders, and the GPT's second copy.
const SPARE: u64 = 4 * MEBIBYTE;
/// FAT32 begins at 65525 clusters; a smaller volume would be another FAT.
const LEAST: u64 = 40 * MEBIBYTE;

/// EFI system partition, C12A7328-F81F-11D2-BA4B-00A0C93EC93B as it lies on disk.
const ESP: [u8; 16] = *b"\x28\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b";
/// Fixed, so that the same UKI gives the same disk; nothing looks the boot disk up by these.
const DISK_ID: [u8; 16] = *b"loam boot disk  ";
const PARTITION_ID: [u8; 16] = *b"loam boot esp   ";
const VOLUME_ID: u32 = 0x4c4f_414d;

/// The disk's bytes.
pub fn image(uki: &[u8]) -> Result<Vec<u8>> {
    let esp_size = (uki.len() as u64 + SPARE)
        .max(LEAST)
        .next_multiple_of(MEBIBYTE);
    let start = usize::try_from(MEBIBYTE)?;
    let end = start + usize::try_from(esp_size)?;
    let mut disk = vec![0; end + start];
    partition(&mut disk, esp_size).context("writing the partition table")?;
    file_system(uki, &mut disk[start..end]).context("making the EFI system partition")?;
    Ok(disk)
}

fn partition(disk: &mut [u8], esp_size: u64) -> Result<()> {
    let mut disk = Cursor::new(disk);
    let mut table = GPT::new_from(&mut disk, SECTOR, DISK_ID)?;
    table[1] = GPTPartitionEntry {
        partition_type_guid: ESP,
        unique_partition_guid: PARTITION_ID,
        starting_lba: MEBIBYTE / SECTOR,
        ending_lba: (MEBIBYTE + esp_size) / SECTOR - 1,
        attribute_bits: 0,
        partition_name: "loam".into(),
    };
    GPT::write_protective_mbr_into(&mut disk, SECTOR)?;
    table.write_into(&mut disk)?;
    Ok(())
}

/// A FAT file system with the UKI as `/EFI/BOOT/BOOTX64.EFI`, in zeroes.
fn file_system(uki: &[u8], volume: &mut [u8]) -> Result<()> {
    let options = FormatVolumeOptions::new()
        // FAT16 and FAT32 are both allowed on removable media; 32 is what every firmware reads.
        .fat_type(FatType::Fat32)
        .bytes_per_cluster(SECTOR as u32)
        .volume_id(VOLUME_ID)
        .volume_label(*b"LOAM       ");
    fatfs::format_volume(Cursor::new(&mut *volume), options)?;
    let volume = fatfs::FileSystem::new(Cursor::new(volume), FsOptions::new())?;
    let folder = volume.root_dir().create_dir("EFI")?.create_dir("BOOT")?;
    let mut file = folder.create_file("BOOTX64.EFI")?;
    file.write_all(uki)?;
    file.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn holds_the_uki_where_firmware_looks() {
        let uki: Vec<u8> = (0..40_000_000_u32).map(|n| (n / 7) as u8).collect();
        let mut disk = image(&uki).unwrap();
        let table = GPT::find_from(&mut Cursor::new(&disk)).unwrap();
        let esp = &table[1];
        assert_eq!(esp.partition_type_guid, ESP);
        let sectors =
            (esp.starting_lba * SECTOR) as usize..((esp.ending_lba + 1) * SECTOR) as usize;
        let volume =
            fatfs::FileSystem::new(Cursor::new(&mut disk[sectors]), FsOptions::new()).unwrap();
        let mut back = Vec::new();
        volume
            .root_dir()
            .open_file("EFI/BOOT/BOOTX64.EFI")
            .unwrap()
            .read_to_end(&mut back)
            .unwrap();
        assert!(back == uki);
    }

    #[test]
    fn is_the_same_every_time() {
        let disk = || image(b"MZ").unwrap();
        assert!(disk() == disk());
    }
}
