//! A folder's names, in blocks in which the kernel can search (`fs/erofs/namei.c`).
//!
//! All names, `.` and `..` among them, in the order of their bytes. Each block has a table (`struct
//! erofs_dirent`: the inode's number, where in the block the name begins, of what kind it is), then the names, one
//! behind the other. The place of the first name tells how many there are. A name ends where the next begins; the
//! last of a block, at a zero or the end.

use std::{cmp::Ordering, io, iter::Peekable};

use super::format::{BLOCK, Kind};

/// Bytes of one in a block's table.
const ENTRY: usize = 12;

/// What a name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub inode: u32,
    pub kind: Kind,
}

/// The names in their order: `children` have it already, and none of them is `.` or `..`.
pub fn in_order<'a, T: 'a>(
    own: T,
    parent: T,
    children: impl Iterator<Item = (&'a [u8], T)>,
) -> impl Iterator<Item = (&'a [u8], T)> {
    let dots: [(&[u8], T); 2] = [(b".", own), (b"..", parent)];
    let mut dots = dots.into_iter().peekable();
    let mut children = children.peekable();
    std::iter::from_fn(move || match order(&mut dots, &mut children) {
        Ordering::Less => dots.next(),
        _ => children.next(),
    })
}

/// `Less` if the next of `one` comes first.
fn order<'a, T: 'a>(
    one: &mut Peekable<impl Iterator<Item = (&'a [u8], T)>>,
    other: &mut Peekable<impl Iterator<Item = (&'a [u8], T)>>,
) -> Ordering {
    match (one.peek(), other.peek()) {
        (Some((one, _)), Some((other, _))) => one.cmp(other),
        (Some(_), None) => Ordering::Less,
        (None, _) => Ordering::Greater,
    }
}

/// Of names of these lengths, in their order, in bytes: whole blocks but for the last.
pub fn size(names: impl Iterator<Item = usize>) -> u64 {
    let (mut whole, mut used) = (0, 0);
    for name in names {
        if !fits(used, name) {
            (whole, used) = (whole + 1, 0);
        }
        used += ENTRY + name;
    }
    whole * BLOCK + used as u64
}

/// Gives each block in its turn, without the zeroes that fill it up.
pub fn blocks<'a>(
    names: impl Iterator<Item = (&'a [u8], Target)>,
    mut give: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut block: Vec<(&[u8], Target)> = Vec::new();
    let mut used = 0;
    for (name, target) in names {
        if !fits(used, name.len()) {
            give(&bytes(&block))?;
            block.clear();
            used = 0;
        }
        used += ENTRY + name.len();
        block.push((name, target));
    }
    give(&bytes(&block))
}

fn fits(used: usize, name: usize) -> bool {
    used + ENTRY + name <= BLOCK as usize
}

fn bytes(block: &[(&[u8], Target)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BLOCK as usize);
    let mut name_at = ENTRY * block.len();
    for (name, target) in block {
        bytes.extend_from_slice(&u64::from(target.inode).to_le_bytes());
        // Less than a block.
        bytes.extend_from_slice(&(name_at as u16).to_le_bytes());
        bytes.extend_from_slice(&[target.kind.in_folder(), 0]);
        name_at += name.len();
    }
    for (name, _) in block {
        bytes.extend_from_slice(name);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(inode: u32) -> Target {
        Target {
            inode,
            kind: Kind::File,
        }
    }

    fn ordered(children: &[&'static str]) -> Vec<&'static str> {
        let children = children.iter().map(|name| (name.as_bytes(), ()));
        in_order((), (), children)
            .map(|(name, ())| std::str::from_utf8(name).unwrap())
            .collect()
    }

    #[test]
    fn dots_are_among_the_names_where_their_bytes_put_them() {
        assert_eq!(ordered(&[]), [".", ".."]);
        assert_eq!(
            ordered(&["!", "-a", ".-", "...", ".a", "b"]),
            ["!", "-a", ".", ".-", "..", "...", ".a", "b"]
        );
        assert_eq!(ordered(&["+"]), ["+", ".", ".."]);
    }

    fn all_blocks(names: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        let targets = (1..).map(target);
        let names = names.iter().map(Vec::as_slice).zip(targets);
        blocks(names, |block| {
            all.push(block.to_vec());
            Ok(())
        })
        .unwrap();
        all
    }

    #[test]
    fn a_block_has_its_table_then_its_names() {
        let blocks = all_blocks(&[b"a".to_vec(), b"bcd".to_vec()]);
        let mut expected = vec![1, 0, 0, 0, 0, 0, 0, 0, 24, 0, 1, 0];
        expected.extend([2, 0, 0, 0, 0, 0, 0, 0, 25, 0, 1, 0]);
        expected.extend(b"abcd");
        assert_eq!(blocks, [expected]);
    }

    #[test]
    fn a_block_is_filled_to_its_last_byte_and_no_further() {
        // 15 of 267 bytes, and one that takes the other 91.
        let mut names: Vec<Vec<u8>> = (0..15).map(|n| vec![b'a' + n; 255]).collect();
        names.push(vec![b'z'; 79]);
        let lengths = |names: &[Vec<u8>]| size(names.iter().map(Vec::len));
        assert_eq!(lengths(&names), BLOCK);
        assert_eq!(all_blocks(&names).len(), 1);
        assert_eq!(all_blocks(&names)[0].len(), BLOCK as usize);
        names[15].push(b'z');
        assert_eq!(lengths(&names), BLOCK + 92);
        let blocks = all_blocks(&names);
        assert_eq!(blocks.iter().map(Vec::len).collect::<Vec<_>>(), [4005, 92]);
        // Each block counts from its own beginning.
        assert_eq!(blocks[1][8..10], [12, 0]);
    }

    #[test]
    fn sizes_are_those_of_the_blocks() {
        for count in [1, 100, 1000] {
            let names: Vec<Vec<u8>> = (0..count).map(|n| vec![b'x'; 1 + n * 7 % 255]).collect();
            let blocks = all_blocks(&names);
            let (last, whole) = blocks.split_last().unwrap();
            let expected = whole.len() * BLOCK as usize + last.len();
            assert_eq!(size(names.iter().map(Vec::len)), expected as u64);
        }
    }
}
