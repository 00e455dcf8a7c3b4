//! The image as a CD that is also a stick (ISO 9660, which is ECMA-119; El Torito; and a GPT in front of both).
//!
//! | started as | by | finds |
//! |---|---|---|
//! | CD, UEFI | El Torito, platform 0xef | the FAT volume |
//! | CD, BIOS | El Torito, platform 0 | GRUB, which reads `/boot/loam/boot.cfg` |
//! | stick, UEFI | the GPT's EFI system partition | the FAT volume |
//! | stick, BIOS | boot code in the first sector | GRUB, the same |
//!
//! The volume with the UKI is there once, and last: El Torito counts in a field of 16 bits, in which its size has no
//! room; firmware takes 0 for "to the end" (EDK2, `PartitionDxe/ElTorito.c`).

use std::io::Cursor;
use std::ops::Range;

use anyhow::{Context, Result, ensure};
use gptman::{GPT, GPTPartitionEntry};

use super::fat;
use super::grub::{self, Grub};
use super::layout::{self, ESP, Identity, SECTOR};

/// Of a CD.
const BLOCK: usize = 2048;
/// For [`Identity`].
pub const KIND: &str = "iso";

/// Where GRUB looks on the medium that it was started from.
pub const GRUB_PREFIX: &str = "/boot/loam";

/// Descriptors of the volume, in this order from block 16 on (ECMA-119, 6.7.1).
const PRIMARY: usize = 16;
const BOOT_RECORD: usize = 17;
const TERMINATOR: usize = 18;
const PATHS_LITTLE: usize = 19;
const PATHS_BIG: usize = 20;
const CATALOG: usize = 21;
const ROOT: usize = 22;
const BOOT: usize = 23;
const LOAM: usize = 24;
const FILES: usize = 25;

/// At the medium's end: the GPT's second copy, 33 sectors.
const BACKUP: usize = 9 * BLOCK;

/// In GRUB's core for CDs: where the volume, the core and its end are (mkisofs' "boot info table").
const BOOT_INFO: usize = 8;
/// From where its checksum counts.
const BOOT_INFO_END: usize = 64;

const README: &str = "\
This is Loam, the node OS of a decentralized cloud.

A machine that starts from this medium becomes a node; nothing is installed on it. Its disks that are empty are used
for data, and no other.
";

/// The medium's bytes.
pub fn image(uki: &[u8], grub: &Grub) -> Result<Vec<u8>> {
    let identity = Identity::of(KIND, uki);
    // Sizes first, as each file's place follows from those before it.
    let script = padded_script(uki, 0)?;
    let stick = blocks(grub.stick.len());
    let files = Files {
        readme: FILES,
        script: FILES + 1,
        cd: FILES + 2,
        stick: FILES + 2 + blocks(grub.cd.len()),
    };
    let volume = files.stick + stick;
    let volume_size = usize::try_from(fat::least(uki.len()))?;
    let end = volume * BLOCK + volume_size;
    let mut iso = vec![0; end + BACKUP];
    let mut place = 0;
    fat::format(
        &mut iso[volume * BLOCK..end],
        identity.serial(),
        uki,
        |found| {
            place = (volume * BLOCK) as u64 + found.start;
            // GRUB has one of its own on this medium, which reads it as a CD.
            Ok(
                "# The script for machines without UEFI is /boot/loam/boot.cfg of the CD.\n"
                    .to_owned(),
            )
        },
    )
    .context("making the EFI system partition")?;
    let placed = padded_script(uki, place)?;
    ensure!(
        placed.len() == script.len(),
        "the script has changed its size"
    );

    put(&mut iso, files.readme, README.as_bytes());
    put(&mut iso, files.script, placed.as_bytes());
    put(&mut iso, files.cd, &with_boot_info(&grub.cd, files.cd)?);
    let first = (files.stick * BLOCK) as u64 / SECTOR;
    put(&mut iso, files.stick, &grub.core_at(&grub.stick, first)?);
    describe(&mut iso, &files, placed.len(), grub.cd.len())?;
    make_bootable(&mut iso, files.cd, volume)?;

    let partition = (volume * BLOCK) as u64..end as u64;
    make_stick(&mut iso, &identity, &partition, &grub.boot_sector(first)?)?;
    Ok(iso)
}

/// How many bytes the volume has whose descriptors are in `head`.
pub fn size(head: &[u8]) -> Option<u64> {
    let primary = head.get(PRIMARY * BLOCK..)?;
    let blocks = primary.get(80..84)?.try_into().ok()?;
    let is_one = primary.starts_with(b"\x01CD001");
    is_one.then(|| u64::from(u32::from_le_bytes(blocks)) * BLOCK as u64)
}

