use std::{fs, sync::atomic::AtomicU64, time::Duration};

use super::*;
use crate::image::{
    erofs::{
        format::{BLOCK, Kind, device},
        testing::{Found, Image},
    },
    limits,
    space::Unbounded,
    tarball::Time,
    testing::{Layer, contents, entries, image, merge},
};

fn find<'a>(image: &'a Image<'_>, name: &str) -> &'a Found {
    &image.names[name.as_bytes()]
}

/// A file with data at these places, of a GNU sparse archive.
fn with_holes(layer: Layer, name: &str, size: u64, pieces: &[(u64, &[u8])]) -> Layer {
    let map: Vec<String> = pieces
        .iter()
        .map(|(at, data)| format!("{at},{}", data.len()))
        .collect();
    let data: Vec<u8> = pieces.iter().flat_map(|(_, data)| data.to_vec()).collect();
    layer
        .pax(&[
            ("GNU.sparse.size", size.to_string().as_bytes()),
            ("GNU.sparse.map", map.join(",").as_bytes()),
        ])
        .file(name, &data)
}

#[test]
fn everything_about_an_entry_survives() {
    let long = format!("{}/{}", "d".repeat(150), "f".repeat(150));
    let layer = Layer::default()
        .pax(&[
            ("path", long.as_bytes()),
            ("SCHILY.xattr.user.a", b"line\nline"),
            ("SCHILY.xattr.user.empty", b""),
            ("SCHILY.xattr.security.capability", b"cap"),
            ("uid", b"3000000"),
            ("gid", b"4294967294"),
        ])
        .file("x", b"data")
        .pax(&[("linkpath", long.as_bytes())])
        .hard_link("short", "x")
        .pax(&[("linkpath", long.as_bytes())])
        .symlink("s", "x")
        .header(|header| {
            header.set_path("sticky").unwrap();
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o7751);
        })
        .tar();
    let bytes = image(&[layer]);
    let image = Image::read(&bytes);
    let file = find(&image, &long);
    assert_eq!(image.data(file), b"data");
    assert_eq!(
        (file.uid, file.gid, file.mode),
        (3_000_000, u32::MAX - 1, 0o644)
    );
    assert_eq!(file.modified.seconds, 1_600_000_000);
    assert_eq!(
        file.xattrs,
        [
            (b"security.capability".to_vec(), b"cap".to_vec()),
            (b"user.a".to_vec(), b"line\nline".to_vec()),
            (b"user.empty".to_vec(), Vec::new())
        ]
    );
    assert_eq!(file.links, 2);
    assert_eq!(find(&image, "short").number, file.number);
    let link = find(&image, "s");
    assert_eq!((link.kind, link.mode), (Kind::Symlink, 0o777));
    assert_eq!(image.data(link), long.as_bytes());
    assert_eq!(find(&image, "sticky").mode, 0o7751);
}

#[test]
fn times_survive_to_the_nanosecond() {
    for (written, seconds, nanoseconds) in [
        ("0", 0, 0),
        ("8589934592", 1 << 33, 0),
        ("1700000000.000000001", 1_700_000_000, 1),
        ("-1", -1, 0),
        ("-1.25", -2, 750_000_000),
        ("-62135596800", -62_135_596_800, 0),
        ("9223372036854775807", i64::MAX, 0),
    ] {
        let layer = Layer::default().pax(&[("mtime", written.as_bytes())]);
        let bytes = image(&[layer.file("x", b"").tar()]);
        let expected = Time {
            seconds,
            nanoseconds,
        };
        let image = Image::read(&bytes);
        assert_eq!(find(&image, "x").modified, expected, "{written}");
    }
}

#[test]
fn devices_and_pipes_are_what_they_were() {
    let node = |name: &'static str, kind, major, minor| {
        move |header: &mut tar::Header| {
            header.set_path(name).unwrap();
            header.set_entry_type(kind);
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        }
    };
    let layer = Layer::default()
        .header(node("tty", tar::EntryType::Char, 204, 65))
        .header(node("disk", tar::EntryType::Block, 0xfff, 0xf_ffff))
        .header(node("pipe", tar::EntryType::Fifo, 0, 0));
    let bytes = image(&[layer.tar()]);
    let image = Image::read(&bytes);
    let found = ["tty", "disk", "pipe"].map(|name| {
        let found = find(&image, name);
        (found.kind, found.device)
    });
    assert_eq!(
        found,
        [
            (Kind::Character, device(204, 65)),
            (Kind::Block, u32::MAX),
            (Kind::Fifo, 0)
        ]
    );
}

