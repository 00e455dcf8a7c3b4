use super::*;
use crate::image::{
    tarball::Time,
    testing::{Layer, entries, merge, stream},
};

#[test]
fn everything_about_an_entry_survives() {
    let long = format!("{}/{}", "d".repeat(150), "f".repeat(150));
    let layer = Layer::default()
        .pax(&[
            ("path", long.as_bytes()),
            ("SCHILY.xattr.user.a", b"line\nline"),
            ("uid", b"3000000"),
        ])
        .file("x", b"data")
        .pax(&[("linkpath", long.as_bytes())])
        .hard_link("short", "x")
        .pax(&[("linkpath", long.as_bytes())])
        .symlink("s", "x")
        .tar();
    let merged = entries(&stream(&[layer])).unwrap();
    let find = |name: &[u8]| {
        merged
            .iter()
            .find(|(entry, _)| entry.path.components().join(&b'/') == name)
            .unwrap()
    };
    let (file, data) = find(long.as_bytes());
    assert_eq!(data, b"data");
    assert_eq!(file.attributes.uid, 3_000_000);
    assert_eq!(file.attributes.mode, 0o644);
    assert_eq!(file.attributes.modified.seconds, 1_600_000_000);
    assert_eq!(
        file.attributes.xattrs,
        [(b"user.a".to_vec(), b"line\nline".to_vec())]
    );
    assert_eq!(
        find(b"s").0.kind,
        super::super::tarball::Kind::Symlink(long.clone().into_bytes())
    );
    assert!(matches!(
        find(b"short").0.kind,
        super::super::tarball::Kind::HardLink(_)
    ));
}

#[test]
fn times_survive_that_a_header_cannot_hold() {
    for time in [
        "0",
        "8589934591",
        "8589934592",
        "1700000000.5",
        "1700000000.000000001",
        "-1",
        "-62135596800",
        "9223372036854775807",
    ] {
        let layer = Layer::default().pax(&[("mtime", time.as_bytes())]);
        let layer = layer.file("x", b"").tar();
        let of = |tar: &[u8]| entries(tar).unwrap().pop().unwrap().0.attributes.modified;
        assert_eq!(
            of(&stream(std::slice::from_ref(&layer))),
            of(&layer),
            "{time}"
        );
    }
}

#[test]
fn devices_keep_their_numbers() {
    let layer = Layer::default().header(|header| {
        header.as_old_mut().name[..3].copy_from_slice(b"tty");
        header.set_entry_type(tar::EntryType::Char);
        header.set_device_major(204).unwrap();
        header.set_device_minor(65).unwrap();
    });
    let stream = stream(&[layer.tar()]);
    let mut archive = tar::Archive::new(&stream[..]);
    let device = archive.entries().unwrap().nth(1).unwrap().unwrap();
    let header = device.header();
    assert_eq!(header.device_major().unwrap(), Some(204));
    assert_eq!(header.device_minor().unwrap(), Some(65));
}

#[test]
fn what_a_header_holds_has_no_record() {
    let records = |name: usize, link: usize, seconds: i64| {
        let modified = Time {
            seconds,
            nanoseconds: 0,
        };
        let attributes = Attributes {
            modified,
            ..Attributes::default()
        };
        let records = pax_records(&vec![b'n'; name], &vec![b'l'; link], &attributes);
        String::from_utf8(records).unwrap()
    };
    assert_eq!(records(100, 100, (1 << 33) - 1), "");
    assert!(records(101, 100, 0).contains(" path=n"));
    assert!(records(100, 101, 0).contains(" linkpath=l"));
    assert!(records(1, 1, 1 << 33).contains(" mtime=8589934592."));
}

/// `mkfs.erofs` knows no holes.
#[test]
fn holes_are_written_as_zeroes() {
    let map = b"1\n5000\n4\n";
    let mut body = map.to_vec();
    body.resize(BLOCK, 0);
    body.extend_from_slice(b"data");
    let layer = Layer::default()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"holy"),
            ("GNU.sparse.realsize", b"6000"),
        ])
        .file("x", &body)
        .file("z", b"after")
        .tar();
    let tree = merge(std::slice::from_ref(&layer)).unwrap();
    assert_eq!(Merged::new(&tree).data(), 6005);
    let mut archive = tar::Archive::new(std::io::Cursor::new(stream(&[layer])));
    let mut files = archive.entries().unwrap().skip(1).map(|entry| {
        let mut entry = entry.unwrap();
        let mut data = Vec::new();
        entry.read_to_end(&mut data).unwrap();
        (entry.path().unwrap().to_str().unwrap().to_owned(), data)
    });
    let (name, data) = files.next().unwrap();
    assert_eq!((name.as_str(), data.len()), ("holy", 6000));
    assert_eq!(&data[5000..5004], b"data");
    assert_eq!(data.iter().filter(|byte| **byte != 0).count(), 4);
    assert_eq!(files.next().unwrap().1, b"after");
}

/// Two blocks of zeroes, as POSIX has it.
#[test]
fn it_ends_as_archives_do() {
    let whole = stream(&[Layer::default().file("a", b"data").tar()]);
    assert_eq!(whole.len() % BLOCK, 0);
    let (before, end) = whole.split_at(whole.len() - 2 * BLOCK);
    assert!(end.iter().all(|byte| *byte == 0));
    assert!(before[before.len() - BLOCK..].starts_with(b"data"));
}

#[test]
fn counts_what_shows_only() {
    let lower = Layer::default()
        .file("a", &[1; 3000])
        .hard_link("b", "a")
        .tar();
    let upper = Layer::default()
        .file("c", &[2; 500])
        .file(".wh.a", b"")
        .tar();
    let tree = merge(&[lower, upper]).unwrap();
    let merged = Merged::new(&tree);
    // The root counts as a name.
    assert_eq!((merged.data(), merged.names()), (3500, 3));
}

#[test]
fn links_lead_to_the_name_that_was_written() {
    // The first name in order is the one that is written, whichever the layer had first.
    let layer = Layer::default()
        .folder("b/")
        .folder("b/c/")
        .file("b/c/x", b"data")
        .hard_link("b/a", "b/c/x")
        .file("empty", b"")
        .hard_link("also", "empty")
        .tar();
    let found = crate::image::testing::contents(&stream(&[layer]));
    assert_eq!(found["b/a"], "file:data");
    assert_eq!(found["b/c/x"], "link to b/a");
    assert_eq!(found["also"], "file:");
    assert_eq!(found["empty"], "link to also");
}

#[test]
fn a_layer_that_changed_meanwhile_is_noticed() {
    let layer = Layer::default().file("a", b"1").tar();
    let tree = merge(std::slice::from_ref(&layer)).unwrap();
    let other = Layer::default().folder("a").tar();
    let written = Merged::new(&tree).write(&mut Vec::new(), |_| Ok(other.as_slice()));
    assert!(matches!(written, Err(MergedError::Changed { layer: 0 })));
    let empty = Layer::default().tar();
    let written = Merged::new(&tree).write(&mut Vec::new(), |_| Ok(empty.as_slice()));
    assert!(matches!(written, Err(MergedError::Changed { layer: 0 })));
}
