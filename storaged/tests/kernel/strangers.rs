//! Disks that hold something, made by the programs that make such things: none is ever taken for empty,
//! neither whole nor when its beginning and end were wiped, as long as something is left on it.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
};

use loam_storaged::probe::{self, Finding};

use crate::loops::{Loop, run, sparse};

const SIZE: u64 = 3 << 30;
const MIB: u64 = 1 << 20;

/// What is made, by which arguments of which program, of which package of Debian's.
struct Case {
    name: &'static str,
    program: &'static str,
    /// `DISK` stands for the disk.
    arguments: &'static [&'static str],
    package: &'static str,
    left: Left,
}

/// What is left of it, whatever is wiped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    /// Nothing that anybody could use.
    Nothing,
    /// Something at the disk's end.
    Tail,
    /// Copies or maps of itself, away from both ends.
    Far,
}
use Left::{Far, Nothing, Tail};

const fn case(
    name: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
    package: &'static str,
    left: Left,
) -> Case {
    Case {
        name,
        program,
        arguments,
        package,
        left,
    }
}

/// What is left is what `xfs_repair`, `e2fsck` and their like find.
const CASES: &[Case] = &[
    case("xfs", "mkfs.xfs", &["-q", "-f", "DISK"], "xfsprogs", Far),
    case(
        "xfs-33-groups",
        "mkfs.xfs",
        &["-q", "-f", "-d", "agcount=33", "DISK"],
        "xfsprogs",
        Far,
    ),
    case(
        "xfs-striped",
        "mkfs.xfs",
        &["-q", "-f", "-d", "su=256k,sw=4", "DISK"],
        "xfsprogs",
        Far,
    ),
    case("ext4", "mkfs.ext4", &["-q", "-F", "DISK"], "e2fsprogs", Far),
    case(
        "ext2-1k",
        "mkfs.ext2",
        &["-q", "-F", "-b", "1024", "DISK"],
        "e2fsprogs",
        Far,
    ),
    case(
        "ext3-2k",
        "mkfs.ext3",
        &["-q", "-F", "-b", "2048", "DISK"],
        "e2fsprogs",
        Far,
    ),
    case(
        "ext4-bigalloc",
        "mkfs.ext4",
        &["-q", "-F", "-O", "bigalloc", "-C", "16384", "DISK"],
        "e2fsprogs",
        Far,
    ),
    case(
        "ext4-sparse2",
        "mkfs.ext4",
        &["-q", "-F", "-O", "sparse_super2", "DISK"],
        "e2fsprogs",
        Far,
    ),
    case(
        "btrfs",
        "mkfs.btrfs",
        &["-q", "-f", "DISK"],
        "btrfs-progs",
        Far,
    ),
    case(
        "f2fs",
        "mkfs.f2fs",
        &["-q", "-f", "DISK"],
        "f2fs-tools",
        Nothing,
    ),
    case(
        "reiserfs",
        "mkreiserfs",
        &["-q", "-ff", "DISK"],
        "reiserfsprogs",
        Far,
    ),
    case("ntfs", "mkntfs", &["-Q", "-F", "DISK"], "ntfs-3g", Far),
    case(
        "ocfs2",
        "mkfs.ocfs2",
        &[
            "-q",
            "-x",
            "-F",
            "-M",
            "local",
            "--fs-features=backup-super",
            "DISK",
        ],
        "ocfs2-tools",
        Far,
    ),
    case("jfs", "mkfs.jfs", &["-q", "DISK"], "jfsutils", Nothing),
    case(
        "nilfs2",
        "mkfs.nilfs2",
        &["-q", "-f", "DISK"],
        "nilfs-tools",
        Tail,
    ),
    case(
        "gfs2",
        "mkfs.gfs2",
        &["-O", "-q", "-p", "lock_nolock", "DISK"],
        "gfs2-utils",
        Nothing,
    ),
    case("exfat", "mkfs.exfat", &["DISK"], "exfatprogs", Nothing),
    case(
        "fat32",
        "mkfs.vfat",
        &["-I", "-F", "32", "DISK"],
        "dosfstools",
        Nothing,
    ),
    case("udf", "mkudffs", &["DISK"], "udftools", Tail),
    case("swap", "mkswap", &["DISK"], "util-linux", Nothing),
    case(
        "lvm",
        "pvcreate",
        &["-ff", "-y", "--metadatacopies", "2", "DISK"],
        "lvm2",
        Tail,
    ),
    case(
        "gpt",
        "sgdisk",
        &["-n", "1:0:+512M", "-t", "1:ef00", "-n", "2:0:0", "DISK"],
        "gdisk",
        Tail,
    ),
    case(
        "bcache",
        "make-bcache",
        &["-B", "DISK"],
        "bcache-tools",
        Nothing,
    ),
];

fn look(disk: &Loop) -> Finding {
    let file = File::open(&disk.sys.device).unwrap();
    probe::probe(&file, disk.sys.size.get()).unwrap()
}

fn wipe(file: &Path, head: u64, tail: u64) {
    let size = file.metadata().unwrap().size();
    let disk = OpenOptions::new().write(true).open(file).unwrap();
    for (length, at) in [(head, 0), (tail, size - tail)] {
        disk.write_all_at(&vec![0; length as usize], at).unwrap();
    }
    disk.sync_all().unwrap();
}

#[test]
fn what_common_programs_make_is_left_alone_also_with_its_ends_wiped() {
    const COMMON: [&str; 5] = ["xfs", "ext4", "btrfs", "gpt", "lvm"];
    all_are_left_alone(CASES.iter().filter(|case| COMMON.contains(&case.name)));
}

#[test]
#[ignore = "slow: two dozen kinds of disks, each looked at four times"]
fn what_any_program_makes_is_left_alone_also_with_its_ends_wiped() {
    all_are_left_alone(CASES.iter());
}

fn all_are_left_alone<'a>(cases: impl Iterator<Item = &'a Case>) {
    let folder = tempfile::tempdir().unwrap();
    let mut faults = Vec::new();
    for case in cases {
        let file = sparse(folder.path(), case.name, SIZE);
        let disk = Loop::attach(&file, case.name);
        let device = disk.sys.device.to_str().unwrap();
        let arguments: Vec<_> = case
            .arguments
            .iter()
            .map(|argument| {
                if *argument == "DISK" {
                    device
                } else {
                    *argument
                }
            })
            .collect();
        run(case.program, &arguments, case.package);
        run("sync", &[device], "coreutils");
        drop(disk);
        // Of btrfs, the second superblock is at 64 MiB, and the third beyond the end.
        let further = case.left == Far && case.name != "btrfs";
        for (head, tail, left) in [
            (0, 0, true),
            (16 * MIB, 0, case.left != Nothing),
            (16 * MIB, 16 * MIB, case.left == Far),
            (64 * MIB, 64 * MIB, further),
        ] {
            if !left {
                break;
            }
            wipe(&file, head, tail);
            let disk = Loop::attach(&file, case.name);
            let found = look(&disk);
            if !matches!(found, Finding::Foreign(_)) {
                faults.push((case.name, head / MIB, tail / MIB));
            }
        }
        std::fs::remove_file(file).unwrap();
    }
    let zeroes = Loop::attach(&sparse(folder.path(), "zeroes", SIZE), "zeroes");
    assert_eq!(look(&zeroes), Finding::Empty);
    assert!(faults.is_empty(), "taken for empty: {faults:?}");
}
