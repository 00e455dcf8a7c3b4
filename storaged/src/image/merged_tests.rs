use super::*;
use crate::image::testing::{Layer, entries, merge, stream};

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
    assert_eq!(file.attributes.modified, 1_600_000_000);
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

/// Two blocks of zeroes, as POSIX has it.
#[test]
fn it_ends_as_archives_do() {
    let whole = stream(&[Layer::default().file("a", b"data").tar()]);
    assert_eq!(whole.len() % BLOCK as usize, 0);
    let (before, end) = whole.split_at(whole.len() - 2 * BLOCK as usize);
    assert!(end.iter().all(|byte| *byte == 0));
    assert!(before[before.len() - BLOCK as usize..].starts_with(b"data"));
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
    assert!(matches!(written, Err(MergedError::Changed)));
    let empty = Layer::default().tar();
    let written = Merged::new(&tree).write(&mut Vec::new(), |_| Ok(empty.as_slice()));
    assert!(matches!(written, Err(MergedError::Changed)));
}
