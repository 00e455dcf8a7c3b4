use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;
use crate::header::DiskTag;

const SIZE: u64 = 1 << 30;

fn disk() -> tempfile::NamedTempFile {
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(SIZE).unwrap();
    disk
}

fn look(disk: &tempfile::NamedTempFile) -> Finding {
    probe(disk.as_file(), SIZE).unwrap()
}

fn write(disk: &tempfile::NamedTempFile, at: u64, bytes: &[u8]) {
    disk.as_file().write_all_at(bytes, at).unwrap();
}

/// Runs a program of the machine's on the disk; the test fails if the machine lacks it.
fn run(program: &str, arguments: &[&str], disk: &tempfile::NamedTempFile, package: &str) {
    let status = Command::new(program)
        .args(arguments)
        .arg(disk.path())
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let status = status.unwrap_or_else(|_| panic!("install {package}: this test runs {program}"));
    assert!(status.success(), "{program} failed");
}

fn new_header() -> Header {
    Header::for_disk(SIZE, Uuid::new_v4(), DiskTag::of("a"))
}

fn pool(header: Header) -> Finding {
    Finding::Pool {
        header,
        generation: 77,
    }
}

/// A btrfs superblock as far as we read it.
fn superblock(disk: &tempfile::NamedTempFile, header: &Header, magic: &[u8; 8]) {
    superblock_of(77, disk, header, magic);
}

fn superblock_of(generation: u8, disk: &tempfile::NamedTempFile, header: &Header, magic: &[u8; 8]) {
    let mut block = [0; 4096];
    block[0x20..0x30].copy_from_slice(header.uuid.as_bytes());
    block[0x40..0x48].copy_from_slice(magic);
    block[0x48] = generation;
    block[0x88] = 1;
    block[0x70..0x78].copy_from_slice(&header.filesystem_size.to_le_bytes());
    block[0x12b..0x12f].copy_from_slice(b"loam");
    write(disk, SUPERBLOCK, &block);
}

fn ours(state: State) -> (tempfile::NamedTempFile, Header) {
    let disk = disk();
    let header = Header {
        state,
        ..new_header()
    };
    header.write(disk.as_file()).unwrap();
    (disk, header)
}

#[test]
fn zeroes_are_empty() {
    assert_eq!(look(&disk()), Finding::Empty);
}

#[test]
fn real_file_systems_are_foreign() {
    let cases: [(&str, &[&str], &str, &str); 3] = [
        (
            "mkfs.ext4",
            &["-q", "-F"],
            "e2fsprogs",
            "an ext2, ext3 or ext4 file system",
        ),
        (
            "mkfs.ext2",
            &["-q", "-F", "-b", "1024"],
            "e2fsprogs",
            "an ext2, ext3 or ext4 file system",
        ),
        ("mkswap", &[], "util-linux", "swap space"),
    ];
    for (program, arguments, package, name) in cases {
        let disk = disk();
        run(program, arguments, &disk, package);
        assert_eq!(look(&disk), Finding::Foreign(name.to_owned()), "{program}");
    }
}

/// A GPT as `sfdisk` and everyone else writes it (UEFI 2.10, section 5.3): protective MBR, header
/// in the second sector, a copy in the last.
fn partition(disk: &tempfile::NamedTempFile) {
    write(
        disk,
        0x1be,
        &[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0],
    );
    write(disk, 0x1fe, b"\x55\xaa");
    write(disk, 512, b"EFI PART\x00\x00\x01\x00");
    write(disk, 1024, &[0xaf, 0x3d, 0xc6, 0x0f]);
    write(disk, SIZE - 512, b"EFI PART\x00\x00\x01\x00");
}

#[test]
fn partition_tables_are_foreign_even_with_a_wiped_beginning() {
    let disk = disk();
    partition(&disk);
    assert_eq!(
        look(&disk),
        Finding::Foreign("a GPT partition table".to_owned())
    );
    write(&disk, 0, &vec![0; EDGE as usize]);
    assert_eq!(
        look(&disk),
        Finding::Foreign("a backup GPT partition table".to_owned())
    );

    let disk = self::disk();
    write(&disk, 0x1fe, b"\x55\xaa");
    let mbr = "an MBR partition table or a boot sector".to_owned();
    assert_eq!(look(&disk), Finding::Foreign(mbr));
}