#[test]
fn a_run_of_several_chunks_has_each_of_them_in_its_place() {
    let block = BLOCK as usize;
    // Each has its own bytes; all runs begin and end at fours of blocks.
    let data: Vec<u8> = (0..8).flat_map(|n| vec![n + 1; block]).collect();
    let size = 40 * BLOCK;
    let pieces = [
        (0, &data[..]),
        (12 * BLOCK, &data[..4 * block]),
        (28 * BLOCK, &data[..]),
    ];
    let layer = with_holes(Layer::default(), "x", size, &pieces);
    let written = image(&[layer.tar()]);
    let image = Image::read(&written);
    assert!(image.has_chunks);
    let mut expected = vec![0; size as usize];
    for (at, piece) in pieces {
        expected[at as usize..at as usize + piece.len()].copy_from_slice(piece);
    }
    assert!(image.data(find(&image, "x")) == expected);
}

#[test]
fn files_of_all_lengths_around_a_block_keep_their_bytes() {
    let lengths = [
        0, 1, 31, 32, 4031, 4032, 4033, 4095, 4096, 4097, 8191, 8192, 300_000,
    ];
    let bytes = |length: usize| -> Vec<u8> { (0..length).map(|n| (n % 251 + 1) as u8).collect() };
    let layer = lengths.iter().fold(Layer::default(), |layer, length| {
        layer.file(&length.to_string(), &bytes(*length))
    });
    let written = image(&[layer.tar()]);
    let image = Image::read(&written);
    assert!(!image.has_chunks);
    for length in lengths {
        let found = find(&image, &length.to_string());
        assert_eq!(found.size, length as u64);
        assert!(image.data(found) == bytes(length), "{length}");
    }
}

/// As images have by the ten thousand: each with its inode, in the room of both.
#[test]
fn short_files_take_what_they_have_and_no_block() {
    let layer = (0..2000).fold(Layer::default(), |layer, n| {
        layer.file(&format!("f{n}"), &vec![b'x'; 1 + n * 37 % 900])
    });
    let data: usize = (0..2000).map(|n| 1 + n * 37 % 900).sum();
    let bytes = image(&[layer.tar()]);
    assert_eq!(Image::read(&bytes).names.len(), 2000);
    // A name, its place in the folder, an inode, and half of what is between two inodes.
    let most = data + 2000 * (5 + 12 + 64 + 32);
    assert!(bytes.len() < most * 21 / 20, "{} of {most}", bytes.len());
}

#[test]
fn holes_are_where_they_were_and_take_nothing() {
    let block = vec![1; 4096];
    let end = [2; 100];
    let mut layer = Layer::default();
    for (name, size, pieces) in [
        ("first", 3 * 4096, &[(2 * 4096, &block[..])][..]),
        ("last", 9 * 4096 + 7, &[(0, &block[..])]),
        (
            "middle",
            20 * 4096,
            &[(0, &block[..]), (19 * 4096, &block[..])],
        ),
        (
            "unaligned",
            100_000,
            &[(5000, &end[..]), (99_900, &end[..])],
        ),
        ("all", 77, &[]),
        ("none", 4096, &[(0, &block[..])]),
    ] {
        layer = with_holes(layer, name, size, pieces);
    }
    // Nobody said that these are.
    let mut zeroes = vec![0; 64 * 4096];
    zeroes[40 * 4096] = 3;
    let tar = layer.file("zeroes", &zeroes).tar();
    let expected: Vec<_> = entries(&tar).unwrap();
    let written = image(&[tar]);
    let image = Image::read(&written);
    for (entry, data) in expected {
        let name = String::from_utf8(entry.path.components()[0].to_vec()).unwrap();
        assert!(image.data(find(&image, &name)) == data, "{name}");
    }
    // Eight blocks of data; the superblock's, and one of inodes with their maps.
    assert_eq!(written.len(), 10 * 4096);
    let pieces = &find(&image, "zeroes").pieces;
    let lengths: Vec<_> = pieces
        .iter()
        .map(|(at, length)| (at.is_some(), *length))
        .collect();
    // By eights: the file's one block begins and ends at no more.
    assert_eq!(
        lengths,
        [(false, 40 * 4096), (true, 4096), (false, 23 * 4096)]
    );
}

