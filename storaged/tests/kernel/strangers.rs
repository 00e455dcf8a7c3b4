//! Disks that hold something, made by the programs that make such things: none is ever taken for empty,
//! neither whole nor when its beginning and end were wiped, as long as something is left on it.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
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

/// What is left of it, whatever is wiped: while it is new, for what is put into it lies anywhere.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    /// Nothing that anybody could use.
    Nothing,
    /// Something at the disk's end.
    Tail,
    /// Something behind the first 16 MiB, and nothing far from there.
    Head,
    /// Copies or maps of itself, away from both ends.
    Far,
}
use Left::{Far, Head, Nothing, Tail};

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

impl Case {
    /// A file with what the program makes on a disk.
    fn make(&self, folder: &Path) -> PathBuf {
        let file = sparse(folder, self.name, SIZE);
        let disk = Loop::attach(&file, self.name);
        let device = disk.sys.device.to_str().unwrap();
        let argument = |argument: &&'static str| match *argument {
            "DISK" => device,
            other => other,
        };
        let arguments: Vec<&str> = self.arguments.iter().map(argument).collect();
        run(self.program, &arguments, self.package);
        run("sync", &[device], "coreutils");
        file
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
    // Its root folder lies behind its maps. Both its superblocks are in the first 8 KiB.
    case(
        "f2fs",
        "mkfs.f2fs",
        &["-q", "-f", "DISK"],
        "f2fs-tools",
        Head,
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
    // Its log is at its end. Both its superblocks are in the first 64 KiB.
    case("jfs", "mkfs.jfs", &["-q", "DISK"], "jfsutils", Tail),
    case(
        "nilfs2",
        "mkfs.nilfs2",
        &["-q", "-f", "DISK"],
        "nilfs-tools",
        Tail,
    ),
    // Its journals follow its superblock, and are as large at least as what is wiped first. The maps of
    // its groups lie far inside, but where, depends on those journals: they are met by chance.
    case(
        "gfs2",
        "mkfs.gfs2",
        &["-O", "-q", "-p", "lock_nolock", "DISK"],
        "gfs2-utils",
        Head,
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

#[test]
fn what_is_left_of_others_is_called_by_its_name() {
    // The sizes are of what is wiped at the beginning.
    let left = [
        ("f2fs", 4 << 10, "an F2FS file system (second superblock)"),
        ("jfs", 60 << 10, "a JFS file system (second superblock)"),
        ("jfs", 16 * MIB, "the log of a JFS file system"),
        ("gfs2", 16 * MIB, "records of a GFS2 file system"),
        ("fat32", 512, "a FAT file system (backup)"),
        ("exfat", 12 * 512, "an exFAT file system (backup)"),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (name, head, what) in left {
        let case = CASES.iter().find(|case| case.name == name).unwrap();
        let file = case.make(folder.path());
        wipe(&file, head, 0);
        let disk = Loop::attach(&file, name);
        assert_eq!(look(&disk), Finding::Foreign(what.to_owned()), "{name}");
        std::fs::remove_file(file).unwrap();
    }
}

fn all_are_left_alone<'a>(cases: impl Iterator<Item = &'a Case>) {
    let folder = tempfile::tempdir().unwrap();
    let mut faults = Vec::new();
    for case in cases {
        let file = case.make(folder.path());
        // Of btrfs, the second superblock is at 64 MiB, and the third beyond the end.
        let further = case.left == Far && case.name != "btrfs";
        for (head, tail, left) in [
            (0, 0, true),
            (16 * MIB, 0, case.left != Nothing),
            (16 * MIB, 16 * MIB, matches!(case.left, Head | Far)),
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
