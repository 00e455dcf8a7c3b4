use std::io::Read;

use proptest::prelude::*;

use super::*;
use crate::image::{
    posix_acl::tests::acl as posix_acl,
    testing::{Layer, entries},
};

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
    for name in ["../etc/passwd", "a/../../b", "..", "/../x", "a/../b/../.."] {
        let error = one(Layer::default().file(name, b"")).unwrap_err();
        assert!(error.contains("leaves the image's root"), "{error}");
        let error = one(Layer::default().hard_link("x", name)).unwrap_err();
        let expected = format!("`x`: its target: `{name}` leaves the image's root");
        assert_eq!(error, expected);
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
    // As every program takes it that cleans names before it looks at them.
    let entry = one(Layer::default().file("a/../b/./c/..", b"")).unwrap();
    assert_eq!(entry.path, ImagePath::parse(b"b").unwrap());
    assert_eq!(ImagePath::parse(b"a/..").unwrap(), ImagePath::default());
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
    assert_eq!(entry.attributes.modified, time(-6, 750_000_000));
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
        (
            Layer::default().raw(b'S', b"sparse", b"", b""),
            "its header is not GNU's",
        ),
        (Layer::default().raw(b'M', b"x", b"", b""), "type `M`"),
        (Layer::default().raw(b'Q', b"x", b"", b""), "type `Q`"),
        (
            Layer::default().pax(&[("size", b"-1")]).file("x", b""),
            "`size` cannot be read",
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

/// A header that is changed before its checksum is made.
fn changed(change: impl FnOnce(&mut tar::Header)) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_path("x").unwrap();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(0);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    change(&mut header);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn time(seconds: i64, nanoseconds: u32) -> Time {
    Time {
        seconds,
        nanoseconds,
    }
}

fn of(tar: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, String> {
    entries(tar).map_err(|error| error.to_string())
}

#[test]
fn numbers_of_a_header_are_read() {
    let tar = changed(|header| {
        header.set_mode(0o104755);
        header.set_uid(17);
        header.set_gid(18);
        header.set_mtime(19);
    });
    let expected = Attributes {
        mode: 0o4755,
        uid: 17,
        gid: 18,
        modified: time(19, 0),
        xattrs: Vec::new(),
    };
    assert_eq!(of(&tar).unwrap()[0].0.attributes, expected);

    for (kind, expected) in [
        (b'3', Kind::Character(5, 6)),
        (b'4', Kind::Block(5, 6)),
        (b'7', Kind::File),
    ] {
        let tar = changed(|header| {
            header.set_entry_type(tar::EntryType::new(kind));
            header.set_device_major(5).unwrap();
            header.set_device_minor(6).unwrap();
        });
        assert_eq!(of(&tar).unwrap()[0].0.kind, expected);
    }
    // Left out by some archivers.
    let tar = changed(|header| {
        header.as_old_mut().uid = [b' '; 8];
        header.as_old_mut().mode = [0; 8];
    });
    let attributes = &of(&tar).unwrap()[0].0.attributes;
    assert_eq!((attributes.uid, attributes.mode), (0, 0));
    let damaged = changed(|header| header.as_old_mut().gid = *b"notanum\0");
    assert!(of(&damaged).unwrap_err().contains("damaged"));
    // Nobody, in the two's complement of large numbers (tar(5)).
    let nobody = changed(|header| header.as_old_mut().uid = [0xff; 8]);
    assert_eq!(of(&nobody).unwrap()[0].0.attributes.uid, 0);
    // Before 1970.
    let old = changed(|header| header.as_old_mut().mtime = *b"-0000000011\0");
    assert_eq!(of(&old).unwrap()[0].0.attributes.modified, time(-9, 0));
    let many = Layer::default()
        .pax(&[("uid", b"4294967296")])
        .file("x", b"");
    assert!(one(many).unwrap_err().contains("no user or group"));
    let owner = |uid: &str| {
        let records = [("uid", uid.as_bytes()), ("gid", b"2"), ("mtime", b"3.9")];
        let attributes = one(Layer::default().pax(&records).file("x", b"")).unwrap();
        let attributes = attributes.attributes;
        assert_eq!(
            (attributes.gid, attributes.modified),
            (2, time(3, 900_000_000))
        );
        attributes.uid
    };
    assert_eq!(owner("4294967294"), u32::MAX - 1);
    // No owner, and so root, as it is after `chown`.
    assert_eq!(owner("4294967295"), 0);
    let group = Layer::default().pax(&[("gid", b"4294967295")]);
    assert_eq!(one(group.file("x", b"")).unwrap().attributes.gid, 0);
    let symlink = one(Layer::default().symlink("x", "y")).unwrap();
    assert_eq!(symlink.attributes.mode, 0o777);
}

#[test]
fn data_is_where_the_size_says() {
    let layer = Layer::default()
        .file("empty", b"")
        .file("block", &[1; 512])
        .file("more", &[2; 513])
        .file("less", &[3; 511])
        .tar();
    let all = of(&layer).unwrap();
    let data: Vec<_> = all.iter().map(|(_, data)| data.len()).collect();
    assert_eq!(data, [0, 512, 513, 511]);
    assert!(all[3].1.iter().all(|byte| *byte == 3));
    let sizes: Vec<_> = all.iter().map(|(entry, _)| entry.size).collect();
    assert_eq!(sizes, [0, 512, 513, 511]);

    // Whether or not somebody reads it.
    let mut tarball = Tarball::new(layer.as_slice());
    let mut sizes = Vec::new();
    while let Some(entry) = tarball.next_entry().unwrap() {
        sizes.push(entry.size);
        let mut some = vec![0; entry.size.min(300) as usize];
        tarball.data().read_exact(&mut some).unwrap();
    }
    assert_eq!(sizes, [0, 512, 513, 511]);

    // An extension's size counts, for files alone.
    let layer = Layer::default()
        .pax(&[("size", b"3")])
        .file("x", b"12345")
        .file("y", b"")
        .tar();
    assert_eq!(of(&layer).unwrap()[0].1, b"123");
    let link = changed(|header| {
        header.set_entry_type(tar::EntryType::Link);
        header.set_link_name("x").unwrap();
        header.set_size(700);
    });
    let all = of(&[link, Layer::default().file("y", b"").tar()].concat()).unwrap();
    assert_eq!((all.len(), all[0].0.size), (2, 0));
}

#[test]
fn the_end_may_be_short_and_what_is_behind_it_is_read() {
    let whole = Layer::default().file("x", &[7; 600]).tar();
    // Without the closing blocks, and without what fills the last one.
    for end in [512 + 1024, 512 + 600] {
        assert_eq!(of(&whole[..end]).unwrap().len(), 1);
    }
    for end in [511, 512 + 599] {
        of(&whole[..end]).unwrap_err();
    }
    // One who reads it notices, and one who skips it too.
    let mut tarball = Tarball::new(&whole[..512 + 599]);
    tarball.next_entry().unwrap().unwrap();
    let error = tarball.data().read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    let mut tarball = Tarball::new(&whole[..512 + 599]);
    tarball.next_entry().unwrap().unwrap();
    let error = tarball.next_entry().unwrap_err().to_string();
    assert!(error.contains("inside a file"), "{error}");
    // In an extension.
    let pax = Layer::default().pax(&[("path", b"y")]).tar();
    assert!(of(&pax[..515]).is_err());

    let behind = [whole.as_slice(), b"behind"].concat();
    let mut input = behind.as_slice();
    let mut tarball = Tarball::new(&mut input);
    while tarball.next_entry().unwrap().is_some() {}
    tarball.finish().unwrap();
    assert!(input.is_empty());
}

#[test]
fn the_last_that_is_allowed_is_allowed() {
    let parse = |name: &str| ImagePath::parse(name.as_bytes());
    let part = "n".repeat(limits::NAME);
    parse(&part).unwrap();
    parse(&format!("{part}n")).unwrap_err();
    let deep = vec!["d"; limits::DEPTH].join("/");
    assert_eq!(parse(&deep).unwrap().components().len(), limits::DEPTH);
    parse(&format!("{deep}/d")).unwrap_err();
    let long = format!("{part}/").repeat(16);
    assert_eq!(long.len(), limits::PATH);
    parse(&long).unwrap();
    let error = parse(&format!("{long}/")).unwrap_err().to_string();
    assert!(error.contains("longer than 4096"), "{error}");

    let link = |length: usize| {
        let target = "t".repeat(length);
        one(Layer::default()
            .pax(&[("linkpath", target.as_bytes())])
            .symlink("x", "y"))
    };
    link(limits::PATH - 1).unwrap();
    assert!(link(limits::PATH).unwrap_err().contains("too long"));
    let zero = Layer::default()
        .pax(&[("linkpath", b"a\0b")])
        .symlink("x", "y");
    assert!(one(zero).unwrap_err().contains("zero byte"));

    // A comment fills the rest of an extension header.
    let extension = |length: usize| {
        let value = vec![b'c'; length - "1048576 comment=\n".len()];
        let layer = Layer::default().raw(
            b'x',
            b"pax",
            b"",
            &[format!("{length} comment=").as_bytes(), &value, b"\n"].concat(),
        );
        one(layer.file("x", b""))
    };
    extension(limits::EXTENSION as usize).unwrap();
    assert!(
        extension(limits::EXTENSION as usize + 1)
            .unwrap_err()
            .contains("extension header has")
    );
}

#[test]
fn extensions_belong_to_the_next_entry_alone() {
    let layer = Layer::default()
        .raw(b'g', b"pax", b"", b"13 comment=x\n")
        .pax(&[("path", b"first"), ("uid", b"7")])
        .file("x", b"")
        .file("second", b"")
        .tar();
    let all = of(&layer).unwrap();
    let shown: Vec<_> = all
        .iter()
        .map(|(entry, _)| (entry.path.components()[0].to_vec(), entry.attributes.uid))
        .collect();
    assert_eq!(shown, [(b"first".to_vec(), 7), (b"second".to_vec(), 1000)]);
    // A name that a stranger chose is shown in part, and harmless.
    assert_eq!(show(b"a\x1b\n"), "a\\x1b\\n");
    assert_eq!(show(&[b'n'; 300]).len(), 200);
}

/// git, and builders that mark what they make.
#[test]
fn what_is_said_for_the_whole_archive_is_passed_over() {
    let layer = Layer::default()
        .raw(b'V', b"label", b"", b"")
        .raw(b'g', b"pax_global_header", b"", b"16 path=elsewher\n")
        .file("here", b"data")
        .tar();
    let all = of(&layer).unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].0.path, ImagePath::parse(b"here").unwrap());
    assert_eq!(all[0].1, b"data");
}

/// As GNU's incremental archives have them: what is in it, as data.
#[test]
fn a_folder_s_list_is_passed_over() {
    let layer = Layer::default()
        .raw(b'D', b"d/", b"", b"Yx\0\0")
        .file("d/x", b"data")
        .tar();
    let all = of(&layer).unwrap();
    assert_eq!((&all[0].0.kind, all[0].0.size), (&Kind::Folder, 0));
    assert!(all[0].1.is_empty());
    assert_eq!(all[1].1, b"data");
}

#[test]
fn what_is_left_empty_takes_back_what_was_said() {
    let layer = Layer::default()
        .pax(&[
            ("path", b"elsewhere"),
            ("uid", b"7"),
            ("size", b"1"),
            ("mtime", b"5"),
            ("linkpath", b"nowhere"),
        ])
        .pax(&[
            ("path", b""),
            ("uid", b""),
            ("gid", b""),
            ("size", b""),
            ("mtime", b""),
            ("linkpath", b""),
        ])
        .file("here", b"data")
        .tar();
    let (entry, data) = of(&layer).unwrap().remove(0);
    assert_eq!(entry.path, ImagePath::parse(b"here").unwrap());
    assert_eq!((entry.attributes.uid, entry.attributes.gid), (1000, 1000));
    assert_eq!(entry.attributes.modified, time(1_600_000_000, 0));
    assert_eq!(data, b"data");
    let link = Layer::default()
        .pax(&[("linkpath", b"")])
        .symlink("here", "there");
    assert_eq!(one(link).unwrap().kind, Kind::Symlink(b"there".to_vec()));
}

#[test]
fn fractions_of_a_second_are_kept_before_1970_too() {
    for (written, expected) in [
        (
            "1700000000.987654321",
            Some(time(1_700_000_000, 987_654_321)),
        ),
        ("1.5", Some(time(1, 500_000_000))),
        ("1.0000000019", Some(time(1, 1))),
        ("0.", Some(time(0, 0))),
        ("-1.0", Some(time(-1, 0))),
        ("-1.000000000001", Some(time(-2, 999_999_999))),
        ("-0.25", Some(time(-1, 750_000_000))),
        ("-1.9999999999", Some(time(-2, 0))),
        ("-62135596800", Some(time(-62_135_596_800, 0))),
        ("9223372036854775807", Some(time(i64::MAX, 0))),
        ("9223372036854775808", None),
        ("1.5x", None),
        ("--1", None),
        ("1e9", None),
    ] {
        let layer = Layer::default().pax(&[("mtime", written.as_bytes())]);
        let found = one(layer.file("x", b""));
        let found = found.map(|entry| entry.attributes.modified);
        assert_eq!(found.ok(), expected, "{written}");
    }
}

/// bsdtar writes each attribute twice.
#[test]
fn attributes_as_libarchive_writes_them() {
    let attributes = |records: &[(&str, &[u8])]| {
        let entry = one(Layer::default().pax(records).file("x", b""));
        entry.map(|entry| entry.attributes.xattrs)
    };
    let encoded: (&str, &[u8]) = ("LIBARCHIVE.xattr.user.a%3Db%", b"/wAB");
    let expected = |name: &[u8], value: &[u8]| vec![(name.to_vec(), value.to_vec())];
    assert_eq!(
        attributes(&[encoded]).unwrap(),
        expected(b"user.a=b%", b"\xff\0\x01")
    );
    for padding in [&b"/w"[..], b"/w=="] {
        let one = attributes(&[("LIBARCHIVE.xattr.user.a", padding)]).unwrap();
        assert_eq!(one, expected(b"user.a", b"\xff"));
    }
    let plain: (&str, &[u8]) = ("SCHILY.xattr.user.a", b"plain");
    let other: (&str, &[u8]) = ("LIBARCHIVE.xattr.user.a", b"/w");
    for both in [[plain, other], [other, plain]] {
        assert_eq!(attributes(&both).unwrap(), expected(b"user.a", b"plain"));
    }
    let hidden = [("LIBARCHIVE.xattr.trusted.overlay.opaque", &b"eQ"[..])];
    assert!(attributes(&hidden).unwrap().is_empty());
    let error = attributes(&[("LIBARCHIVE.xattr.user.a", b"!!")]).unwrap_err();
    assert!(error.contains("cannot be read"), "{error}");
}

#[test]
fn attributes_are_kept_as_far_as_linux_has_them() {
    let names = |records: &[(&str, &[u8])]| {
        let entry = one(Layer::default().pax(records).file("x", b""));
        entry.map(|entry| entry.attributes.xattrs.into_iter().map(|(name, _)| name))
    };
    for acl in ["access", "default"] {
        let name = format!("SCHILY.xattr.system.posix_acl_{acl}");
        let value = posix_acl(&[
            (0x01, 6, u32::MAX),
            (0x04, 4, u32::MAX),
            (0x20, 0, u32::MAX),
        ]);
        let kept: Vec<_> = names(&[(&name, &value)]).unwrap().collect();
        assert_eq!(kept, [format!("system.posix_acl_{acl}").into_bytes()]);
        // Linux would refuse the file to others.
        for malformed in [&value[..value.len() - 1], b"", b"x"] {
            assert_eq!(names(&[(&name, malformed)]).unwrap().count(), 0);
        }
    }
    let of_length = |length: usize| {
        let name = format!("SCHILY.xattr.user.{}", "n".repeat(length - "user.".len()));
        names(&[(&name, b"x")]).unwrap().count()
    };
    assert_eq!((of_length(255), of_length(256)), (1, 0));
    assert_eq!(
        names(&[("LIBARCHIVE.xattr.user.%00", b"eA")])
            .unwrap()
            .count(),
        0
    );
    let of_all = |value: usize| {
        let value = vec![b'v'; value];
        names(&[
            ("SCHILY.xattr.user.a", b"x"),
            ("SCHILY.xattr.user.b", &value),
        ])
    };
    let most = limits::XATTRS - "user.a".len() - 1 - "user.b".len();
    assert_eq!(of_all(most).unwrap().count(), 2);
    assert!(of_all(most + 1).is_err());
}

#[test]
fn devices_are_those_that_linux_has() {
    let device = |major: u32, minor: u32| {
        let tar = changed(|header| {
            header.set_entry_type(tar::EntryType::Char);
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        });
        of(&tar).map(|all| all[0].0.kind.clone())
    };
    let most = Kind::Character(0xfff, 0xf_ffff);
    assert_eq!(device(0xfff, 0xf_ffff).unwrap(), most);
    for (major, minor) in [(0x1000, 0), (0, 0x10_0000)] {
        let error = device(major, minor).unwrap_err();
        assert!(error.contains("no device number"), "{error}");
    }
}

/// Whether it comes to an end, with names that do not leave the root and files that are as long as they say.
fn is_read_or_refused(tar: &[u8]) -> bool {
    /// What is read of a file: one with holes may claim any length.
    const MOST: u64 = 64 << 10;
    let mut tarball = Tarball::new(tar);
    let is_sane = |entry: &Entry| {
        let bad = |part: &[u8]| matches!(part, b"" | b"." | b"..") || part.contains(&b'/');
        let attributes = &entry.attributes;
        !entry.path.components().iter().any(|part| bad(part))
            && attributes.mode <= 0o7777
            && attributes.uid.max(attributes.gid) < u32::MAX
            && attributes.modified.nanoseconds < 1_000_000_000
    };
    while let Ok(Some(entry)) = tarball.next_entry() {
        let mut data = Vec::new();
        let read = tarball.data().take(MOST).read_to_end(&mut data);
        if !is_sane(&entry) || read.is_ok() && data.len() as u64 != entry.size.min(MOST) {
            return false;
        }
    }
    true
}

/// Makes the checksum of a header right, so that all else in it is looked at.
fn mend(header: &mut [u8]) {
    let mut mended = tar::Header::new_old();
    mended.as_mut_bytes().copy_from_slice(header);
    mended.set_cksum();
    header.copy_from_slice(mended.as_bytes());
}

/// Arbitrary bytes, whose first block may be a header.
fn arbitrary() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop::collection::vec(any::<u8>(), 0..1536);
    (bytes, any::<bool>()).prop_map(|(mut bytes, fix)| {
        if fix && bytes.len() >= BLOCK {
            mend(&mut bytes[..BLOCK]);
        }
        bytes
    })
}

