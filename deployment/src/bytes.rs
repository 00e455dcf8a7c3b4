//! [`Bytes`]: a number of bytes, and how people write one.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A number of bytes. In payloads always bytes; people may write `2GiB` or `512MiB`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Bytes(pub u64);

/// Units that people may write, largest first.
const UNITS: [(&str, u64); 4] = [
    ("TiB", Bytes::TIB),
    ("GiB", Bytes::GIB),
    ("MiB", Bytes::MIB),
    ("KiB", Bytes::KIB),
];

impl Bytes {
    pub const KIB: u64 = 1 << 10;
    pub const MIB: u64 = 1 << 20;
    pub const GIB: u64 = 1 << 30;
    pub const TIB: u64 = 1 << 40;

    pub const fn mib(n: u64) -> Self {
        Self(n * Self::MIB)
    }

    pub const fn gib(n: u64) -> Self {
        Self(n * Self::GIB)
    }

    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Exact: the largest unit that divides the number, so that parsing gives the same value back.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, size) in UNITS {
            if self.0 != 0 && self.0.is_multiple_of(size) {
                return write!(f, "{}{unit}", self.0 / size);
            }
        }
        write!(f, "{}", self.0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a size; write a number of bytes or a number with KiB, MiB, GiB or TiB")]
pub struct BytesError(String);

impl FromStr for Bytes {
    type Err = BytesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || BytesError(text.to_owned());
        let (digits, size) = UNITS
            .iter()
            .find_map(|(unit, size)| text.strip_suffix(unit).map(|d| (d, *size)))
            .unwrap_or((text, 1));
        let digits = digits.trim_end();
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(error());
        }
        let number: u64 = digits.parse().map_err(|_| error())?;
        number.checked_mul(size).map(Self).ok_or_else(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn written_and_read_back(n: u64) {
            prop_assert_eq!(Bytes(n).to_string().parse(), Ok(Bytes(n)));
        }
    }

    #[test]
    fn units_are_powers_of_1024() {
        for (text, bytes) in [
            ("3", 3),
            ("3KiB", 3 * 1024),
            ("3 MiB", 3 * 1024 * 1024),
            ("3GiB", 3 * 1024 * 1024 * 1024),
            ("3TiB", 3 * 1024 * 1024 * 1024 * 1024),
        ] {
            let read: Bytes = text.parse().unwrap();
            assert_eq!(read.get(), bytes, "{text}");
        }
        assert_eq!(Bytes::mib(3).to_string(), "3MiB");
        assert_eq!(Bytes::gib(3), Bytes(3 * Bytes::GIB));
        assert_eq!(Bytes::mib(3), Bytes(3 * Bytes::MIB));
        // The largest unit that divides it, and none for nothing.
        assert_eq!(Bytes(2048).to_string(), "2KiB");
        assert_eq!(Bytes(2049).to_string(), "2049");
        assert_eq!(Bytes(0).to_string(), "0");
    }

    #[test]
    fn refuses_what_is_no_size() {
        for text in [
            "",
            "GiB",
            "-1",
            "1.5GiB",
            "2GB",
            "99999999999TiB",
            "+3",
            "1 2",
        ] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }
}
