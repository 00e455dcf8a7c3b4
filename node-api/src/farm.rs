//! Which farm a node joins: who may name it, and how a stick does.
//!
//! | who | how |
//! |---|---|
//! | a stick | the first sector of its state partition, see [`write_sector`] |
//! | the kernel's command line | [`ARGUMENT`] |
//! | the network | DHCP option [`DHCP_OPTION`], ASCII digits |
//! | the image | `farm` of [`crate::path::GRID`] |
//!
//! init looks for the first two and writes them to [`crate::path::FARM`]; noded decides.

use std::{fmt, path::Path};

use loam_deployment::FarmId;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::told;

/// The partition of our disk image that is for what the stick itself is told.
pub const STATE_PARTITION: &str = "loam state";
/// Its type, 2d5f7a1c-8e40-4b62-9d1f-6c6f616d0002, as it lies on disk.
pub const STATE_TYPE: [u8; 16] =
    *b"\x1c\x7a\x5f\x2d\x40\x8e\x62\x4b\x9d\x1f\x6c\x6f\x61\x6d\x00\x02";

/// On the kernel's command line, with the number behind it.
pub const ARGUMENT: &str = "loam.farm=";

/// One of those that RFC 3942 leaves to each site (224 to 254).
pub const DHCP_OPTION: u8 = 224;

/// Bytes of the sector that names a farm.
pub const SECTOR: usize = 512;

const MAGIC: [u8; 8] = *b"LOAMFARM";
const VERSION: u32 = 1;
/// Magic, version, number: what the hash is of.
const HASHED: usize = 20;
const HASH_END: usize = HASHED + 32;

/// Why a sector names no farm although something is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SectorError {
    #[error("it holds something else")]
    Foreign,
    #[error("it is damaged")]
    Damaged,
    #[error("it is of version {0}, which this Loam does not know")]
    Version(u32),
    #[error("it names farm 0, which cannot be")]
    Zero,
}

/// The first sector of a state partition that names a farm: magic, version (u32) and number (u64), both
/// little-endian, SHA-256 of these 20 bytes, zeroes.
pub fn write_sector(farm: FarmId) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    sector[..8].copy_from_slice(&MAGIC);
    sector[8..12].copy_from_slice(&VERSION.to_le_bytes());
    sector[12..HASHED].copy_from_slice(&farm.0.to_le_bytes());
    let hash = Sha256::digest(&sector[..HASHED]);
    sector[HASHED..HASH_END].copy_from_slice(&hash);
    sector
}

/// Which farm the sector names: none if it is empty, as in the image.
pub fn read_sector(sector: &[u8; SECTOR]) -> Result<Option<FarmId>, SectorError> {
    if sector.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let Some(rest) = sector.strip_prefix(&MAGIC) else {
        return Err(SectorError::Foreign);
    };
    let (version, rest) = rest.split_first_chunk().ok_or(SectorError::Damaged)?;
    let (number, _) = rest.split_first_chunk().ok_or(SectorError::Damaged)?;
    // Of another version the rest may lie elsewhere.
    let version = u32::from_le_bytes(*version);
    if version != VERSION {
        return Err(SectorError::Version(version));
    }
    let farm = FarmId(u64::from_le_bytes(*number));
    if *sector != write_sector(farm) {
        return Err(SectorError::Damaged);
    }
    if farm.0 == 0 {
        return Err(SectorError::Zero);
    }
    Ok(Some(farm))
}

/// A farm's number as people and servers write it: digits alone, and not 0.
pub fn number(digits: &[u8]) -> Option<FarmId> {
    // `parse` takes a sign as well.
    let digits = str::from_utf8(digits).ok()?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.parse().ok().filter(|number| *number != 0)?;
    is_number.then_some(FarmId(number))
}

/// Who has named the farm that a node joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FarmSource {
    Stick,
    CommandLine,
    Dhcp,
    Image,
    /// Nobody any more: a farm has accepted the node.
    Kept,
}

impl fmt::Display for FarmSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stick => "from the stick",
            Self::CommandLine => "from the command line",
            Self::Dhcp => "from DHCP",
            Self::Image => "from the image",
            Self::Kept => "kept with this node",
        })
    }
}

/// A farm, and who has named it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedFarm {
    pub number: FarmId,
    pub source: FarmSource,
}

/// `7, from the stick`.
impl fmt::Display for NamedFarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.number, self.source)
    }
}

/// What init has found of a farm's number so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FarmSearch {
    pub stick: Stick,
    pub command_line: Option<FarmId>,
    /// A stick that has not come by now is not waited for (20 s after the kernel's start or later). One that comes later counts all the same.
    pub over: bool,
}

