//! Writes all of an image that is before its files' data, from its first byte to the last.

use std::io::{self, Write};

use super::{
    TooLarge,
    directory::{self, Target},
    format::{self, BLOCK, HOLE, Inode, Layout, SLOT, Superblock},
    plan::{Body, Folder, Plan, body, kind},
    stored::{Holes, Run, Shape},
    xattrs,
};
use crate::image::tree::{Content, LayerIndex};

/// What was put aside of layers beside whole blocks: ends of files, and runs of data between holes.
pub trait Beside {
    /// Fills `buffer` with what the layer has there from byte `at` on.
    fn read(&self, layer: LayerIndex, at: u64, buffer: &mut [u8]) -> io::Result<()>;
}

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}

/// Gives `out` [`Plan::metadata`] bytes.
pub fn write(plan: &Plan<'_>, beside: &dyn Beside, out: &mut dyn Write) -> Result<(), WriteError> {
    let mut writer = Writer {
        plan,
        beside,
        out,
        at: 0,
        runs: Vec::new(),
    };
    let superblock = Superblock {
        inodes: plan.order.len() as u64,
        blocks: plan.blocks(),
        has_chunks: plan.has_chunks,
    };
    writer.put(&superblock.block())?;
    for (number, inode) in plan.order.iter().enumerate() {
        writer.inode(*inode as usize, number as u32 + 1)?;
    }
    writer.fill_to(u64::from(plan.first_apart) * BLOCK)?;
    for inode in &plan.apart {
        writer.own_bytes(*inode as usize)?;
        writer.fill_to(writer.at.next_multiple_of(BLOCK))?;
    }
    debug_assert_eq!(writer.at, plan.metadata());
    Ok(())
}

struct Writer<'a> {
    plan: &'a Plan<'a>,
    beside: &'a dyn Beside,
    out: &'a mut dyn Write,
    at: u64,
    /// A piece of a file's runs. Kept, for the next.
    runs: Vec<u8>,
}

/// Bytes of runs that are read at once, at most: whole ones.
const PIECE: usize = 32_768;

impl Writer<'_> {
    fn inode(&mut self, index: usize, number: u32) -> Result<(), WriteError> {
        let place = self.plan.places[index];
        let inode = self.plan.tree.inode(index);
        let body = body(inode, place.folder);
        let (layout, size, at) = match (&inode.content, body) {
            (Content::File { layer, data, size }, _) => {
                // Where there are none, none is looked for.
                let first = match data.blocks {
                    0 => 0,
                    _ => self.plan.data(*layer, data.first),
                };
                match data.shape {
                    Shape::Plain => (Layout::Plain, *size, first),
                    Shape::Tail { .. } => (Layout::Inline, *size, first),
                    Shape::Holes(holes) => (Layout::Chunks, *size, holes.chunk.into()),
                }
            }
            (Content::Character(major, minor) | Content::Block(major, minor), _) => {
                (Layout::Plain, 0, format::device(*major, *minor))
            }
            (_, Body::Inline(size)) => (Layout::Inline, size, 0),
            (_, Body::Apart(size)) => (Layout::Plain, size, self.plan.first_apart + place.block),
            (_, Body::None | Body::Map(_)) => (Layout::Plain, 0, 0),
        };
        let attributes = &inode.attributes;
        let head = Inode {
            layout,
            xattrs: xattrs::count(&attributes.xattrs)?,
            mode: kind(&inode.content).mode() + (attributes.mode & 0o7777) as u16,
            size,
            place: at,
            number,
            uid: attributes.uid,
            gid: attributes.gid,
            modified: attributes.modified,
            links: place.links,
        };
        self.fill_to(u64::from(place.number) * SLOT)?;
        self.put(&head.bytes())?;
        self.put(&xattrs::bytes(&attributes.xattrs)?)?;
        match (&inode.content, body) {
            (Content::File { layer, size, data }, Body::Inline(length)) => {
                if let Shape::Tail { at } = data.shape {
                    let mut tail = vec![0; length as usize];
                    self.beside.read(*layer, at, &mut tail)?;
                    self.put(&tail)?;
                }
                debug_assert!(length <= *size);
                Ok(())
            }
            (Content::File { layer, data, .. }, Body::Map(chunks)) => {
                if let Shape::Holes(holes) = data.shape {
                    self.map(*layer, data.first, holes, chunks)?;
                }
                Ok(())
            }
            (_, Body::Inline(_)) => Ok(self.own_bytes(index)?),
            (_, Body::None | Body::Apart(_) | Body::Map(_)) => Ok(()),
        }
    }

    /// Where each chunk of a file is whose blocks of data begin at the layer's block `first`.
    fn map(
        &mut self,
        layer: LayerIndex,
        first: u32,
        holes: Holes,
        chunks: u64,
    ) -> Result<(), WriteError> {
        let (mut chunk, mut runs, mut at) = (0, u64::from(holes.runs), holes.at);
        let mut from = first;
        while runs > 0 {
            let length = (runs * Run::SIZE as u64).min(PIECE as u64) as usize;
            self.runs.resize(length, 0);
            self.beside.read(layer, at, &mut self.runs)?;
            let pieces = std::mem::take(&mut self.runs);
            let (pieces_read, _) = pieces.as_chunks::<{ Run::SIZE }>();
            for run in pieces_read {
                let run = Run::read(*run);
                let begins = u64::from(run.first >> holes.chunk);
                self.holes(begins.saturating_sub(chunk))?;
                let mut block = self.plan.data(layer, from);
                let count = u64::from(run.blocks).div_ceil(1 << holes.chunk);
                for _ in 0..count {
                    self.put(&block.to_le_bytes())?;
                    block = block.saturating_add(1 << holes.chunk);
                }
                chunk = begins + count;
                from += run.blocks;
            }
            self.runs = pieces;
            (runs, at) = (runs - (length / Run::SIZE) as u64, at + length as u64);
        }
        self.holes(chunks.saturating_sub(chunk))
    }

    fn holes(&mut self, mut chunks: u64) -> Result<(), WriteError> {
        const MANY: usize = 1024;
        let many = [HOLE.to_le_bytes(); MANY];
        while chunks > 0 {
            let some = chunks.min(MANY as u64);
            self.put(many[..some as usize].as_flattened())?;
            chunks -= some;
        }
        Ok(())
    }

    /// What a folder or a link has.
    fn own_bytes(&mut self, index: usize) -> io::Result<()> {
        match &self.plan.tree.inode(index).content {
            Content::Symlink(target) => self.put(target),
            Content::Folder => match self.plan.places[index].folder {
                Some(folder) => self.names(index, folder),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn names(&mut self, own: usize, folder: Folder<'_>) -> io::Result<()> {
        let plan = self.plan;
        let target = |index: usize| Target {
            inode: plan.places[index].number,
            kind: kind(&plan.tree.inode(index).content),
        };
        let children = folder.node.children.iter();
        let children = children.map(|(name, node)| (&**name, target(node.inode)));
        let names = directory::in_order(target(own), target(folder.parent), children);
        let mut is_first = true;
        directory::blocks(names, |block| {
            if !is_first {
                let begins = self.at.next_multiple_of(BLOCK);
                self.fill_to(begins)?;
            }
            is_first = false;
            self.put(block)
        })
    }

    fn fill_to(&mut self, at: u64) -> io::Result<()> {
        const ZEROES: [u8; BLOCK as usize] = [0; BLOCK as usize];
        let mut left = at.saturating_sub(self.at);
        while left > 0 {
            let length = left.min(BLOCK);
            self.put(&ZEROES[..length as usize])?;
            left -= length;
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}
