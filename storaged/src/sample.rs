//! Where a disk is looked at before it is called empty.
//!
//! A disk whose beginning and end were wiped may still hold what brings its data back, or the data
//! itself: copies of superblocks far inside, file systems in partitions whose table is gone, what a
//! RAID striped over it. No list of marks is complete, so the rule is the other way round: a disk is
//! empty if windows of [`WINDOW`] at all these places are zeroes:
//!
//! - where formats are known to keep copies of themselves (the sources stand with each);
//! - at each MiB of the first 2 GiB, where partitions and volumes begin;
//! - from there at 16 places an octave, from both ends, so that anything that takes a twentieth of the
//!   way to where it is, is met;
//! - at 512 places spread evenly, so that anything of a five hundredth of the disk is met.
//!
//! A disk that was merely discarded reads as zeroes and is empty.
//!
//! **What it costs**: some 4,600 reads of 32 KiB for 20 TB, in ascending order, once in the life of a
//! disk (a pool is known by its header): about half a minute where a seek takes 6 ms, less than a
//! second on flash.

/// Read at each place.
pub const WINDOW: u64 = 32 << 10;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Smallest unit in which places are told apart: a page, and the block of most file systems.
const GRAIN: u64 = 4 << 10;

/// Where windows begin, ascending, each wholly on a disk of `size` bytes.
pub fn places(size: u64) -> Vec<u64> {
    let mut exact: Vec<u64> = Vec::new();
    exact.extend(ext_copies(size));
    exact.extend(xfs_groups(size));
    exact.extend(FIXED);
    exact.extend((1..=2048).map(|n| n * MIB));
    // Block groups of 128 MiB: ReiserFS and Reiser4 have a bitmap at each, which is never all zero
    // (reiserfsprogs, `is_block_count_correct`: one bitmap block for 8 * 4096 blocks of 4 KiB).
    exact.extend((1..=64).map(|n| n * 128 * MIB));

    let mut about: Vec<u64> = Vec::new();
    about.extend((1..512).map(|n| size / 512 * n));
    about.extend(octaves(size).flat_map(|way| [way, size - way]));
    about.extend(ntfs(size));
    about.extend(second_fat(size));

    let exact = exact.into_iter().map(|at| at & !(GRAIN - 1));
    let about = about
        .into_iter()
        .map(|at| at.saturating_sub(WINDOW / 2) & !(GRAIN - 1));
    let mut places: Vec<u64> = exact
        .chain(about)
        .filter(|at| at.checked_add(WINDOW).is_some_and(|end| end <= size))
        .collect();
    places.sort_unstable();
    places.dedup();
    places
}

/// Far copies at fixed places.
const FIXED: [u64; 15] = [
    // btrfs on-disk format, `btrfs_sb_offset`.
    64 * MIB,
    256 * GIB,
    // Ceph BlueStore, `bluestore_bdev_label_multi`: labels at 1, 10, 100, 1000 GiB.
    GIB,
    10 * GIB,
    100 * GIB,
    1000 * GIB,
    // OCFS2 `ocfs2_fs.h`, `ocfs2_backup_super_blkno`: 1 GiB, then four times as far each time.
    4 * GIB,
    16 * GIB,
    64 * GIB,
    TIB,
    // UFS, the second cylinder group of `newfs` with blocks of 16 and of 32 KiB (newfs(8)).
    376_512 * 512,
    1_282_432 * 512,
    // NTFS as Windows makes it: the master file table, in a partition from the first MiB and without.
    3 * GIB,
    3 * GIB + MIB,
    // APFS behind the EFI system partition that macOS makes: 40 + 409,600 sectors.
    409_640 * 512,
];

/// Copies of ext superblocks (e2fsprogs, `ext2fs_bg_has_super`: groups 1 and the powers of 3, 5 and 7;
/// with `sparse_super2` group 1 and the last). A group has as many blocks as a block has bits, times
/// the size of a cluster with `bigalloc`.
fn ext_copies(size: u64) -> Vec<u64> {
    let mut places = Vec::new();
    for block in (10..=16).map(|log| 1u64 << log) {
        // With blocks of 1 KiB the first block is the boot block's.
        let first = if block == KIB { KIB } else { 0 };
        for cluster in (0..=6).map(|log| 1u64 << log) {
            let group = 8 * block * block * cluster;
            let last = size.saturating_sub(first + 1) / group;
            let known = [1, 3, 5, 7, 9, 25, 27, 49, 81, 125, last];
            places.extend(known.map(|n| first + n * group));
        }
    }
    places
}

