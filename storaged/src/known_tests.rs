use std::{os::unix::fs::FileExt, path::Path};

use loam_deployment::{Bytes, payload::Media};
use sha2::{Digest, Sha256};

use super::*;
use crate::{header::DiskTag, original::Awaited};

const SIZE: u64 = 1 << 30;

/// A file that stands for a disk.
fn disk(device: &Path, unfit: Option<Unfit>) -> SysDisk {
    SysDisk {
        name: "sda".to_owned(),
        device: device.to_owned(),
        seq: 1,
        id: "a".to_owned(),
        named: true,
        size: Bytes(SIZE),
        media: Media::Ssd,
        unfit,
        in_use: None,
    }
}

fn blank() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(SIZE).unwrap();
    file
}

/// With a header, and as much of a superblock as is asked about.
fn pool() -> tempfile::NamedTempFile {
    let file = blank();
    let header = Header {
        state: State::Pool,
        ..Header::for_disk(SIZE, Uuid::new_v4(), DiskTag::of("a"))
    };
    header.write(file.as_file()).unwrap();
    let mut block = [0; 4096];
    block[0x20..0x30].copy_from_slice(header.uuid.as_bytes());
    block[0x40..0x48].copy_from_slice(b"_BHRfS_M");
    block[0x88] = 1;
    file.as_file().write_all_at(&block, 64 << 10).unwrap();
    file
}

/// Whether beside this disk a new node waits, now and when the disk is given up.
fn waits_beside(disk: &SysDisk) -> (bool, bool) {
    let known = Known::new(disk.clone(), judge(disk), None);
    let disks = BTreeMap::from([(disk.name.clone(), known)]);
    let unknown = |now| survey(&disks, None, now).1.unknown();
    let now = Instant::now();
    (unknown(now), unknown(now + GIVEN_UP))
}

#[test]
fn a_disk_that_answers_with_errors_may_be_ours_until_it_is_given_up() {
    // A folder can be opened and not read.
    let folder = tempfile::tempdir().unwrap();
    for device in [folder.path(), Path::new("/nowhere")] {
        for unfit in [None, Some(Unfit::ReadOnly), Some(Unfit::Sizeless)] {
            let disk = disk(device, unfit);
            assert_eq!(waits_beside(&disk), (true, false), "{device:?} {unfit:?}");
        }
    }
}

#[test]
fn the_time_until_it_is_given_up_goes_on_while_it_is_tried_again() {
    let disk = disk(Path::new("/nowhere"), None);
    let first = Known::new(disk.clone(), judge(&disk), None);
    let again = Known::new(disk.clone(), Stage::Looking, Some(&first));
    let now = Instant::now() + GIVEN_UP;
    assert_eq!(again.may_hold(now), Some(MayHold::Anything));
    let last = Known::new(disk.clone(), judge(&disk), Some(&again));
    assert_eq!(last.unread_since, first.unread_since);
}

#[test]
fn a_disk_that_shows_a_pool_and_cannot_be_used_is_never_given_up() {
    let pool = pool();
    let locked = disk(pool.path(), Some(Unfit::ReadOnly));
    assert_eq!(waits_beside(&locked), (true, true));
    let Stage::Left(DiskState::Unfit(what), _) = judge(&locked) else {
        panic!("used")
    };
    assert!(what.starts_with("read-only, and it holds pool"), "{what}");
}

#[test]
fn a_pool_that_waits_for_its_original_is_missing() {
    let header = Header::for_disk(SIZE, Uuid::from_u128(1), DiskTag::of("b"));
    let finding = Finding::Pool {
        header,
        generation: 7,
    };
    let awaited = Awaited::Disk("b".to_owned());
    let stage = Stage::Seen(finding, Some(Waiting::Original(awaited)));
    let known = Known::new(disk(Path::new("/nowhere"), None), stage, None);
    let disks = BTreeMap::from([("sda".to_owned(), known)]);
    let of_set = |set| {
        let set = Some(Uuid::from_u128(set));
        let decided = Decided {
            set,
            ..Decided::default()
        };
        missing(&disks, &decided, Instant::now())
    };
    assert!(of_set(1).is_some_and(|why| why.contains("disk b")));
    assert_eq!(of_set(2), None);
}

