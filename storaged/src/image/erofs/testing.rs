//! A reader for tests, as strict as a kernel and stricter: whatever one may trip over fails the test.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use super::{
    format::{BLOCK, HOLE, INODE, Kind, SLOT},
    xattrs::Xattr,
};
use crate::image::tarball::Time;

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The inode's.
    pub number: u32,
    pub kind: Kind,
    /// Without the kind.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub modified: Time,
    pub links: u32,
    pub size: u64,
    pub xattrs: Vec<Xattr>,
    /// Of a device.
    pub device: u32,
    /// Where its bytes are in the image, `None` for a hole's, in order: of so many bytes.
    pub pieces: Vec<(Option<u64>, u64)>,
}

/// Every name but the root's, by its path, and the root.
#[derive(Debug)]
pub struct Image<'a> {
    bytes: &'a [u8],
    pub has_chunks: bool,
    pub root: Found,
    pub names: BTreeMap<Vec<u8>, Found>,
}

impl<'a> Image<'a> {
    pub fn read(bytes: &'a [u8]) -> Self {
        let reader = Reader::open(bytes);
        let mut walk = Walk {
            reader: &reader,
            names: BTreeMap::new(),
            seen: BTreeMap::new(),
            taken: Vec::from([Range {
                start: 0,
                end: BLOCK,
            }]),
        };
        let root = walk.inode(reader.root);
        walk.folder(b"", &root, reader.root);
        assert_eq!(walk.seen.len() as u64, reader.inodes, "inodes");
        for (number, (found, names)) in &walk.seen {
            assert_eq!(found.links, *names, "links of {number}");
        }
        walk.taken.sort_by_key(|range| (range.start, range.end));
        for two in walk.taken.windows(2) {
            assert!(two[0].end <= two[1].start, "{two:?} are over one another");
        }
        assert!(
            walk.taken
                .iter()
                .all(|range| range.end <= bytes.len() as u64)
        );
        Self {
            bytes,
            has_chunks: reader.has_chunks,
            root,
            names: walk.names,
        }
    }

    pub fn data(&self, found: &Found) -> Vec<u8> {
        pieces(self.bytes, &found.pieces)
    }
}

fn pieces(bytes: &[u8], pieces: &[(Option<u64>, u64)]) -> Vec<u8> {
    let mut data = Vec::new();
    for (at, length) in pieces {
        match at {
            Some(at) => data.extend_from_slice(&bytes[*at as usize..][..*length as usize]),
            None => data.resize(data.len() + *length as usize, 0),
        }
    }
    data
}

struct Reader<'a> {
    bytes: &'a [u8],
    root: u32,
    inodes: u64,
    has_chunks: bool,
}

impl<'a> Reader<'a> {
    fn open(bytes: &'a [u8]) -> Self {
        let block = &bytes[..BLOCK as usize];
        let reader = Self {
            bytes,
            root: number(block, 1024 + 14, 2) as u32,
            inodes: number(block, 1024 + 16, 8),
            has_chunks: number(block, 1024 + 80, 4) == 4,
        };
        assert_eq!(number(block, 1024, 4), 0xe0f5_e1e2, "magic");
        assert_eq!(number(block, 1024 + 12, 2), 12, "size of blocks");
        // Checksums, times of change; chunks: what is not known is not mounted.
        assert_eq!(number(block, 1024 + 8, 4) & !3, 0);
        assert_eq!(number(block, 1024 + 80, 4) & !4, 0);
        assert_eq!(number(block, 1024 + 36, 4) * BLOCK, bytes.len() as u64);
        // Inodes are counted from the file's beginning; no shared attributes.
        assert_eq!(number(block, 1024 + 40, 8), 0);
        reader
    }

    fn at(&self, at: u64, length: u64) -> &'a [u8] {
        &self.bytes[at as usize..][..length as usize]
    }
}

fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    let bytes = bytes[at..at + length].iter().rev();
    bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

struct Walk<'r, 'a> {
    reader: &'r Reader<'a>,
    names: BTreeMap<Vec<u8>, Found>,
    /// By number, with how often a name leads there.
    seen: BTreeMap<u32, (Found, u32)>,
    /// What belongs to somebody.
    taken: Vec<Range<u64>>,
}

impl Walk<'_, '_> {
    fn inode(&mut self, inode: u32) -> Found {
        if let Some((found, _)) = self.seen.get(&inode) {
            return found.clone();
        }
        assert!(inode > 0);
        let at = u64::from(inode) * SLOT;
        let head = self.reader.at(at, INODE);
        let format = number(head, 0, 2);
        assert_eq!(format & !0xe, 1, "a long inode");
        assert_eq!(number(head, 6, 2), 0);
        assert!((1..=self.reader.inodes).contains(&number(head, 20, 4)));
        assert!(head[48..].iter().all(|byte| *byte == 0));
        let mode = number(head, 4, 2) as u16;
        let kinds = [
            Kind::File,
            Kind::Folder,
            Kind::Character,
            Kind::Block,
            Kind::Fifo,
            Kind::Symlink,
        ];
        let kind = kinds
            .into_iter()
            .find(|kind| kind.mode() == mode & 0o170_000);
        let xattrs_size = match number(head, 2, 2) {
            0 => 0,
            count => 12 + 4 * (count - 1),
        };
        let place = number(head, 16, 4) as u32;
        let mut found = Found {
            number: inode,
            kind: kind.unwrap_or_else(|| panic!("mode {mode:o}")),
            mode: mode & 0o7777,
            uid: number(head, 24, 4) as u32,
            gid: number(head, 28, 4) as u32,
            modified: Time {
                seconds: number(head, 32, 8) as i64,
                nanoseconds: number(head, 40, 4) as u32,
            },
            links: number(head, 44, 4) as u32,
            size: number(head, 8, 8),
            xattrs: xattrs(self.reader.at(at + INODE, xattrs_size)),
            device: 0,
            pieces: Vec::new(),
        };
        assert!(found.modified.nanoseconds < 1_000_000_000);
        if matches!(found.kind, Kind::Character | Kind::Block) {
            found.device = place;
        }
        let end = at + INODE + xattrs_size;
        let end = self.data(&mut found, format >> 1, place, end);
        self.taken.push(at..end);
        self.seen.insert(inode, (found.clone(), 0));
        found
    }

