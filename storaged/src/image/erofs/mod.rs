//! An image's file system: EROFS, as a kernel reads it that knows files with holes (Linux 5.15 or later).
//!
//! | module | what |
//! |---|---|
//! | [`format`] | superblock, inodes and devices' numbers, byte for byte |
//! | [`directory`], [`xattrs`] | a folder's names in blocks; extended attributes |
//! | [`stored`] | where the data of one file is |
//! | [`slots`], [`live`] | where inodes go; which of the layers' data goes where |
//! | [`plan`], [`write`](mod@write) | the place of everything; then all but the data, in one go |
//!
//! One file from its beginning: the superblock's block; inodes, each with its attributes and, where that pays,
//! its data; the blocks of folders and links that are longer; the data of files, layer by layer. Nothing in it
//! tells when, where or by whom it was made: the same layers give the same bytes on every node.
//!
//! Not compressed: machines start faster. The format is Linux's (`fs/erofs/erofs_fs.h`,
//! `Documentation/filesystems/erofs.rst`).

pub mod directory;
pub mod format;
pub mod live;
pub mod plan;
pub mod slots;
pub mod stored;
pub mod write;
pub mod xattrs;

#[cfg(test)]
pub mod testing;

/// A number that the format has no room for. What layers may have is limited to much less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the image is too large: {0} are more than its file system can have")]
pub struct TooLarge(pub &'static str);
