use loam_deployment::payload::Filesystem;

use super::*;
use crate::pool::testing::{hang, hasty_pool, pool, settle};

/// As a first deployment does.
fn ensure(pools: &[Arc<Pool>], key: &VolumeKey, spec: &VolumeSpec) -> Result<Volume, StorageError> {
    Placement::default().ensure(pools, key, spec, Version(1))
}

fn delete(pools: &[Arc<Pool>], key: &VolumeKey) -> Result<(), StorageError> {
    Placement::default().delete(pools, key, Deletion::Cancelled)
}

fn key(name: &str) -> VolumeKey {
    VolumeKey::Data(format!("7.{name}").parse().unwrap())
}

fn spec(size: Bytes, media: Media) -> VolumeSpec {
    VolumeSpec {
        size,
        media,
        filesystem: Filesystem::Raw,
    }
}

fn missing(pools: &[Arc<Pool>], key: &VolumeKey) -> std::io::Result<Option<Uuid>> {
    Ok(whereabouts::missing(pools, key)?.map(|note| note.pool))
}

struct Pools {
    _folders: Vec<tempfile::TempDir>,
    pools: Vec<Arc<Pool>>,
}

fn pools(media: &[Media]) -> Pools {
    let _folders: Vec<_> = media.iter().map(|_| tempfile::tempdir().unwrap()).collect();
    let pools = media
        .iter()
        .zip(&_folders)
        .map(|(m, f)| Arc::new(pool(f.path(), *m)))
        .collect();
    Pools { _folders, pools }
}

#[test]
fn goes_where_the_media_is_and_stays_there() {
    let Pools { pools, .. } = &pools(&[Media::Hdd, Media::Ssd]);
    let made = ensure(pools, &key("a"), &spec(Bytes::mib(1), Media::Ssd)).unwrap();
    let path = made.path.clone().unwrap();
    assert!(path.starts_with(pools[1].root()));
    // The same again, and without a wish, is the same volume.
    assert_eq!(
        ensure(pools, &key("a"), &spec(Bytes::mib(1), Media::Ssd)).unwrap(),
        made
    );
    let any = ensure(pools, &key("a"), &spec(Bytes::mib(2), Media::Any)).unwrap();
    assert_eq!(any.path, Some(path));
    assert_eq!(list(pools), [any]);

    let error = ensure(pools, &key("a"), &spec(Bytes::mib(2), Media::Hdd)).unwrap_err();
    assert!(matches!(error, StorageError::Changed { .. }), "{error}");
    let error = ensure(pools, &key("a"), &spec(Bytes::mib(1), Media::Any)).unwrap_err();
    assert!(matches!(error, StorageError::Shrink { .. }), "{error}");
    let ext4 = VolumeSpec {
        filesystem: Filesystem::Ext4,
        ..spec(Bytes::mib(2), Media::Any)
    };
    let error = ensure(pools, &key("a"), &ext4).unwrap_err();
    assert!(matches!(error, StorageError::Changed { .. }), "{error}");
}

#[test]
fn a_full_disk_is_an_error_on_that_workload_alone() {
    let Pools { pools, .. } = &pools(&[Media::Ssd]);
    let free = pools[0].with_ledger(|ledger| ledger.free_for_volumes());
    let most = Bytes(free.get() / 4096 * 4096);
    let over = Bytes(most.get() + 4096);
    let error = ensure(pools, &key("a"), &spec(over, Media::Any)).unwrap_err();
    assert_eq!(error, StorageError::NoSpace { wanted: over, free });
    let error = ensure(pools, &key("a"), &spec(Bytes::mib(1), Media::Hdd)).unwrap_err();
    assert!(matches!(error, StorageError::NoSpace { .. }), "{error}");

    ensure(
        pools,
        &key("a"),
        &spec(Bytes(most.get() - (1 << 20)), Media::Any),
    )
    .unwrap();
    ensure(pools, &key("b"), &spec(Bytes::mib(2), Media::Any)).unwrap_err();
    ensure(pools, &key("b"), &spec(Bytes::mib(1), Media::Any)).unwrap();
    // Growing is measured too, and what failed is not counted.
    ensure(pools, &key("b"), &spec(Bytes::mib(9), Media::Any)).unwrap_err();
    delete(pools, &key("a")).unwrap();
    delete(pools, &key("a")).unwrap();
    ensure(pools, &key("b"), &spec(Bytes::mib(9), Media::Any)).unwrap();
    assert_eq!(pools[0].describe().reserved, Bytes::mib(9));
}

