//! One header block of a tar archive: where its fields are, and what their bytes mean.
//!
//! Fields by POSIX.1-2017 ("pax", "ustar Interchange Format"); those of GNU and star by the tables in
//! GNU tar's manual ("Basic Tar Format").

use super::{sparse::Piece, tarball::TarError};

pub const BLOCK: usize = 512;

/// Pieces that a header of GNU's old sparse form has room for, and those in each block behind it.
const PIECES: usize = 4;
const MORE_PIECES: usize = 21;

/// A block whose checksum is right.
#[derive(Debug)]
pub struct Header(Box<[u8; BLOCK]>);

/// Whose idea of the fields behind the magic a header has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// From before POSIX: nothing is behind the link's name.
    V7,
    Ustar,
    Star,
    Gnu,
}

impl Header {
    /// Sums by signed bytes, as some old archivers made them, are right too: they differ where a
    /// name is not ASCII.
    pub fn parse(block: Box<[u8; BLOCK]>) -> Result<Self, TarError> {
        let header = Self(block);
        let counted = || {
            let bytes = header.0.iter().enumerate();
            bytes.map(|(at, byte)| {
                if (148..156).contains(&at) {
                    b' '
                } else {
                    *byte
                }
            })
        };
        let unsigned: i64 = counted().map(i64::from).sum();
        let signed: i64 = counted().map(|byte| i64::from(byte as i8)).sum();
        let sum = number(&header.0[148..156]);
        if sum != Some(unsigned) && sum != Some(signed) {
            return Err(TarError::Damaged("a header's checksum is wrong".to_owned()));
        }
        Ok(header)
    }

    pub fn kind(&self) -> u8 {
        self.0[156]
    }

    pub fn name(&self) -> Vec<u8> {
        let name = until_zero(&self.0[..100]);
        let prefix = until_zero(match self.format() {
            Format::Ustar => &self.0[345..500],
            Format::Star => &self.0[345..476],
            // GNU has times here. Go wrote a prefix until 1.8, and so did the builders of its day.
            Format::Gnu if number(&self.0[345..357]).is_none() => &self.0[345..500],
            Format::Gnu | Format::V7 => &[],
        });
        match prefix {
            b"" => name.to_vec(),
            _ => [prefix, name].join(&b'/'),
        }
    }

    pub fn link(&self) -> &[u8] {
        until_zero(&self.0[157..257])
    }

    pub fn mode(&self) -> Result<i64, TarError> {
        self.field("mode", 100..108)
    }

    pub fn uid(&self) -> Result<i64, TarError> {
        self.field("owner", 108..116)
    }

    pub fn gid(&self) -> Result<i64, TarError> {
        self.field("group", 116..124)
    }

    /// Bytes of data behind it.
    pub fn size(&self) -> Result<u64, TarError> {
        let size = self.field("size", 124..136)?;
        u64::try_from(size).map_err(|_| bad("size"))
    }

    /// Seconds since 1970.
    pub fn modified(&self) -> Result<i64, TarError> {
        self.field("time", 136..148)
    }

    /// Major and minor number.
    pub fn device(&self) -> Result<(i64, i64), TarError> {
        if self.format() == Format::V7 {
            return Ok((0, 0));
        }
        Ok((
            self.field("device number", 329..337)?,
            self.field("device number", 337..345)?,
        ))
    }

    /// The map in a header of GNU's old sparse form, and how long the file is. `None` if the header
    /// is not GNU's: others have other things there.
    pub fn sparse(&self) -> Option<Result<(Pieces, u64), TarError>> {
        (self.format() == Format::Gnu).then(|| {
            let size = self.field("true size", 483..495)?;
            let size = u64::try_from(size).map_err(|_| bad("true size"))?;
            let pieces = Pieces::parse(&self.0[386..], PIECES, self.0[482])?;
            Ok((pieces, size))
        })
    }

    fn format(&self) -> Format {
        match &self.0[257..265] {
            b"ustar  \0" => Format::Gnu,
            // The version behind it is left out by some.
            [b'u', b's', b't', b'a', b'r', 0, ..] if self.0[508..] == *b"tar\0" => Format::Star,
            [b'u', b's', b't', b'a', b'r', 0, ..] => Format::Ustar,
            _ => Format::V7,
        }
    }

    fn field(&self, name: &str, at: std::ops::Range<usize>) -> Result<i64, TarError> {
        number(&self.0[at]).ok_or_else(|| bad(name))
    }
}

/// A part of a map in GNU's old sparse form.
#[derive(Debug)]
pub struct Pieces {
    pub pieces: Vec<Piece>,
    /// Another block of them follows.
    pub goes_on: bool,
}

impl Pieces {
    /// Of a block behind a header.
    pub fn more(block: &[u8; BLOCK]) -> Result<Self, TarError> {
        Self::parse(block, MORE_PIECES, block[504])
    }

    /// The first that is left empty ends them.
    fn parse(bytes: &[u8], most: usize, goes_on: u8) -> Result<Self, TarError> {
        let place = |bytes: &[u8]| {
            let number = number(bytes).and_then(|number| u64::try_from(number).ok());
            number.ok_or_else(|| bad("map of data"))
        };
        let pieces = bytes
            .chunks_exact(24)
            .take(most)
            .take_while(|piece| piece[12] != 0)
            .map(|piece| {
                Ok(Piece {
                    offset: place(&piece[..12])?,
                    length: place(&piece[12..])?,
                })
            })
            .collect::<Result<_, TarError>>()?;
        Ok(Self {
            pieces,
            goes_on: !matches!(goes_on, 0 | b'0'),
        })
    }
}

/// Octal, or binary with the highest bit set (GNU), which may be negative. What is left out is 0.
fn number(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 != 0 {
        // The bit behind the mark is the sign.
        let start = i128::from(((field[0] << 1) as i8) >> 1);
        let binary = field[1..]
            .iter()
            .fold(start, |number, byte| number << 8 | i128::from(*byte));
        return i64::try_from(binary).ok();
    }
    let is_blank = |byte: &u8| matches!(byte, 0 | b' ');
    let start = field.iter().position(|byte| !is_blank(byte));
    let Some(start) = start else { return Some(0) };
    let field = &field[start..];
    let end = field.iter().position(is_blank).unwrap_or(field.len());
    let text = std::str::from_utf8(&field[..end]).ok()?;
    // Times before 1970, as libarchive takes them.
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some(())?;
    i64::from_str_radix(text, 8).ok()
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|byte| *byte == 0);
    &bytes[..end.unwrap_or(bytes.len())]
}

fn bad(field: &str) -> TarError {
    TarError::Damaged(format!("a header's {field} is no number"))
}

#[cfg(test)]
#[path = "ustar_tests.rs"]
mod tests;
