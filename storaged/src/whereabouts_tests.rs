use loam_deployment::{
    Bytes, Version,
    payload::{Filesystem, Media},
};
use loam_node_api::storage::VolumeSpec;

use super::*;
use crate::pool::testing::{self, settle};

fn missing(pools: &[Arc<Pool>], key: &VolumeKey) -> io::Result<Option<Uuid>> {
    Ok(super::missing(pools, key)?.map(|note| note.pool))
}

fn make(pool: &Pool, key: &VolumeKey) {
    let spec = VolumeSpec {
        size: Bytes::mib(1),
        media: Media::Any,
        filesystem: Filesystem::Raw,
    };
    pool.volumes().create(key, &spec, Version(1)).unwrap();
}

#[test]
fn a_note_is_written_only_if_it_is_still_true() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [one, two] = folders
        .each_ref()
        .map(|folder| Arc::new(testing::pool(folder.path(), Media::Ssd)));
    let both = [one.clone(), two.clone()];
    let key = VolumeKey::Data("7.a".parse().unwrap());

    make(&one, &key);
    share(&both);
    settle(&both);
    let away = std::slice::from_ref(&two);
    assert_eq!(missing(away, &key).unwrap(), Some(one.uuid()));
    // Read back by the next opening.
    let again = Pool::open(two.root().to_owned(), two.uuid(), Media::Ssd).unwrap();
    assert_eq!(missing(&[Arc::new(again)], &key).unwrap(), Some(one.uuid()));

    // Deleted between the look at its pool and the writing: held up by a job before it.
    forget(&both, &key);
    one.volumes().delete(&key).unwrap();
    settle(&both);
    share(&both);
    settle(&both);
    assert_eq!(missing(away, &key).unwrap(), None);

    make(&one, &key);
    let (release, held) = std::sync::mpsc::channel::<()>();
    two.post(move || assert!(held.recv().is_err()));
    drop(note(&both, &key, &one));
    one.volumes().delete(&key).unwrap();
    forget(&both, &key);
    drop(release);
    settle(&both);
    assert_eq!(missing(away, &key).unwrap(), None);
}

#[test]
fn what_is_owed_is_looked_for_on_disks_that_came_and_on_those_that_went() {
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let [one, two, three] = folders
        .each_ref()
        .map(|folder| Arc::new(testing::pool(folder.path(), Media::Ssd)));
    let key = VolumeKey::Data("7.a".parse().unwrap());
    make(&one, &key);
    // Deleted, as far as was known while its disk was away, and not written down when that came.
    let (release, held) = std::sync::mpsc::channel::<()>();
    two.post(move || assert!(held.recv().is_err()));
    forget(&[two.clone(), three.clone()], &key);
    share(&[one.clone(), two.clone()]);
    drop(release);
    settle(&[two.clone(), three.clone()]);
    let away = std::slice::from_ref(&two);
    assert_eq!(missing(away, &key).unwrap(), Some(one.uuid()));

    // Owed by a look at a disk that is gone by the next one.
    forget(&[one.clone(), two.clone()], &key);
    settle(&[one.clone(), two.clone()]);
    let (release, held) = std::sync::mpsc::channel::<()>();
    two.post(move || assert!(held.recv().is_err()));
    drop(note(&[one.clone(), two.clone()], &key, &one));
    share(&[two.clone(), three]);
    drop(release);
    settle(away);
    assert_eq!(missing(away, &key).unwrap(), Some(one.uuid()));
}

#[test]
fn a_pool_that_comes_hears_of_many_volumes_a_few_at_a_time() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [one, two] = folders
        .each_ref()
        .map(|folder| Arc::new(testing::pool(folder.path(), Media::Ssd)));
    let keys: Vec<VolumeKey> = (0..2 * AT_ONCE + 1)
        .map(|n| VolumeKey::Data(format!("7.v{n}").parse().unwrap()))
        .collect();
    for key in &keys {
        make(&one, key);
    }
    share(&[one.clone(), two.clone()]);
    let away = std::slice::from_ref(&two);
    // Each round is asked for by the one before.
    let known = || {
        let known = |key: &&VolumeKey| missing(away, key).unwrap() == Some(one.uuid());
        keys.iter().filter(known).count()
    };
    for most in [1, 2, 3] {
        settle(away);
        assert!(known() >= (most * AT_ONCE).min(keys.len()), "{}", known());
    }
}

