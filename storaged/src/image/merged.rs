//! A merged [`Tree`] as one tar stream, with nothing in it twice.
//!
//! Folders and all that has no data come first, then files in the order their layers have them (so
//! that each layer is unpacked once, forward), then further names of the same files.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Read, Write},
};

use super::{
    pax,
    tarball::{Attributes, TarError, Tarball, padding},
    tree::{Content, Inode, LayerIndex, Node, Tree},
    ustar::BLOCK,
};

/// What is copied at once. Made once, for most files are a hundredth of it.
const PIECE: usize = 128 << 10;

/// Seconds that a header's eleven octal digits hold.
const TIMES: std::ops::Range<i64> = 0..1 << 33;

#[derive(Debug, thiserror::Error)]
pub enum MergedError {
    #[error("layer {}, read once more: {source}", .layer + 1)]
    Layer { layer: usize, source: TarError },
    /// Also when the reader of the stream has gone.
    #[error("the merged image cannot be written: {0}")]
    Write(io::Error),
    #[error("layer {} is not what it was when it was first read", .layer + 1)]
    Changed { layer: usize },
}

/// What of a tree is to be written, and in which order. Holds no whole names: those of deep trees
/// are together many times larger than the tree.
#[derive(Debug)]
pub struct Merged<'a> {
    tree: &'a Tree,
    /// Each after its folder; the root first.
    places: Vec<Place<'a>>,
    plain: Vec<PlaceIndex>,
    /// By layer, then by entry.
    files: BTreeMap<LayerIndex, HashMap<u32, PlaceIndex>>,
    /// What is a further name, and the name that was written before.
    links: Vec<(PlaceIndex, PlaceIndex)>,
}

/// A name in the tree.
#[derive(Debug)]
struct Place<'a> {
    folder: PlaceIndex,
    name: &'a [u8],
    inode: usize,
}

type PlaceIndex = u32;

const ROOT: PlaceIndex = 0;

impl<'a> Merged<'a> {
    pub fn new(tree: &'a Tree) -> Self {
        let root = Place {
            folder: ROOT,
            name: b".",
            inode: tree.root().inode,
        };
        let mut merged = Self {
            tree,
            places: vec![root],
            plain: vec![ROOT],
            files: BTreeMap::new(),
            links: Vec::new(),
        };
        let mut first_names = vec![None; tree.inodes()];
        merged.walk(tree.root(), ROOT, &mut first_names);
        merged
    }

    /// Bytes of all files, each once.
    pub fn data(&self) -> u64 {
        self.files
            .values()
            .flat_map(HashMap::values)
            .map(|place| match self.inode(*place).content {
                Content::File { size, .. } => size,
                _ => 0,
            })
            .sum()
    }

    /// Names, of whatever kind.
    pub fn names(&self) -> u64 {
        self.places.len() as u64
    }

    /// Writes the stream. `open` gives a layer's unpacked bytes.
    pub fn write<R: Read>(
        &self,
        out: &mut impl Write,
        mut open: impl FnMut(LayerIndex) -> io::Result<R>,
    ) -> Result<(), MergedError> {
        for place in &self.plain {
            self.write_header(out, *place, None)?;
        }
        let mut piece = vec![0; PIECE];
        for (layer, files) in &self.files {
            let again = Again {
                layer: usize::from(*layer),
            };
            let input = open(*layer).map_err(|error| again.damaged(error.into()))?;
            self.write_files(out, files, &again, Tarball::new(input), &mut piece)?;
        }
        for (place, target) in &self.links {
            self.write_header(out, *place, Some(*target))?;
        }
        out.write_all(&[0; 2 * BLOCK]).map_err(MergedError::Write)?;
        out.flush().map_err(MergedError::Write)
    }

    fn walk(&mut self, folder: &'a Node, at: PlaceIndex, first_names: &mut [Option<PlaceIndex>]) {
        for (name, node) in &folder.children {
            let place = self.places.len() as PlaceIndex;
            self.places.push(Place {
                folder: at,
                name,
                inode: node.inode,
            });
            let first = &mut first_names[node.inode];
            match (&self.tree.inode(node.inode).content, *first) {
                (Content::Folder, _) => {
                    self.plain.push(place);
                    self.walk(node, place, first_names);
                }
                (_, Some(first)) => self.links.push((place, first)),
                (content, None) => {
                    *first = Some(place);
                    match content {
                        Content::File {
                            layer,
                            entry,
                            size: 1..,
                        } => {
                            let files = self.files.entry(*layer).or_default();
                            files.insert(*entry, place);
                        }
                        _ => self.plain.push(place),
                    }
                }
            }
        }
    }

