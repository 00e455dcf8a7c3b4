//! A merged [`Tree`] as one tar stream, with nothing in it twice.
//!
//! Folders and all that has no data come first, then files in the order their layers have them (so
//! that each layer is unpacked once, forward), then further names of the same files.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
};

use super::{
    pax,
    tarball::{Attributes, TarError, Tarball},
    tree::{Content, LayerIndex, Node, Tree},
};

const BLOCK: u64 = 512;

#[derive(Debug, thiserror::Error)]
pub enum MergedError {
    #[error(transparent)]
    Layer(#[from] TarError),
    /// Also when the reader of the stream has gone.
    #[error("the merged image cannot be written: {0}")]
    Write(io::Error),
    #[error("a layer is not what it was when it was first read")]
    Changed,
}

/// What of a tree is to be written, and in which order.
#[derive(Debug)]
pub struct Merged<'a> {
    tree: &'a Tree,
    plain: Vec<(Vec<u8>, usize)>,
    /// By layer, then by entry.
    files: HashMap<LayerIndex, HashMap<u32, (Vec<u8>, usize)>>,
    /// Name, and the name that was written before.
    links: Vec<(Vec<u8>, Vec<u8>, usize)>,
}

impl<'a> Merged<'a> {
    pub fn new(tree: &'a Tree) -> Self {
        let mut merged = Self {
            tree,
            plain: Vec::new(),
            files: HashMap::new(),
            links: Vec::new(),
        };
        let mut first_names = vec![None; tree.inodes()];
        merged.plain.push((b"./".to_vec(), tree.root().inode));
        merged.walk(tree.root(), &mut Vec::new(), &mut first_names);
        merged
    }

    /// Bytes of all files, each once.
    pub fn data(&self) -> u64 {
        self.files
            .values()
            .flat_map(HashMap::values)
            .map(|(_, inode)| match self.tree.inode(*inode).content {
                Content::File { size, .. } => size,
                _ => 0,
            })
            .sum()
    }

    /// Names, of whatever kind.
    pub fn names(&self) -> u64 {
        let files: usize = self.files.values().map(HashMap::len).sum();
        (self.plain.len() + files + self.links.len()) as u64
    }

    /// Writes the stream. `open` gives a layer's unpacked bytes.
    pub fn write<R: Read>(
        &self,
        out: &mut impl Write,
        mut open: impl FnMut(LayerIndex) -> io::Result<R>,
    ) -> Result<(), MergedError> {
        for (name, inode) in &self.plain {
            self.write_header(out, name, *inode, None)?;
        }
        let mut layers: Vec<_> = self.files.iter().collect();
        layers.sort_by_key(|(layer, _)| **layer);
        for (layer, files) in layers {
            let input = open(*layer).map_err(TarError::Read)?;
            self.write_files(out, files, Tarball::new(input))?;
        }
        for (name, target, inode) in &self.links {
            self.write_header(out, name, *inode, Some(target))?;
        }
        out.write_all(&[0; 2 * BLOCK as usize])
            .map_err(MergedError::Write)?;
        out.flush().map_err(MergedError::Write)
    }

    fn walk(&mut self, folder: &Node, at: &mut Vec<u8>, first_names: &mut [Option<Vec<u8>>]) {
        let length = at.len();
        for (name, node) in &folder.children {
            if length > 0 {
                at.push(b'/');
            }
            at.extend_from_slice(name);
            match (
                &self.tree.inode(node.inode).content,
                &mut first_names[node.inode],
            ) {
                (Content::Folder, _) => {
                    self.plain
                        .push(([at, b"/".as_slice()].concat(), node.inode));
                    self.walk(node, at, first_names);
                }
                (_, Some(first)) => self.links.push((at.clone(), first.clone(), node.inode)),
                (content, first) => {
                    *first = Some(at.clone());
                    match content {
                        Content::File {
                            layer,
                            entry,
                            size: 1..,
                        } => {
                            let files = self.files.entry(*layer).or_default();
                            files.insert(*entry, (at.clone(), node.inode));
                        }
                        _ => self.plain.push((at.clone(), node.inode)),
                    }
                }
            }
            at.truncate(length);
        }
    }

    fn write_files<R: Read>(
        &self,
        out: &mut impl Write,
        files: &HashMap<u32, (Vec<u8>, usize)>,
        mut layer: Tarball<R>,
    ) -> Result<(), MergedError> {
        let mut left = files.len();
        while left > 0 {
            let entry = layer.next_entry()?.ok_or(MergedError::Changed)?;
            let Some((name, inode)) = files.get(&entry.index) else {
                continue;
            };
            left -= 1;
            if !matches!(self.tree.inode(*inode).content, Content::File { size, .. } if size == entry.size)
            {
                return Err(MergedError::Changed);
            }
            self.write_header(out, name, *inode, None)?;
            let copied = copy(&mut layer.data(), out)?;
            pad(out, copied)?;
        }
        Ok(())
    }

    fn write_header(
        &self,
        out: &mut impl Write,
        name: &[u8],
        inode: usize,
        hard_link: Option<&[u8]>,
    ) -> Result<(), MergedError> {
        let inode = self.tree.inode(inode);
        let mut header = tar::Header::new_ustar();
        header.set_size(0);
        let (kind, link): (tar::EntryType, &[u8]) = match (&inode.content, hard_link) {
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
        let records = pax_records(name, link, &inode.attributes);
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
        put(&mut header.as_old_mut().name, name);
        put(&mut header.as_old_mut().linkname, link);
        header.set_mode(inode.attributes.mode);
        header.set_uid(inode.attributes.uid.into());
        header.set_gid(inode.attributes.gid.into());
        header.set_mtime(inode.attributes.modified);
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

/// Like [`io::copy`], but tells which side failed.
fn copy(from: &mut impl Read, to: &mut impl Write) -> Result<u64, MergedError> {
    let mut buffer = vec![0; 128 << 10];
    let mut copied = 0;
    loop {
        let length = from.read(&mut buffer).map_err(TarError::Read)?;
        if length == 0 {
            return Ok(copied);
        }
        to.write_all(&buffer[..length])
            .map_err(MergedError::Write)?;
        copied += length as u64;
    }
}

fn pad(out: &mut impl Write, length: u64) -> Result<(), MergedError> {
    let zeroes = [0; BLOCK as usize];
    let missing = (BLOCK - length % BLOCK) % BLOCK;
    out.write_all(&zeroes[..missing as usize])
        .map_err(MergedError::Write)
}

#[cfg(test)]
#[path = "merged_tests.rs"]
mod tests;
