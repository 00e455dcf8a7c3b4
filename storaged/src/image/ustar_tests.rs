use super::*;

/// A header with a checksum of unsigned or signed bytes.
fn header(signed: bool, change: impl FnOnce(&mut [u8; BLOCK])) -> Result<Header, TarError> {
    let mut block = Box::new([0; BLOCK]);
    block[257..265].copy_from_slice(b"ustar\x0000");
    change(&mut block);
    block[148..156].fill(b' ');
    let value = |byte: &u8| match signed {
        true => i64::from(*byte as i8),
        false => i64::from(*byte),
    };
    let sum: i64 = block.iter().map(value).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Header::parse(block)
}

fn named(magic: &[u8; 8], name: &[u8], prefix: &[u8]) -> Header {
    header(false, |block| {
        block[..name.len()].copy_from_slice(name);
        block[257..265].copy_from_slice(magic);
        block[345..345 + prefix.len()].copy_from_slice(prefix);
    })
    .unwrap()
}

#[test]
fn a_checksum_is_of_signed_or_of_unsigned_bytes() {
    let name = b"signed-\xff\xfe";
    for signed in [false, true] {
        let read = header(signed, |block| block[..name.len()].copy_from_slice(name)).unwrap();
        assert_eq!(read.name(), name);
    }
    let mut wrong = header(true, |block| block[..name.len()].copy_from_slice(name))
        .unwrap()
        .0;
    // One more: neither the one sum nor the other.
    wrong[0] += 1;
    Header::parse(wrong).unwrap_err();
}

#[test]
fn numbers_are_octal_or_binary() {
    for (field, expected) in [
        (&b"0000644\0"[..], Some(0o644)),
        (b"   644 \0", Some(0o644)),
        (b"\0\0\0\0\0\0\0\0", Some(0)),
        (b"        ", Some(0)),
        (b"77777777", Some(0o7777_7777)),
        (b"644 junk", Some(0o644)),
        (b"-0000011", Some(-9)),
        (b"0000899\0", None),
        (b"0x1\0\0\0\0\0", None),
        (b"+11\0\0\0\0\0", None),
        (b"-\0\0\0\0\0\0\0", None),
        // 3,000,000,000 in eight bytes, and -1 and -2 in eight and twelve.
        (b"\x80\0\0\0\xb2\xd0\x5e\0", Some(3_000_000_000)),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
        (
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe",
            Some(-2),
        ),
        (
            b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
            Some(i64::MAX),
        ),
        (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
        (b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", Some(i64::MIN)),
        (b"\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff", None),
        // The sign is the bit behind the mark.
        (b"\xbf\0\0\0\0\0\0\0", Some(0x3f << 56)),
        (b"\xc0\0\0\0\0\0\0\0", Some(-(0x40 << 56))),
    ] {
        assert_eq!(number(field), expected, "{}", field.escape_ascii());
    }
    let minus = header(false, |block| block[124..136].fill(0xff)).unwrap();
    minus.size().unwrap_err();
    assert_eq!(minus.mode().unwrap(), 0);
}

#[test]
fn names_of_each_kind_of_header() {
    let long = [b'p'; 155];
    let joined = |prefix: &[u8]| [prefix, b"name"].join(&b'/');
    let name = |magic: &[u8; 8], prefix: &[u8]| named(magic, b"name", prefix).name();
    let (ustar, gnu, v7) = (b"ustar\x0000", b"ustar  \0", b"\0\0\0\0\0\0\0\0");
    assert_eq!(name(ustar, &long), joined(&long));
    assert_eq!(name(ustar, b""), b"name");
    assert_eq!(name(b"ustar\0\0\0", b"pre/fix"), b"pre/fix/name");
    assert_eq!(name(v7, b"garbage"), b"name");
    // Times, as GNU has them; and the prefix of Go's before 1.8.
    assert_eq!(name(gnu, b"14371077761\x0014371077761\0"), b"name");
    assert_eq!(name(gnu, b"usr/share/doc"), b"usr/share/doc/name");
    assert_eq!(name(gnu, &long), joined(&long));
    // star has times behind 131 bytes of prefix.
    let star = header(false, |block| {
        block[..4].copy_from_slice(b"name");
        block[345..476].fill(b'p');
        block[476..488].copy_from_slice(b"14371077761\0");
        block[508..].copy_from_slice(b"tar\0");
    });
    assert_eq!(star.unwrap().name(), joined(&long[..131]));
    let whole = named(ustar, &[b'n'; 100], b"");
    assert_eq!(whole.name(), [b'n'; 100]);
}

#[test]
fn device_numbers_are_of_headers_that_have_them() {
    let device = |magic: &[u8; 8]| {
        let read = header(false, |block| {
            block[257..265].copy_from_slice(magic);
            block[329..337].copy_from_slice(b"0000010\0");
            block[337..345].copy_from_slice(b"0000011\0");
        });
        read.unwrap().device().unwrap()
    };
    assert_eq!(device(b"ustar\x0000"), (8, 9));
    assert_eq!(device(b"ustar  \0"), (8, 9));
    assert_eq!(device(b"\0\0\0\0\0\0\0\0"), (0, 0));
}

#[test]
fn the_map_of_gnus_old_form() {
    let sparse = |magic: &[u8; 8], goes_on: u8| {
        let read = header(false, |block| {
            block[257..265].copy_from_slice(magic);
            block[386..410].copy_from_slice(b"00000002000\x0000000000010\0");
            block[410..434].copy_from_slice(b"00000004000\x0000000000000\0");
            block[482] = goes_on;
            block[483..495].copy_from_slice(b"00000004000\0");
        });
        read.unwrap().sparse()
    };
    let (pieces, size) = sparse(b"ustar  \0", 0).unwrap().unwrap();
    let expected = [(1024, 8), (2048, 0)].map(|(offset, length)| Piece { offset, length });
    assert_eq!((pieces.pieces.as_slice(), size), (&expected[..], 2048));
    assert!(!pieces.goes_on);
    assert!(sparse(b"ustar  \0", 1).unwrap().unwrap().0.goes_on);
    assert!(!sparse(b"ustar  \0", b'0').unwrap().unwrap().0.goes_on);
    assert!(sparse(b"ustar\x0000", 0).is_none());

    let mut more = [0; BLOCK];
    (0..21).for_each(|n| more[n * 24..][..24].copy_from_slice(b"00000002000\x0000000000010\0"));
    assert_eq!(Pieces::more(&more).unwrap().pieces.len(), 21);
    more[5 * 24] = b'x';
    Pieces::more(&more).unwrap_err();
}
