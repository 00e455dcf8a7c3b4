//! The image as a disk to write to a USB stick.
//!
//! | partition | size | what |
//! |---|---|---|
//! | 1 `loam BIOS` | 1 MiB | GRUB, for machines without UEFI |
//! | 2 `loam A` | [`SLOT`] | an EFI system partition with the UKI: a slot is replaced as a whole |
//! | 3 `loam B` | [`SLOT`] | room for the next release |
//! | 4 `loam state` | [`STATE`] | what the stick itself is told and keeps: in its first sector the farm's number |

use std::io::Cursor;
use std::ops::Range;

use anyhow::{Context, Result, ensure};
use gptman::{GPT, GPTPartitionEntry};
use loam_deployment::FarmId;
use loam_node_api::farm::{self, STATE_PARTITION, STATE_TYPE};

use super::fat;
use super::grub::{self, Grub};
use super::layout::{self, BIOS_BOOT, ESP, Identity, MEBIBYTE, SECTOR};

/// Of each slot: three times what an image weighs, as the slots of a stick that is out there never grow.
pub const SLOT: u64 = 128 * MEBIBYTE;
pub const STATE: u64 = 64 * MEBIBYTE;
const BIOS: u64 = MEBIBYTE;
/// The table at either end.
const TABLE: u64 = MEBIBYTE;

/// What a partition is for that no firmware is to look at: 2d5f7a1c-8e40-4b62-9d1f-6c6f616d0001 for a slot that is not
/// started from, and one more for the state ([`STATE_TYPE`]).
const OTHER_SLOT: [u8; 16] = *b"\x1c\x7a\x5f\x2d\x40\x8e\x62\x4b\x9d\x1f\x6c\x6f\x61\x6d\x00\x01";

/// For [`Identity`].
pub const KIND: &str = "disk";

/// How GRUB names the slot on whichever disk it was started from.
pub const GRUB_PREFIX: &str = "(,gpt2)/loam";

/// In the order of the table: name, type, size.
pub const PARTITIONS: [(&str, [u8; 16], u64); 4] = [
    ("loam BIOS", BIOS_BOOT, BIOS),
    ("loam A", ESP, SLOT),
    ("loam B", OTHER_SLOT, SLOT),
    (STATE_PARTITION, STATE_TYPE, STATE),
];

/// The disk's bytes, most of them zeroes.
pub fn image(uki: &[u8], grub: &Grub) -> Result<Vec<u8>> {
    let identity = Identity::of(KIND, uki);
    let size = 2 * TABLE + PARTITIONS.iter().map(|(.., size)| size).sum::<u64>();
    let mut disk = vec![0; usize::try_from(size)?];
    let starts = partition(&mut disk, &identity).context("writing the partition table")?;
    let [bios, slot, ..] = starts;
    let core = grub.core_at(&grub.disk, bios / SECTOR)?;
    ensure!(
        core.len() as u64 <= BIOS,
        "GRUB is larger than its partition"
    );
    put(&mut disk, bios, &core);
    layout::make_bios_bootable(&mut disk, &grub.boot_sector(bios / SECTOR)?)?;
    let (from, to) = (usize::try_from(slot)?, usize::try_from(slot + SLOT)?);
    fat::format(&mut disk[from..to], identity.serial(), uki, |place| {
        grub::boot_script(uki, place.start)
    })
    .context("making the EFI system partition")?;
    Ok(disk)
}

/// How many bytes of a disk with such a beginning belong to the image: up to the second copy of its table. A damaged
/// table says it, too.
pub fn size(head: &[u8]) -> Option<u64> {
    // UEFI specification, 5.3.2.
    const BACKUP_LBA: usize = 32;
    let header = head.get(SECTOR as usize..)?.strip_prefix(b"EFI PART")?;
    let backup = header.get(BACKUP_LBA - 8..BACKUP_LBA)?;
    let backup = u64::from_le_bytes(backup.try_into().ok()?);
    backup.checked_add(1)?.checked_mul(SECTOR)
}

/// Has the disk name the farm that nodes join which start from it.
pub fn name_farm(disk: &mut [u8], farm: FarmId) -> Result<()> {
    let place = table(disk).and_then(|table| state_sector(&table))?;
    let sector = disk.get_mut(place).context("it is cut off")?;
    sector.copy_from_slice(&farm::write_sector(farm));
    Ok(())
}

/// The farm that the disk names, if it names one.
pub fn named_farm(disk: &[u8], table: &GPT) -> Result<Option<FarmId>> {
    let sector = disk.get(state_sector(table)?).context("it is cut off")?;
    let sector = sector.first_chunk().context("a sector is larger")?;
    farm::read_sector(sector).context("which farm it names cannot be read")
}

fn table(disk: &[u8]) -> Result<GPT> {
    GPT::find_from(&mut Cursor::new(disk)).context("reading the partition table")
}