/// What the sticks say that are plugged in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stick {
    /// There is none that names a farm.
    #[default]
    Silent,
    Names(FarmId),
    /// Two name different farms, so that neither counts.
    Disagree(FarmId, FarmId),
}

impl FarmSearch {
    /// Reads what init wrote last. Absent, unreadable: it has just begun.
    pub fn read(path: &Path) -> Self {
        told::read(path)
    }
}

impl Stick {
    /// The farm that they name together.
    pub fn farm(self) -> Option<FarmId> {
        match self {
            Self::Names(farm) => Some(farm),
            Self::Silent | Self::Disagree(..) => None,
        }
    }

    /// Of all farms that sticks name.
    pub fn of(farms: impl IntoIterator<Item = FarmId>) -> Self {
        let mut farms = farms.into_iter();
        let Some(first) = farms.next() else {
            return Self::Silent;
        };
        match farms.find(|farm| *farm != first) {
            None => Self::Names(first),
            Some(other) => Self::Disagree(first.min(other), first.max(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_names_the_farm_that_was_written() {
        for farm in [1, 7, u64::MAX].map(FarmId) {
            assert_eq!(read_sector(&write_sector(farm)), Ok(Some(farm)));
        }
        let sector = write_sector(FarmId(0x0102));
        assert_eq!(&sector[..12], b"LOAMFARM\x01\0\0\0");
        assert_eq!(sector[12..20], [2, 1, 0, 0, 0, 0, 0, 0]);
        assert!(sector[52..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn an_empty_sector_names_none() {
        assert_eq!(read_sector(&[0; SECTOR]), Ok(None));
    }

    #[test]
    fn each_changed_byte_is_found() {
        let whole = write_sector(FarmId(7));
        for at in 0..SECTOR {
            let mut sector = whole;
            sector[at] ^= 1;
            let expected = match at {
                0..8 => SectorError::Foreign,
                8 => SectorError::Version(0),
                9..12 => SectorError::Version(1 | 1 << (8 * (at - 8))),
                _ => SectorError::Damaged,
            };
            assert_eq!(read_sector(&sector), Err(expected), "byte {at}");
        }
        assert_eq!(
            read_sector(&write_sector(FarmId(0))),
            Err(SectorError::Zero)
        );
    }

    #[test]
    fn numbers_are_digits_alone() {
        assert_eq!(number(b"7"), Some(FarmId(7)));
        assert_eq!(number(b"007"), Some(FarmId(7)));
        assert_eq!(number(b"18446744073709551615"), Some(FarmId(u64::MAX)));
        for wrong in [
            &b""[..],
            b"0",
            b"-1",
            b"+1",
            b" 7",
            b"7\n",
            b"0x7",
            b"7.0",
            b"\x07",
            b"\xff",
            b"18446744073709551616",
        ] {
            assert_eq!(number(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn sticks_that_name_different_farms_count_for_nothing() {
        let of = |farms: &[u64]| Stick::of(farms.iter().copied().map(FarmId));
        assert_eq!(of(&[]), Stick::Silent);
        assert_eq!(of(&[7]), Stick::Names(FarmId(7)));
        assert_eq!(of(&[7, 7]), Stick::Names(FarmId(7)));
        assert_eq!(of(&[9, 9, 7]), Stick::Disagree(FarmId(7), FarmId(9)));
        assert_eq!(of(&[7, 9]), of(&[9, 7]));
    }

    #[test]
    fn what_cannot_be_read_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("farm.json");
        assert_eq!(FarmSearch::read(&path), FarmSearch::default());
        std::fs::write(&path, "{").unwrap();
        assert_eq!(FarmSearch::read(&path), FarmSearch::default());
        let search = FarmSearch {
            stick: Stick::Disagree(FarmId(1), FarmId(2)),
            command_line: Some(FarmId(3)),
            over: true,
        };
        std::fs::write(&path, serde_json::to_vec(&search).unwrap()).unwrap();
        assert_eq!(FarmSearch::read(&path), search);
    }

    #[test]
    fn a_farm_is_shown_with_who_named_it() {
        let shown = |source| {
            let number = FarmId(7);
            NamedFarm { number, source }.to_string()
        };
        assert_eq!(shown(FarmSource::Stick), "7, from the stick");
        assert_eq!(shown(FarmSource::CommandLine), "7, from the command line");
        assert_eq!(shown(FarmSource::Dhcp), "7, from DHCP");
        assert_eq!(shown(FarmSource::Image), "7, from the image");
        assert_eq!(shown(FarmSource::Kept), "7, kept with this node");
    }
}
