//! Files with holes: where their data is, in all the ways in which archives say so, and their bytes as
//! a reader of the file has them.
//!
//! | form | where the map is |
//! |---|---|
//! | GNU's old | in the header, of type `S`, and in blocks behind it ([`super::ustar`]) |
//! | 0.0 | a PAX record for each number: `GNU.sparse.offset`, `GNU.sparse.numbytes` |
//! | 0.1 | one PAX record: `GNU.sparse.map` |
//! | 1.0 | decimal lines before the data, filled up to a block |
//!
//! (GNU tar's manual, "Storing Sparse Files".) Holes come out as zeroes, or are passed over, which takes
//! no time however long they are. Their bytes count as unpacked ones ([`super::limits::UNPACKED`]) all the
//! same: whoever copies such a file has as many.

use std::io::{self, Read};

use super::{limits, tarball::TarError, ustar::BLOCK};

/// Bytes of a file that are in the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub offset: u64,
    pub length: u64,
}

/// In order, none over another, none past the file's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    pieces: Vec<Piece>,
    size: u64,
}

impl Map {
    /// `size`: of the file. `data`: what the archive has of it. What is wrong comes as a sentence's end.
    pub fn new(pieces: Vec<Piece>, size: u64, data: u64) -> Result<Self, &'static str> {
        let mut at = 0;
        let mut mapped = 0;
        for piece in &pieces {
            if piece.offset < at {
                return Err("its map has pieces of data over others or out of order");
            }
            match piece.offset.checked_add(piece.length) {
                Some(end) if end <= size => at = end,
                _ => return Err("its map has data behind the file's end"),
            }
            mapped += piece.length;
        }
        if mapped != data {
            return Err("its map has more or less data than the archive");
        }
        Ok(Self { pieces, size })
    }

    /// Of the file, holes included.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The file's bytes, of which only those of its pieces are taken from where they are.
    pub fn expand(self) -> Expansion {
        Expansion {
            pieces: self.pieces.into_iter(),
            next: Piece {
                offset: 0,
                length: 0,
            },
            at: 0,
            size: self.size,
        }
    }
}

/// How much of a file with holes was read.
#[derive(Debug)]
pub struct Expansion {
    pieces: std::vec::IntoIter<Piece>,
    /// What is left of the piece at `at`, or the next one behind it.
    next: Piece,
    at: u64,
    size: u64,
}

impl Expansion {
    /// Passes over the hole that comes next, and says how long it is.
    pub fn pass_hole(&mut self) -> u64 {
        self.find_next();
        let hole = self.next.offset - self.at;
        self.at = self.next.offset;
        hole
    }

    /// Like [`Read::read`]. `data` gives the pieces, one behind the other.
    pub fn read(&mut self, data: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
        self.find_next();
        let most = |length: u64| length.min(buffer.len() as u64) as usize;
        let hole = most(self.next.offset - self.at);
        let read = if hole > 0 {
            buffer[..hole].fill(0);
            hole
        } else if self.at == self.size {
            0
        } else {
            let length = most(self.next.length);
            let read = data.read(&mut buffer[..length])?;
            self.next.offset += read as u64;
            self.next.length -= read as u64;
            read
        };
        self.at += read as u64;
        Ok(read)
    }

    /// The piece that is not read to its end; behind the last, what cannot be read.
    fn find_next(&mut self) {
        while self.next.length == 0 {
            let end = Piece {
                offset: self.size,
                length: u64::MAX,
            };
            self.next = self.pieces.next().unwrap_or(end);
        }
    }
}

/// What PAX records say about a file's holes.
#[derive(Debug, Default)]
pub struct Records {
    /// The file's own, where the header has one made up for those who know nothing of holes.
    pub name: Option<Vec<u8>>,
    major: Option<u64>,
    minor: Option<u64>,
    size: Option<u64>,
    blocks: Option<u64>,
    /// Offset, length, offset, and so on.
    numbers: Vec<u64>,
    mapped: bool,
}

