//! EROFS on the disk, as much of it as images have (Linux's `fs/erofs/erofs_fs.h`). All numbers are
//! little-endian.

use crate::image::tarball::Time;

/// Data is in blocks of so many bytes, and so is all else in the end.
pub const BLOCK: u64 = 4096;

/// An inode begins at a multiple of this; which one is its number (`nid`).
pub const SLOT: u64 = 32;

/// Bytes of an inode of the long form, which holds every owner, time and size (`struct erofs_inode_extended`).
pub const INODE: u64 = 64;

/// What stands for a hole in a file's map of chunks (`EROFS_NULL_ADDR`).
pub const HOLE: u32 = u32::MAX;

/// The root's number, which the superblock has 16 bits for: the first inode, right behind the superblock's block.
pub const ROOT: u32 = (BLOCK / SLOT) as u32;

/// In its block (`EROFS_SUPER_OFFSET`): before it is room for what starts a computer.
const SUPERBLOCK: usize = 1024;

const MAGIC: u32 = 0xe0f5_e1e2;

/// `EROFS_FEATURE_COMPAT_SB_CHKSUM`, `_MTIME`: there is a checksum, and times are those of the last change.
const COMPATIBLE: u32 = 0x3;

/// `EROFS_FEATURE_INCOMPAT_CHUNKED_FILE`.
const CHUNKS: u32 = 0x4;

/// Of the whole file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    pub inodes: u64,
    pub blocks: u32,
    /// Whether files have holes. A kernel that knows no chunks mounts what has none.
    pub has_chunks: bool,
}

impl Superblock {
    /// The file's first block. No UUID, name or time of making.
    pub fn block(&self) -> [u8; BLOCK as usize] {
        let mut block = [0; BLOCK as usize];
        let mut fields = Fields(&mut block[SUPERBLOCK..]);
        fields.put(0, MAGIC.to_le_bytes());
        fields.put(8, COMPATIBLE.to_le_bytes());
        fields.put(12, [BLOCK.trailing_zeros() as u8]);
        fields.put(14, (ROOT as u16).to_le_bytes());
        fields.put(16, self.inodes.to_le_bytes());
        fields.put(36, self.blocks.to_le_bytes());
        let needed = if self.has_chunks { CHUNKS } else { 0 };
        fields.put(80, needed.to_le_bytes());
        let checksum = crc32c(&block[SUPERBLOCK..]);
        Fields(&mut block[SUPERBLOCK..]).put(4, checksum.to_le_bytes());
        block
    }
}

/// How an inode has its data (`enum` of data layouts).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// In blocks, one behind the other.
    Plain = 0,
    /// The same, but what does not fill a block is behind the inode and its attributes.
    Inline = 2,
    /// In chunks, by a map behind the inode and its attributes: the number of each chunk's first block, in 32
    /// bits.
    Chunks = 4,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inode {
    pub layout: Layout,
    /// As [`super::xattrs::count`] has it.
    pub xattrs: u16,
    /// With the kind ([`Kind::mode`]).
    pub mode: u16,
    pub size: u64,
    /// The first block of the data; or how large chunks are, in blocks, as a power of two; or a device's number.
    pub place: u32,
    /// What programs of 32 bits see as the file's number.
    pub number: u32,
    pub uid: u32,
    pub gid: u32,
    pub modified: Time,
    /// How many names it has.
    pub links: u32,
}

impl Inode {
    pub fn bytes(&self) -> [u8; INODE as usize] {
        /// `EROFS_INODE_LAYOUT_EXTENDED`.
        const LONG: u16 = 1;
        let mut bytes = [0; INODE as usize];
        let mut fields = Fields(&mut bytes);
        fields.put(0, (LONG + ((self.layout as u16) << 1)).to_le_bytes());
        fields.put(2, self.xattrs.to_le_bytes());
        fields.put(4, self.mode.to_le_bytes());
        fields.put(8, self.size.to_le_bytes());
        fields.put(16, self.place.to_le_bytes());
        fields.put(20, self.number.to_le_bytes());
        fields.put(24, self.uid.to_le_bytes());
        fields.put(28, self.gid.to_le_bytes());
        fields.put(32, self.modified.seconds.to_le_bytes());
        fields.put(40, self.modified.nanoseconds.to_le_bytes());
        fields.put(44, self.links.to_le_bytes());
        bytes
    }
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Folder,
    Character,
    Block,
    Fifo,
    Symlink,
}

impl Kind {
    /// As an inode's mode has it, beside the permissions (`S_IFMT`).
    pub fn mode(self) -> u16 {
        match self {
            Self::File => 0o100_000,
            Self::Folder => 0o040_000,
            Self::Character => 0o020_000,
            Self::Block => 0o060_000,
            Self::Fifo => 0o010_000,
            Self::Symlink => 0o120_000,
        }
    }

