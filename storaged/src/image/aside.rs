//! [`Aside`]: a layer's data, put aside while the layer is read for the first and only time.
//!
//! | file | what is in it |
//! |---|---|
//! | blocks | whole blocks of files, as an image has them: each file's one behind the other, without those of holes |
//! | beside | the last bytes of files that do not fill a block, and the runs of data of files with holes |
//!
//! A block of zeroes is a hole, whatever the archive says of it. Both files grow at their ends only, have no names
//! and so go with storaged. Of what is in them nothing is held in memory but one [`Stored`] for each file.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::Path,
};

use rustix::fs::{Advice, CWD, Mode, OFlags, fadvise, openat};

use super::{
    erofs::{
        TooLarge,
        format::BLOCK,
        stored::{Holes, Run, Shape, Stored},
        write::Beside,
    },
    failure::{FetchError, io as io_error},
    space::Space,
    tree::LayerIndex,
};

const BYTES: usize = BLOCK as usize;

const ZEROES: [u8; BYTES] = [0; BYTES];

/// What is written at once.
const BUFFER: usize = 64 * BYTES;

/// Space is taken for as much again as is there, but not for more than this.
const MOST_TAKEN: u64 = 32 << 20;

/// So much is left to the kernel before it is told to begin with writing it to the disk.
const WRITTEN: u64 = 8 << 20;

/// The largest chunks of a file with holes, in blocks, as a power of two: 4 GiB.
const LARGEST_CHUNK: u32 = 20;

/// Where layers' data is put.
#[derive(Clone, Copy)]
pub struct Ground<'a> {
    /// Of a file system that has files without names.
    pub folder: &'a Path,
    pub space: &'a dyn Space,
}

impl std::fmt::Debug for Ground<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ground")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

/// Of one layer.
#[derive(Debug, Default)]
pub struct Aside {
    blocks: Option<File>,
    beside: Option<File>,
    count: u32,
}

impl Aside {
    /// How many blocks there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Where they are; `None` if there are none.
    pub fn blocks(&self) -> Option<&File> {
        self.blocks.as_ref()
    }
}

impl Beside for &[Aside] {
    fn read(&self, layer: LayerIndex, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let file = self
            .get(usize::from(layer))
            .and_then(|aside| aside.beside.as_ref());
        file.ok_or(io::ErrorKind::NotFound)?
            .read_exact_at(buffer, at)
    }
}

/// The bytes of a file of which holes are known.
pub trait Source: Read {
    /// Passes over what comes next of a hole, and says how long that is.
    fn pass_hole(&mut self) -> u64;
}

/// Why a file's data is not put aside.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It cannot be read.
    #[error(transparent)]
    Source(io::Error),
    #[error(transparent)]
    Own(#[from] FetchError),
}

/// Puts a layer's files aside, one after the other.
#[derive(Debug)]
pub struct Writer<'a> {
    blocks: Growing<'a>,
    beside: Growing<'a>,
    /// Of `blocks`'s buffer, behind what is filled: the beginning of a block.
    begun: usize,
}

impl<'a> Writer<'a> {
    pub fn new(ground: Ground<'a>) -> Self {
        Self {
            blocks: Growing::new(ground),
            beside: Growing::new(ground),
            begun: 0,
        }
    }