impl Records {
    /// `key` is without `GNU.sparse.`. `None` if the value cannot be.
    pub fn read(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"name" => self.name = (!value.is_empty()).then(|| value.to_vec()),
            b"major" => self.major = Some(decimal(value)?),
            b"minor" => self.minor = Some(decimal(value)?),
            b"size" | b"realsize" => self.size = Some(decimal(value)?),
            b"numblocks" => self.blocks = Some(decimal(value)?),
            b"map" => {
                self.mapped = true;
                self.numbers = match value {
                    b"" => Vec::new(),
                    _ => value
                        .split(|byte| *byte == b',')
                        .map(decimal)
                        .collect::<Option<_>>()?,
                };
            }
            // Each in its turn.
            b"offset" if self.numbers.len().is_multiple_of(2) => {
                self.mapped = true;
                self.numbers.push(decimal(value)?);
            }
            b"numbytes" if !self.numbers.len().is_multiple_of(2) => {
                self.numbers.push(decimal(value)?);
            }
            b"offset" | b"numbytes" => return None,
            _ => {}
        }
        Some(())
    }

    /// Whether the entry is a file with holes at all.
    pub fn is_any(&self) -> bool {
        self.mapped || self.major.is_some() || self.minor.is_some() || self.size.is_some()
    }

    /// The pieces, if the records have them all; `None` if they are before the data.
    pub fn pieces(&self) -> Result<Option<Vec<Piece>>, &'static str> {
        match (self.major.unwrap_or(0), self.minor.unwrap_or(0)) {
            (0, 0 | 1) => {}
            (1, 0) => return Ok(None),
            _ => return Err("it is a sparse file of a version that is not known"),
        }
        let (pairs, rest) = self.numbers.as_chunks::<2>();
        if !rest.is_empty()
            || self
                .blocks
                .is_some_and(|blocks| blocks != pairs.len() as u64)
        {
            return Err("its map is not as long as it says");
        }
        Ok(Some(pairs.iter().copied().map(piece).collect()))
    }

    pub fn size(&self) -> Result<u64, &'static str> {
        self.size
            .ok_or("it is a sparse file, and does not say how long it is")
    }
}

/// Reads the map before the data (form 1.0), and leaves the data.
pub fn read_map(data: &mut impl Read) -> Result<Vec<Piece>, TarError> {
    let bad = || TarError::Damaged("the map of a sparse file is malformed".to_owned());
    let mut lines = Lines {
        data,
        block: [0; BLOCK],
        at: BLOCK,
    };
    let count = lines.number()?.ok_or_else(bad)?;
    if count > limits::PIECES as u64 {
        return Err(too_many());
    }
    let mut pieces = Vec::new();
    for _ in 0..count {
        let offset = lines.number()?.ok_or_else(bad)?;
        let length = lines.number()?.ok_or_else(bad)?;
        pieces.push(piece([offset, length]));
    }
    Ok(pieces)
}

pub fn too_many() -> TarError {
    TarError::Damaged(format!(
        "the map of a sparse file has more than {} pieces",
        limits::PIECES
    ))
}

/// Numbers, each with a line feed behind it, in blocks that are read whole.
struct Lines<'a, R> {
    data: &'a mut R,
    block: [u8; BLOCK],
    at: usize,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> io::Result<Option<u64>> {
        let mut digits = Vec::new();
        // What 64 bits hold has no more.
        while digits.len() <= 20 {
            if self.at == BLOCK {
                self.data.read_exact(&mut self.block)?;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            if byte == b'\n' {
                return Ok(decimal(&digits));
            }
            digits.push(byte);
        }
        Ok(None)
    }
}

fn piece([offset, length]: [u64; 2]) -> Piece {
    Piece { offset, length }
}

/// Digits alone.
pub fn decimal(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

#[cfg(test)]
#[path = "sparse_tests.rs"]
mod tests;