#[test]
fn marks_at_the_end_and_in_the_middle_are_found() {
    let raid = || "part of a Linux RAID".to_owned();
    let zfs = || "part of a ZFS pool".to_owned();
    let named = str::to_owned;
    let cases: [(u64, &[u8], String); 15] = [
        // Second superblocks and boot sectors, where each first one is wiped.
        (
            0x1400,
            b"\x10\x20\xf5\xf2",
            named("an F2FS file system (second superblock)"),
        ),
        (
            0xf000,
            b"JFS1",
            named("a JFS file system (second superblock)"),
        ),
        (
            6 * 512 + 0x52,
            b"FAT32   ",
            named("a FAT file system (backup)"),
        ),
        (
            12 * 512 + 3,
            b"EXFAT   ",
            named("an exFAT file system (backup)"),
        ),
        // What begins at any block near one of the ends.
        (
            SIZE - (12 << 20) + 4096,
            b"\x21\x43\x65\x87",
            named("the log of a JFS file system"),
        ),
        (
            16 << 20,
            b"\x01\x16\x19\x70",
            named("records of a GFS2 file system"),
        ),
        (
            SIZE - (20 << 20),
            b"\x01\x16\x19\x70",
            named("records of a GFS2 file system"),
        ),
        (
            (32 << 20) + 16,
            b"\x01\x16\x19\x70",
            named("unknown data at byte 33554448"),
        ),
        (SIZE - 8192, b"\xfc\x4e\x2b\xa9", raid()),
        (SIZE - 65536, b"\xfc\x4e\x2b\xa9", raid()),
        (
            4096,
            b"\xfc\x4e\x2b\xa9",
            "part of a Linux RAID (1.2)".to_owned(),
        ),
        (
            (128 << 10) + 5 * 1024,
            b"\x0c\xb1\xba\x00\x00\x00\x00\x00",
            zfs(),
        ),
        (
            SIZE - (128 << 10),
            b"\x00\x00\x00\x00\x00\xba\xb1\x0c",
            zfs(),
        ),
        (
            (64 << 20) + 0x40,
            b"_BHRfS_M",
            "a btrfs file system (second superblock)".to_owned(),
        ),
        (
            SIZE - 1024,
            b"Intel Raid ISM Cfg Sig. 1.3",
            "part of an Intel RAID".to_owned(),
        ),
    ];
    for (at, magic, name) in cases {
        let disk = disk();
        write(&disk, at, magic);
        assert_eq!(look(&disk), Finding::Foreign(name));
    }
}

#[test]
fn a_disk_cut_while_being_made_a_pool_is_ours() {
    let (disk, header) = ours(State::Formatting);
    assert_eq!(look(&disk), Finding::HalfMade(header));
    // Trees, but no superblock yet; then the temporary one; then the final one.
    write(&disk, 5 << 20, b"a tree");
    assert_eq!(look(&disk), Finding::HalfMade(header));
    superblock(&disk, &header, b"!BHRfS_M");
    assert_eq!(look(&disk), Finding::HalfMade(header));
    for generation in [6, 8] {
        superblock_of(generation, &disk, &header, b"_BHRfS_M");
        assert_eq!(look(&disk), Finding::HalfMade(header));
    }
}

#[test]
fn a_pool_in_use_is_never_made_anew_though_its_header_says_that_it_is_being_made() {
    let (disk, header) = ours(State::Formatting);
    superblock(&disk, &header, b"_BHRfS_M");
    let made = Header {
        state: State::Pool,
        ..header
    };
    assert_eq!(look(&disk), pool(made));
}

#[test]
fn sectors_that_cannot_be_read_beside_a_pool_take_it_from_nobody() {
    let (disk, header) = ours(State::Pool);
    superblock(&disk, &header, b"_BHRfS_M");
    let first = header.filesystem_size;
    let glance = |sectors: &[u64]| {
        let disk = crate::header::testing::BadSectors::of(disk.as_file(), sectors);
        super::glance(&disk, SIZE)
    };
    for sector in [
        0,
        SUPERBLOCK - 512,
        FIRST_BLOCK - 512,
        first,
        first + COPY,
        first + 8192,
        SIZE - 512,
    ] {
        assert_eq!(glance(&[sector]).unwrap(), pool(header), "{sector}");
    }
    // What can be read beside them still counts.
    write(&disk, SIZE - 512, b"EFI PART");
    for sectors in [[SIZE - 8192, 0], [SIZE - 8192, SIZE - 4608]] {
        let found = glance(&sectors).unwrap();
        assert!(has_behind(&found, &header, ""), "{found:?}");
    }
    write(&disk, SIZE - 512, &[0; 512]);
    // And a disk that is to be made a pool must be readable.
    superblock_of(6, &disk, &header, b"_BHRfS_M");
    let half_made = Header {
        state: State::Formatting,
        ..header
    };
    half_made.write(disk.as_file()).unwrap();
    glance(&[0]).unwrap_err();
}