#[test]
fn a_note_that_cannot_be_written_is_owed_until_it_is() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [one, two] = folders
        .each_ref()
        .map(|folder| Arc::new(testing::pool(folder.path(), Media::Ssd)));
    let both = [one.clone(), two.clone()];
    let keys = ["7.a", "7.b"].map(|id| VolumeKey::Data(id.parse().unwrap()));
    // A folder in its place, which nothing replaces.
    let path = two.root().join("elsewhere").join(file_name(&keys[0]));
    fs::create_dir_all(path.join("full")).unwrap();
    for key in &keys {
        make(&one, key);
    }
    note(&both, &keys[0], &one).wait().unwrap_err();
    note(&both, &keys[1], &one).wait().unwrap();
    share(&both);
    settle(&both);
    let away = std::slice::from_ref(&two);
    assert_eq!(missing(away, &keys[0]).unwrap(), None);
    assert_eq!(missing(away, &keys[1]).unwrap(), Some(one.uuid()));

    fs::remove_dir_all(path).unwrap();
    // Its disk went meanwhile.
    share(away);
    two.refresh();
    settle(away);
    assert_eq!(missing(away, &keys[0]).unwrap(), Some(one.uuid()));
    // It is not written again and again.
    assert!(two.notes().lock().owed.is_empty());

    // So is the removal.
    let path = two.root().join("elsewhere").join(file_name(&keys[0]));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    one.volumes().delete(&keys[0]).unwrap();
    forget(&both, &keys[0]);
    settle(&both);
    assert_eq!(missing(away, &keys[0]).unwrap(), Some(one.uuid()));
    fs::remove_dir(path).unwrap();
    two.refresh();
    settle(away);
    assert_eq!(missing(away, &keys[0]).unwrap(), None);
}

#[test]
fn a_note_that_cannot_be_read_is_not_taken_for_none() {
    let folder = tempfile::tempdir().unwrap();
    let pool = testing::pool(folder.path(), Media::Ssd);
    let key = VolumeKey::Data("7.a".parse().unwrap());
    let path = pool.root().join("elsewhere").join(file_name(&key));
    fs::write(path, b"{").unwrap();
    let again = Pool::open(pool.root().to_owned(), pool.uuid(), Media::Ssd).unwrap();
    let again = [Arc::new(again)];
    missing(&again, &key).unwrap_err();
    let other = VolumeKey::Data("7.b".parse().unwrap());
    assert_eq!(missing(&again, &other).unwrap(), None);
    // The disk failed for a while only.
    let path = pool.root().join("elsewhere").join(file_name(&key));
    let home = Uuid::new_v4();
    let note = Note {
        key: key.clone(),
        pool: home,
        spec: VolumeSpec {
            size: Bytes::mib(1),
            media: Media::Any,
            filesystem: Filesystem::Raw,
        },
        version: Version(1),
    };
    fs::write(&path, serde_json::to_vec(&note).unwrap()).unwrap();
    again[0].refresh();
    settle(&again);
    assert_eq!(missing(&again, &key).unwrap(), Some(home));
    forget(&again, &key);
    settle(&again);
    assert_eq!(missing(&again, &key).unwrap(), None);
}

/// The case `failing_disk` shows the rest.
#[test]
fn an_error_of_another_s_disk_is_told_from_one_of_its_file_system() {
    let is_of_the_disk = |errno: Errno| super::is_of_the_disk(&errno.into());
    assert!(is_of_the_disk(Errno::IO) && is_of_the_disk(Errno::ROFS));
    assert!(!is_of_the_disk(Errno::NOSPC) && !is_of_the_disk(Errno::ISDIR));
}
