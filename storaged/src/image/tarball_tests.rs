use proptest::prelude::*;

use super::*;
use crate::image::testing::{Layer, entries};

fn one(layer: Layer) -> Result<Entry, String> {
    entries(&layer.tar())
        .map(|mut all| all.pop().unwrap().0)
        .map_err(|error| error.to_string())
}

#[test]
fn reads_every_kind() {
    let layer = Layer::default()
        .folder("./etc/")
        .file("etc/hostname", b"web\n")
        .raw(b'\0', b"old/", b"", b"")
        .symlink("lib", "usr/lib")
        .hard_link("etc/name", "/etc/hostname")
        .raw(b'6', b"pipe", b"", b"");
    let all = entries(&layer.tar()).unwrap();
    let kinds: Vec<_> = all.iter().map(|(entry, _)| entry.kind.clone()).collect();
    let hostname = ImagePath::parse(b"etc/hostname").unwrap();
    assert_eq!(
        kinds,
        [
            Kind::Folder,
            Kind::File,
            Kind::Folder,
            Kind::Symlink(b"usr/lib".to_vec()),
            Kind::HardLink(hostname.clone()),
            Kind::Fifo
        ]
    );
    assert_eq!(
        (&all[1].0.path, all[1].1.as_slice()),
        (&hostname, b"web\n".as_slice())
    );
    assert_eq!(all[1].0.attributes.uid, 1000);
}

#[test]
fn names_never_leave_the_root() {
    for name in ["../etc/passwd", "a/../../b", "a/..", "..", "/../x"] {
        let error = one(Layer::default().file(name, b"")).unwrap_err();
        assert!(error.contains("leaves the image's root"), "{error}");
        let error = one(Layer::default().hard_link("x", name)).unwrap_err();
        assert!(error.contains("leaves the image's root"), "{error}");
        one(Layer::default()
            .pax(&[("path", name.as_bytes())])
            .file("x", b""))
        .unwrap_err();
        let long = [name.as_bytes(), b"\0"].concat();
        one(Layer::default()
            .raw(b'L', b"././@LongLink", b"", &long)
            .file("x", b""))
        .unwrap_err();
    }
    let entry = one(Layer::default().file("//./a//b/.", b"")).unwrap();
    assert_eq!(entry.path, ImagePath::parse(b"a/b").unwrap());
    // Where a symbolic link leads is for whoever follows it, inside the machine.
    one(Layer::default().symlink("x", "../../etc/passwd")).unwrap();
}

#[test]
fn long_names_of_both_kinds() {
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    let expected = ImagePath::parse(long.as_bytes()).unwrap();
    let pax = Layer::default()
        .pax(&[("path", long.as_bytes()), ("uid", b"5000000")])
        .file("x", b"");
    let entry = one(pax).unwrap();
    assert_eq!((&entry.path, entry.attributes.uid), (&expected, 5_000_000));

    let zero = [long.as_bytes(), b"\0"].concat();
    let gnu = Layer::default()
        .raw(b'L', b"././@LongLink", b"", &zero)
        .raw(b'K', b"././@LongLink", b"", &zero)
        .hard_link("x", "y");
    let entry = one(gnu).unwrap();
    assert_eq!(
        (&entry.path, &entry.kind),
        (&expected, &Kind::HardLink(expected.clone()))
    );
}

#[test]
fn attributes_are_kept_if_they_mean_something_in_a_machine() {
    let entry = one(Layer::default()
        .pax(&[
            ("SCHILY.xattr.security.capability", b"\x01\n\x00="),
            ("SCHILY.xattr.user.note", b"x"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.security.selinux", b"label"),
            ("mtime", b"-5.25"),
        ])
        .file("ping", b""))
    .unwrap();
    let names: Vec<_> = entry
        .attributes
        .xattrs
        .iter()
        .map(|(name, _)| name.as_slice())
        .collect();
    assert_eq!(names, [b"security.capability".as_slice(), b"user.note"]);
    assert_eq!(entry.attributes.xattrs[0].1, b"\x01\n\x00=");
    assert_eq!(entry.attributes.modified, 0);
}

#[test]
fn refuses_what_is_damaged_or_too_much() {
    let huge = Layer::default().raw(
        b'x',
        b"pax",
        b"",
        &vec![b' '; limits::EXTENSION as usize + 1],
    );
    let deep = "d/".repeat(limits::DEPTH + 1);
    let wide = "n".repeat(limits::NAME + 1);
    for (layer, reason) in [
        (huge.file("x", b""), "extension header has"),
        (Layer::default().raw(b'S', b"sparse", b"", b""), "sparse"),
        (
            Layer::default()
                .pax(&[("GNU.sparse.major", b"1")])
                .file("x", b""),
            "sparse",
        ),
        (Layer::default().raw(b'Q', b"x", b"", b""), "type `Q`"),
        (
            Layer::default().pax(&[("size", b"-1")]).file("x", b""),
            "no number",
        ),
        (
            Layer::default()
                .pax(&[("path", deep.as_bytes())])
                .file("x", b""),
            "256 folders deep",
        ),
        (
            Layer::default()
                .pax(&[("path", wide.as_bytes())])
                .file("x", b""),
            "255 bytes",
        ),
        (
            Layer::default().pax(&[("path", b"a\0b")]).file("x", b""),
            "zero byte",
        ),
        (
            Layer::default()
                .raw(b'x', b"pax", b"", b"99 path=x\n")
                .file("x", b""),
            "PAX record",
        ),
        (
            Layer::default()
                .raw(b'x', b"pax", b"", b"0 path=x\n")
                .file("x", b""),
            "PAX record",
        ),
        (Layer::default().symlink("x", ""), "target is empty"),
    ] {
        let error = one(layer).unwrap_err();
        assert!(error.contains(reason), "{error}; expected {reason}");
    }
    let mut tar = Layer::default().file("x", b"data").tar();
    tar[0] ^= 1;
    assert!(entries(&tar).unwrap_err().to_string().contains("checksum"));
    let whole = Layer::default().file("x", &[1; 1000]).file("y", b"").tar();
    for cut in [100, 700, 1600] {
        entries(&whole[..cut]).unwrap_err();
    }
}

proptest! {
    /// Whatever the bytes, it ends, and no name leaves the root.
    #[test]
    fn any_bytes_are_read_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..4096), fix: bool) {
        if fix && bytes.len() >= 512 {
            let mut header = tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(&bytes[..512]);
            header.set_cksum();
            bytes[..512].copy_from_slice(header.as_bytes());
        }
        for (entry, _) in entries(&bytes).unwrap_or_default() {
            let parts = entry.path.components();
            let bad = |part: &[u8]| matches!(part, b"" | b"." | b"..") || part.contains(&b'/');
            prop_assert!(parts.iter().all(|part| !bad(part)));
        }
    }

    #[test]
    fn a_flipped_bit_never_panics(at in 0usize..3072, bit in 0u8..8) {
        let mut tar = Layer::default()
            .pax(&[("path", b"a/b"), ("SCHILY.xattr.user.a", b"b")])
            .file("x", b"hello")
            .symlink("s", "t")
            .tar();
        tar[at] ^= 1 << bit;
        let _ = entries(&tar);
    }
}
