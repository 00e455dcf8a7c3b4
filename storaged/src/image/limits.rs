//! How much an image may make us do. Whoever writes it chooses all of it. What a registry may, and how
//! much of an image it may send, is limited by [`loam_oci::limits`].

/// All layers unpacked, whether their files survive the merge or not: bounds the time that a
/// decompression bomb costs. The largest images in use come to 30 to 40 GiB. The files of all layers
/// may be as long together, holes included: they cost nothing here, but whoever copies such a file has as much,
/// and 4 bytes for each 4096 of it are written.
pub const UNPACKED: u64 = 64 << 30;

/// Names in all layers together: bounds memory, some 350 bytes each. Of the images in use only those of machine
/// learning come near.
pub const ENTRIES: u64 = 300_000;

/// Bytes of names, link targets and extended attributes held in memory: 200 a name.
pub const METADATA: u64 = 64 << 20;

/// Linux's own limits (`PATH_MAX`, `NAME_MAX`).
pub const PATH: usize = 4096;
pub const NAME: usize = 255;

/// Folders in folders. Trees are walked recursively; none in use is a tenth as deep.
pub const DEPTH: usize = 256;

/// One tar extension header: a path, a link target and attributes.
pub const EXTENSION: u64 = 1 << 20;

/// Pieces of data in one file with holes: 4 MiB of memory for the one that is being read. Of a file of
/// 4 GiB, that is a hole every 16 KiB.
pub const PIECES: usize = 1 << 18;

/// Bytes of all extended attributes of one entry, half of what Linux has for one (`XATTR_SIZE_MAX`): as an image
/// has them they are 80 KiB at most, of the 256 that an inode in EROFS has room for.
pub const XATTRS: usize = 32 << 10;

/// Failures of a registry in a row that are waited out and called no failure, if they may pass: a minute and a
/// quarter, with the pauses between.
pub const PASSING_FAILURES: u32 = 4;

/// Fetches at a time. Few, so that each gets on; more than one site's, so that none waits for one
/// site alone.
pub const FETCHES: usize = 4;
pub const FETCHES_OF_ONE_SITE: usize = 2;