/// Most of what there is in archives, in seven entries.
fn whole() -> Vec<u8> {
    let device = |header: &mut tar::Header| {
        header.set_entry_type(tar::EntryType::Char);
        header.set_device_major(5).unwrap();
        header.set_device_minor(6).unwrap();
    };
    let old_holes = |header: &mut tar::Header| {
        let bytes = header.as_mut_bytes();
        bytes[..3].copy_from_slice(b"old");
        bytes[156] = b'S';
        bytes[257..265].copy_from_slice(b"ustar  \0");
        bytes[386..410].copy_from_slice(format!("{:011o}\0{:011o}\0", 300, 4).as_bytes());
        bytes[483..495].copy_from_slice(format!("{:011o}\0", 400).as_bytes());
        header.set_size(4);
    };
    Layer::default()
        .folder("d/")
        .pax(&[
            ("path", b"d/long"),
            ("uid", b"5000000"),
            ("mtime", b"-5.25"),
        ])
        .file("x", b"hello")
        .hard_link("d/again", "d/long")
        .pax(&[
            ("SCHILY.xattr.user.a", b"b"),
            ("LIBARCHIVE.xattr.user.c", b"/w=="),
        ])
        .symlink("s", "t")
        .raw(b'L', b"././@LongLink", b"", b"gnu/long\0")
        .header(device)
        .pax(&[
            ("GNU.sparse.size", b"3000"),
            ("GNU.sparse.map", b"512,1,2000,3"),
        ])
        .file("holes", b"data")
        .header(old_holes)
        .bytes(b"data")
        .tar()
}

