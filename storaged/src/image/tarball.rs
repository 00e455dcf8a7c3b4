//! The entries of a tar archive, read from a stream that a stranger wrote.
//!
//! Understands what layers are made of: ustar, PAX (POSIX.1-2001) and GNU long names. Every name
//! is normalised here, once: what comes out never leaves the root.

use std::io::{self, Read};

use super::{limits, pax::Extensions};

const BLOCK: u64 = 512;

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
        let mut components = Vec::new();
        for component in name.split(|b| *b == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return Err(TarError::Escape(shown())),
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
    /// Counts from 0; the same each time the archive is read.
    pub index: u32,
    pub path: ImagePath,
    pub kind: Kind,
    /// Of the data that follows, for files; 0 for all others.
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
    /// Seconds since 1970.
    pub modified: u64,
    /// Sorted by name; only those that mean something inside a machine.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug)]
pub struct Tarball<R> {
    input: R,
    /// Of the current entry: data not yet read, and the zeroes that fill its last block.
    data: u64,
    padding: u64,
    next: u32,
}

impl<R: Read> Tarball<R> {
    pub fn new(input: R) -> Self {
        Self {
            input,
            data: 0,
            padding: 0,
            next: 0,
        }
    }

    /// The next entry, whose data then comes from [`Self::data`]. `None` at the archive's end.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_data()?;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let size = field(&header.as_old().size, header.entry_size())?;
            match header.entry_type().as_byte() {
                b'x' => extensions.read_pax(&self.extension(size)?)?,
                // Defaults for the whole archive: only comments in practice.
                b'g' => drop(self.extension(size)?),
                b'L' => extensions.path = Some(until_zero(self.extension(size)?)),
                b'K' => extensions.link = Some(until_zero(self.extension(size)?)),
                kind => return self.entry(&header, kind, size, extensions).map(Some),
            }
        }
    }

    /// The rest of the current entry's data.
    pub fn data(&mut self) -> Data<'_, R> {
        Data(self)
    }

    /// Reads what is left of the archive, so that whoever hashes the input sees all of it.
    pub fn finish(mut self) -> Result<(), TarError> {
        io::copy(&mut self.input, &mut io::sink())?;
        Ok(())
    }

    fn header(&mut self) -> Result<Option<tar::Header>, TarError> {
        let mut header = tar::Header::new_old();
        let mut filled = 0;
        while filled < BLOCK as usize {
            match self.input.read(&mut header.as_mut_bytes()[filled..])? {
                // Some builders leave the closing blocks out.
                0 if filled == 0 => return Ok(None),
                0 => return Err(TarError::Damaged("it ends inside a header".to_owned())),
                length => filled += length,
            }
        }
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum: u32 = header.as_bytes()[..148]
            .iter()
            .chain(&header.as_bytes()[156..])
            .map(|byte| u32::from(*byte))
            .sum::<u32>()
            + 8 * u32::from(b' ');
        if header.cksum().ok() != Some(sum) {
            return Err(TarError::Damaged("a header's checksum is wrong".to_owned()));
        }
        Ok(Some(header))
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > limits::EXTENSION {
            return Err(TarError::Damaged(format!(
                "an extension header has {size} bytes"
            )));
        }
        self.expect_data(size);
        let mut bytes = Vec::new();
        self.data().read_to_end(&mut bytes)?;
        if bytes.len() as u64 != size {
            return Err(TarError::Damaged(
                "it ends inside an extension header".to_owned(),
            ));
        }
        Ok(bytes)
    }

    fn entry(
        &mut self,
        header: &tar::Header,
        kind: u8,
        size: u64,
        extensions: Extensions,
    ) -> Result<Entry, TarError> {
        let name = extensions
            .path
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let refuse = |why: String| TarError::Entry {
            name: show(&name),
            why,
        };
        if extensions.sparse || kind == b'S' {
            return Err(refuse(
                "it is a sparse file; build the layer without them".to_owned(),
            ));
        }
        let link = || {
            extensions
                .link
                .clone()
                .or_else(|| header.link_name_bytes().map(|bytes| bytes.into_owned()))
                .unwrap_or_default()
        };
        let device = || -> Result<(u32, u32), TarError> {
            let number =
                |n: io::Result<Option<u32>>| n.map_err(damaged).map(Option::unwrap_or_default);
            Ok((
                number(header.device_major())?,
                number(header.device_minor())?,
            ))
        };
        let kind = match kind {
            // Before POSIX, a folder was a file whose name ends in a slash.
            b'\0' | b'0' if name.ends_with(b"/") => Kind::Folder,
            b'\0' | b'0' | b'7' => Kind::File,
            b'1' => Kind::HardLink(ImagePath::parse(&link())?),
            b'2' => Kind::Symlink(symlink(link()).map_err(refuse)?),
            b'3' => device().map(|(major, minor)| Kind::Character(major, minor))?,
            b'4' => device().map(|(major, minor)| Kind::Block(major, minor))?,
            b'5' => Kind::Folder,
            b'6' => Kind::Fifo,
            other => {
                return Err(refuse(format!(
                    "its type `{}` is unknown",
                    other.escape_ascii()
                )));
            }
        };
        // Other kinds have no data, whatever their size field says (POSIX, pax, "ustar").
        let size = match kind {
            Kind::File => extensions.size.unwrap_or(size),
            _ => 0,
        };
        let mode = match kind {
            // As the kernel shows every symbolic link, whatever the archiver wrote.
            Kind::Symlink(_) => 0o777,
            _ => field(&header.as_old().mode, header.mode())? & 0o7777,
        };
        let attributes = Attributes {
            mode,
            uid: id(extensions.uid, field(&header.as_old().uid, header.uid())?).map_err(refuse)?,
            gid: id(extensions.gid, field(&header.as_old().gid, header.gid())?).map_err(refuse)?,
            // Before 1970, which only a damaged clock writes, counts as 1970.
            modified: extensions
                .modified
                .or(header.mtime().ok())
                .unwrap_or_default(),
            xattrs: extensions.xattrs,
        };
        let entry = Entry {
            index: self.next,
            path: ImagePath::parse(&name)?,
            kind,
            size,
            attributes,
        };
        self.expect_data(size);
        self.next = self
            .next
            .checked_add(1)
            .ok_or_else(|| refuse("too many entries".to_owned()))?;
        Ok(entry)
    }

    fn expect_data(&mut self, size: u64) {
        self.data = size;
        self.padding = (BLOCK - size % BLOCK) % BLOCK;
    }

    fn skip_data(&mut self) -> Result<(), TarError> {
        let left = self.data.saturating_add(self.padding);
        let skipped = io::copy(&mut (&mut self.input).take(left), &mut io::sink())?;
        // The padding of the last entry may be missing together with the closing blocks.
        if skipped < self.data {
            return Err(TarError::Damaged("it ends inside a file".to_owned()));
        }
        (self.data, self.padding) = (0, 0);
        Ok(())
    }
}

/// Reads the data of one entry.
#[derive(Debug)]
pub struct Data<'a, R>(&'a mut Tarball<R>);

impl<R: Read> Read for Data<'_, R> {
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

fn symlink(target: Vec<u8>) -> Result<Vec<u8>, String> {
    if target.is_empty() || target.len() >= limits::PATH || target.contains(&0) {
        return Err("its target is empty, too long, or has a zero byte".to_owned());
    }
    Ok(target)
}

fn id(extension: Option<u64>, header: u64) -> Result<u32, String> {
    let id = extension.unwrap_or(header);
    u32::try_from(id).map_err(|_| format!("its owner {id} is no user or group number"))
}

/// Some archivers leave a number out that they take for 0.
fn field<T: Default>(bytes: &[u8], value: io::Result<T>) -> Result<T, TarError> {
    if bytes.iter().all(|b| matches!(b, 0 | b' ')) {
        return Ok(T::default());
    }
    value.map_err(damaged)
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

fn damaged(error: io::Error) -> TarError {
    TarError::Damaged(error.to_string())
}

#[cfg(test)]
#[path = "tarball_tests.rs"]
mod tests;
