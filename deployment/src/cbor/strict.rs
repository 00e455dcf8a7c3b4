//! Bytes to [`Value`], accepting only the core deterministic encoding of RFC 8949 section 4.2.1.
//!
//! Each value has exactly one accepted encoding: shortest heads, definite lengths, map keys in
//! ascending order of their encodings, each key once. Floating-point numbers, `null`, `undefined`
//! and other simple values have no use in Loam's objects and are refused. Nothing is allocated on
//! the word of a length field: containers grow as their items are read, and strings are copied
//! only from bytes that are there.

use ciborium::Value;

/// How deep arrays, maps and tags may be nested. The deepest payload that has a meaning nests 7
/// deep; the limit bounds the recursion below.
pub const MAX_DEPTH: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodingError {
    #[error("it ends in the middle of a value")]
    Truncated,
    #[error("{0} bytes follow its end")]
    Trailing(usize),
    #[error("byte {at}: a length or number that is not written in the shortest form")]
    NotShortest { at: usize },
    #[error("byte {at}: an indefinite length")]
    Indefinite { at: usize },
    #[error("byte {at}: a floating-point number, null or another value that has no use here")]
    Unsupported { at: usize },
    #[error("byte {at}: text that is not UTF-8")]
    NotUtf8 { at: usize },
    #[error("byte {at}: nested deeper than {MAX_DEPTH}")]
    TooDeep { at: usize },
    #[error("byte {at}: map keys that are not in ascending order")]
    Unsorted { at: usize },
    #[error("byte {at}: a map key that is there twice")]
    DuplicateKey { at: usize },
}