#[test]
fn promises_are_kept_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let first = pool(folder.path(), Media::Ssd);
    let uuid = first.uuid();
    ensure(
        &[Arc::new(first)],
        &key("a"),
        &spec(Bytes::mib(64), Media::Any),
    )
    .unwrap();
    let again = Pool::open(folder.path().to_owned(), uuid, Media::Ssd).unwrap();
    assert_eq!(again.describe().reserved, Bytes::mib(64));
}

#[test]
fn of_two_volumes_of_one_key_neither_is_used_hidden_or_lost() {
    let Pools { pools, .. } = &pools(&[Media::Ssd, Media::Hdd]);
    let wish = spec(Bytes::mib(1), Media::Any);
    for (pool, version) in pools.iter().zip([3, 5]) {
        let volumes = pool.volumes();
        volumes.create(&key("a"), &wish, Version(version)).unwrap();
    }
    let error = Placement::default().ensure(pools, &key("a"), &wish, Version(6));
    let error = error.unwrap_err().to_string();
    for part in pools.iter().map(|pool| pool.uuid().to_string()) {
        assert!(error.contains(&part), "{error}");
    }
    let listed = list(pools);
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0].path, listed[0].version), (&None, Version(5)));

    // Either may be kept by the other's going, and both deleted.
    for pool in pools {
        let alone = std::slice::from_ref(pool);
        let kept = Placement::default().ensure(alone, &key("a"), &wish, Version(1));
        assert!(kept.unwrap().path.unwrap().starts_with(pool.root()));
    }
    delete(pools, &key("a")).unwrap();
    assert!(list(pools).is_empty());
    for pool in pools {
        assert_eq!(pool.volumes().list(), []);
    }
}

#[test]
fn a_volume_whose_disk_is_missing_is_not_made_anew() {
    let Pools { pools, .. } = &pools(&[Media::Ssd, Media::Hdd, Media::Hdd]);
    let wish = spec(Bytes::mib(1), Media::Ssd);
    ensure(&pools[..2], &key("a"), &wish).unwrap();
    // The third comes later, and hears of it too.
    whereabouts::share(pools);
    settle(pools);
    for rest in [&pools[1..2], &pools[2..]] {
        let error = ensure(rest, &key("a"), &spec(Bytes::mib(1), Media::Any)).unwrap_err();
        assert!(error.to_string().contains("disk is missing"), "{error}");
    }
    ensure(pools, &key("a"), &wish).unwrap();
}

#[test]
fn a_volume_whose_disk_is_missing_is_listed_and_can_be_given_up() {
    let Pools { pools, .. } = &pools(&[Media::Ssd, Media::Hdd, Media::Hdd]);
    let changes = Changes::new();
    let placement = Placement::new(changes.clone());
    let wish = |mib| spec(Bytes::mib(mib), Media::Any);
    let unnamed = |by| Deletion::Unnamed { by: Version(by) };
    let ensure = |pools: &[Arc<Pool>], version| {
        placement.ensure(pools, &key("a"), &wish(2), Version(version))
    };
    let first = spec(Bytes::mib(1), Media::Ssd);
    let old = placement.ensure(&pools[..2], &key("a"), &first, Version(1));
    let old = old.unwrap().path.unwrap();
    ensure(&pools[..2], 3).unwrap();
    settle(pools);
    // The third hears of it though its disk is missing.
    let rest = &pools[1..];
    whereabouts::share(rest);
    settle(rest);
    for rest in [rest, &pools[1..2], &pools[2..]] {
        let missing = Volume {
            key: key("a"),
            spec: wish(2),
            path: None,
            used: Bytes(0),
            version: Version(3),
        };
        assert_eq!(list(rest), [missing]);
    }

    // By a newer version alone.
    let refused = placement.delete(rest, &key("a"), unnamed(3));
    assert!(matches!(refused, Err(StorageError::StillNamed { named, .. }) if named == Version(3)));
    ensure(rest, 4).unwrap_err();
    let before = changes.now();
    placement.delete(rest, &key("a"), unnamed(4)).unwrap();
    assert_ne!(changes.now(), before);
    assert_eq!(list(rest), []);
    let new = ensure(rest, 5).unwrap();
    settle(rest);

    // The disk comes back: the new one stays, the old one goes, over a restart too.
    let [old_home, one, two] = [0, 1, 2].map(|n: usize| {
        let (root, media) = (pools[n].root().to_owned(), pools[n].media());
        Arc::new(Pool::open(root, pools[n].uuid(), media).unwrap())
    });
    let all = [old_home, one, two];
    assert_eq!(list(&all), std::slice::from_ref(&new));
    assert_eq!(ensure(&all, 5).unwrap(), new);
    assert!(old.exists());
    whereabouts::share(&all);
    for _ in 0..3 {
        settle(&all);
    }
    assert!(!old.exists());
    assert_eq!(all[0].describe().reserved, Bytes(0));
    assert_eq!(list(&all), std::slice::from_ref(&new));
    let home = all[1..].iter().find(|pool| pool.volumes().has(&key("a")));
    assert_eq!(
        missing(&all[..1], &key("a")).unwrap(),
        Some(home.unwrap().uuid())
    );
    for pool in &all {
        let left = std::fs::read_dir(pool.root().join("given-up")).unwrap();
        assert_eq!(left.count(), 0);
    }
}