#[test]
fn what_is_in_doubt_is_told_by_what_was_read() {
    let pool = pool();
    let Ok(Finding::Pool { header, .. }) = probe::glance(pool.as_file(), SIZE) else {
        panic!("no pool")
    };
    let shown = Shown::by(&header);
    let locked = judge(&disk(pool.path(), Some(Unfit::ReadOnly)));
    let silent = || judge(&disk(Path::new("/nowhere"), None));
    let now = Instant::now();
    for (stage, later, may_hold) in [
        (Stage::Looking, false, Some(MayHold::Anything)),
        (Stage::Looking, true, Some(MayHold::Anything)),
        (silent(), false, Some(MayHold::Anything)),
        (silent(), true, Some(MayHold::GivenUp)),
        (locked, true, Some(MayHold::Pool(shown))),
        (foreign("ext4".to_owned()), false, None),
    ] {
        let at = if later { now + 2 * GIVEN_UP } else { now };
        let known = Known::new(disk(Path::new("/nowhere"), None), stage, None);
        let disks = BTreeMap::from([("sda".to_owned(), known)]);
        let found = survey(&disks, None, at).1.in_doubt;
        let expected = may_hold.map(|may_hold| InDoubt {
            id: "a".to_owned(),
            may_hold,
        });
        assert_eq!(found, Vec::from_iter(expected));
    }
}

#[test]
fn something_may_be_missing_until_all_of_this_nodes_disks_are_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let pool = Arc::new(crate::pool::testing::pool(folder.path(), Media::Ssd));
    let disk = disk(Path::new("/nowhere"), None);
    let there = |stage| {
        let known = Known::new(disk.clone(), stage, None);
        BTreeMap::from([(disk.name.clone(), known)])
    };
    let ours = Decided {
        set: Some(Uuid::from_u128(1)),
        runs_on: BTreeMap::from([(pool.uuid(), "a".to_owned())]),
        ..Decided::default()
    };
    let now = Instant::now();
    let failed = Stage::Left(DiskState::Failed("cannot be mounted".into()), Doubt::None);
    for stage in [Stage::Looking, Stage::Opening(Some(pool.uuid())), failed] {
        assert!(missing(&there(stage), &ours, now).is_some());
    }
    assert!(missing(&BTreeMap::new(), &ours, now).is_some());
    let used = pool.clone();
    assert_eq!(missing(&there(Stage::InUse(pool)), &ours, now), None);
    // On a node that has nothing of its own yet, only what was not read counts.
    let none = Decided::default();
    assert_eq!(missing(&there(foreign("ext4".into())), &none, now), None);
    // And a pool of this node's that cannot be used, but no other's.
    let locked = |set| {
        let doubt = Doubt::Pool(Shown {
            uuid: Uuid::from_u128(7),
            set: Uuid::from_u128(set),
            used: 7,
        });
        there(Stage::Left(DiskState::Unfit("read-only".into()), doubt))
    };
    let none_yet = Decided {
        set: Some(Uuid::from_u128(1)),
        ..Decided::default()
    };
    assert!(missing(&locked(1), &none_yet, now).is_some());
    assert_eq!(missing(&locked(2), &none_yet, now), None);
    // A copy of one that is in use has nothing that this one has not, if it was not used after it.
    let header = Header {
        uuid: used.uuid(),
        used: 7,
        ..Header::for_disk(SIZE, Uuid::from_u128(1), DiskTag::of("a"))
    };
    drop(used);
    let pool = crate::pool::testing::hasty_again(folder.path(), header.uuid);
    let used = Arc::new(pool.on("/nowhere".into(), header, None));
    for (at, is_missing) in [(6, false), (7, false), (8, true)] {
        let doubt = Doubt::Pool(Shown {
            used: at,
            ..Shown::by(&header)
        });
        let copy = Stage::Left(DiskState::Foreign("a copy".into()), doubt);
        let mut both = there(Stage::InUse(used.clone()));
        both.insert("sdb".to_owned(), Known::new(disk.clone(), copy, None));
        assert_eq!(missing(&both, &ours, now).is_some(), is_missing, "{at}");
    }
    let dead = there(unread("cannot be read".into()));
    assert!(missing(&dead, &none, now).is_some());
    assert_eq!(missing(&dead, &none, Instant::now() + GIVEN_UP), None);
}