/// Where the state partition begins.
fn state_sector(table: &GPT) -> Result<Range<usize>> {
    let mut partitions = table.iter().map(|(_, entry)| entry);
    let state = partitions
        .find(|entry| entry.partition_type_guid == STATE_TYPE)
        .context("it has no partition for its state")?;
    let start = state.starting_lba.checked_mul(SECTOR);
    let start = usize::try_from(start.context("its partitions lie nowhere")?)?;
    Ok(start..start.saturating_add(farm::SECTOR))
}

/// Writes the table; gives where each partition starts.
fn partition(disk: &mut [u8], identity: &Identity) -> Result<[u64; 4]> {
    let mut disk = Cursor::new(disk);
    let mut table = GPT::new_from(&mut disk, SECTOR, identity.guid("disk"))?;
    let mut next = TABLE;
    let mut starts = [0; 4];
    for (index, (name, kind, size)) in PARTITIONS.into_iter().enumerate() {
        starts[index] = next;
        table[u32::try_from(index)? + 1] = GPTPartitionEntry {
            partition_type_guid: kind,
            unique_partition_guid: identity.guid(name),
            starting_lba: next / SECTOR,
            ending_lba: (next + size) / SECTOR - 1,
            attribute_bits: 0,
            partition_name: name.into(),
        };
        next += size;
    }
    GPT::write_protective_mbr_into(&mut disk, SECTOR)?;
    table.write_into(&mut disk)?;
    Ok(starts)
}

fn put(disk: &mut [u8], at: u64, bytes: &[u8]) {
    let at = at as usize;
    disk[at..at + bytes.len()].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn holds_a_slot_that_firmware_finds_and_room_for_another() {
        let uki = testing::uki();
        let disk = image(&uki, &testing::grub()).unwrap();
        let mut reader = Cursor::new(&disk);
        let table = GPT::find_from(&mut reader).unwrap();
        let sizes: Vec<_> = (1..=4)
            .map(|index| {
                let entry = &table[index];
                let name = entry.partition_name.as_str().to_owned();
                (name, (entry.ending_lba - entry.starting_lba + 1) * SECTOR)
            })
            .collect();
        let expected = PARTITIONS.map(|(name, _, size)| (name.to_owned(), size));
        assert_eq!(sizes, expected);
        let esp = &table[2];
        assert_eq!(esp.partition_type_guid, ESP);
        let bytes = (esp.starting_lba * SECTOR) as usize..((esp.ending_lba + 1) * SECTOR) as usize;
        let slot = &disk[bytes];
        assert!(fat::read(slot, "EFI/BOOT/BOOTX64.EFI").unwrap() == uki);
        // What GRUB reads there are the kernel and the initrd of that very file.
        let script = String::from_utf8(fat::read(slot, "loam/boot.cfg").unwrap()).unwrap();
        testing::assert_reads(&script, slot, &uki);
    }

    #[test]
    fn boot_code_leads_to_grub_and_the_table_stays_one_that_uefi_takes() {
        let grub = testing::grub();
        let disk = image(&testing::uki(), &grub).unwrap();
        let core = TABLE as usize;
        assert_eq!(disk[0x5c..0x64], (TABLE / SECTOR).to_le_bytes());
        assert_eq!(disk[core + 512..core + grub.disk.len()], grub.disk[512..]);
        // The protective partition is not active, and there is one that is.
        assert_eq!((disk[446], disk[446 + 4]), (0, 0xee));
        assert_eq!((disk[462], disk[462 + 4]), (0x80, 0));
        assert_eq!(disk[510..512], [0x55, 0xaa]);
    }

    #[test]
    fn names_a_farm_where_the_kernel_finds_it_and_changes_nothing_else() {
        let plain = image(&testing::uki(), &testing::grub()).unwrap();
        let table = table(&plain).unwrap();
        assert_eq!(named_farm(&plain, &table).unwrap(), None);
        let mut disk = plain.clone();
        name_farm(&mut disk, FarmId(7)).unwrap();
        assert_eq!(named_farm(&disk, &table).unwrap(), Some(FarmId(7)));
        let at = (table[4].starting_lba * SECTOR) as usize;
        assert_eq!(at as u64, TABLE + BIOS + 2 * SLOT);
        assert!(disk[..at] == plain[..at] && disk[at + 512..] == plain[at + 512..]);
        // Another farm takes its place.
        name_farm(&mut disk, FarmId(9)).unwrap();
        assert_eq!(named_farm(&disk, &table).unwrap(), Some(FarmId(9)));
        disk[at + 13] ^= 1;
        assert!(named_farm(&disk, &table).is_err());
        assert!(name_farm(&mut disk[..at], FarmId(7)).is_err());
    }

    #[test]
    fn is_the_same_every_time_and_another_of_another_image() {
        let (one, other) = (testing::uki(), [testing::uki(), vec![1]].concat());
        let grub = testing::grub();
        let disk = image(&one, &grub).unwrap();
        assert!(disk == image(&one, &grub).unwrap());
        let guid = |disk: &[u8]| disk[512 + 56..512 + 72].to_vec();
        assert_ne!(guid(&disk), guid(&image(&other, &grub).unwrap()));
    }
}
