use loam_deployment::{ImageDigest, payload::Media};
use loam_node_api::WorkloadId;

use super::*;

fn key(text: &str) -> VolumeKey {
    VolumeKey::Data(text.parse::<WorkloadId>().unwrap())
}

fn raw(size: u64) -> VolumeSpec {
    VolumeSpec {
        size: Bytes(size),
        media: Media::Any,
        filesystem: Filesystem::Raw,
    }
}

fn path_of(volume: &Volume) -> &Path {
    volume.path.as_deref().unwrap()
}

fn open(folder: &tempfile::TempDir) -> Volumes {
    Volumes::open(folder.path().to_owned()).unwrap()
}

#[test]
fn found_again_with_its_data_and_grown() {
    let folder = tempfile::tempdir().unwrap();
    let made = open(&folder)
        .create(&key("12.data"), &raw(1 << 20), Version(1))
        .unwrap();
    assert_eq!(path_of(&made), folder.path().join("data-12.data.raw"));
    fs::write(path_of(&made), b"kept").unwrap();

    let volumes = open(&folder);
    assert_eq!(volumes.list().len(), 1);
    let grown = volumes
        .change(&key("12.data"), &raw(8 << 20), Version(2))
        .unwrap();
    assert_eq!(fs::metadata(path_of(&grown)).unwrap().len(), 8 << 20);
    assert!(fs::read(path_of(&grown)).unwrap().starts_with(b"kept"));
    assert!(
        grown.used < Bytes(1 << 20),
        "sparse, but {} are used",
        grown.used
    );

    let volumes = open(&folder);
    let found = volumes.get(&key("12.data")).unwrap();
    assert_eq!((found.spec, found.version), (raw(8 << 20), Version(2)));
    fs::write(path_of(&grown), vec![1; 64 << 10]).unwrap();
    volumes.measure();
    assert!(volumes.list()[0].used >= Bytes(64 << 10));
    volumes.delete(&key("12.data")).unwrap();
    volumes.delete(&key("12.data")).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn an_ext4_volume_holds_a_file_system_of_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let spec = VolumeSpec {
        filesystem: Filesystem::Ext4,
        ..raw(64 << 20)
    };
    let made = open(&folder)
        .create(&key("1.db"), &spec, Version(1))
        .unwrap_or_else(|error| {
            panic!("{error}; this test runs mkfs.ext4 of the package e2fsprogs")
        });
    let bytes = fs::read(path_of(&made)).unwrap();
    assert_eq!(bytes[0x438..0x43a], [0x53, 0xef]);
    let blocks = u32::from_le_bytes(bytes[0x404..0x408].try_into().unwrap());
    let block = 1024u64 << u32::from_le_bytes(bytes[0x418..0x41c].try_into().unwrap());
    assert_eq!(u64::from(blocks) * block, 64 << 20);
}

#[test]
fn cut_at_any_moment_it_is_whole_or_absent() {
    let folder = tempfile::tempdir().unwrap();
    let made = open(&folder)
        .create(&key("1.a"), &raw(1 << 20), Version(1))
        .unwrap();
    let record = path_of(&made).with_extension("json");
    let json = fs::read(&record).unwrap();

    // Cut before the record was written, or after it was removed.
    fs::remove_file(&record).unwrap();
    assert!(open(&folder).list().is_empty());
    assert!(!path_of(&made).exists());

    // A record without data is not mended in silence.
    fs::write(&record, json).unwrap();
    let volumes = open(&folder);
    assert_eq!(volumes.list().len(), 1);
    assert!(!volumes.has_data(&key("1.a")).unwrap());

    // What cannot be read is neither removed nor replaced, nor forgotten.
    let json = fs::read(&record).unwrap();
    let other = fs::read_to_string(&record).unwrap().replace("1.a", "1.b");
    for garbage in [b"{".as_slice(), other.as_bytes()] {
        fs::write(&record, garbage).unwrap();
        fs::write(path_of(&made), b"perhaps precious").unwrap();
        let volumes = open(&folder);
        assert!(volumes.list().is_empty());
        assert!(volumes.may_have(&key("1.a")) && !volumes.may_have(&key("1.b")));
        assert_eq!(volumes.promised(), Bytes(16));
        for _ in 0..2 {
            volumes
                .create(&key("1.a"), &raw(1 << 20), Version(1))
                .unwrap_err();
            let error = volumes.read_again(&key("1.a")).unwrap_err().to_string();
            assert!(error.contains("data-1.a.json"), "{error}");
        }
        assert_eq!(fs::read(&record).unwrap(), garbage);
        assert_eq!(fs::read(path_of(&made)).unwrap(), b"perhaps precious");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        fs::write(&record, &json).unwrap();
        volumes.read_again(&key("1.a")).unwrap();
        assert!(volumes.has(&key("1.a")));
        assert_eq!(volumes.promised(), Bytes(1 << 20));
    }
}

