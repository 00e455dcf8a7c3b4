//! The marks by which partition tables, file systems and RAIDs are known.
//!
//! This table only gives names to what a disk holds: a disk counts as empty by being all zeroes
//! where any of these would be (see [`crate::probe`] and [`crate::sample`]). Offsets and magics are
//! those of libblkid (util-linux, `libblkid/src/superblocks` and `partitions`) where no other source
//! stands with them.

use std::{io, os::unix::fs::FileExt};

struct Mark {
    name: &'static str,
    /// From the start of the disk; from its end when negative.
    at: i64,
    magic: &'static [u8],
}

const fn mark(name: &'static str, at: i64, magic: &'static [u8]) -> Mark {
    Mark { name, at, magic }
}

const MIB: i64 = 1 << 20;

const PROMISE: &[u8] = b"Promise Technology, Inc.";

/// More telling marks first: the first that matches names the disk.
const MARKS: &[Mark] = &[
    mark("a GPT partition table", 512, b"EFI PART"),
    mark("a GPT partition table", 4096, b"EFI PART"),
    mark("a backup GPT partition table", -512, b"EFI PART"),
    mark("a backup GPT partition table", -4096, b"EFI PART"),
    mark("a LUKS container", 0, b"LUKS\xba\xbe"),
    mark("a LUKS container (second header)", 0x4000, b"SKUL\xba\xbe"),
    mark("a LUKS container (second header)", 0x8000, b"SKUL\xba\xbe"),
    mark("a LUKS container (second header)", 0x10000, b"SKUL\xba\xbe"),
    mark("a LUKS container (second header)", 0x20000, b"SKUL\xba\xbe"),
    mark("a LUKS container (second header)", 0x40000, b"SKUL\xba\xbe"),
    mark("a LUKS container (second header)", 0x80000, b"SKUL\xba\xbe"),
    mark(
        "a LUKS container (second header)",
        0x10_0000,
        b"SKUL\xba\xbe",
    ),
    mark(
        "a LUKS container (second header)",
        0x20_0000,
        b"SKUL\xba\xbe",
    ),
    mark(
        "a LUKS container (second header)",
        0x40_0000,
        b"SKUL\xba\xbe",
    ),
    // `block/partitions/ldm.h`: the database of a Windows dynamic disk is its last MiB.
    mark("a Windows dynamic disk", 6 * 512, b"PRIVHEAD"),
    mark("a Windows dynamic disk", -512, b"PRIVHEAD"),
    mark("a Windows dynamic disk", (1856 - 2048) * 512, b"PRIVHEAD"),
    mark("a Windows dynamic disk", (17 - 2048) * 512, b"VMDB"),
    mark("a disk of Windows Storage Spaces", 0, b"SPACEDB "),
    mark("an LVM physical volume", 0, b"LABELONE"),
    mark("an LVM physical volume", 512, b"LABELONE"),
    mark("an LVM physical volume", 1024, b"LABELONE"),
    mark("an LVM physical volume", 1536, b"LABELONE"),
    mark("part of a Linux RAID (1.1)", 0, b"\xfc\x4e\x2b\xa9"),
    mark("part of a Linux RAID (1.2)", 4096, b"\xfc\x4e\x2b\xa9"),
    mark("part of an Intel RAID", -1024, b"Intel Raid ISM Cfg Sig. "),
    mark("part of a DDF RAID", -512, b"\xde\x11\xde\x11"),
    mark("part of a DDF RAID", -257 * 512, b"\xde\x11\xde\x11"),
    mark("part of an Adaptec RAID", -512, b"DPTM"),
    mark("part of a JMicron RAID", -512, b"JM"),
    mark("part of an LSI RAID", -512, b"$XIDE$"),
    mark("part of a VIA RAID", -512, b"\x55\xaa"),
    mark("part of an Nvidia RAID", -1024, b"NVIDIA"),
    mark("part of a HighPoint RAID", 0x1200 + 32, b"\xf0\x16\x78\x5a"),
    mark("part of a HighPoint RAID", 0x1200 + 32, b"\xfd\x16\x78\x5a"),
    mark("part of a HighPoint RAID", -11 * 512, b"\xf3\x16\x78\x5a"),
    mark("part of a HighPoint RAID", -11 * 512, b"\xfd\x16\x78\x5a"),
    mark("part of a Promise RAID", -63 * 512, PROMISE),
    mark("part of a Promise RAID", -255 * 512, PROMISE),
    mark("part of a Promise RAID", -256 * 512, PROMISE),
    mark("part of a Promise RAID", -16 * 512, PROMISE),
    mark("part of a Promise RAID", -399 * 512, PROMISE),
    mark("part of a Promise RAID", -591 * 512, PROMISE),
    mark("part of a Promise RAID", -675 * 512, PROMISE),
    mark("part of a Promise RAID", -735 * 512, PROMISE),
    mark("part of a Promise RAID", -911 * 512, PROMISE),
    mark("part of a Promise RAID", -974 * 512, PROMISE),
    mark("part of a Promise RAID", -991 * 512, PROMISE),
    mark("part of a Promise RAID", -951 * 512, PROMISE),
    mark("part of a Promise RAID", -3087 * 512, PROMISE),
    // `drbd_md_on_disk_08`: in the last 4 KiB.
    mark("a DRBD device", 60 - 4096, b"\x83\x74\x02\x6b"),
    mark("a DRBD device", 60 - 4096, b"\x83\x74\x02\x6c"),
    mark("a DRBD device", 60 - 4096, b"\x83\x74\x02\x6d"),
    mark(
        "part of a Stratis pool",
        512 + 4,
        b"!Stra0tis\x86\xff\x02^\x41rh",
    ),
    mark(
        "part of a Stratis pool",
        9 * 512 + 4,
        b"!Stra0tis\x86\xff\x02^\x41rh",
    ),
    mark("a VDO volume", 0, b"dmvdo001"),
    mark("a Ceph BlueStore", 0, b"bluestore block device"),
    mark(
        "a bcache device",
        0x1018,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
    ),
    mark(
        "a bcachefs file system",
        0x1018,
        b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef",
    ),
    mark("a btrfs file system", 0x10040, b"_BHRfS_M"),
    mark("a half-made btrfs file system", 0x10040, b"!BHRfS_M"),
    mark(
        "a btrfs file system (second superblock)",
        64 * MIB + 0x40,
        b"_BHRfS_M",
    ),
    mark(
        "a btrfs file system (third superblock)",
        262_144 * MIB + 0x40,
        b"_BHRfS_M",
    ),
    mark("an ext2, ext3 or ext4 file system", 0x438, b"\x53\xef"),
    mark("an XFS file system", 0, b"XFSB"),
    mark("an F2FS file system", 0x400, b"\x10\x20\xf5\xf2"),
    mark(
        "an F2FS file system (second superblock)",
        0x1400,
        b"\x10\x20\xf5\xf2",
    ),
    mark("an EROFS file system", 0x400, b"\xe2\xe1\xf5\xe0"),
    mark("a SquashFS file system", 0, b"hsqs"),
    mark("a SquashFS file system", 0, b"sqsh"),
    mark("an NTFS file system", 3, b"NTFS    "),
    mark("an NTFS file system (backup)", 3 - 512, b"NTFS    "),
    mark("a ReFS file system", 3, b"ReFS\x00"),
    mark("a BitLocker volume", 3, b"-FVE-FS-"),
    mark("an exFAT file system", 3, b"EXFAT   "),
    mark("a FAT file system", 0x52, b"FAT32   "),
    mark("a FAT file system", 0x36, b"FAT1"),
    mark("a FAT file system", 0x36, b"FAT     "),
    // Backups: twelve sectors behind for exFAT, six for FAT32, by sectors of 512 and of 4096 bytes.
    mark("an exFAT file system (backup)", 12 * 512 + 3, b"EXFAT   "),
    mark("an exFAT file system (backup)", 12 * 4096 + 3, b"EXFAT   "),
    mark("a FAT file system (backup)", 6 * 512 + 0x52, b"FAT32   "),
    mark("a FAT file system (backup)", 6 * 4096 + 0x52, b"FAT32   "),
    mark("an ISO 9660 file system", 0x8001, b"CD001"),
    mark("a UDF file system", 0x8001, b"BEA01"),
    mark("a UDF file system", 0x8001, b"NSR0"),
    mark("an APFS container", 0x20, b"NXSB"),
    mark("an HFS+ file system", 0x400, b"H+\x00\x04"),
    mark("an HFSX file system", 0x400, b"HX\x00\x05"),
    mark("an HFS+ file system (backup)", -1024, b"H+\x00\x04"),
    mark("an HFSX file system (backup)", -1024, b"HX\x00\x05"),
    mark("an HFS file system", 0x400, b"BD"),
    mark("a JFS file system", 0x8000, b"JFS1"),
    mark("a JFS file system (second superblock)", 0xf000, b"JFS1"),
    mark("a ReiserFS file system", 0x10034, b"ReIsEr"),
    mark("a ReiserFS file system", 0x2034, b"ReIsEr"),
    mark("a Reiser4 file system", 0x10000, b"ReIsEr4"),
    mark("a NILFS2 file system", 0x406, b"\x34\x34"),
    mark("a GFS2 file system", 0x10000, b"\x01\x16\x19\x70"),
    mark("an OCFS2 file system", 0x400, b"OCFSV2"),
    mark("an OCFS2 file system", 0x800, b"OCFSV2"),
    mark("an OCFS2 file system", 0x1000, b"OCFSV2"),
    mark("an OCFS2 file system", 0x2000, b"OCFSV2"),
    mark("a UFS2 file system", 65536 + 1372, b"\x19\x01\x54\x19"),
    mark("a UFS1 file system", 8192 + 1372, b"\x54\x19\x01\x00"),
    mark("a UDF file system", 256 * 2048, b"\x02\x00\x02\x00"),
    mark("a UDF file system", 256 * 2048, b"\x02\x00\x03\x00"),
    mark("a VMFS file system", 0x10_0000, b"\x0d\xd0\x01\xc0"),
    mark("a VMFS file system", 0x20_0000, b"\x0d\xd0\x01\xc0"),
    mark("a dm-verity device", 0, b"verity\x00\x00"),
    mark("a dm-integrity device", 0, b"integrt\x00"),
    mark("a CramFS file system", 0, b"\x45\x3d\xcd\x28"),
    mark("a UBI device", 0, b"UBI#"),
    mark("a QCOW image", 0, b"QFI\xfb"),
    mark(
        "a Loam disk of another size",
        -(crate::header::TAIL as i64),
        b"LOAM-DISK-HEADER",
    ),
    mark("swap space", 4096 - 10, b"SWAPSPACE2"),
    mark("swap space", 4096 - 10, b"SWAP-SPACE"),
    mark("swap space", 8192 - 10, b"SWAPSPACE2"),
    mark("swap space", 16384 - 10, b"SWAPSPACE2"),
    mark("swap space", 65536 - 10, b"SWAPSPACE2"),
    mark("a suspended system", 4096 - 10, b"S1SUSPEND"),
    mark("a suspended system", 4096 - 10, b"LINHIB0001"),
    mark("an Apple partition map", 512, b"PM\x00\x00"),
    mark("a Sun disk label", 0x1fc, b"\xda\xbe"),
    mark("a BSD disk label", 512, b"\x57\x45\x56\x82"),
    // Last, for boot sectors of file systems end like this too.
    mark(
        "an MBR partition table or a boot sector",
        0x1fe,
        b"\x55\xaa",
    ),
];