#[test]
fn what_is_damaged_was_whole() {
    assert_eq!(of(&whole()).unwrap().len(), 7);
}

/// That archive, of which some bytes are others. Headers may be right all the same.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let whole = whole();
    let is_header = |at: &usize| {
        let block: &[u8; BLOCK] = whole[*at..].first_chunk().unwrap();
        block[0] != 0 && Header::parse(Box::new(*block)).is_ok()
    };
    let headers: Vec<_> = (0..whole.len()).step_by(BLOCK).filter(is_header).collect();
    let at = 0..whole.len();
    let byte = prop_oneof![
        any::<u8>(),
        prop::sample::select(b"0179 \0-./=,\n\x80\xff".to_vec())
    ];
    let changes = prop::collection::vec((at, byte), 1..12);
    (changes, any::<bool>()).prop_map(move |(changes, fix)| {
        let mut tar = whole.clone();
        for (at, byte) in changes {
            tar[at] = byte;
        }
        for at in headers.iter().filter(|_| fix) {
            mend(&mut tar[*at..][..BLOCK]);
        }
        tar
    })
}

/// An entry behind records of which some are known, with values that may be theirs.
fn with_records() -> impl Strategy<Value = Vec<u8>> {
    let key = prop_oneof![
        prop::sample::select(vec![
            "path",
            "linkpath",
            "size",
            "uid",
            "gid",
            "mtime",
            "GNU.sparse.name",
            "GNU.sparse.size",
            "GNU.sparse.map",
            "SCHILY.xattr.user.a",
            "SCHILY.xattr.system.posix_acl_access",
            "LIBARCHIVE.xattr.user.%61",
        ])
        .prop_map(str::to_owned),
        "[a-zA-Z.%]{1,20}",
    ];
    let value = prop_oneof![
        "-?[0-9]{0,20}(\\.[0-9]{0,12})?".prop_map(String::into_bytes),
        "[a-z./]{0,30}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..60),
    ];
    let kind = prop::sample::select(b"0125S\0".to_vec());
    (prop::collection::vec((key, value), 0..6), kind).prop_map(|(records, kind)| {
        let records: Vec<_> = records
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_slice()))
            .collect();
        let layer = Layer::default().pax(&records);
        layer.raw(kind, b"name", b"link", b"data").tar()
    })
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(tar in arbitrary()) {
        prop_assert!(is_read_or_refused(&tar));
    }

    #[test]
    fn any_damaged_archive_is_read_or_refused(tar in damaged()) {
        prop_assert!(is_read_or_refused(&tar));
    }

    #[test]
    fn any_records_are_read_or_refused(tar in with_records()) {
        prop_assert!(is_read_or_refused(&tar));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100_000))]

    #[test]
    #[ignore = "slow: a hundred thousand archives"]
    fn any_of_very_many_archives_is_read_or_refused(
        tar in prop_oneof![arbitrary(), damaged(), with_records()],
    ) {
        prop_assert!(is_read_or_refused(&tar));
    }
}