    /// Where what belongs to the inode ends.
    fn data(&mut self, found: &mut Found, layout: u64, place: u32, end: u64) -> u64 {
        let size = found.size;
        let mut blocks = |pieces: &mut Vec<_>, first: u32, length: u64| {
            if length > 0 {
                let from = u64::from(first) * BLOCK;
                self.taken.push(from..from + length.next_multiple_of(BLOCK));
                pieces.push((Some(from), length));
            } else {
                assert_eq!(first, 0, "a place of nothing");
            }
        };
        if !matches!(found.kind, Kind::File | Kind::Folder | Kind::Symlink) {
            assert_eq!((layout, size), (0, 0));
            return end;
        }
        match layout {
            0 => {
                blocks(&mut found.pieces, place, size);
                end
            }
            2 => {
                let tail = size % BLOCK;
                assert!(tail > 0, "the last block would be taken for a tail");
                blocks(&mut found.pieces, place, size - tail);
                assert!(end % BLOCK + tail <= BLOCK, "a tail over a block's end");
                found.pieces.push((Some(end), tail));
                end + tail
            }
            4 => {
                assert!(found.kind == Kind::File && self.reader.has_chunks);
                assert!(place < 32, "blocks of chunks, and no long indexes");
                let chunk = BLOCK << place;
                let chunks = size.div_ceil(chunk);
                for at in 0..chunks {
                    let block = number(self.reader.at(end + at * 4, 4), 0, 4) as u32;
                    let length = chunk.min(size - at * chunk);
                    match (block, found.pieces.last_mut()) {
                        (HOLE, Some((None, hole))) => *hole += length,
                        (HOLE, _) => found.pieces.push((None, length)),
                        _ => blocks(&mut found.pieces, block, length),
                    }
                }
                end + chunks * 4
            }
            other => panic!("layout {other}"),
        }
    }

    fn folder(&mut self, path: &[u8], folder: &Found, parent: u32) {
        assert_eq!(folder.kind, Kind::Folder);
        let bytes = pieces(self.reader.bytes, &folder.pieces);
        let mut last: Option<Vec<u8>> = None;
        let mut dots = BTreeSet::new();
        for block in bytes.chunks(BLOCK as usize) {
            let first = number(block, 8, 2) as usize;
            assert!(first >= 12 && first.is_multiple_of(12) && first <= block.len());
            let places: Vec<usize> = (0..first / 12)
                .map(|entry| number(block, entry * 12 + 8, 2) as usize)
                .collect();
            for (entry, begin) in places.iter().enumerate() {
                let rest = &block[*begin..];
                let end = match places.get(entry + 1) {
                    Some(end) => *end,
                    None => begin + rest.iter().position(|b| *b == 0).unwrap_or(rest.len()),
                };
                let name = &block[*begin..end];
                assert!((1..=255).contains(&name.len()));
                assert!(!name.iter().any(|byte| matches!(byte, 0 | b'/')));
                if let Some(last) = &last {
                    assert_eq!(last.as_slice().cmp(name), Ordering::Less, "the order");
                }
                last = Some(name.to_vec());
                let at = entry * 12;
                let inode = number(block, at, 8) as u32;
                let kind = block[at + 10];
                match name {
                    b"." | b".." => {
                        let expected = [folder.number, parent][name.len() - 1];
                        assert_eq!((inode, kind), (expected, Kind::Folder.in_folder()));
                        dots.insert(name.to_vec());
                        self.count(inode);
                    }
                    _ => self.name(path, name, inode, kind, folder.number),
                }
            }
        }
        assert_eq!(dots.len(), 2);
    }

    fn name(&mut self, path: &[u8], name: &[u8], inode: u32, kind: u8, parent: u32) {
        let found = self.inode(inode);
        assert_eq!(found.kind.in_folder(), kind);
        let mut path = path.to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        self.count(inode);
        if found.kind == Kind::Folder {
            assert!(!self.names.values().any(|other| other.number == inode));
            self.folder(&path, &found, parent);
        }
        self.names.insert(path, found);
    }

    fn count(&mut self, inode: u32) {
        self.seen.get_mut(&inode).unwrap().1 += 1;
    }
}

fn xattrs(bytes: &[u8]) -> Vec<Xattr> {
    let mut found = Vec::new();
    if bytes.is_empty() {
        return found;
    }
    assert!(bytes.len() > 12 && bytes[..12].iter().all(|byte| *byte == 0));
    let mut rest = &bytes[12..];
    while !rest.is_empty() {
        let (name, value) = (usize::from(rest[0]), number(rest, 2, 2) as usize);
        let prefix: &[u8] = match rest[1] {
            1 => b"user.",
            2 => b"system.posix_acl_access",
            3 => b"system.posix_acl_default",
            4 => b"trusted.",
            6 => b"security.",
            other => panic!("attributes of kind {other}"),
        };
        let (own, behind) = rest.split_at((4 + name + value).next_multiple_of(4));
        let (name, value) = own[4..].split_at(name);
        let (value, filling) = value.split_at(number(own, 2, 2) as usize);
        assert!(filling.iter().all(|byte| *byte == 0));
        found.push(([prefix, name].concat(), value.to_vec()));
        rest = behind;
    }
    found
}