    /// A file's data to its end. `head`: bytes of its inode and attributes ([`super::erofs::plan`]). A file has at
    /// most as many blocks as 32 bits count.
    pub fn put(&mut self, source: &mut impl Source, head: u64) -> Result<Stored, Failure> {
        let mut layout = Laid::new(self.blocks.blocks()?);
        loop {
            // A hole may end a block, and begin another.
            self.blocks.make_room(self.begun, 2 * BYTES)?;
            let hole = source.pass_hole();
            if hole > 0 {
                self.hole(&mut layout, hole)?;
                continue;
            }
            let filled = self.blocks.filled + self.begun;
            match source.read(&mut self.blocks.buffer[filled..]) {
                Ok(0) => break,
                Ok(length) => self.begun += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::Source(error)),
            }
            self.settle(&mut layout)?;
        }
        let tail = std::mem::take(&mut self.begun);
        if tail > 0 {
            let filled = self.blocks.filled;
            let rest = &mut self.blocks.buffer[filled..filled + BYTES];
            if !layout.has_holes() && head + tail as u64 <= BLOCK {
                let at = self.beside.end();
                self.beside.append(&rest[..tail])?;
                return Ok(layout.with_tail(at));
            }
            rest[tail..].fill(0);
            self.begun = BYTES;
            self.settle(&mut layout)?;
        }
        layout.end(&mut self.beside)
    }

    /// After the last file.
    pub fn finish(mut self) -> Result<Aside, FetchError> {
        let count = self.blocks.blocks()?;
        Ok(Aside {
            count,
            blocks: self.blocks.finish()?,
            beside: self.beside.finish()?,
        })
    }

    fn hole(&mut self, layout: &mut Laid, mut hole: u64) -> Result<(), FetchError> {
        if self.begun > 0 {
            let zeroes = hole.min((BYTES - self.begun) as u64);
            self.zeroes(zeroes as usize);
            self.settle(layout)?;
            hole -= zeroes;
        }
        layout.hole(hole / BLOCK);
        self.zeroes((hole % BLOCK) as usize);
        Ok(())
    }

    fn zeroes(&mut self, length: usize) {
        let from = self.blocks.filled + self.begun;
        self.blocks.buffer[from..from + length].fill(0);
        self.begun += length;
    }

    /// Keeps the whole blocks of what has come, but for those of zeroes.
    fn settle(&mut self, layout: &mut Laid) -> Result<(), FetchError> {
        let buffer = &mut self.blocks.buffer;
        let (mut from, mut to) = (self.blocks.filled, self.blocks.filled);
        let end = from + self.begun;
        while end - from >= BYTES {
            if buffer[from..from + BYTES] == ZEROES {
                layout.hole(1);
            } else {
                if from != to {
                    buffer.copy_within(from..from + BYTES, to);
                }
                to += BYTES;
                layout.data(&mut self.beside)?;
            }
            from += BYTES;
        }
        if from != to {
            buffer.copy_within(from..end, to);
        }
        self.begun = end - from;
        self.blocks.filled = to;
        Ok(())
    }
}

/// How one file's blocks are laid, as far as it has come.
struct Laid {
    /// Where its blocks begin, and how many there are.
    first: u32,
    blocks: u32,
    /// The block that comes next, of the file.
    next: u64,
    /// That has not ended yet.
    run: Option<Run>,
    /// Of those that have ended.
    runs: u32,
    /// Where the first of them is.
    at: u64,
    /// Divides the block's number where each of them begins and ends, as a power of two.
    chunk: u32,
}

impl Laid {
    fn new(first: u32) -> Self {
        Self {
            first,
            blocks: 0,
            next: 0,
            run: None,
            runs: 0,
            at: 0,
            chunk: LARGEST_CHUNK,
        }
    }

    fn has_holes(&self) -> bool {
        self.next > u64::from(self.blocks)
    }

    fn hole(&mut self, blocks: u64) {
        self.next += blocks;
    }

    fn data(&mut self, beside: &mut Growing<'_>) -> Result<(), FetchError> {
        let next = u32::try_from(self.next).map_err(|_| TooLarge("blocks of a file"))?;
        match &mut self.run {
            Some(run) if run.first + run.blocks == next => run.blocks += 1,
            _ => {
                self.end_run(beside)?;
                self.run = Some(Run {
                    first: next,
                    blocks: 1,
                });
            }
        }
        self.next += 1;
        self.blocks += 1;
        Ok(())
    }

    /// Of what has a hole behind it, or ends the file.
    fn end_run(&mut self, beside: &mut Growing<'_>) -> Result<(), FetchError> {
        let Some(run) = self.run.take() else {
            return Ok(());
        };
        if self.runs == 0 {
            self.at = beside.end();
        }
        beside.append(&run.bytes())?;
        self.runs += 1;
        let end = run.first + run.blocks;
        self.divide(run.first);
        if u64::from(end) < self.next {
            self.divide(end);
        }
        Ok(())
    }