#[test]
fn an_interruption_is_no_end_and_a_failure_is_no_interruption() {
    /// Is interrupted before each read, and fails with this at the end.
    struct Restless<'a> {
        bytes: &'a [u8],
        ready: bool,
        end: Option<io::ErrorKind>,
    }
    impl Read for Restless<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.ready = !self.ready;
            match self.end {
                _ if !self.ready => self.bytes.read(buffer),
                Some(kind) if self.bytes.is_empty() => Err(kind.into()),
                _ => Err(io::ErrorKind::Interrupted.into()),
            }
        }
    }
    let finish = |end| {
        let bytes = &[0; 300_000];
        let ready = false;
        Tarball::new(Restless { bytes, ready, end }).finish()
    };
    finish(None).unwrap();
    let failed = finish(Some(io::ErrorKind::TimedOut)).unwrap_err();
    assert!(matches!(failed, TarError::Read(error) if error.kind() == io::ErrorKind::TimedOut));
}

#[test]
fn damage_is_told_with_the_entry_before_it() {
    let tar = Layer::default()
        .file("first", b"x")
        .file("second", b"")
        .tar();
    let damaged = |header: usize| {
        let mut tar = tar.clone();
        // A digit of its checksum.
        tar[header + 150] ^= 1;
        entries(&tar).unwrap_err().to_string()
    };
    let at = damaged(0);
    assert!(at.ends_with("checksum is wrong, at its beginning"), "{at}");
    let at = damaged(1024);
    assert!(at.ends_with("checksum is wrong, behind `first`"), "{at}");
}
