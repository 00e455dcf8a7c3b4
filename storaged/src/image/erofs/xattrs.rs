//! Extended attributes, behind the inode that has them (`struct erofs_xattr_ibody_header`).

use super::TooLarge;

/// Bytes of what is before the first.
const HEADER: u64 = 12;

/// Bytes before a name; each attribute begins at a multiple of as many.
const ENTRY: u64 = 4;

/// Beginnings of names that have numbers (`EROFS_XATTR_INDEX_*`). Of the first two, the name is no more.
const PREFIXES: [(&[u8], u8); 5] = [
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"user.", 1),
    (b"trusted.", 4),
    (b"security.", 6),
];

/// By name, then value.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// In bytes; 0 if there are none.
pub fn size(xattrs: &[Xattr]) -> u64 {
    let sum: u64 = written(xattrs)
        .map(|(_, rest, value)| (ENTRY + (rest.len() + value.len()) as u64).next_multiple_of(ENTRY))
        .sum();
    if sum == 0 { 0 } else { HEADER + sum }
}

/// As an inode has it: 4 bytes each, of which the header is one.
pub fn count(xattrs: &[Xattr]) -> Result<u16, TooLarge> {
    let count = match size(xattrs) {
        0 => 0,
        size => (size - HEADER) / ENTRY + 1,
    };
    u16::try_from(count).map_err(|_| TooLarge("attributes of a file"))
}

/// As many bytes as [`size`] says.
pub fn bytes(xattrs: &[Xattr]) -> Result<Vec<u8>, TooLarge> {
    let mut bytes = Vec::new();
    for (index, rest, value) in written(xattrs) {
        if bytes.is_empty() {
            // No filter of names, and none that other inodes share.
            bytes.resize(HEADER as usize, 0);
        }
        let name_len = u8::try_from(rest.len()).map_err(|_| TooLarge("an attribute's name"))?;
        let value_len = u16::try_from(value.len()).map_err(|_| TooLarge("an attribute's bytes"))?;
        bytes.extend_from_slice(&[name_len, index]);
        bytes.extend_from_slice(&value_len.to_le_bytes());
        bytes.extend_from_slice(rest);
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(ENTRY as usize), 0);
    }
    Ok(bytes)
}

/// With their names in two parts: the first's number, and the rest. Without those that no program could ask for.
fn written(xattrs: &[Xattr]) -> impl Iterator<Item = (u8, &[u8], &[u8])> {
    xattrs.iter().filter_map(|(name, value)| {
        let (prefix, index) = PREFIXES
            .iter()
            .find(|(prefix, _)| name.starts_with(prefix))?;
        let rest = &name[prefix.len()..];
        let is_whole = !prefix.ends_with(b".");
        (is_whole == rest.is_empty()).then_some((*index, rest, value.as_slice()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xattr(name: &str, value: &[u8]) -> Xattr {
        (name.as_bytes().to_vec(), value.to_vec())
    }

    #[test]
    fn names_are_shortened_and_each_begins_where_four_divide() {
        let xattrs = [
            xattr("security.capability", b"12345"),
            xattr("system.posix_acl_access", b"a"),
            xattr("system.posix_acl_default", b""),
            xattr("trusted.t", b"xyz"),
            xattr("user.n", b"value"),
        ];
        let mut expected = vec![0; 12];
        expected.extend(b"\x0a\x06\x05\0capability12345\0");
        expected.extend(b"\0\x02\x01\0a\0\0\0");
        expected.extend(b"\0\x03\0\0");
        expected.extend(b"\x01\x04\x03\0txyz");
        expected.extend(b"\x01\x01\x05\0nvalue\0\0");
        assert_eq!(bytes(&xattrs).unwrap(), expected);
        assert_eq!(size(&xattrs), expected.len() as u64);
        assert_eq!(count(&xattrs), Ok((expected.len() as u16 - 12) / 4 + 1));
    }

    #[test]
    fn without_any_there_is_no_header() {
        for none in [
            &[][..],
            &[xattr("user.", b"x"), xattr("other.name", b"x")],
            &[xattr("system.posix_acl_access2", b"x")],
        ] {
            assert_eq!((size(none), count(none)), (0, Ok(0)));
            assert!(bytes(none).unwrap().is_empty());
        }
    }

    #[test]
    fn what_the_format_has_no_room_for_is_an_error() {
        let fits = [xattr("user.v", &[0; 0xffff])];
        assert_eq!(bytes(&fits).unwrap().len() as u64, size(&fits));
        bytes(&[xattr("user.v", &[0; 0x1_0000])]).unwrap_err();
        bytes(&[xattr(&format!("user.{}", "n".repeat(256)), b"")]).unwrap_err();
        // 4 + 65528 bytes: 16383 times four, and the header is one more.
        let many = vec![xattr("user.v", &[0; 65527]); 4];
        assert_eq!(count(&many), Ok(65533));
        count(&vec![xattr("user.v", &[0; 65527]); 5]).unwrap_err();
    }
}
