use std::{
    fs,
    io::Read,
    time::{Duration, Instant},
};

use loam_oci::test_registry::gzip;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::*;
use crate::image::{limits, space::Unbounded, stop::Stop, testing::Layer};

fn allowance() -> Allowance {
    Allowance::new(&Stop::default(), Instant::now() + Duration::from_secs(3600))
}

/// A file each, with the digests that they have.
fn files(folder: &Path, tars: &[Vec<u8>], pack: impl Fn(&[u8]) -> Vec<u8>) -> Vec<LayerFile> {
    let write = |(number, tar): (usize, &Vec<u8>)| {
        let path = folder.join(number.to_string());
        fs::write(&path, pack(tar)).unwrap();
        (path, Digest::of(tar))
    };
    tars.iter().enumerate().map(write).collect()
}

/// Files named after their layers and their places there, with so long an attribute.
fn layer(number: usize, files: usize, attribute: usize) -> Vec<u8> {
    let mut layer = Layer::default();
    for file in 0..files {
        layer = layer
            .pax(&[("SCHILY.xattr.user.note", &vec![b'x'; attribute])])
            .file(&format!("{number}/{file}"), b"data");
    }
    layer.tar()
}

fn ground(folder: &Path) -> Ground<'_> {
    let space = &Unbounded;
    Ground { folder, space }
}

fn seen(files: &[LayerFile]) -> Result<Vec<(usize, String)>, FetchError> {
    let mut seen = Vec::new();
    let folder = tempfile::tempdir().unwrap();
    each(files, ground(folder.path()), &allowance(), |layer, step| {
        seen.push((
            layer,
            match step {
                Step::Entry(entry, _) => {
                    let name = entry.path.components().join(&b'/');
                    String::from_utf8(name).unwrap()
                }
                Step::End(_) => "end".to_owned(),
            },
        ));
        Ok(())
    })?;
    Ok(seen)
}

#[test]
fn all_entries_come_in_the_layers_order_whatever_waits() {
    let folder = tempfile::tempdir().unwrap();
    // The second alone is more than may wait, and so are those behind it.
    let sizes = [(50, 0), (1200, 9_000), (0, 0), (1000, 9_000), (2000, 0)];
    let tars: Vec<_> = sizes
        .iter()
        .enumerate()
        .map(|(number, (files, attribute))| layer(number, *files, *attribute))
        .collect();
    assert!(tars[1].len() > HELD_AHEAD);
    let mut expected = Vec::new();
    for (number, (files, _)) in sizes.iter().enumerate() {
        expected.extend((0..*files).map(|file| (number, format!("{number}/{file}"))));
        expected.push((number, "end".to_owned()));
    }
    for pack in [|tar: &[u8]| gzip(tar), |tar: &[u8]| tar.to_vec()] {
        let files = files(folder.path(), &tars, pack);
        assert_eq!(readers(&files).unwrap(), READERS);
        assert_eq!(seen(&files).unwrap(), expected);
    }
    assert_eq!(seen(&[]).unwrap(), []);
}

#[test]
fn the_first_failure_in_the_layers_order_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let tars: Vec<_> = [3000, 1, 1, 1].iter().map(|n| layer(0, *n, 100)).collect();
    let mut files = files(folder.path(), &tars, gzip);
    // Each is found long before the layer below it is read.
    files[2].1 = Digest::of(b"other");
    fs::write(&files[3].0, b"no tar").unwrap();
    let found = seen(&files).unwrap_err();
    assert!(
        matches!(found, FetchError::DiffId { layer: 2, .. }),
        "{found:?}"
    );
    files[2].1 = Digest::of(&tars[2]);
    let found = seen(&files).unwrap_err();
    assert!(
        matches!(found, FetchError::Tar { layer: 3, .. }),
        "{found:?}"
    );
    fs::remove_file(&files[1].0).unwrap();
    seen(&files).unwrap_err();
}

#[test]
fn nothing_is_read_any_more_when_one_fails_to_apply() {
    let folder = tempfile::tempdir().unwrap();
    let tars = [layer(0, 10, 0), layer(1, 400, 9_000)];
    let files = files(folder.path(), &tars, gzip);
    let allowance = allowance();
    let refuse = |_, _| Err(FetchError::NoPool);
    let found = each(&files, ground(folder.path()), &allowance, refuse).unwrap_err();
    assert!(matches!(found, FetchError::NoPool), "{found:?}");
    let mut unpacked = Unpacked::open(&files[1].0, allowance).unwrap();
    unpacked.read_to_end(&mut Vec::new()).unwrap_err();
}

#[test]
fn who_is_not_wanted_any_more_or_out_of_time_reads_no_further() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path(), &[layer(0, 10, 0)], gzip);
    let stop = Stop::default();
    stop.set();
    let later = Instant::now() + Duration::from_secs(3600);
    let over = [Allowance::new(&stop, later), Allowance::of(100)];
    for allowance in over {
        let found = each(&files, ground(folder.path()), &allowance, |_, _| Ok(())).unwrap_err();
        assert!(
            matches!(found, FetchError::Tar { layer: 0, .. }),
            "{found:?}"
        );
    }
}

/// Whoever is read ahead claims as much as one likes, and is not refused before its turn.
#[test]
fn what_files_claim_is_counted_over_all_layers() {
    let allowance = Allowance::of(1);
    assert!(allowance.has_room_for(limits::UNPACKED - 1));
    assert!(!allowance.clone().has_room_for(2));
    assert!(allowance.has_room_for(1));
    assert!(!allowance.has_room_for(u64::MAX) && allowance.has_room_for(0));

    let folder = tempfile::tempdir().unwrap();
    let claims = |size: u64| {
        Layer::default()
            .pax(&[
                ("GNU.sparse.size", size.to_string().as_bytes()),
                ("GNU.sparse.map", b"0,4"),
            ])
            .file("claims", b"data")
            .tar()
    };
    let tars = [
        claims(limits::UNPACKED - 4096),
        claims(4096),
        claims(1 << 62),
    ];
    let files = files(folder.path(), &tars, |tar| tar.to_vec());
    let allowance = Allowance::new(&Stop::default(), Instant::now() + Duration::from_secs(3600));
    let mut blocks = Vec::new();
    each(&files, ground(folder.path()), &allowance, |_, step| {
        if let Step::End(aside) = step {
            blocks.push(aside.count());
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(blocks, [1, 1, 0]);
}

/// A disk image, say, of which the end is missing.
#[test]
fn what_an_archive_ends_in_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let tar = Layer::default().file("a/large", &[1; 9000]).tar();
    let files = files(folder.path(), &[tar[..5000].to_vec()], |tar| tar.to_vec());
    let error = seen(&files).unwrap_err().to_string();
    assert_eq!(error, "layer 1: `a/large`: the archive ends inside it");
}

/// Two windows would take 256 MiB.
#[test]
fn layers_that_may_ask_for_large_windows_are_read_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let tars = [layer(0, 3, 0), layer(1, 3, 0)];
    let zstd = |tar: &[u8]| compress_to_vec(tar, CompressionLevel::Fastest);
    let packed = files(folder.path(), &tars, zstd);
    assert_eq!(readers(&packed).unwrap(), 1);
    assert_eq!(seen(&packed).unwrap().len(), 8);
    let skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc";
    fs::write(&packed[0].0, skippable).unwrap();
    fs::write(&packed[1].0, gzip(&tars[1])).unwrap();
    assert_eq!(readers(&packed).unwrap(), 1);
}