    fn inode(&self, place: PlaceIndex) -> &'a Inode {
        self.tree.inode(self.places[place as usize].inode)
    }

    /// The whole name; that of a folder ends in a slash.
    fn name(&self, mut place: PlaceIndex) -> Vec<u8> {
        let is_folder = self.inode(place).content == Content::Folder;
        let mut parts = vec![self.places[place as usize].name];
        while self.places[place as usize].folder != ROOT {
            place = self.places[place as usize].folder;
            parts.push(self.places[place as usize].name);
        }
        parts.reverse();
        let mut name = parts.join(&b'/');
        if is_folder {
            name.push(b'/');
        }
        name
    }

    fn write_files<R: Read>(
        &self,
        out: &mut impl Write,
        files: &HashMap<u32, PlaceIndex>,
        again: &Again,
        mut layer: Tarball<R>,
        piece: &mut [u8],
    ) -> Result<(), MergedError> {
        let mut left = files.len();
        while left > 0 {
            let entry = layer.next_entry().map_err(|error| again.damaged(error))?;
            let entry = entry.ok_or_else(|| again.changed())?;
            let Some(place) = files.get(&entry.index) else {
                continue;
            };
            left -= 1;
            if !matches!(self.inode(*place).content, Content::File { size, .. } if size == entry.size)
            {
                return Err(again.changed());
            }
            self.write_header(out, *place, None)?;
            let copied = again.copy(&mut layer.data(), out, piece)?;
            pad(out, copied)?;
        }
        Ok(())
    }

    fn write_header(
        &self,
        out: &mut impl Write,
        place: PlaceIndex,
        hard_link: Option<PlaceIndex>,
    ) -> Result<(), MergedError> {
        let inode = self.inode(place);
        let name = self.name(place);
        let hard_link = hard_link.map(|target| self.name(target));
        let mut header = tar::Header::new_ustar();
        header.set_size(0);
        let (kind, link): (tar::EntryType, &[u8]) = match (&inode.content, &hard_link) {
            (_, Some(target)) => (tar::EntryType::Link, target),
            (Content::Folder, _) => (tar::EntryType::Directory, b""),
            (Content::File { size, .. }, _) => {
                header.set_size(*size);
                (tar::EntryType::Regular, b"")
            }
            (Content::Symlink(target), _) => (tar::EntryType::Symlink, target),
            (Content::Character(major, minor), _) => {
                set_device(&mut header, *major, *minor).map_err(MergedError::Write)?;
                (tar::EntryType::Char, b"")
            }
            (Content::Block(major, minor), _) => {
                set_device(&mut header, *major, *minor).map_err(MergedError::Write)?;
                (tar::EntryType::Block, b"")
            }
            (Content::Fifo, _) => (tar::EntryType::Fifo, b""),
        };
        header.set_entry_type(kind);
        let records = pax_records(&name, link, &inode.attributes);
        if !records.is_empty() {
            let mut extension = tar::Header::new_ustar();
            extension.set_entry_type(tar::EntryType::XHeader);
            extension.set_size(records.len() as u64);
            put(&mut extension.as_old_mut().name, b"pax");
            extension.set_cksum();
            out.write_all(extension.as_bytes())
                .map_err(MergedError::Write)?;
            out.write_all(&records).map_err(MergedError::Write)?;
            pad(out, records.len() as u64)?;
        }
        put(&mut header.as_old_mut().name, &name);
        put(&mut header.as_old_mut().linkname, link);
        header.set_mode(inode.attributes.mode);
        header.set_uid(inode.attributes.uid.into());
        header.set_gid(inode.attributes.gid.into());
        let seconds = inode.attributes.modified.seconds;
        if TIMES.contains(&seconds) {
            header.set_mtime(seconds.unsigned_abs());
        } else {
            header.set_mtime(0);
        }
        header.set_cksum();
        out.write_all(header.as_bytes()).map_err(MergedError::Write)
    }
}

fn set_device(header: &mut tar::Header, major: u32, minor: u32) -> io::Result<()> {
    header.set_device_major(major)?;
    header.set_device_minor(minor)
}

/// What a ustar header cannot hold.
fn pax_records(name: &[u8], link: &[u8], attributes: &Attributes) -> Vec<u8> {
    const HELD: usize = 100;
    let mut records = Vec::new();
    if name.len() > HELD {
        pax::write_record(&mut records, b"path", name);
    }
    if link.len() > HELD {
        pax::write_record(&mut records, b"linkpath", link);
    }
    let time = attributes.modified;
    if time.nanoseconds != 0 || !TIMES.contains(&time.seconds) {
        // `mkfs.erofs` takes the fraction for a number of nanoseconds, so it must have all nine digits.
        let time = format!("{}.{:09}", time.seconds, time.nanoseconds);
        pax::write_record(&mut records, b"mtime", time.as_bytes());
    }
    for (key, value) in &attributes.xattrs {
        pax::write_record(
            &mut records,
            &[b"SCHILY.xattr.", key.as_slice()].concat(),
            value,
        );
    }
    records
}

/// As much as fits; a PAX record has the whole.
fn put(field: &mut [u8], bytes: &[u8]) {
    let length = bytes.len().min(field.len());
    field[..length].copy_from_slice(&bytes[..length]);
}

/// The layer that is read once more, from 0.
struct Again {
    layer: usize,
}

impl Again {
    fn damaged(&self, source: TarError) -> MergedError {
        let layer = self.layer;
        MergedError::Layer { layer, source }
    }

    fn changed(&self) -> MergedError {
        let layer = self.layer;
        MergedError::Changed { layer }
    }

    /// Like [`io::copy`], but tells which side failed.
    fn copy(
        &self,
        from: &mut impl Read,
        to: &mut impl Write,
        piece: &mut [u8],
    ) -> Result<u64, MergedError> {
        let mut copied = 0;
        loop {
            let length = from
                .read(piece)
                .map_err(|error| self.damaged(error.into()))?;
            if length == 0 {
                return Ok(copied);
            }
            to.write_all(&piece[..length]).map_err(MergedError::Write)?;
            copied += length as u64;
        }
    }
}

fn pad(out: &mut impl Write, length: u64) -> Result<(), MergedError> {
    out.write_all(&[0; BLOCK][..padding(length) as usize])
        .map_err(MergedError::Write)
}

#[cfg(test)]
#[path = "merged_tests.rs"]
mod tests;