#[test]
fn a_disk_that_comes_back_before_the_new_volume_is_made_has_none_of_the_old_data_in_it() {
    let Pools { pools, .. } = &pools(&[Media::Ssd, Media::Hdd]);
    let (placement, wish) = (Placement::default(), spec(Bytes::mib(1), Media::Ssd));
    let old = placement
        .ensure(pools, &key("a"), &wish, Version(1))
        .unwrap();
    settle(pools);
    std::fs::write(old.path.as_ref().unwrap(), [1; 512]).unwrap();
    let by = Version(2);
    placement
        .delete(&pools[1..], &key("a"), Deletion::Unnamed { by })
        .unwrap();
    assert_eq!(list(pools), []);
    let new = placement
        .ensure(pools, &key("a"), &wish, Version(3))
        .unwrap();
    assert_eq!(new.path, old.path);
    assert!(
        std::fs::read(new.path.unwrap())
            .unwrap()
            .iter()
            .all(|byte| *byte == 0)
    );
    assert_eq!(pools[0].describe().reserved, Bytes::mib(1));
}

#[test]
fn what_was_named_after_it_was_given_up_elsewhere_is_not_deleted() {
    let Pools { pools, .. } = &pools(&[Media::Ssd, Media::Hdd]);
    let (placement, wish) = (Placement::default(), spec(Bytes::mib(1), Media::Ssd));
    placement
        .ensure(pools, &key("a"), &wish, Version(1))
        .unwrap();
    settle(pools);
    let by = Version(2);
    placement
        .delete(&pools[1..], &key("a"), Deletion::Unnamed { by })
        .unwrap();
    // While the pool with the word of it was away.
    let kept = placement
        .ensure(&pools[..1], &key("a"), &wish, Version(3))
        .unwrap();
    whereabouts::share(pools);
    for _ in 0..3 {
        settle(pools);
    }
    assert_eq!(list(pools), [kept]);
    assert_eq!(
        missing(&pools[1..], &key("a")).unwrap(),
        Some(pools[0].uuid())
    );
}