    fn divide(&mut self, block: u32) {
        self.chunk = self.chunk.min(block.trailing_zeros());
    }

    fn with_tail(&self, at: u64) -> Stored {
        Stored {
            first: self.first,
            blocks: self.blocks,
            shape: Shape::Tail { at },
        }
    }

    fn end(mut self, beside: &mut Growing<'_>) -> Result<Stored, Failure> {
        let shape = if self.has_holes() {
            self.end_run(beside)?;
            Shape::Holes(Holes {
                at: self.at,
                runs: self.runs,
                chunk: self.chunk as u8,
            })
        } else {
            Shape::Plain
        };
        Ok(Stored {
            first: self.first,
            blocks: self.blocks,
            shape,
        })
    }
}

/// A file without a name that grows at its end. Made when there is something to write.
#[derive(Debug)]
struct Growing<'a> {
    ground: Ground<'a>,
    file: Option<File>,
    /// Of which the first bytes are to be written.
    buffer: Box<[u8]>,
    filled: usize,
    written: u64,
    /// Of `ground`'s space.
    taken: u64,
    /// That the kernel was told to write to the disk.
    sent: u64,
}

impl<'a> Growing<'a> {
    fn new(ground: Ground<'a>) -> Self {
        Self {
            ground,
            file: None,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            filled: 0,
            written: 0,
            taken: 0,
            sent: 0,
        }
    }

    fn end(&self) -> u64 {
        self.written + self.filled as u64
    }

    /// How many whole ones there are.
    fn blocks(&self) -> Result<u32, FetchError> {
        let blocks = u32::try_from(self.end() / BLOCK);
        Ok(blocks.map_err(|_| TooLarge("blocks of a layer"))?)
    }

    fn append(&mut self, mut bytes: &[u8]) -> Result<(), FetchError> {
        while !bytes.is_empty() {
            self.make_room(0, 1)?;
            let room = &mut self.buffer[self.filled..];
            let length = room.len().min(bytes.len());
            room[..length].copy_from_slice(&bytes[..length]);
            self.filled += length;
            bytes = &bytes[length..];
        }
        Ok(())
    }

    /// For `least` bytes behind what is filled and the `begun` bytes behind that, which stay there.
    fn make_room(&mut self, begun: usize, least: usize) -> Result<(), FetchError> {
        if self.buffer.len() - self.filled - begun < least {
            let end = self.filled + begun;
            let filled = self.filled;
            self.flush()?;
            self.buffer.copy_within(filled..end, 0);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), FetchError> {
        let aside = || io_error("put an image's data aside");
        if self.filled == 0 {
            return Ok(());
        }
        let end = self.end();
        if end > self.taken {
            let more = self
                .written
                .clamp(end - self.taken, MOST_TAKEN.max(end - self.taken));
            self.ground.space.take(more)?;
            self.taken += more;
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
                let made = openat(CWD, self.ground.folder, flags, Mode::RUSR | Mode::WUSR);
                self.file
                    .insert(File::from(made.map_err(|e| aside()(e.into()))?))
            }
        };
        file.write_all_at(&self.buffer[..self.filled], self.written)
            .map_err(aside())?;
        (self.written, self.filled) = (end, 0);
        if self.written - self.sent >= WRITTEN {
            // So that the disk works while the rest is unpacked (`generic_fadvise` in Linux's `mm/fadvise.c`).
            // Without it, it is only later.
            let length = (self.written - self.sent).try_into().ok();
            let _ = fadvise(&*file, self.sent, length, Advice::DontNeed);
            self.sent = self.written;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Option<File>, FetchError> {
        self.flush()?;
        self.ground.space.give_back(self.taken - self.written);
        Ok(self.file.take())
    }
}

#[cfg(test)]
#[path = "aside_tests.rs"]
mod tests;