/// GRUB's script.
pub fn script(iso: &[u8]) -> Result<&[u8]> {
    let script = iso.get((FILES + 1) * BLOCK..(FILES + 2) * BLOCK);
    script.context("it is cut off")
}

/// Whether firmware that boots it as a CD, of either kind, is led to GRUB and to the volume that begins at this byte,
/// and boot code as a stick to GRUB.
pub fn check(iso: &[u8], volume: u64) -> Result<()> {
    let block = |at: usize| {
        let bytes = iso.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(|bytes| u64::from(u32::from_le_bytes(bytes)) * BLOCK as u64)
    };
    let catalog = CATALOG * BLOCK;
    ensure!(
        block(catalog + 40) == Some(((FILES + 2) * BLOCK) as u64),
        "as a CD it would not start on machines without UEFI"
    );
    ensure!(
        block(catalog + 104) == Some(volume),
        "as a CD it would not start by UEFI"
    );
    grub::core_of(iso).context(
        "as a stick it would not start on machines without UEFI: no boot code in the first sector leads to GRUB",
    )?;
    Ok(())
}

/// In which block each file begins.
struct Files {
    readme: usize,
    script: usize,
    cd: usize,
    stick: usize,
}

/// One block, whatever numbers are in it.
fn padded_script(uki: &[u8], start: u64) -> Result<String> {
    let mut script = grub::boot_script(uki, start)?;
    ensure!(script.len() <= BLOCK, "GRUB's script has more than a block");
    script.extend(std::iter::repeat_n('\n', BLOCK - script.len()));
    Ok(script)
}

fn describe(iso: &mut [u8], files: &Files, script: usize, cd: usize) -> Result<()> {
    let total = u32::try_from(iso.len() / BLOCK)?;
    let folder_at = |name: &[u8], block: usize| record(name, block, BLOCK, true);
    let mut primary = descriptor(1);
    primary[8..40].copy_from_slice(&text::<32>(""));
    primary[40..72].copy_from_slice(&text::<32>("LOAM"));
    primary[80..88].copy_from_slice(&both(total));
    for at in [120, 124] {
        primary[at..at + 4].copy_from_slice(&both_short(1));
    }
    primary[128..132].copy_from_slice(&both_short(BLOCK as u16));
    let (little, big) = paths();
    primary[132..140].copy_from_slice(&both(u32::try_from(little.len())?));
    primary[140..144].copy_from_slice(&(PATHS_LITTLE as u32).to_le_bytes());
    primary[148..152].copy_from_slice(&(PATHS_BIG as u32).to_be_bytes());
    let root = folder_at(&[0], ROOT);
    primary[156..156 + root.len()].copy_from_slice(&root);
    primary[190..813].fill(b' ');
    for at in [813, 830, 847, 864] {
        // No date is said.
        primary[at..at + 16].fill(b'0');
    }
    primary[881] = 1;
    put(iso, PRIMARY, &primary);
    put(iso, TERMINATOR, &descriptor(255));
    put(iso, PATHS_LITTLE, &little);
    put(iso, PATHS_BIG, &big);

    let folder = |own: usize, parent: usize, entries: Vec<Vec<u8>>| {
        [vec![folder_at(&[0], own), folder_at(&[1], parent)], entries]
            .concat()
            .concat()
    };
    let readme = record(b"README.TXT;1", files.readme, README.len(), false);
    put(
        iso,
        ROOT,
        &folder(ROOT, ROOT, vec![folder_at(b"BOOT", BOOT), readme]),
    );
    put(
        iso,
        BOOT,
        &folder(BOOT, ROOT, vec![folder_at(b"LOAM", LOAM)]),
    );
    let script = record(b"BOOT.CFG;1", files.script, script, false);
    let cd = record(b"GRUB.IMG;1", files.cd, cd, false);
    put(iso, LOAM, &folder(LOAM, BOOT, vec![script, cd]));
    Ok(())
}

fn descriptor(kind: u8) -> Vec<u8> {
    let mut descriptor = vec![0; BLOCK];
    descriptor[0] = kind;
    descriptor[1..6].copy_from_slice(b"CD001");
    descriptor[6] = 1;
    descriptor
}

/// A directory record (ECMA-119, 9.1).
fn record(name: &[u8], block: usize, size: usize, folder: bool) -> Vec<u8> {
    let mut record = vec![0; 33 + name.len()];
    record[2..10].copy_from_slice(&both(block as u32));
    record[10..18].copy_from_slice(&both(size as u32));
    // As FAT has it where nothing is said: the first of January 1980.
    record[18..21].copy_from_slice(&[80, 1, 1]);
    record[25] = if folder { 2 } else { 0 };
    record[28..32].copy_from_slice(&both_short(1));
    record[32] = name.len() as u8;
    record[33..].copy_from_slice(name);
    if record.len() % 2 == 1 {
        record.push(0);
    }
    record[0] = record.len() as u8;
    record
}