/// Where XFS's second allocation group may begin, with a copy of the superblock. Its head gone, nothing
/// says how large groups are; but `mkfs.xfs` makes them all alike and covers the disk: 4 of them below
/// 4 TiB, else 1 TiB each less a block (xfsprogs, `calc_default_ag_geometry`); up to 32 on a striped
/// disk; as many as there are processors on flash (6.12 and later); whatever `-d agcount=` says. On a
/// striped disk their size is rounded up, or down, to the stripe unit.
fn xfs_groups(size: u64) -> Vec<u64> {
    const MOST: u64 = 512;
    const ROUNDED_MOST: u64 = 64;
    let mut places = vec![TIB, TIB - GRAIN];
    // The whole disk, or the usual single partition.
    let aligned_end = size.saturating_sub(MIB) & !(MIB - 1);
    let gpt_end = size.saturating_sub(33 * 512) & !(GRAIN - 1);
    for (from, to) in [(0, size), (MIB, aligned_end), (MIB, gpt_end)] {
        let blocks = to.saturating_sub(from) / GRAIN;
        for groups in 2..=MOST {
            let group = blocks.div_ceil(groups) * GRAIN;
            places.push(from + group);
            if groups <= ROUNDED_MOST {
                let units = (16..=22).map(|log| 1u64 << log);
                places.extend(
                    units
                        .clone()
                        .map(|unit| from + group.next_multiple_of(unit)),
                );
                places.extend(units.map(|unit| from + (group & !(unit - 1))));
            }
        }
    }
    places
}

/// NTFS: the copy of the master file table's beginning is in the middle (ntfs-3g, `mkntfs.c`), and
/// small volumes have the table itself at a third.
fn ntfs(size: u64) -> [u64; 3] {
    [size / 2, size / 3, size / 2 + MIB / 2]
}

/// The second file allocation table of FAT32, after 32 reserved sectors and the first (Microsoft
/// "FAT: General Overview of On-Disk Format", `FATSz32`), for clusters of 4 to 64 KiB; and with both
/// rounded up to whole clusters (dosfstools, `mkfs.fat.c`, `align_object`).
fn second_fat(size: u64) -> impl Iterator<Item = u64> {
    const RESERVED: u64 = 32;
    [8, 16, 32, 64, 128]
        .into_iter()
        .flat_map(move |cluster: u64| {
            let entries = 128 * cluster + 2;
            let first = (size / 512).saturating_sub(RESERVED).div_ceil(entries);
            let aligned = RESERVED.next_multiple_of(cluster) + first.next_multiple_of(cluster);
            [(RESERVED + first) * 512, aligned * 512]
        })
}

/// From 16 MiB on, 16 an octave, up to the middle.
fn octaves(size: u64) -> impl Iterator<Item = u64> {
    (0..u64::from(u64::BITS))
        .map(|octave| (16 * MIB).checked_shl(octave as u32).unwrap_or(u64::MAX))
        .take_while(move |start| *start < size / 2)
        .flat_map(|start| (0..16).map(move |n| start + start / 16 * n))
        .filter(move |way| *way < size / 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn covers(places: &[u64], at: u64) -> bool {
        places
            .iter()
            .any(|place| (*place..place + WINDOW).contains(&at))
    }

    #[test]
    fn a_large_disk_costs_some_thousand_reads() {
        let places = places(20 * TIB);
        assert!((3_000..12_000).contains(&places.len()), "{}", places.len());
    }

    #[test]
    fn the_places_of_the_documents_are_looked_at() {
        let size = 8 * TIB;
        let places = places(size);
        for at in [
            // dumpe2fs of a file system of 4 KiB blocks: 32768, 98304, 163840, ...
            32_768 * 4096,
            98_304 * 4096,
            163_840 * 4096,
            // Of 1 KiB blocks: 8193, 24577.
            8193 * 1024,
            24_577 * 1024,
            (64 << 20) + 0x40,
            (256 << 30) + 0x40,
            (1 << 40) - 4096,
            size / 2,
            1_000 << 30,
        ] {
            assert!(covers(&places, at), "{at}");
        }
        // `mkfs.vfat` on 1900 GiB, with clusters of 32 KiB and all aligned to them.
        assert!(covers(&super::places(1900 * GIB), 486_400 * 512));
        assert!(!covers(&places, 3 * TIB + 12_345_678));
    }

    proptest! {
        #[test]
        fn windows_are_on_the_disk_ascending_and_leave_no_large_gap(size in GIB..32 * TIB) {
            let size = size & !511;
            let places = places(size);
            prop_assert!(places.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(places.iter().all(|at| at + WINDOW <= size && at % GRAIN == 0));
            // Nothing of a five hundredth of the disk hides.
            let even = size / 512 + 2 * WINDOW;
            prop_assert!(places.windows(2).all(|pair| pair[1] - pair[0] <= even));
            // Nor of a tenth of the way to it.
            for pair in places.windows(2) {
                let way = pair[0].min(size - pair[1]);
                prop_assert!(pair[1] - pair[0] <= way / 10 + 16 * MIB, "{pair:?}");
            }
        }

        #[test]
        fn any_number_of_alike_groups_is_found(size in GIB..8 * TIB, groups in 2u64..=512) {
            let size = size & !(GRAIN - 1);
            let group = (size / GRAIN).div_ceil(groups) * GRAIN;
            prop_assert!(covers(&places(size), group));
        }
    }
}