#[test]
fn a_half_made_disk_that_another_took_is_foreign() {
    let (taken, _) = ours(State::Formatting);
    partition(&taken);
    assert!(matches!(look(&taken), Finding::Foreign(what) if what.contains("GPT")));

    let (taken, _) = ours(State::Formatting);
    run("mkfs.ext4", &["-q", "-F"], &taken, "e2fsprogs");
    assert!(matches!(look(&taken), Finding::Foreign(what) if what.contains("ext4")));

    let (taken, _) = ours(State::Formatting);
    superblock(&taken, &new_header(), b"_BHRfS_M");
    assert!(matches!(look(&taken), Finding::Foreign(what) if what.contains("btrfs")));

    let (taken, _) = ours(State::Formatting);
    write(&taken, SUPERBLOCK + 7, b"x");
    assert!(matches!(look(&taken), Finding::Foreign(_)));
}

#[test]
fn a_pool_is_ours_until_another_takes_the_disk() {
    let (disk, header) = ours(State::Pool);
    superblock(&disk, &header, b"_BHRfS_M");
    write(&disk, 5 << 20, b"data");
    assert_eq!(look(&disk), pool(header));

    // Partitions leave btrfs's superblock as it was.
    write(&disk, 512, b"EFI PART");
    assert!(matches!(look(&disk), Finding::Foreign(what) if what.contains("GPT")));
    write(&disk, 512, &[0; 8]);

    write(&disk, SIZE - 512, b"EFI PART");
    assert!(has_behind(&look(&disk), &header, "backup GPT"));
    // Both ends are taken.
    write(&disk, 512, b"EFI PART");
    assert!(matches!(look(&disk), Finding::Foreign(what) if what.contains("GPT")));
    write(&disk, 512, &[0; 8]);
    write(&disk, SIZE - 512, &[0; 8]);
    assert_eq!(look(&disk), pool(header));

    // Its data may still be rescued: never formatted again by itself.
    write(&disk, 0, &vec![0; EDGE as usize]);
    assert!(
        matches!(look(&disk), Finding::Unusable { what, header: Some(found) } if what.contains("superblock is gone") && found == header)
    );
}

#[test]
fn a_btrfs_that_is_not_the_headers_own_is_foreign() {
    for (at, why) in [
        (0x20, "another btrfs"),
        // Bit 10 of the incompatible features: a UUID that only the superblock has.
        (0xbd, "another btrfs"),
        (0x88, "several disks"),
    ] {
        let (disk, header) = ours(State::Pool);
        superblock(&disk, &header, b"_BHRfS_M");
        assert_eq!(look(&disk), pool(header));
        let byte = match at {
            0x20 => !header.uuid.as_bytes()[0],
            0xbd => 1 << 2,
            _ => 2,
        };
        write(&disk, SUPERBLOCK + at, &[byte]);
        assert!(matches!(look(&disk), Finding::Foreign(what) if what.contains(why)));
    }
    // Half written by mkfs, though the header says that it was done.
    let (disk, header) = ours(State::Pool);
    superblock(&disk, &header, b"!BHRfS_M");
    assert!(matches!(look(&disk), Finding::Foreign(_)));
}

#[test]
fn what_lies_far_inside_is_found_only_by_the_long_look() {
    let cases: [(u64, &[u8], &str); 7] = [
        (SIZE / 4, b"XFSB", "a copy of an XFS superblock"),
        (
            SIZE / 7 / 4096 * 4096 + 4096,
            b"XFSB",
            "a copy of an XFS superblock",
        ),
        (
            (128 << 20) + 0x38,
            b"\x53\xef",
            "a copy of an ext superblock",
        ),
        (
            (129 << 20) + 0x38,
            b"\x53\xef",
            "a copy of an ext superblock",
        ),
        (500 << 20, b"OCFSV2", "a copy of an OCFS2 superblock"),
        (SIZE / 2, b"FILE0", "records of an NTFS file system"),
        ((200 << 20) + 7, b"?", "unknown data at byte 209715207"),
    ];
    for (at, magic, name) in cases {
        let disk = disk();
        write(&disk, at, magic);
        assert_eq!(glance(disk.as_file(), SIZE).unwrap(), Finding::Empty);
        assert_eq!(look(&disk), Finding::Foreign(name.to_owned()));
    }
}

/// Counts what is read.
struct Counting<'a>(&'a std::fs::File, std::cell::Cell<u64>);

impl FileExt for Counting<'_> {
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        let read = self.0.read_at(bytes, at)?;
        self.1.set(self.1.get() + read as u64);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        self.0.write_at(bytes, at)
    }
}