/// The path table in either order of bytes (ECMA-119, 9.4).
fn paths() -> (Vec<u8>, Vec<u8>) {
    let (mut little, mut big) = (Vec::new(), Vec::new());
    for (name, block, parent) in [
        (&b"\0"[..], ROOT, 1_u16),
        (b"BOOT", BOOT, 1),
        (b"LOAM", LOAM, 2),
    ] {
        for (table, block, parent) in [
            (
                &mut little,
                (block as u32).to_le_bytes(),
                parent.to_le_bytes(),
            ),
            (&mut big, (block as u32).to_be_bytes(), parent.to_be_bytes()),
        ] {
            table.extend([name.len() as u8, 0]);
            table.extend(block);
            table.extend(parent);
            table.extend(name);
            if name.len() % 2 == 1 {
                table.push(0);
            }
        }
    }
    (little, big)
}

/// El Torito 1.0: where the firmware of either kind finds what to start.
fn make_bootable(iso: &mut [u8], cd: usize, volume: usize) -> Result<()> {
    let mut boot_record = descriptor(0);
    boot_record[7..30].copy_from_slice(b"EL TORITO SPECIFICATION");
    boot_record[71..75].copy_from_slice(&(CATALOG as u32).to_le_bytes());
    put(iso, BOOT_RECORD, &boot_record);

    const BOOTABLE: u8 = 0x88;
    const LAST_HEADER: u8 = 0x91;
    const UEFI: u8 = 0xef;
    let entry = |sectors: u16, block: usize| {
        let mut entry = [0; 32];
        entry[0] = BOOTABLE;
        entry[6..8].copy_from_slice(&sectors.to_le_bytes());
        entry[8..12].copy_from_slice(&(block as u32).to_le_bytes());
        entry
    };
    let mut validation = [0; 32];
    validation[0] = 1;
    validation[30..32].copy_from_slice(&[0x55, 0xaa]);
    let words = validation
        .chunks(2)
        .map(|word| u16::from_le_bytes([word[0], word[1]]));
    let sum = words.fold(0_u16, u16::wrapping_add);
    validation[28..30].copy_from_slice(&sum.wrapping_neg().to_le_bytes());
    let mut header = [0; 32];
    (header[0], header[1], header[2]) = (LAST_HEADER, UEFI, 1);
    // GRUB's first block loads the rest.
    let catalog = [validation, entry(4, cd), header, entry(0, volume)].concat();
    put(iso, CATALOG, &catalog);
    Ok(())
}