    /// As a folder has it beside the name (`FT_*` in `include/linux/fs_types.h`).
    pub fn in_folder(self) -> u8 {
        match self {
            Self::File => 1,
            Self::Folder => 2,
            Self::Character => 3,
            Self::Block => 4,
            Self::Fifo => 5,
            Self::Symlink => 7,
        }
    }
}

/// A device's number in 32 bits: 12 of the major one, 20 of the minor one (`new_encode_dev` in
/// `include/linux/kdev_t.h`).
pub fn device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) + ((major & 0xfff) << 8) + ((minor & 0xf_ff00) << 12)
}

/// Castagnoli's CRC, begun with all bits set and not turned round at its end, as the kernel has it.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (POLYNOMIAL * (crc & 1))
        })
    })
}

/// A structure of fixed places.
struct Fields<'a>(&'a mut [u8]);

impl Fields<'_> {
    fn put<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        self.0[at..at + N].copy_from_slice(&bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, B.4, has these checksums turned round.
    #[test]
    fn checksums_are_castagnoli_s() {
        assert_eq!(!crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(!crc32c(&[0xff; 32]), 0x62a8_ab43);
        let counted: Vec<u8> = (0..32).collect();
        assert_eq!(!crc32c(&counted), 0x46dd_794e);
    }

    #[test]
    fn devices_keep_all_bits_of_their_numbers() {
        assert_eq!(device(8, 1), 0x801);
        assert_eq!(device(0xfff, 0xf_ffff), u32::MAX);
        assert_eq!(device(0, 0x100), 0x10_0000);
        assert_eq!(device(0xfff, 0), 0xf_ff00);
    }

    /// Offsets of `struct erofs_super_block`.
    #[test]
    fn a_superblock_says_what_there_is_and_nothing_of_who_made_it() {
        let superblock = Superblock {
            inodes: 0x0102_0304_0506,
            blocks: 0x0708_090a,
            has_chunks: true,
        };
        let block = superblock.block();
        assert!(block[..1024].iter().all(|byte| *byte == 0));
        let mut expected = [0; 128];
        expected[..4].copy_from_slice(&[0xe2, 0xe1, 0xf5, 0xe0]);
        expected[4..8].copy_from_slice(&block[1028..1032]);
        expected[8] = 3;
        expected[12] = 12;
        expected[14] = 128;
        expected[16..22].copy_from_slice(&[6, 5, 4, 3, 2, 1]);
        expected[36..40].copy_from_slice(&[10, 9, 8, 7]);
        expected[80] = 4;
        assert_eq!(block[1024..1152], expected);
        assert!(block[1152..].iter().all(|byte| *byte == 0));
        let mut summed = block;
        summed[1028..1032].fill(0);
        let checksum = crc32c(&summed[1024..]);
        assert_eq!(block[1028..1032], checksum.to_le_bytes());
        let plain = Superblock {
            has_chunks: false,
            ..superblock
        };
        assert_eq!(plain.block()[1024 + 80], 0);
    }

    /// Offsets of `struct erofs_inode_extended`.
    #[test]
    fn an_inode_has_each_number_in_its_place() {
        let inode = Inode {
            layout: Layout::Inline,
            xattrs: 0x0102,
            mode: 0x0304,
            size: 0x0506_0708_090a_0b0c,
            place: 0x0d0e_0f10,
            number: 0x1112_1314,
            uid: 0x1516_1718,
            gid: 0x191a_1b1c,
            modified: Time {
                seconds: -2,
                nanoseconds: 0x1d1e_1f20,
            },
            links: 0x2122_2324,
        };
        let expected = [
            5, 0, 2, 1, 4, 3, 0, 0, 12, 11, 10, 9, 8, 7, 6, 5, 16, 15, 14, 13, 20, 19, 18, 17, 24,
            23, 22, 21, 28, 27, 26, 25, 254, 255, 255, 255, 255, 255, 255, 255, 32, 31, 30, 29, 36,
            35, 34, 33,
        ];
        assert_eq!(inode.bytes()[..48], expected);
        assert_eq!(inode.bytes()[48..], [0; 16]);
        let format = |layout| Inode { layout, ..inode }.bytes()[0];
        let formats = [Layout::Plain, Layout::Inline, Layout::Chunks].map(format);
        assert_eq!(formats, [1, 5, 9]);
    }

    #[test]
    fn kinds_are_what_the_kernel_calls_them() {
        use Kind::{Block, Character, Fifo, File, Folder, Symlink};
        let all = [Fifo, Character, Folder, Block, File, Symlink];
        let modes = [1, 2, 4, 6, 8, 10].map(|kind: u16| kind << 12);
        assert_eq!(all.map(Kind::mode), modes);
        assert_eq!(all.map(Kind::in_folder), [5, 3, 2, 4, 1, 7]);
    }
}