/// Whether it is this pool with something behind it, left alone and in doubt.
fn has_behind(found: &Finding, pool: &Header, behind: &str) -> bool {
    matches!(found, Finding::Unusable { what, header: Some(header) }
        if header == pool && what.contains(behind) && what.contains("zero the disk from byte"))
}

#[test]
fn a_pool_on_a_larger_disk_that_was_a_pool_once_is_told_by_its_own_header() {
    const LARGER: u64 = 2 * SIZE;
    let (disk, header) = ours(State::Pool);
    superblock(&disk, &header, b"_BHRfS_M");
    disk.as_file().set_len(LARGER).unwrap();
    let glance = || glance(disk.as_file(), LARGER).unwrap();
    let before = Header {
        state: State::Pool,
        ..Header::for_disk(LARGER, Uuid::new_v4(), DiskTag::of("b"))
    };
    before.write(disk.as_file()).unwrap();
    assert!(
        has_behind(&glance(), &header, "behind it"),
        "{:?}",
        glance()
    );
    // Of another Loam's.
    let at = before.filesystem_size;
    let mut sector = before.encode();
    sector[16..20].copy_from_slice(&99u32.to_le_bytes());
    let sum = <sha2::Sha256 as sha2::Digest>::digest(&sector[..480]);
    sector[480..].copy_from_slice(&sum);
    for at in [at, at + COPY] {
        write(&disk, at, &sector);
    }
    assert!(
        has_behind(&glance(), &header, "behind it"),
        "{:?}",
        glance()
    );
    // As the farmer is told to do it.
    write(
        &disk,
        header.filesystem_size + COPY + 512,
        &vec![0; TAIL as usize],
    );
    write(&disk, LARGER - EDGE, &vec![0; EDGE as usize]);
    assert_eq!(glance(), pool(header));
    // Without its own header, it is not the other pool either.
    before.write(disk.as_file()).unwrap();
    for at in [header.filesystem_size, header.filesystem_size + COPY] {
        write(&disk, at, &[0; 512]);
    }
    assert!(matches!(glance(), Finding::Foreign(what) if what.contains("another btrfs")));
}

#[test]
fn a_pool_whose_disk_grew_is_still_ours() {
    const GROWN: u64 = 8 * SIZE;
    let (disk, header) = ours(State::Pool);
    superblock(&disk, &header, b"_BHRfS_M");
    disk.as_file().set_len(GROWN).unwrap();
    let counting = Counting(disk.as_file(), std::cell::Cell::new(0));
    assert_eq!(glance(&counting, GROWN).unwrap(), pool(header));
    // Not the whole of what it grew by, which may take hours.
    assert!(counting.1.get() < 2 * EDGE, "{}", counting.1.get());

    let end = header.filesystem_size;
    for at in [end + TAIL, GROWN - EDGE, GROWN - 1] {
        write(&disk, at, b"x");
        let found = probe(disk.as_file(), GROWN).unwrap();
        assert!(has_behind(&found, &header, "unknown data"), "{found:?}");
        write(&disk, at, &[0]);
    }
    // What is to be made a pool is written to everywhere.
    let (disk, _) = ours(State::Formatting);
    disk.as_file().set_len(GROWN).unwrap();
    write(&disk, GROWN / 2, b"x");
    assert!(matches!(
        probe(disk.as_file(), GROWN),
        Ok(Finding::Foreign(_))
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// The rule itself, whatever the table of signatures knows.
    #[test]
    fn one_byte_at_either_end_is_enough(at in 0..EDGE, from_end: bool, byte in 1u8..) {
        let disk = disk();
        let at = if from_end { SIZE - 1 - at } else { at };
        write(&disk, at, &[byte]);
        prop_assert!(matches!(look(&disk), Finding::Foreign(_)));
    }

    /// No byte in what btrfs leaves alone is overlooked on a disk of ours either.
    #[test]
    fn a_pool_with_a_stray_byte_is_foreign(place in 0u64..3, offset: u64, byte in 1u8..) {
        let (disk, header) = ours(State::Pool);
        superblock(&disk, &header, b"_BHRfS_M");
        let after_super = SUPERBLOCK + SUPERBLOCK_LENGTH;
        let at = match place {
            0 => offset % SUPERBLOCK,
            1 => after_super + offset % (FIRST_BLOCK - after_super),
            _ => SIZE - 1 - offset % (TAIL - LENGTH as u64),
        };
        write(&disk, at, &[byte]);
        let found = look(&disk);
        let behind = header.filesystem_size + COPY + LENGTH as u64;
        match at >= behind {
            // What it was copied onto may have left that.
            true => prop_assert!(has_behind(&found, &header, "")),
            false => prop_assert!(matches!(found, Finding::Foreign(_))),
        }
    }
}
