//! The entries of a tar archive, read from a stream that a stranger wrote.
//!
//! Understands what layers are made of, `docs/oci.md` says what of it: v7, ustar, PAX (POSIX.1-2001),
//! GNU's long names and its files with holes. Every name is normalised here, once: what comes out never
//! leaves the root.

use std::io::{self, Read};

use super::{
    aside::Source,
    limits,
    pax::Extensions,
    sparse::{self, Expansion, Map},
    ustar::{BLOCK, Header, Pieces},
};

/// What is skipped at once.
const SKIPPED: usize = 64 << 10;

/// Largest device numbers that Linux has (`MAJOR`, `MINOR`: 12 and 20 bits).
const MAJOR: i64 = 0xfff;
const MINOR: i64 = 0xf_ffff;

#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("the archive cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("the archive is damaged: {0}")]
    Damaged(String),
    #[error("`{0}` leaves the image's root")]
    Escape(String),
    #[error("`{name}`: {why}")]
    Entry { name: String, why: String },
}

/// A name inside an image: components from the root, none of them empty, `.` or `..`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImagePath(Vec<Box<[u8]>>);

impl ImagePath {
    /// Absolute names are meant from the image's root, as every other tool takes them.
    pub fn parse(name: &[u8]) -> Result<Self, TarError> {
        let shown = || show(name);
        let refuse = |why: &str| TarError::Entry {
            name: shown(),
            why: why.to_owned(),
        };
        if name.len() > limits::PATH {
            return Err(refuse("the name is longer than 4096 bytes"));
        }
        if name.contains(&0) {
            return Err(refuse("the name has a zero byte"));
        }
        let mut components: Vec<Box<[u8]>> = Vec::new();
        for component in name.split(|b| *b == b'/') {
            match component {
                b"" | b"." => {}
                // As a name is cleaned before any of it is looked at.
                b".." => {
                    components.pop().ok_or_else(|| TarError::Escape(shown()))?;
                }
                _ if component.len() > limits::NAME => {
                    return Err(refuse("a part of the name is longer than 255 bytes"));
                }
                _ => components.push(component.into()),
            }
        }
        if components.len() > limits::DEPTH {
            return Err(refuse("it is more than 256 folders deep"));
        }
        Ok(Self(components))
    }

    pub fn components(&self) -> &[Box<[u8]>] {
        &self.0
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub path: ImagePath,
    pub kind: Kind,
    /// What [`Tarball::data`] gives, for files; 0 for all others.
    pub size: u64,
    pub attributes: Attributes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    /// Another name of a file.
    HardLink(ImagePath),
    Symlink(Vec<u8>),
    Folder,
    Character(u32, u32),
    Block(u32, u32),
    Fifo,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits, with set-user-id, set-group-id and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub modified: Time,
    /// Sorted by name; only those that mean something inside a machine.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Since 1970. Before, the seconds are rounded down, so that the rest is never below 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    pub seconds: i64,
    /// Below 1,000,000,000.
    pub nanoseconds: u32,
}

#[derive(Debug)]
pub struct Tarball<R> {
    input: R,
    /// Of the current entry: data not yet read, and the zeroes that fill its last block.
    data: u64,
    padding: u64,
    /// If the current entry is a file with holes.
    expansion: Option<Expansion>,
    /// The name of the last entry, to say where damage is.
    last: Option<ImagePath>,
    /// Where goes what nobody asks for: most of a layer, when only its names are wanted.
    skipped: Box<[u8]>,
}

impl<R: Read> Tarball<R> {
    pub fn new(input: R) -> Self {
        Self {
            input,
            data: 0,
            padding: 0,
            expansion: None,
            last: None,
            skipped: vec![0; SKIPPED].into_boxed_slice(),
        }
    }

