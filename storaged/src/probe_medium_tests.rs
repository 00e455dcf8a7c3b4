//! The disk that a node boots from, as `cargo xtask image` makes it (`xtask/src/image/disk.rs`), written
//! to a stick that is larger: a GPT that ends where the image does, and an EFI system partition with a
//! FAT32, and the node in it.

use std::{
    fs::File,
    io::{Cursor, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
};

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use gptman::{GPT, GPTPartitionEntry};

use super::{EDGE, Finding, glance, probe};

const STICK: u64 = 2 << 30;
const MIB: u64 = 1 << 20;
const SECTOR: u64 = 512;
const PARTITION: u64 = 40 * MIB;
/// EFI system partition, C12A7328-F81F-11D2-BA4B-00A0C93EC93B as it lies on disk.
const ESP: [u8; 16] = *b"\x28\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b";

fn image() -> Vec<u8> {
    let mut disk = Cursor::new(vec![0; (PARTITION + 2 * MIB) as usize]);
    let mut table = GPT::new_from(&mut disk, SECTOR, *b"loam boot disk  ").unwrap();
    table[1] = GPTPartitionEntry {
        partition_type_guid: ESP,
        unique_partition_guid: *b"loam boot esp   ",
        starting_lba: MIB / SECTOR,
        ending_lba: (MIB + PARTITION) / SECTOR - 1,
        attribute_bits: 0,
        partition_name: "loam".into(),
    };
    GPT::write_protective_mbr_into(&mut disk, SECTOR).unwrap();
    table.write_into(&mut disk).unwrap();
    disk.seek(SeekFrom::Start(MIB)).unwrap();
    disk.write_all(&file_system()).unwrap();
    disk.into_inner()
}

fn file_system() -> Vec<u8> {
    let mut bytes = vec![0; PARTITION as usize];
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .bytes_per_cluster(SECTOR as u32)
        .volume_label(*b"LOAM       ");
    fatfs::format_volume(Cursor::new(&mut bytes[..]), options).unwrap();
    {
        let volume = FileSystem::new(Cursor::new(&mut bytes[..]), FsOptions::new()).unwrap();
        let folder = volume.root_dir().create_dir("EFI").unwrap();
        let folder = folder.create_dir("BOOT").unwrap();
        let mut file = folder.create_file("BOOTX64.EFI").unwrap();
        // Compressed for the most part: no two bytes in a row tell anything.
        let byte = |n: u32| (n.wrapping_mul(0x9e37_79b1) >> 24) as u8;
        let node: Vec<u8> = (0..36 << 20).map(byte).collect();
        file.write_all(&node).unwrap();
        file.flush().unwrap();
    }
    bytes
}

fn stick() -> File {
    let stick = tempfile::tempfile().unwrap();
    stick.set_len(STICK).unwrap();
    stick.write_all_at(&image(), 0).unwrap();
    stick
}

fn wipe(stick: &File, from: u64, to: u64) {
    let zeroes = vec![0; (to - from) as usize];
    stick.write_all_at(&zeroes, from).unwrap();
}

#[test]
fn the_medium_that_a_node_boots_from_is_foreign() {
    let stick = stick();
    let foreign = |what: &str| Finding::Foreign(what.to_owned());
    let table = foreign("a GPT partition table");
    assert_eq!(glance(&stick, STICK).unwrap(), table);
    assert_eq!(probe(&stick, STICK).unwrap(), table);
    // Its table is wiped while the node runs from memory: the partition is left.
    wipe(&stick, 0, MIB);
    let found = probe(&stick, STICK).unwrap();
    assert_eq!(found, foreign(&format!("unknown data at byte {MIB}")));
    // And the rest of what must be zero: the node is left, and the table's copy where the image ends.
    wipe(&stick, 0, EDGE);
    assert_eq!(glance(&stick, STICK).unwrap(), Finding::Empty);
    assert!(matches!(probe(&stick, STICK).unwrap(), Finding::Foreign(_)));
}
