//! A FAT volume that holds the UKI where every firmware looks for it, and for GRUB where in the volume kernel and
//! initrd lie (Microsoft's "FAT32 File System Specification", 2000).
//!
//! It is written by ourselves: five short names, all clusters one behind the other, the same bytes each time. The
//! crate by which it is read (`fatfs` 0.3.6) gives `.` and `..` long names when it writes, which `fsck.vfat` takes for
//! damage.

use std::io::{Cursor, Write};
use std::ops::Range;

use anyhow::{Context, Result, ensure};
use fatfs::FsOptions;

use super::layout::{MEBIBYTE, SECTOR};

/// Where every firmware looks.
pub const UKI: &str = "EFI/BOOT/BOOTX64.EFI";
/// GRUB's script.
pub const SCRIPT: &str = "loam/boot.cfg";

/// FAT tables and folders.
const SPARE: u64 = 4 * MEBIBYTE;
/// FAT32 begins at 65525 clusters, of a sector each here; a smaller volume would be another FAT.
const LEAST: u64 = 40 * MEBIBYTE;

const SECTOR_BYTES: usize = SECTOR as usize;
/// Sectors before the first table: the boot sector, the free space's record, and copies of both.
const RESERVED: usize = 32;
const RECORD: usize = 1;
const COPIES: usize = 6;
const TABLES: usize = 2;
/// Of clusters, which are counted from 2.
const ROOT: u32 = 2;
const EFI: u32 = 3;
const BOOT: u32 = 4;
const LOAM: u32 = 5;
const FIRST_FILE: u32 = 6;
const END_OF_CHAIN: u32 = 0x0fff_ffff;

const FOLDER: u8 = 0x10;
const VOLUME_LABEL: u8 = 0x08;
const FILE: u8 = 0x20;
const LABEL: &[u8; 11] = b"LOAM       ";

/// The least volume in which a UKI of this size has room.
pub fn least(uki: usize) -> u64 {
    (uki as u64 + SPARE).max(LEAST).next_multiple_of(MEBIBYTE)
}

/// Formats `volume`, which is all zeroes, and writes the UKI and the file that `boot` makes of where the UKI lies in
/// the volume.
pub fn format(
    volume: &mut [u8],
    serial: u32,
    uki: &[u8],
    boot: impl FnOnce(Range<u64>) -> Result<String>,
) -> Result<()> {
    ensure!(
        volume.len() as u64 >= least(uki.len()),
        "the image has {} bytes, and a volume of {} has no room for it",
        uki.len(),
        volume.len()
    );
    let shape = Shape::of(volume.len())?;
    let start = shape.place(FIRST_FILE);
    let boot = boot(start as u64..(start + uki.len()) as u64)?;
    let script = FIRST_FILE + clusters(uki.len())?;
    let end = script + clusters(boot.len())?;

    let mut table = vec![0x0fff_fff8, END_OF_CHAIN];
    // Folders have a cluster each, files follow one another.
    table.extend([END_OF_CHAIN; (FIRST_FILE - ROOT) as usize]);
    for (first, end) in [(FIRST_FILE, script), (script, end)] {
        table.extend(first + 1..end);
        table.push(END_OF_CHAIN);
    }
    for copy in 0..TABLES {
        let mut at = (RESERVED + copy * shape.table_sectors) * SECTOR_BYTES;
        for entry in &table {
            put(volume, at, &entry.to_le_bytes());
            at += size_of::<u32>();
        }
    }
    let free = shape.clusters - (end - ROOT);
    for sector in [0, COPIES] {
        put(volume, sector * SECTOR_BYTES, &shape.boot_sector(serial));
        put(
            volume,
            (sector + RECORD) * SECTOR_BYTES,
            &free_space(free, end),
        );
    }

    let folder = |own: u32, parent: u32| {
        // The root is called 0 by what is in it.
        let parent = if parent == ROOT { 0 } else { parent };
        [
            entry(b".          ", FOLDER, own, 0),
            entry(b"..         ", FOLDER, parent, 0),
        ]
    };
    let uki_size = u32::try_from(uki.len())?;
    let boot_size = u32::try_from(boot.len())?;
    let entries = [
        (
            ROOT,
            vec![
                entry(LABEL, VOLUME_LABEL, 0, 0),
                entry(b"EFI        ", FOLDER, EFI, 0),
                entry(b"LOAM       ", FOLDER, LOAM, 0),
            ],
        ),
        (
            EFI,
            [
                &folder(EFI, ROOT)[..],
                &[entry(b"BOOT       ", FOLDER, BOOT, 0)],
            ]
            .concat(),
        ),
        (
            BOOT,
            [
                &folder(BOOT, EFI)[..],
                &[entry(b"BOOTX64 EFI", FILE, FIRST_FILE, uki_size)],
            ]
            .concat(),
        ),
        (
            LOAM,
            [
                &folder(LOAM, ROOT)[..],
                &[entry(b"BOOT    CFG", FILE, script, boot_size)],
            ]
            .concat(),
        ),
    ];
    for (cluster, entries) in entries {
        put(volume, shape.place(cluster), &entries.concat());
    }
    put(volume, start, uki);
    put(volume, shape.place(script), boot.as_bytes());
    Ok(())
}

/// Where things are in a volume.
struct Shape {
    sectors: u32,
    table_sectors: usize,
    clusters: u32,
}