    /// The next entry, whose data then comes from [`Self::data`]. `None` at the archive's end.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        match self.read_entry() {
            Ok(entry) => {
                if let Some(entry) = &entry {
                    self.last = Some(entry.path.clone());
                }
                Ok(entry)
            }
            Err(TarError::Damaged(what)) => Err(TarError::Damaged(match &self.last {
                Some(last) => format!("{what}, behind `{}`", show(&last.components().join(&b'/'))),
                None => format!("{what}, at its beginning"),
            })),
            Err(error) => Err(error),
        }
    }

    fn read_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_data()?;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            match header.kind() {
                // Solaris has its own letter for the same.
                b'x' | b'X' => extensions.read_pax(&self.extension(&header)?)?,
                // Defaults for the whole archive. No program that unpacks layers follows them; git
                // writes a comment.
                b'g' => drop(self.extension(&header)?),
                b'L' => extensions.path = Some(until_zero(self.extension(&header)?)),
                b'K' => extensions.link = Some(until_zero(self.extension(&header)?)),
                // The archive's own name, by `tar --label`.
                b'V' => self.expect_data(header.size()?),
                _ => return self.entry(&header, extensions).map(Some),
            }
        }
    }

    /// The rest of the current entry's data.
    pub fn data(&mut self) -> Data<'_, R> {
        Data(self)
    }

    /// Reads what is left of the archive, so that whoever hashes the input sees all of it.
    pub fn finish(mut self) -> Result<(), TarError> {
        self.skip(u64::MAX)?;
        Ok(())
    }

    /// So much of the archive, or what is left of it.
    fn skip(&mut self, most: u64) -> io::Result<u64> {
        let mut skipped = 0;
        loop {
            let length = (most - skipped).min(self.skipped.len() as u64) as usize;
            match self.input.read(&mut self.skipped[..length]) {
                // The end, or nothing more was asked for.
                Ok(0) => return Ok(skipped),
                Ok(length) => skipped += length as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn header(&mut self) -> Result<Option<Header>, TarError> {
        // Some builders leave the closing blocks out.
        match self.block("a header")? {
            Some(block) if block.iter().any(|byte| *byte != 0) => Header::parse(block).map(Some),
            _ => Ok(None),
        }
    }

    /// `None` if the archive ends before it.
    fn block(&mut self, what: &str) -> Result<Option<Box<[u8; BLOCK]>>, TarError> {
        let mut block = Box::new([0; BLOCK]);
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(ends_inside(what)),
                length => filled += length,
            }
        }
        Ok(Some(block))
    }

    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, TarError> {
        let size = header.size()?;
        if size > limits::EXTENSION {
            return Err(TarError::Damaged(format!(
                "an extension header has {size} bytes"
            )));
        }
        self.expect_data(size);
        let mut bytes = Vec::new();
        Stored(self).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn entry(&mut self, header: &Header, extensions: Extensions) -> Result<Entry, TarError> {
        let Extensions {
            path,
            link,
            size,
            uid,
            gid,
            modified,
            xattrs,
            sparse,
        } = extensions;
        let name = sparse
            .name
            .clone()
            .or(path)
            .unwrap_or_else(|| header.name());
        let refuse = |why: String| TarError::Entry {
            name: show(&name),
            why,
        };
        let link = || link.unwrap_or_else(|| header.link().to_vec());
        let kind = match header.kind() {
            // Before POSIX, a folder was a file whose name ends in a slash.
            b'\0' | b'0' if name.ends_with(b"/") => Kind::Folder,
            b'\0' | b'0' | b'7' | b'S' => Kind::File,
            b'1' => {
                let target = ImagePath::parse(&link());
                Kind::HardLink(target.map_err(|why| refuse(format!("its target: {why}")))?)
            }
            b'2' => Kind::Symlink(symlink(link()).map_err(refuse)?),
            b'3' => device(header.device()?)
                .map(|(major, minor)| Kind::Character(major, minor))
                .map_err(refuse)?,
            b'4' => device(header.device()?)
                .map(|(major, minor)| Kind::Block(major, minor))
                .map_err(refuse)?,
            // `D`: with a list of what is in it, as GNU's incremental archives have them.
            b'5' | b'D' => Kind::Folder,
            b'6' => Kind::Fifo,
            other => {
                return Err(refuse(format!(
                    "its type `{}` is unknown",
                    other.escape_ascii()
                )));
            }
        };
        // Other kinds have no data, whatever their size field says (POSIX, pax, "ustar").
        let stored = match (&kind, header.kind()) {
            (Kind::File, _) | (_, b'D') => size.map_or_else(|| header.size(), Ok)?,
            _ => 0,
        };
        let mode = match kind {
            // As the kernel shows every symbolic link, whatever the archiver wrote.
            Kind::Symlink(_) => 0o777,
            _ => (header.mode()? & 0o7777) as u32,
        };
        let header_time = || {
            header.modified().map(|seconds| Time {
                seconds,
                nanoseconds: 0,
            })
        };
        let mut entry = Entry {
            path: ImagePath::parse(&name)?,
            size: if kind == Kind::File { stored } else { 0 },
            kind,
            attributes: Attributes {
                mode,
                uid: id(uid.map_or_else(|| header.uid(), Ok)?).map_err(refuse)?,
                gid: id(gid.map_or_else(|| header.gid(), Ok)?).map_err(refuse)?,
                modified: modified.map_or_else(header_time, Ok)?,
                xattrs,
            },
        };
        self.expect_data(stored);
        if entry.kind != Kind::File {
            self.skip_data()?;
        } else if let Some(map) = self.map(header, &sparse).map_err(|error| match error {
            MapError::Tar(error) => error,
            MapError::Refused(why) => refuse(why.to_owned()),
        })? {
            entry.size = map.size();
            self.expansion = Some(map.expand());
        }
        Ok(entry)
    }

    /// Of a file with holes. What is behind it in the archive is the file's data.
    fn map(&mut self, header: &Header, records: &sparse::Records) -> Result<Option<Map>, MapError> {
        let (pieces, size) = if header.kind() == b'S' {
            let (first, size) = header
                .sparse()
                .ok_or("it is a sparse file, and its header is not GNU's")??;
            (self.pieces(first)?, size)
        } else if records.is_any() {
            let size = records.size()?;
            let pieces = match records.pieces()? {
                Some(pieces) => pieces,
                None => sparse::read_map(&mut Stored(self))?,
            };
            (pieces, size)
        } else {
            return Ok(None);
        };
        Ok(Some(Map::new(pieces, size, self.data)?))
    }

    /// All of a map in GNU's old form. The blocks that it goes on in are not counted in the entry's size.
    fn pieces(&mut self, first: Pieces) -> Result<Vec<sparse::Piece>, TarError> {
        let Pieces {
            mut pieces,
            mut goes_on,
        } = first;
        while goes_on {
            let what = "the map of a sparse file";
            let block = self.block(what)?;
            let more = Pieces::more(&*block.ok_or_else(|| ends_inside(what))?)?;
            goes_on = more.goes_on;
            pieces.extend(more.pieces);
            if pieces.len() > limits::PIECES {
                return Err(sparse::too_many());
            }
        }
        Ok(pieces)
    }

    fn expect_data(&mut self, size: u64) {
        self.data = size;
        self.padding = padding(size);
        self.expansion = None;
    }

    fn skip_data(&mut self) -> Result<(), TarError> {
        let left = self.data.saturating_add(self.padding);
        let skipped = self.skip(left)?;
        // The padding of the last entry may be missing together with the closing blocks.
        if skipped < self.data {
            return Err(ends_inside("a file"));
        }
        self.expect_data(0);
        Ok(())
    }
}

/// Zeroes that fill the last block of so much data.
fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

enum MapError {
    Tar(TarError),
    /// Why this entry's map cannot be.
    Refused(&'static str),
}

impl From<&'static str> for MapError {
    fn from(why: &'static str) -> Self {
        Self::Refused(why)
    }
}

impl From<TarError> for MapError {
    fn from(error: TarError) -> Self {
        Self::Tar(error)
    }
}

/// Reads the data of one entry.
#[derive(Debug)]
pub struct Data<'a, R>(&'a mut Tarball<R>);