/// What copies of superblocks, and the like, begin with; found at any block.
const COPIES: &[(&str, usize, &[u8])] = &[
    ("a copy of an XFS superblock", 0, b"XFSB"),
    ("a copy of a btrfs superblock", 0x40, b"_BHRfS_M"),
    ("a copy of an OCFS2 superblock", 0, b"OCFSV2"),
    ("a copy of a BlueStore label", 0, b"bluestore block device"),
    ("a copy of an APFS superblock", 0x20, b"NXSB"),
    ("records of an NTFS file system", 0, b"FILE0"),
    // `gfs2_ondisk.h`, `GFS2_MAGIC`: every block of its own, as of its resource groups and journals.
    ("records of a GFS2 file system", 0, b"\x01\x16\x19\x70"),
    // `fs/jfs/jfs_logmgr.h`, `LOGMAGIC`: the log lies at the end.
    ("the log of a JFS file system", 0, b"\x21\x43\x65\x87"),
    ("a copy of an ext superblock", 0x38, b"\x53\xef"),
];

/// What `bytes`, found at `at` in the middle of the disk, are known as.
pub fn name_copy(bytes: &[u8], at: u64) -> Option<&'static str> {
    // Superblocks are at multiples of 1 KiB of the disk.
    let first = (at.next_multiple_of(1 << 10) - at) as usize;
    COPIES
        .iter()
        .find(|(_, offset, magic)| {
            (first..bytes.len())
                .step_by(1 << 10)
                .filter_map(|block| bytes.get(block + offset..))
                .any(|rest| rest.starts_with(magic))
        })
        .map(|(name, ..)| *name)
}