#[test]
fn a_volume_whose_record_cannot_be_read_is_left_as_it_is_on_every_pool() {
    let Pools { pools, .. } = &pools(&[Media::Ssd, Media::Hdd]);
    let wish = spec(Bytes::mib(2), Media::Any);
    let made = ensure(pools, &key("a"), &spec(Bytes::mib(2), Media::Ssd)).unwrap();
    settle(pools);
    let path = made.path.unwrap();
    std::fs::write(&path, b"precious").unwrap();
    let record = path.with_extension("json");
    let json = std::fs::read(&record).unwrap();
    std::fs::write(&record, b"{").unwrap();
    let (root, uuid) = (pools[0].root().to_owned(), pools[0].uuid());
    let again = Arc::new(Pool::open(root, uuid, Media::Ssd).unwrap());
    let both = [pools[1].clone(), again.clone()];
    let changes = Changes::new();
    let placement = Placement::new(changes.clone());
    assert_eq!(again.describe().reserved, Bytes(8));

    whereabouts::share(&both);
    settle(&both);
    for pools in [&both[1..], &both] {
        let refused = [
            placement.ensure(pools, &key("a"), &wish, Version(2)).err(),
            placement
                .delete(pools, &key("a"), Deletion::Cancelled)
                .err(),
        ];
        for error in refused.map(|error| error.unwrap().to_string()) {
            assert!(error.contains("data-7.a.json"), "{error}");
            assert!(error.contains(&uuid.to_string()), "{error}");
        }
    }
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    assert_eq!(std::fs::read(&record).unwrap(), b"{");
    // As far as another pool has a note of it, it is listed, so that it can be asked for.
    let listed = list(&both);
    assert_eq!((listed.len(), &listed[0].path), (1, &None));
    assert_eq!(list(&both[1..]), []);
    // One that was made anew before is not used beside it.
    let anew = pools[1].volumes();
    anew.create(&key("a"), &wish, Version(1)).unwrap();
    assert_eq!(list(&both)[0].path, None);
    placement
        .ensure(&both, &key("a"), &wish, Version(1))
        .unwrap_err();
    anew.delete(&key("a")).unwrap();
    // Nor do the other pools forget where it is.
    settle(&both);
    assert_eq!(missing(&both[..1], &key("a")).unwrap(), Some(uuid));

    // Its space is counted as far as it is known now.
    std::fs::write(&path, [1; 512]).unwrap();
    placement
        .ensure(&both, &key("a"), &wish, Version(2))
        .unwrap_err();
    assert_eq!(again.describe().reserved, Bytes(512));

    // The disk failed for a while only.
    std::fs::write(&record, json).unwrap();
    let before = changes.now();
    let volume = placement
        .ensure(&both, &key("a"), &wish, Version(2))
        .unwrap();
    assert_ne!(changes.now(), before);
    assert_eq!(volume.path, Some(path));
    assert_eq!(again.describe().reserved, Bytes::mib(2));
}

#[test]
fn refuses_what_no_disk_can_be() {
    let Pools { pools, .. } = &pools(&[Media::Ssd]);
    for size in [0, 1, 513] {
        ensure(pools, &key("a"), &spec(Bytes(size), Media::Any)).unwrap_err();
    }
    let error = ensure(&[], &key("a"), &spec(Bytes::mib(1), Media::Any)).unwrap_err();
    assert_eq!(error, StorageError::NoPool);
}

#[test]
fn only_a_version_newer_than_any_that_named_a_volume_drops_it() {
    let Pools { pools, _folders } = &pools(&[Media::Ssd]);
    let wish = spec(Bytes::mib(1), Media::Any);
    let unnamed = |by| Deletion::Unnamed { by: Version(by) };
    let reopened = || {
        let root = pools[0].root().to_owned();
        [Arc::new(
            Pool::open(root, pools[0].uuid(), Media::Ssd).unwrap(),
        )]
    };
    Placement::default()
        .ensure(pools, &key("a"), &wish, Version(3))
        .unwrap();
    Placement::default()
        .ensure(pools, &key("a"), &wish, Version(5))
        .unwrap();
    // A late call of the past takes nothing back, though it may still grow the volume.
    let larger = spec(Bytes::mib(2), Media::Any);
    let volume = Placement::default()
        .ensure(pools, &key("a"), &larger, Version(4))
        .unwrap();
    assert_eq!(volume.version, Version(5));

    // What was noted outlives a restart.
    let again = &reopened();
    assert_eq!(list(again)[0].version, Version(5));
    for by in [0, 3, 4, 5] {
        assert_eq!(
            Placement::default().delete(again, &key("a"), unnamed(by)),
            Err(StorageError::StillNamed {
                key: Box::new(key("a")),
                named: Version(5),
                by: Version(by),
            })
        );
    }
    assert_eq!(list(&reopened()).len(), 1);
    Placement::default()
        .delete(again, &key("a"), unnamed(6))
        .unwrap();
    assert_eq!(list(&reopened()), []);
    // Absent is success, whatever the version.
    Placement::default()
        .delete(again, &key("a"), unnamed(1))
        .unwrap();

    // A cancelled contract needs no version.
    Placement::default()
        .ensure(again, &key("a"), &wish, Version(9))
        .unwrap();
    Placement::default()
        .delete(again, &key("a"), Deletion::Cancelled)
        .unwrap();
    assert_eq!(list(&reopened()), []);
}