/// Were it read or written anywhere, this would not end.
#[test]
fn a_file_that_is_a_hole_of_gigabytes_takes_a_block() {
    let layer = with_holes(Layer::default(), "hole", 60 << 30, &[]);
    let bytes = image(&[layer.tar()]);
    assert_eq!(bytes.len(), 2 * 4096);
    let image = Image::read(&bytes);
    assert_eq!(find(&image, "hole").pieces, [(None, 60 << 30)]);

    // What is in it costs 4 bytes for each of its blocks.
    let layer = with_holes(Layer::default(), "hole", 4 << 30, &[(4096, b"x")]);
    let bytes = crate::image::testing::image(&[layer.tar()]);
    assert!(bytes.len() < (4 << 20) + 5 * 4096, "{}", bytes.len());
    let image = Image::read(&bytes);
    let found = &find(&image, "hole").pieces;
    assert_eq!(
        (found[0], found[2]),
        ((None, 4096), (None, (4 << 30) - 8192))
    );
}

/// More runs than are read at once.
#[test]
fn a_file_of_thousands_of_holes_keeps_each_where_it_was() {
    const RUNS: u64 = 4500;
    let pieces: Vec<(u64, &[u8])> = (0..RUNS).map(|n| (n * 8192, &b"x"[..])).collect();
    let layer = with_holes(Layer::default(), "holes", RUNS * 8192, &pieces);
    let bytes = image(&[layer.file("next", &[9; 4096]).tar()]);
    let image = Image::read(&bytes);
    let found = find(&image, "holes");
    assert_eq!(found.pieces.len() as u64, 2 * RUNS);
    for (n, pair) in found.pieces.chunks(2).enumerate() {
        let (Some(at), length) = pair[0] else {
            panic!("{n}: {pair:?}");
        };
        assert_eq!((length, pair[1]), (4096, (None, 4096)), "{n}");
        assert_eq!(bytes[at as usize..][..2], *b"x\0", "{n}");
    }
    assert_eq!(image.data(find(&image, "next")), [9; 4096]);
}

#[test]
fn folders_of_any_size_are_in_order() {
    for (count, length) in [
        (0, 1),
        (1, 255),
        (14, 255),
        (15, 255),
        (16, 255),
        (40, 250),
        (700, 30),
        (3000, 5),
    ] {
        let name = |n: usize| format!("d/{n:0length$}");
        let layer = (0..count).fold(Layer::default().folder("d/"), |layer, n| {
            layer.pax(&[("path", name(n).as_bytes())]).file("x", b"")
        });
        let bytes = image(&[layer.tar()]);
        let image = Image::read(&bytes);
        assert_eq!(image.names.len(), count + 1);
        assert!((0..count).all(|n| image.names.contains_key(name(n).as_bytes())));
    }
}

#[test]
fn what_sorts_before_dots_is_found() {
    let names = ["!", "-", ".-", "...", ".a", "/z", "\u{7f}", "ü"];
    let layer = names
        .iter()
        .fold(Layer::default(), |layer, name| layer.file(name, b""));
    let found = contents(&image(&[layer.tar()]));
    assert_eq!(found.len(), names.len());
}

#[test]
fn trees_are_as_deep_as_they_may_be() {
    let deep = vec!["d"; limits::DEPTH - 1].join("/");
    let path = format!("{deep}/x");
    let layer = Layer::default()
        .pax(&[("path", path.as_bytes())])
        .file("x", b"deep");
    let found = contents(&image(&[layer.tar()]));
    assert_eq!(found[&path], "file:deep");
}

#[test]
fn links_of_any_length_lead_where_they_led() {
    for length in [1, 100, 4032, 4033, 4095] {
        let target = "t".repeat(length);
        let layer = Layer::default().pax(&[("linkpath", target.as_bytes())]);
        let bytes = image(&[layer.symlink("l", "x").tar()]);
        assert_eq!(contents(&bytes)["l"], format!("symlink to {target}"));
        // What fits one block with its inode has none of its own.
        let image = Image::read(&bytes);
        let at = find(&image, "l").pieces[0].0.unwrap();
        assert_eq!(at.is_multiple_of(4096), length > 4032, "{length}");
    }
}