/// The first known thing that the disk holds, as in "a GPT partition table".
pub fn find(disk: &impl FileExt, size: u64) -> io::Result<Option<String>> {
    for mark in MARKS {
        let at = match u64::try_from(mark.at) {
            Ok(at) => Some(at),
            Err(_) => size.checked_sub(mark.at.unsigned_abs()),
        };
        if let Some(at) = at
            && holds(disk, at, mark.magic)?
        {
            return Ok(Some(mark.name.to_owned()));
        }
    }
    if linux_raid_at_end(disk, size)? {
        return Ok(Some("part of a Linux RAID".to_owned()));
    }
    if zfs(disk, size)? {
        return Ok(Some("part of a ZFS pool".to_owned()));
    }
    Ok(None)
}

/// Linux RAID metadata 1.0 lies 8 to 12 KiB before the end, 0.90 in the last whole 64 KiB
/// (Linux `drivers/md/md.c`, `super_1_load` and `calc_dev_sboffset`).
fn linux_raid_at_end(disk: &impl FileExt, size: u64) -> io::Result<bool> {
    const LITTLE: &[u8] = b"\xfc\x4e\x2b\xa9";
    const BIG: &[u8] = b"\xa9\x2b\x4e\xfc";
    let version_1_0 = ((size / 512).saturating_sub(16) & !7) * 512;
    let version_0_90 = (size & !0xffff).saturating_sub(0x10000);
    for at in [version_1_0, version_0_90] {
        if holds(disk, at, LITTLE)? || holds(disk, at, BIG)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Four labels of 256 KiB, two at each end; the second half of each is a ring of uberblocks
/// ("ZFS On-Disk Specification", section 1.2).
fn zfs(disk: &impl FileExt, size: u64) -> io::Result<bool> {
    const LABEL: u64 = 256 << 10;
    const UBERBLOCK: u64 = 0x00ba_b10c;
    let end = size & !(LABEL - 1);
    let labels = [
        Some(0),
        Some(LABEL),
        end.checked_sub(2 * LABEL),
        end.checked_sub(LABEL),
    ];
    let mut ring = vec![0; (LABEL / 2) as usize];
    for label in labels.into_iter().flatten() {
        if !read(disk, label + LABEL / 2, &mut ring)? {
            continue;
        }
        let found = ring.chunks_exact(1 << 10).any(|slot| {
            slot[..8] == UBERBLOCK.to_le_bytes() || slot[..8] == UBERBLOCK.to_be_bytes()
        });
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

fn holds(disk: &impl FileExt, at: u64, magic: &[u8]) -> io::Result<bool> {
    let mut bytes = [0; 32];
    let bytes = &mut bytes[..magic.len()];
    Ok(read(disk, at, bytes)? && bytes == magic)
}

/// False when the disk ends before.
fn read(disk: &impl FileExt, at: u64, bytes: &mut [u8]) -> io::Result<bool> {
    match disk.read_exact_at(bytes, at) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