/// Reads exactly one value that fills `bytes`. The caller limits the size of `bytes`.
pub(crate) fn read(bytes: &[u8]) -> Result<Value, EncodingError> {
    let mut reader = Reader { bytes, at: 0 };
    let value = reader.value(0)?;
    match bytes.len() - reader.at {
        0 => Ok(value),
        rest => Err(EncodingError::Trailing(rest)),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Result<Value, EncodingError> {
        let at = self.at;
        let (major, argument) = self.head()?;
        if (4..=6).contains(&major) && depth == MAX_DEPTH {
            return Err(EncodingError::TooDeep { at });
        }
        Ok(match major {
            0 => Value::Integer(argument.into()),
            1 => Value::Integer(
                (-1 - i128::from(argument))
                    .try_into()
                    .map_err(|_| EncodingError::Unsupported { at })?,
            ),
            2 => Value::Bytes(self.take(argument)?.to_vec()),
            3 => {
                let text = std::str::from_utf8(self.take(argument)?);
                Value::Text(text.map_err(|_| EncodingError::NotUtf8 { at })?.to_owned())
            }
            4 => self.array(argument, depth + 1)?,
            5 => self.map(argument, depth + 1)?,
            6 => Value::Tag(argument, Box::new(self.value(depth + 1)?)),
            _ => match argument {
                20 => Value::Bool(false),
                21 => Value::Bool(true),
                _ => return Err(EncodingError::Unsupported { at }),
            },
        })
    }

    fn array(&mut self, count: u64, depth: usize) -> Result<Value, EncodingError> {
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(self.value(depth)?);
        }
        Ok(Value::Array(items))
    }

    fn map(&mut self, count: u64, depth: usize) -> Result<Value, EncodingError> {
        let mut entries = Vec::new();
        let mut previous: Option<&[u8]> = None;
        for _ in 0..count {
            let at = self.at;
            let key = self.value(depth)?;
            let encoded = &self.bytes[at..self.at];
            match previous.map(|p| p.cmp(encoded)) {
                Some(std::cmp::Ordering::Equal) => return Err(EncodingError::DuplicateKey { at }),
                Some(std::cmp::Ordering::Greater) => return Err(EncodingError::Unsorted { at }),
                _ => previous = Some(encoded),
            }
            entries.push((key, self.value(depth)?));
        }
        Ok(Value::Map(entries))
    }

    /// The major type and the argument of the next head (RFC 8949 section 3).
    fn head(&mut self) -> Result<(u8, u64), EncodingError> {
        let at = self.at;
        let initial = self.take(1)?[0];
        let (major, info) = (initial >> 5, initial & 0x1f);
        if info < 24 {
            return Ok((major, u64::from(info)));
        }
        if info == 31 {
            return Err(match major {
                2..=5 => EncodingError::Indefinite { at },
                _ => EncodingError::Unsupported { at },
            });
        }
        // Major type 7 with an argument outside the first byte: a float or an unassigned value.
        if info > 27 || major == 7 {
            return Err(EncodingError::Unsupported { at });
        }
        let size = 1_u64 << (info - 24);
        let argument = self
            .take(size)?
            .iter()
            .fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        let shortest = match size {
            1 => argument >= 24,
            2 => argument > u64::from(u8::MAX),
            4 => argument > u64::from(u16::MAX),
            _ => argument > u64::from(u32::MAX),
        };
        if shortest {
            Ok((major, argument))
        } else {
            Err(EncodingError::NotShortest { at })
        }
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], EncodingError> {
        let rest = &self.bytes[self.at..];
        let count = usize::try_from(count)
            .ok()
            .filter(|count| *count <= rest.len())
            .ok_or(EncodingError::Truncated)?;
        self.at += count;
        Ok(&rest[..count])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hex(text: &str) -> Result<Value, EncodingError> {
        read(&hex::decode(text).expect("hexadecimal"))
    }

    #[test]
    fn refuses_each_departure_by_its_name() {
        use EncodingError::*;
        let cases = [
            ("", Truncated),
            ("42", Truncated),
            ("5bffffffffffffffff", Truncated),
            ("9bffffffffffffffff", Truncated),
            ("0000", Trailing(1)),
            ("1817", NotShortest { at: 0 }),
            ("1900ff", NotShortest { at: 0 }),
            ("1a0000ffff", NotShortest { at: 0 }),
            ("1b00000000ffffffff", NotShortest { at: 0 }),
            ("5801ff", NotShortest { at: 0 }),
            ("9fff", Indefinite { at: 0 }),
            ("bfff", Indefinite { at: 0 }),
            ("5f4100ff", Indefinite { at: 0 }),
            ("7fff", Indefinite { at: 0 }),
            ("f90000", Unsupported { at: 0 }),
            ("fa00000000", Unsupported { at: 0 }),
            ("f6", Unsupported { at: 0 }),
            ("f7", Unsupported { at: 0 }),
            ("f815", Unsupported { at: 0 }),
            ("1c", Unsupported { at: 0 }),
            ("ff", Unsupported { at: 0 }),
            ("61ff", NotUtf8 { at: 0 }),
            ("a2616200616100", Unsorted { at: 4 }),
            ("a262616100616200", Unsorted { at: 5 }),
            ("a2616100616101", DuplicateKey { at: 4 }),
        ];
        for (bytes, expected) in cases {
            assert_eq!(hex(bytes), Err(expected), "{bytes}");
        }
    }

    #[test]
    fn nests_as_deep_as_the_limit_and_no_deeper() {
        let nested = |depth: usize| [vec![0x81; depth], vec![0x00]].concat();
        assert!(read(&nested(MAX_DEPTH)).is_ok());
        assert_eq!(
            read(&nested(MAX_DEPTH + 1)),
            Err(EncodingError::TooDeep { at: MAX_DEPTH })
        );
        assert!(matches!(
            read(&[0xc1; 20_000]),
            Err(EncodingError::TooDeep { .. })
        ));
    }

    proptest! {
        /// What is accepted has one encoding: writing it again gives the same bytes.
        #[test]
        fn accepted_bytes_are_the_only_ones(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(value) = read(&bytes) {
                prop_assert_eq!(super::super::write(&value), bytes);
            }
        }
    }
}