fn with_boot_info(core: &[u8], block: usize) -> Result<Vec<u8>> {
    ensure!(
        core.len() > BOOT_INFO_END,
        "GRUB's core for CDs is too short"
    );
    let mut core = core.to_vec();
    let words = core[BOOT_INFO_END..].chunks(4).map(|word| {
        let mut whole = [0; 4];
        whole[..word.len()].copy_from_slice(word);
        u32::from_le_bytes(whole)
    });
    let sum = words.fold(0_u32, u32::wrapping_add);
    let length = u32::try_from(core.len())?;
    for (index, value) in [PRIMARY as u32, block as u32, length, sum]
        .into_iter()
        .enumerate()
    {
        let at = BOOT_INFO + 4 * index;
        core[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    Ok(core)
}

/// What makes a stick of it: the FAT volume as a partition, and boot code.
fn make_stick(iso: &mut [u8], identity: &Identity, volume: &Range<u64>, boot: &[u8]) -> Result<()> {
    let mut disk = Cursor::new(&mut *iso);
    let mut table = GPT::new_from(&mut disk, SECTOR, identity.guid("disk"))?;
    table[1] = GPTPartitionEntry {
        partition_type_guid: ESP,
        unique_partition_guid: identity.guid("slot"),
        starting_lba: volume.start / SECTOR,
        ending_lba: volume.end / SECTOR - 1,
        attribute_bits: 0,
        partition_name: "loam".into(),
    };
    GPT::write_protective_mbr_into(&mut disk, SECTOR)?;
    table.write_into(&mut disk)?;
    layout::make_bios_bootable(iso, boot)
}

fn put(iso: &mut [u8], block: usize, bytes: &[u8]) {
    iso[block * BLOCK..block * BLOCK + bytes.len()].copy_from_slice(bytes);
}

fn blocks(bytes: usize) -> usize {
    bytes.div_ceil(BLOCK)
}

/// A number in both orders of bytes (ECMA-119, 7.3.3).
fn both(number: u32) -> [u8; 8] {
    let mut both = [0; 8];
    both[..4].copy_from_slice(&number.to_le_bytes());
    both[4..].copy_from_slice(&number.to_be_bytes());
    both
}

/// The same of 16 bits (ECMA-119, 7.2.3).
fn both_short(number: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (number.to_le_bytes(), number.to_be_bytes());
    [a, b, c, d]
}

fn text<const LENGTH: usize>(text: &str) -> [u8; LENGTH] {
    let mut padded = [b' '; LENGTH];
    padded[..text.len()].copy_from_slice(text.as_bytes());
    padded
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    fn number(iso: &[u8], at: usize) -> usize {
        u32::from_le_bytes(iso[at..at + 4].try_into().unwrap()) as usize
    }

    /// The file's bytes, found as a reader of CDs does.
    fn read<'a>(iso: &'a [u8], path: &[&str]) -> &'a [u8] {
        let root = PRIMARY * BLOCK + 156;
        let (mut at, mut size) = (number(iso, root + 2) * BLOCK, number(iso, root + 10));
        for part in path {
            let folder = at;
            while iso[at] != 0 {
                let name = &iso[at + 33..at + 33 + usize::from(iso[at + 32])];
                if name == part.as_bytes() {
                    break;
                }
                at += usize::from(iso[at]);
                assert!(at < folder + BLOCK);
            }
            assert_ne!(iso[at], 0, "no {part}");
            (at, size) = (number(iso, at + 2) * BLOCK, number(iso, at + 10));
        }
        &iso[at..at + size]
    }

    #[test]
    fn all_that_start_from_it_find_the_same_image() {
        let (uki, grub) = (testing::uki(), testing::grub());
        let iso = image(&uki, &grub).unwrap();
        assert!(iso.len().is_multiple_of(BLOCK));
        assert_eq!(number(&iso, PRIMARY * BLOCK + 80), iso.len() / BLOCK);

        // GRUB, from whichever medium.
        let script = read(&iso, &["BOOT", "LOAM", "BOOT.CFG;1"]);
        testing::assert_reads(str::from_utf8(script).unwrap(), &iso, &uki);
        assert!(read(&iso, &["README.TXT;1"]).starts_with(b"This is Loam"));

        // A UEFI, from a CD: what begins there and goes on to the end.
        let catalog = &iso[CATALOG * BLOCK..];
        assert_eq!((catalog[64], catalog[65], catalog[96]), (0x91, 0xef, 0x88));
        assert_eq!(catalog[102..104], [0, 0]);
        let volume = &iso[number(catalog, 104) * BLOCK..];
        assert!(fat::read(volume, "EFI/BOOT/BOOTX64.EFI").unwrap() == uki);
        // And from a stick.
        let table = GPT::find_from(&mut Cursor::new(&iso)).unwrap();
        assert_eq!(table[1].partition_type_guid, ESP);
        assert_eq!(
            table[1].starting_lba as usize * 512,
            number(catalog, 104) * BLOCK
        );

        // A BIOS, from a CD.
        assert_eq!((catalog[32], catalog[38]), (0x88, 4));
        let core = number(catalog, 40) * BLOCK;
        let info: Vec<usize> = (0..4).map(|n| number(&iso, core + 8 + 4 * n)).collect();
        assert_eq!(info[..3], [PRIMARY, core / BLOCK, grub.cd.len()]);
        let words = catalog[..32]
            .chunks(2)
            .map(|word| u16::from_le_bytes([word[0], word[1]]));
        assert_eq!(words.fold(0, u16::wrapping_add), 0);
        // And from a stick: boot code, core, and the rest of it.
        let core = u64::from_le_bytes(iso[0x5c..0x64].try_into().unwrap()) as usize * 512;
        assert_eq!(iso[core + 512..core + grub.stick.len()], grub.stick[512..]);
        assert_eq!(
            (iso[446], iso[462], iso[510], iso[511]),
            (0, 0x80, 0x55, 0xaa)
        );
    }

    #[test]
    fn is_the_same_every_time() {
        let iso = || image(&testing::uki(), &testing::grub()).unwrap();
        assert!(iso() == iso());
    }

    #[test]
    fn a_checksum_counts_the_last_bytes_too() {
        let sum = |core: &[u8]| number(&with_boot_info(core, 30).unwrap(), 20);
        let core = [vec![0; 64], vec![1, 0, 0, 0, 2]].concat();
        assert_eq!(sum(&core), 3);
    }
}
