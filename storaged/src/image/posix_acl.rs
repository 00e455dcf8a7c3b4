//! What Linux takes for a POSIX access control list.
//!
//! As an attribute it is its version and entries of a tag, permissions and a number, all little endian
//! (`include/uapi/linux/posix_acl_xattr.h`).

const VERSION: [u8; 4] = 2_u32.to_le_bytes();

/// `include/uapi/linux/posix_acl.h`.
const OWNER: u16 = 0x01;
const USER: u16 = 0x02;
const OWN_GROUP: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHERS: u16 = 0x20;

/// Whether Linux would let anybody set it (`posix_acl_valid` of `fs/posix_acl.c`). A file that has another
/// one all the same, as an image may, is of no use: whoever is not its owner gets EINVAL or EIO.
pub fn is_valid(value: &[u8]) -> bool {
    let Some((version, entries)) = value.split_first_chunk() else {
        return false;
    };
    let (entries, rest) = entries.as_chunks::<8>();
    let (mut last, mut needs_mask) = (0, false);
    for &[tag, tag_high, allowed, allowed_high, ref id @ ..] in entries {
        let tag = u16::from_le_bytes([tag, tag_high]);
        let is_named = matches!(tag, USER | GROUP);
        let is_in_order = match tag {
            OWNER => last == 0,
            USER | OWN_GROUP => matches!(last, OWNER | USER),
            GROUP | MASK => matches!(last, OWN_GROUP | GROUP),
            OTHERS => last == MASK || last == OWN_GROUP && !needs_mask,
            _ => false,
        };
        let allowed = u16::from_le_bytes([allowed, allowed_high]);
        // 4294967295 is nobody's number.
        if !is_in_order || allowed > 0o7 || is_named && *id == [0xff; 4] {
            return false;
        }
        needs_mask |= is_named;
        last = tag;
    }
    *version == VERSION && rest.is_empty() && last == OTHERS
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut value = VERSION.to_vec();
        for (tag, allowed, id) in entries {
            value.extend(tag.to_le_bytes());
            value.extend(allowed.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        value
    }

    const NO_ID: u32 = u32::MAX;

    #[test]
    fn lists_that_linux_sets_are_valid() {
        let (owner, own_group, others) =
            ((OWNER, 7, NO_ID), (OWN_GROUP, 5, NO_ID), (OTHERS, 0, NO_ID));
        let mask = (MASK, 4, NO_ID);
        let (user, group) = ((USER, 6, 1000), (GROUP, 1, 0));
        for valid in [
            &[owner, own_group, others][..],
            &[owner, own_group, mask, others],
            &[owner, user, user, own_group, mask, others],
            &[owner, own_group, group, group, mask, others],
            &[owner, user, own_group, group, mask, others],
        ] {
            let value = acl(valid);
            assert!(is_valid(&value), "{valid:?}");
            for cut in 0..value.len() {
                assert!(!is_valid(&value[..cut]), "{cut} bytes of {valid:?}");
            }
            assert!(!is_valid(&[&value[..], &[0]].concat()));
            for version in [0, 1, 3, 0x0200_0000_u32] {
                let other = [&version.to_le_bytes(), &value[4..]].concat();
                assert!(!is_valid(&other), "version {version}");
            }
        }
        for invalid in [
            &[][..],
            &[owner, own_group],
            &[own_group, others],
            &[owner, others],
            &[owner, owner, own_group, others],
            &[owner, own_group, own_group, others],
            &[owner, own_group, others, others],
            &[owner, own_group, mask, mask, others],
            &[owner, own_group, others, mask],
            &[own_group, owner, others],
            // These need a mask.
            &[owner, user, own_group, others],
            &[owner, own_group, group, others],
            &[owner, own_group, user, mask, others],
            &[owner, group, own_group, mask, others],
            &[owner, own_group, mask, group, others],
            &[owner, (USER, 6, NO_ID), own_group, mask, others],
            &[owner, own_group, (GROUP, 6, NO_ID), mask, others],
            &[(OWNER, 8, NO_ID), own_group, others],
            &[owner, (OWN_GROUP, 0x100, NO_ID), others],
            &[owner, own_group, (0x40, 0, 0), others],
            &[owner, own_group, (0, 0, 0), others],
            &[owner, own_group, (0x104, 0, 0), others],
        ] {
            assert!(!is_valid(&acl(invalid)), "{invalid:?}");
        }
    }
}