impl<R: Read> Read for Data<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.expansion.take() {
            None => Stored(self.0).read(buffer),
            Some(mut expansion) => {
                let read = expansion.read(&mut Stored(self.0), buffer);
                self.0.expansion = Some(expansion);
                read
            }
        }
    }
}

impl<R: Read> Source for Data<'_, R> {
    fn pass_hole(&mut self) -> u64 {
        self.0.expansion.as_mut().map_or(0, Expansion::pass_hole)
    }
}

/// Reads what the archive has of an entry.
struct Stored<'a, R>(&'a mut Tarball<R>);

impl<R: Read> Read for Stored<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.0.data.min(buffer.len() as u64) as usize;
        let read = self.0.input.read(&mut buffer[..length])?;
        if read == 0 && length > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.0.data -= read as u64;
        Ok(read)
    }
}

fn ends_inside(what: &str) -> TarError {
    TarError::Damaged(format!("it ends inside {what}"))
}

fn symlink(target: Vec<u8>) -> Result<Vec<u8>, String> {
    if target.is_empty() || target.len() >= limits::PATH || target.contains(&0) {
        return Err("its target is empty, too long, or has a zero byte".to_owned());
    }
    Ok(target)
}

fn device((major, minor): (i64, i64)) -> Result<(u32, u32), String> {
    if !(0..=MAJOR).contains(&major) || !(0..=MINOR).contains(&minor) {
        return Err(format!("Linux has no device number {major}:{minor}"));
    }
    Ok((major as u32, minor as u32))
}

fn id(id: i64) -> Result<u32, String> {
    /// Nobody's in Linux, also where it is written as -1. `chown` takes it for "leave that as it is", so that
    /// such a file is root's, for whom layers are unpacked everywhere else.
    const NOBODY: [i64; 2] = [u32::MAX as i64, -1];
    match id {
        _ if NOBODY.contains(&id) => Ok(0),
        _ => u32::try_from(id).map_err(|_| format!("its owner {id} is no user or group number")),
    }
}

fn until_zero(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|b| *b == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// For messages: a name that a stranger chose.
pub fn show(name: &[u8]) -> String {
    name.escape_ascii().to_string().chars().take(200).collect()
}

#[cfg(test)]
#[path = "tarball_tests.rs"]
mod tests;