#[test]
fn of_two_volumes_of_one_key_the_newest_version_protects_both() {
    let Pools { pools, .. } = &pools(&[Media::Ssd, Media::Hdd]);
    let wish = spec(Bytes::mib(1), Media::Any);
    for (pool, version) in pools.iter().zip([7, 2]) {
        let volumes = pool.volumes();
        volumes.create(&key("a"), &wish, Version(version)).unwrap();
    }
    let by = Version(7);
    let refused = Placement::default().delete(pools, &key("a"), Deletion::Unnamed { by });
    assert!(matches!(refused, Err(StorageError::StillNamed { named, .. }) if named == by));
    assert!(
        pools
            .iter()
            .all(|pool| pool.volumes().get(&key("a")).is_some())
    );
}

/// A pool that hangs soon after it is asked to, beside a patient one.
fn one_hangs() -> (Pools, std::sync::mpsc::Sender<()>) {
    let _folders = vec![tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let pools = vec![
        Arc::new(hasty_pool(_folders[0].path(), Media::Hdd)),
        Arc::new(pool(_folders[1].path(), Media::Ssd)),
    ];
    let wish = spec(Bytes::mib(1), Media::Any);
    for (pool, name) in pools.iter().zip(["on-hdd", "on-ssd"]) {
        pool.volumes()
            .create(&key(name), &wish, Version(1))
            .unwrap();
    }
    let release = hang(&pools[0]);
    (Pools { _folders, pools }, release)
}

#[test]
fn a_pool_that_hangs_holds_up_nobody_else() {
    let (Pools { pools, _folders }, release) = one_hangs();
    let pools = &pools;
    let placement = Placement::default();
    let wish = spec(Bytes::mib(1), Media::Any);
    let hangs = StorageError::Hangs(pools[0].uuid().to_string());

    // All are still listed, so that nobody thinks them gone.
    assert_eq!(list(pools).len(), 2);
    // What is on it can neither be had nor deleted, and is not made anew elsewhere.
    let error = placement
        .ensure(pools, &key("on-hdd"), &wish, Version(2))
        .unwrap_err();
    assert_eq!(error, hangs);
    let error = placement
        .delete(pools, &key("on-hdd"), Deletion::Cancelled)
        .unwrap_err();
    assert_eq!(error, hangs);
    // Who must have its media hears why; who need not is served by the other.
    let hdd = spec(Bytes::mib(1), Media::Hdd);
    let error = placement
        .ensure(pools, &key("new"), &hdd, Version(1))
        .unwrap_err();
    assert_eq!(error, hangs);
    let made = placement
        .ensure(pools, &key("new"), &wish, Version(1))
        .unwrap();
    assert!(made.path.unwrap().starts_with(pools[1].root()));
    let grown = spec(Bytes::mib(2), Media::Any);
    placement
        .ensure(pools, &key("on-ssd"), &grown, Version(2))
        .unwrap();
    placement
        .delete(pools, &key("on-ssd"), Deletion::Cancelled)
        .unwrap();
    assert_eq!(list(pools).len(), 2);

    drop(release);
    while !pools[0].answers() {
        std::thread::yield_now();
    }
    // Nothing that was refused was done.
    assert_eq!(find(pools, &key("on-hdd")).unwrap().version, Version(1));
}

#[test]
fn a_pool_that_hung_when_a_volume_was_made_knows_later_where_it_is() {
    let (Pools { pools, _folders }, release) = one_hangs();
    let wish = spec(Bytes::mib(1), Media::Any);
    ensure(&pools, &key("new"), &wish).unwrap();
    drop(release);
    while !pools[0].answers() {
        std::thread::yield_now();
    }
    pools[0].refresh();
    let home = || missing(&pools[..1], &key("new")).unwrap();
    while home().is_none() {
        std::thread::yield_now();
    }
    assert_eq!(home(), Some(pools[1].uuid()));
}

#[test]
fn a_new_volume_is_noted_on_another_pool_before_it_is_made() {
    let Pools { pools, _folders } = &pools(&[Media::Ssd, Media::Hdd, Media::Hdd]);
    let wish = spec(Bytes::mib(1), Media::Ssd);
    // Folders in the place of the notes, which nothing replaces.
    let notes = [1, 2].map(|n: usize| pools[n].root().join("elsewhere/data-7.a.json"));
    for note in &notes {
        std::fs::create_dir(note).unwrap();
    }
    let error = ensure(pools, &key("a"), &wish).unwrap_err();
    assert!(
        error.to_string().contains("note where volume 7.a is"),
        "{error}"
    );
    assert_eq!(list(pools), []);
    settle(pools);

    // One that has it is enough.
    std::fs::remove_dir(&notes[1]).unwrap();
    ensure(pools, &key("a"), &wish).unwrap();
    let home = missing(&pools[2..], &key("a")).unwrap();
    assert_eq!(home, Some(pools[0].uuid()));

    // What could not be made is noted nowhere.
    let ext4 = VolumeSpec {
        filesystem: Filesystem::Ext4,
        ..spec(Bytes(1024), Media::Ssd)
    };
    ensure(pools, &key("b"), &ext4).unwrap_err();
    settle(pools);
    let home = missing(&pools[2..], &key("b")).unwrap();
    assert_eq!(home, None);
}

#[test]
fn two_calls_for_one_volume_make_it_once() {
    let Pools { pools, _folders } = &pools(&[Media::Ssd, Media::Ssd]);
    let placement = Placement::default();
    let wish = spec(Bytes::mib(1), Media::Any);
    std::thread::scope(|scope| {
        for n in 0..16 {
            let (placement, wish) = (&placement, &wish);
            scope.spawn(move || {
                let key = key(&format!("v{}", n % 4));
                placement.ensure(pools, &key, wish, Version(1)).unwrap();
            });
        }
    });
    let of = |pool: &Arc<Pool>| pool.volumes().list().len();
    assert_eq!(of(&pools[0]) + of(&pools[1]), 4);
    assert!(placement.lock().is_empty());
}

#[test]
fn a_call_whose_pool_is_still_making_the_volume_waits_for_that_one() {
    let (Pools { pools, _folders }, release) = one_hangs();
    let placement = Placement::default();
    let wish = spec(Bytes::mib(1), Media::Any);
    // Begun on the pool that hangs now.
    let claim = {
        let mut making = placement.lock();
        let pool = pools[0].uuid();
        making.insert(key("new"), Making { pool, calls: 1 });
        Claim {
            placement: placement.clone(),
            key: key("new"),
            new: None,
        }
    };
    let error = placement
        .ensure(&pools, &key("new"), &wish, Version(1))
        .unwrap_err();
    assert_eq!(error, StorageError::Hangs(pools[0].uuid().to_string()));
    // It failed there: now it may go elsewhere.
    drop(claim);
    let made = placement
        .ensure(&pools, &key("new"), &wish, Version(1))
        .unwrap();
    assert!(made.path.unwrap().starts_with(pools[1].root()));
    drop(release);
}

#[test]
fn who_listens_hears_of_changes_and_of_nothing_else() {
    let Pools { pools, _folders } = &pools(&[Media::Ssd]);
    let changes = Changes::new();
    let placement = Placement::new(changes.clone());
    let ensure = |mib, version| {
        let wish = spec(Bytes::mib(mib), Media::Any);
        placement.ensure(pools, &key("a"), &wish, Version(version))
    };
    let delete = |why| placement.delete(pools, &key("a"), why);
    let heard = |act: &dyn Fn()| {
        let before = changes.now();
        act();
        changes.now() != before
    };
    assert!(heard(&|| drop(ensure(1, 1).unwrap())));
    assert!(!heard(&|| drop(ensure(1, 1).unwrap())));
    assert!(heard(&|| drop(ensure(2, 1).unwrap())));
    assert!(heard(&|| drop(ensure(2, 2).unwrap())));
    assert!(!heard(&|| drop(ensure(1, 2).unwrap_err())));
    assert!(!heard(&|| drop(
        delete(Deletion::Unnamed { by: Version(2) }).unwrap_err()
    )));
    assert!(heard(&|| delete(Deletion::Cancelled).unwrap()));
    assert!(!heard(&|| delete(Deletion::Cancelled).unwrap()));
}