impl Shape {
    fn of(bytes: usize) -> Result<Self> {
        let sectors = bytes / SECTOR_BYTES;
        // As if the tables took no room themselves, which makes them a little longer than they need be.
        let table_sectors = ((sectors - RESERVED + 2) * size_of::<u32>()).div_ceil(SECTOR_BYTES);
        Ok(Self {
            sectors: u32::try_from(sectors)?,
            table_sectors,
            clusters: u32::try_from(sectors - RESERVED - TABLES * table_sectors)?,
        })
    }

    fn place(&self, cluster: u32) -> usize {
        (RESERVED + TABLES * self.table_sectors + (cluster - ROOT) as usize) * SECTOR_BYTES
    }

    fn boot_sector(&self, serial: u32) -> Vec<u8> {
        let mut sector = vec![0; SECTOR_BYTES];
        let table_sectors = self.table_sectors as u32;
        let fields: [(usize, &[u8]); 20] = [
            // A jump over what follows; nobody starts from here.
            (0, &[0xeb, 0x58, 0x90]),
            // What the specification says that drivers know.
            (3, b"MSWIN4.1"),
            (11, &(SECTOR_BYTES as u16).to_le_bytes()),
            (13, &[1]),
            (14, &(RESERVED as u16).to_le_bytes()),
            (16, &[TABLES as u8]),
            // A disk; what a BIOS took for its geometry; nothing is hidden before it.
            (21, &[0xf8]),
            (24, &32_u16.to_le_bytes()),
            (26, &64_u16.to_le_bytes()),
            (32, &self.sectors.to_le_bytes()),
            (36, &table_sectors.to_le_bytes()),
            (44, &ROOT.to_le_bytes()),
            (48, &(RECORD as u16).to_le_bytes()),
            (50, &(COPIES as u16).to_le_bytes()),
            (64, &[0x80]),
            (66, &[0x29]),
            (67, &serial.to_le_bytes()),
            (71, LABEL),
            (82, b"FAT32   "),
            (510, &[0x55, 0xaa]),
        ];
        for (at, field) in fields {
            put(&mut sector, at, field);
        }
        sector
    }
}

/// How many clusters are free, and the first that may be.
fn free_space(free: u32, next: u32) -> Vec<u8> {
    let mut sector = vec![0; SECTOR_BYTES];
    put(&mut sector, 0, b"RRaA");
    put(&mut sector, 484, b"rrAa");
    put(&mut sector, 488, &free.to_le_bytes());
    put(&mut sector, 492, &next.to_le_bytes());
    put(&mut sector, 510, &[0x55, 0xaa]);
    sector
}

/// A file's or a folder's record, of the first of January 1980.
fn entry(name: &[u8; 11], attributes: u8, cluster: u32, size: u32) -> [u8; 32] {
    const DAY: [u8; 2] = 0x21_u16.to_le_bytes();
    let mut entry = [0; 32];
    let [a, b, c, d] = cluster.to_le_bytes();
    for (at, field) in [
        (0, &name[..]),
        (11, &[attributes]),
        (16, &DAY),
        (18, &DAY),
        (20, &[c, d]),
        (24, &DAY),
        (26, &[a, b]),
        (28, &size.to_le_bytes()),
    ] {
        put(&mut entry, at, field);
    }
    entry
}

fn clusters(bytes: usize) -> Result<u32> {
    ensure!(bytes > 0, "a file without bytes has no cluster");
    Ok(u32::try_from(bytes.div_ceil(SECTOR_BYTES))?)
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// The whole file at `path`.
pub fn read(volume: &[u8], path: &str) -> Result<Vec<u8>> {
    use std::io::Read as _;
    // It is only read, but the crate wants to write.
    struct ReadOnly<'a>(Cursor<&'a [u8]>);
    impl std::io::Read for ReadOnly<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(into)
        }
    }
    impl std::io::Seek for ReadOnly<'_> {
        fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
            self.0.seek(to)
        }
    }
    impl Write for ReadOnly<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let volume = fatfs::FileSystem::new(ReadOnly(Cursor::new(volume)), FsOptions::new())
        .context("there is no FAT volume")?;
    let mut bytes = Vec::new();
    volume
        .root_dir()
        .open_file(path)
        .with_context(|| format!("it has no {path}"))?
        .read_to_end(&mut bytes)
        .with_context(|| format!("reading {path}"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_the_uki_where_firmware_looks_and_says_where_it_lies() {
        let uki: Vec<u8> = (0..40_000_001_u32).map(|n| (n / 7) as u8).collect();
        let mut volume = vec![0; least(uki.len()) as usize];
        let mut place = 0..0;
        format(&mut volume, 7, &uki, |found| {
            place = found.clone();
            Ok(format!("{found:?}"))
        })
        .unwrap();
        assert!(volume[place.start as usize..place.end as usize] == uki);
        assert!(read(&volume, "EFI/BOOT/BOOTX64.EFI").unwrap() == uki);
        let boot = read(&volume, "loam/boot.cfg").unwrap();
        assert_eq!(String::from_utf8(boot).unwrap(), format!("{place:?}"));
        assert!(
            read(&volume, "loam/other")
                .unwrap_err()
                .to_string()
                .contains("loam/other")
        );
        let mut small = vec![0; volume.len() - MEBIBYTE as usize];
        assert!(format(&mut small, 7, &uki, |_| Ok(String::new())).is_err());
    }
}