#[test]
fn what_a_header_showed_once_is_known_until_the_disk_is_read_or_pulled() {
    let pool = pool();
    let locked = disk(pool.path(), Some(Unfit::ReadOnly));
    let first = Known::new(locked.clone(), judge(&locked), None);
    let now = Instant::now();
    let shown = first.may_hold(now);
    assert!(matches!(shown, Some(MayHold::Pool(_))), "{shown:?}");
    let looking = Known::new(locked.clone(), Stage::Looking, Some(&first));
    assert_eq!(looking.may_hold(now), shown);
    // From then on it answers with errors alone.
    let dead = Known::new(locked.clone(), unread("dead".to_owned()), Some(&looking));
    assert_eq!(dead.may_hold(now + 2 * GIVEN_UP), shown);
    let again = Known::new(locked.clone(), Stage::Looking, Some(&dead));
    assert_eq!(again.may_hold(now), shown);
    let read = Known::new(locked, foreign("ext4".to_owned()), Some(&again));
    assert_eq!(read.may_hold(now), None);
}

#[test]
fn what_was_read_or_can_be_no_pool_is_no_reason_to_wait() {
    let (blank, pool) = (blank(), pool());
    for (file, unfit) in [
        (&blank, None),
        (&blank, Some(Unfit::ReadOnly)),
        (&pool, None),
        // The stick that the node booted from.
        (&pool, Some(Unfit::Removable)),
        (&pool, Some(Unfit::Small)),
    ] {
        let disk = disk(file.path(), unfit);
        assert_eq!(waits_beside(&disk), (false, false), "{unfit:?}");
    }
    let partitioned = SysDisk {
        in_use: Some("partitions (sda1)".to_owned()),
        ..disk(Path::new("/nowhere"), Some(Unfit::ReadOnly))
    };
    assert_eq!(waits_beside(&partitioned), (false, false));
    // Nor before it has said what it is called.
    for in_use in [None, Some("partitions (sda1)".to_owned())] {
        for unfit in [
            None,
            Some(Unfit::Removable),
            Some(Unfit::Small),
            Some(Unfit::Sizeless),
            Some(Unfit::ReadOnly),
        ] {
            let disk = SysDisk {
                in_use: in_use.clone(),
                ..disk(Path::new("/nowhere"), unfit)
            };
            let is_none = matches!(judge(&disk), Stage::Left(_, Doubt::None));
            let silent = Known::new(disk, Stage::Looking, None);
            assert_eq!(silent.may_hold(Instant::now()).is_none(), is_none);
        }
    }
}

#[test]
fn a_pool_of_another_format_or_without_its_superblock_is_not_passed_over() {
    let other_format = blank();
    let mut sector = Header::for_disk(SIZE, Uuid::new_v4(), DiskTag::of("a")).encode();
    sector[16..20].copy_from_slice(&99u32.to_le_bytes());
    let sum = Sha256::digest(&sector[..480]);
    sector[480..].copy_from_slice(&sum);
    let at = header::filesystem_size(SIZE);
    other_format.as_file().write_all_at(&sector, at).unwrap();
    let bare = pool();
    bare.as_file().write_all_at(&[0; 4096], 64 << 10).unwrap();
    for file in [&other_format, &bare] {
        for unfit in [None, Some(Unfit::ReadOnly)] {
            let disk = disk(file.path(), unfit);
            assert_eq!(waits_beside(&disk), (true, true));
            let stage = judge(&disk);
            assert!(
                unfit.is_some() || matches!(stage, Stage::Left(DiskState::Foreign(_), _)),
                "{stage:?}"
            );
            let disks = BTreeMap::from([("sda".to_owned(), Known::new(disk, stage, None))]);
            let later = Instant::now() + GIVEN_UP;
            assert!(missing(&disks, &Decided::default(), later).is_some());
        }
    }
    // Copied onto a larger disk, whose own end was not empty.
    let copy = self::pool();
    copy.as_file()
        .write_all_at(b"EFI PART", SIZE - 512)
        .unwrap();
    for unfit in [None, Some(Unfit::ReadOnly)] {
        assert_eq!(waits_beside(&disk(copy.path(), unfit)), (true, true));
    }
    // What another program made of our disk is that program's.
    bare.as_file().write_all_at(b"EFI PART", 512).unwrap();
    assert_eq!(waits_beside(&disk(bare.path(), None)), (false, false));
}