#[test]
fn what_nobody_knows_of_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let volumes = open(&folder);
    let create = || volumes.create(&key("1.a"), &raw(1 << 20), Version(1));
    for name in ["data-1.a.raw", "data-1.a.json"] {
        let path = folder.path().join(name);
        fs::write(&path, b"precious").unwrap();
        create().unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        fs::remove_file(path).unwrap();
    }
    create().unwrap();
}

#[test]
fn a_failed_making_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // Too small for any ext4.
    let spec = VolumeSpec {
        filesystem: Filesystem::Ext4,
        ..raw(1024)
    };
    open(&folder)
        .create(&key("1.a"), &spec, Version(1))
        .unwrap_err();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn names_of_root_layers_are_safe_and_distinct() {
    let root = |n: u8| VolumeKey::Root {
        machine: "3.web".parse().unwrap(),
        image: ImageDigest([n; 32]),
    };
    // What is on disks today must be found by this name for ever.
    assert_eq!(
        file_name(&root(1)),
        "root-3.web-58badd9b455145b487ad24c7f259cc43"
    );
    assert_ne!(file_name(&root(1)), file_name(&root(2)));
}

#[test]
fn a_volume_whose_data_cannot_be_removed_is_not_given_out_again() {
    let folder = tempfile::tempdir().unwrap();
    let volumes = open(&folder);
    let made = volumes
        .create(&key("1.a"), &raw(1 << 20), Version(1))
        .unwrap();
    // A folder in the place of the data, which `unlink` refuses.
    fs::remove_file(path_of(&made)).unwrap();
    fs::create_dir(path_of(&made)).unwrap();
    volumes.delete(&key("1.a")).unwrap_err();
    assert!(volumes.has(&key("1.a")));
    let error = volumes
        .change(&key("1.a"), &raw(2 << 20), Version(2))
        .unwrap_err();
    assert!(matches!(error, VolumeError::HalfDeleted), "{error}");

    fs::remove_dir(path_of(&made)).unwrap();
    volumes.delete(&key("1.a")).unwrap();
    assert!(volumes.list().is_empty());
}

/// While its data is removed, which takes long for a large one, its name is gone and its space not free yet.
#[test]
fn no_space_is_kept_for_a_volume_that_is_on_its_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let volumes = open(&folder);
    for name in ["1.a", "1.b"] {
        volumes
            .create(&key(name), &raw(1 << 20), Version(1))
            .unwrap();
    }
    let data = folder.path().join("data-1.a.raw");
    fs::write(&data, vec![1; 1 << 20]).unwrap();
    volumes.measure();
    assert_eq!(volumes.unused(), Bytes(1 << 20));

    fs::remove_file(&data).unwrap();
    fs::create_dir(&data).unwrap();
    volumes.delete(&key("1.a")).unwrap_err();
    fs::remove_dir(&data).unwrap();
    volumes.measure();
    assert_eq!(volumes.unused(), Bytes(1 << 20));
    volumes.delete(&key("1.a")).unwrap();
    assert_eq!(volumes.unused(), Bytes(1 << 20));
}