#[test]
fn as_many_attributes_survive_as_an_entry_may_have() {
    let each = "user.aaaa".len() + 1;
    let names: Vec<String> = (0..limits::XATTRS / each)
        .map(|n| format!("SCHILY.xattr.user.{n:04}"))
        .collect();
    let records: Vec<(&str, &[u8])> = names
        .iter()
        .map(|name| (name.as_str(), &b"v"[..]))
        .collect();
    let value = vec![b'v'; limits::XATTRS - "user.v".len()];
    let layer = Layer::default()
        .pax(&records)
        .file("many", &[1; 5000])
        .pax(&[("SCHILY.xattr.user.v", &value)])
        .folder("long")
        .pax(&[("SCHILY.xattr.user.v", &value[..4000])])
        .symlink("link", &"t".repeat(90));
    let bytes = image(&[layer.tar()]);
    let image = Image::read(&bytes);
    assert_eq!(find(&image, "many").xattrs.len(), names.len());
    assert_eq!(image.data(find(&image, "many")), [1; 5000]);
    assert_eq!(find(&image, "long").xattrs, [(b"user.v".to_vec(), value)]);
    assert_eq!(image.data(find(&image, "link")), [b't'; 90]);
}

#[test]
fn names_of_one_file_are_counted_and_what_no_name_leads_to_is_left_out() {
    let lower = Layer::default()
        .folder("d/")
        .file("d/a", &[1; 9000])
        .hard_link("b", "d/a")
        .folder("d/e/")
        .file("gone", b"gone");
    let upper = Layer::default().hard_link("c", "b").file(".wh.gone", b"");
    let bytes = image(&[lower.tar(), upper.tar()]);
    let image = Image::read(&bytes);
    let links = ["d/a", "b", "c", "d", "d/e"].map(|name| find(&image, name).links);
    assert_eq!(links, [3, 3, 3, 3, 2]);
    assert_eq!(image.root.links, 3);
    assert!(!bytes.windows(4).any(|window| window == b"gone"));
}

/// By whoever has the image's disk, though no name leads there.
#[test]
fn of_a_layer_that_others_hide_nothing_stays() {
    let secret = b"not to be seen by anybody".repeat(4000);
    let lower = Layer::default()
        .file("secret", &secret)
        .file("kept", &[1; 50_000]);
    let upper = Layer::default()
        .file(".wh.secret", b"")
        .file("new", &[2; 9000]);
    let bytes = image(&[lower.tar(), upper.tar()]);
    let image = Image::read(&bytes);
    assert_eq!(image.data(find(&image, "kept")), [1; 50_000]);
    assert_eq!(image.data(find(&image, "new")), [2; 9000]);
    assert!(!bytes.windows(24).any(|window| *window == secret[..24]));
    assert_eq!(bytes.len(), (2 + 12 + 2) * 4096);
}

/// The same on every node, whichever thread is faster.
#[test]
fn the_same_layers_are_the_same_bytes() {
    let layers: Vec<_> = (0..6)
        .map(|layer| {
            let name = |n: usize| format!("{}/{n}", n % 7);
            let files = (0..60).fold(Layer::default(), |files, n| {
                files.file(&name(n + layer * 20), &vec![layer as u8 + 1; n * 331])
            });
            let sparse = with_holes(files, "holes", 1 << 20, &[(8192, &[layer as u8])]);
            sparse.file(&format!(".wh.{layer}"), b"").tar()
        })
        .collect();
    let first = image(&layers);
    Image::read(&first);
    for _ in 0..5 {
        assert!(image(&layers) == first);
    }
}

#[test]
fn an_image_of_nothing_is_a_root() {
    let bytes = image(&[]);
    assert_eq!(bytes.len(), 2 * 4096);
    let image = Image::read(&bytes);
    assert!(image.names.is_empty());
    assert_eq!((image.root.mode, image.root.links), (0o755, 2));
}

#[derive(Default)]
struct Taken(AtomicU64);

impl Space for Taken {
    fn take(&self, bytes: u64) -> Result<(), FetchError> {
        self.0
            .fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    fn give_back(&self, _: u64) {}
}

#[test]
fn what_is_written_is_taken_first_and_who_is_to_stop_writes_nothing() {
    let layer = (0..300).fold(Layer::default(), |layer, n| layer.folder(&format!("f{n}")));
    let tree = merge(&[layer.tar()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("image");
    let (space, stop) = (Taken::default(), Stop::default());
    let none = [Aside::default()];
    finish(&tree, &none, &File::create(&target).unwrap(), &space, &stop).unwrap();
    let length = fs::metadata(&target).unwrap().len();
    assert_eq!(space.0.into_inner(), length);
    stop.set();
    let file = File::create(&target).unwrap();
    let error = finish(&tree, &none, &file, &Unbounded, &stop).unwrap_err();
    assert!(matches!(error, FetchError::Stopped), "{error:?}");
    assert_eq!(fs::metadata(&target).unwrap().len(), 0);
    assert!(FetchError::Unread(Duration::ZERO).is_death() && !error.is_death());
}
