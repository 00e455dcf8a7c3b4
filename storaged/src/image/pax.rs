//! Extension headers of tar archives: PAX records (POSIX.1-2001).

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use super::{
    limits, posix_acl,
    sparse::{self, decimal},
    tarball::{TarError, Time, show},
};

/// What extension headers say about the entry after them.
///
/// A value that is left empty takes back what records before it said (POSIX.1-2017, pax, "pax Extended
/// Header"), so that the header's own counts.
#[derive(Debug, Default)]
pub struct Extensions {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    /// Of what the archive has of it.
    pub size: Option<u64>,
    pub uid: Option<i64>,
    pub gid: Option<i64>,
    pub modified: Option<Time>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: sparse::Records,
}

impl Extensions {
    /// Records of `<length> <keyword>=<value>\n`, the length in decimal and counting all of it
    /// (POSIX.1-2017, pax, "pax Extended Header"). Values may hold any byte.
    pub fn read_pax(&mut self, mut records: &[u8]) -> Result<(), TarError> {
        let bad = || TarError::Damaged("a PAX record is malformed".to_owned());
        while !records.is_empty() {
            let space = records
                .iter()
                .take(20)
                .position(|b| *b == b' ')
                .ok_or_else(bad)?;
            let length = decimal(&records[..space]).ok_or_else(bad)?;
            let length = usize::try_from(length).map_err(|_| bad())?;
            let record = records.get(space + 1..length).ok_or_else(bad)?;
            let (record, end) = record.split_at(record.len().checked_sub(1).ok_or_else(bad)?);
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
            if end != b"\n" {
                return Err(bad());
            }
            self.record(&record[..equals], &record[equals + 1..])?;
            records = &records[length..];
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        let bad = || {
            let key = show(key);
            TarError::Damaged(format!("the PAX value of `{key}` cannot be read"))
        };
        let name = || (!value.is_empty()).then(|| value.to_vec());
        let number = || match value {
            b"" => Ok(None),
            _ => decimal(value).map(Some).ok_or_else(bad),
        };
        let id = || -> Result<Option<i64>, TarError> {
            let id = number()?.map(i64::try_from).transpose();
            id.map_err(|_| bad())
        };
        match key {
            b"path" => self.path = name(),
            b"linkpath" => self.link = name(),
            b"size" => self.size = number()?,
            b"uid" => self.uid = id()?,
            b"gid" => self.gid = id()?,
            b"mtime" => {
                self.modified = match value {
                    b"" => None,
                    _ => Some(time(value).ok_or_else(bad)?),
                }
            }
            _ => {
                if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.read(key, value).ok_or_else(bad)?;
                } else if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.retain(|(other, _)| other != name);
                    self.xattr(name, value)?;
                } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    let value = BASE64.decode(value).map_err(|_| bad())?;
                    self.xattr(&percent_decoded(name), &value)?;
                }
            }
        }
        Ok(())
    }

    /// Of two that say the same, libarchive's is the one that may be wrong, as it is encoded: it does
    /// not replace another.
    fn xattr(&mut self, name: &[u8], value: &[u8]) -> Result<(), TarError> {
        // `trusted.` belongs to overlayfs, which runs over this image; other `security.` values
        // belong to the kernel of the machine that built it.
        let kept = match name {
            b"security.capability" => true,
            b"system.posix_acl_access" | b"system.posix_acl_default" => posix_acl::is_valid(value),
            _ => name.starts_with(b"user."),
        };
        let known = self.xattrs.iter().any(|(other, _)| other == name);
        if !kept || known || name.len() > limits::NAME || name.contains(&0) {
            return Ok(());
        }
        self.xattrs.push((name.to_vec(), value.to_vec()));
        self.xattrs.sort();
        let total: usize = self
            .xattrs
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        if total > limits::XATTRS {
            return Err(TarError::Damaged(
                "an entry has too many extended attributes".to_owned(),
            ));
        }
        Ok(())
    }
}

/// libarchive leaves the filling at the end out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Seconds and a fraction, as many digits as one likes, of which nine count: the others are rounded down, to an
/// earlier time (POSIX.1-2017, pax, "pax Extended Header File Times").
fn time(value: &[u8]) -> Option<Time> {
    let mut parts = value.splitn(2, |byte| *byte == b'.');
    let whole = parts.next()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |at| fraction.get(at).map_or(0, |digit| u32::from(digit - b'0'));
    let nanoseconds = (0..9).fold(0, |number, at| number * 10 + digit(at));
    let seconds = |digits| decimal(digits).and_then(|number| i64::try_from(number).ok());
    Some(match whole.strip_prefix(b"-") {
        Some(whole) => {
            let finer = fraction.iter().skip(9).any(|digit| *digit != b'0');
            // So long before the second that is written.
            let before = nanoseconds + u32::from(finer);
            let whole = -seconds(whole)?;
            match before {
                0 => Time {
                    seconds: whole,
                    nanoseconds: 0,
                },
                before => Time {
                    seconds: whole - 1,
                    nanoseconds: 1_000_000_000 - before,
                },
            }
        }
        None => Time {
            seconds: seconds(whole)?,
            nanoseconds,
        },
    })
}

/// As libarchive writes the names of attributes.
fn percent_decoded(name: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut rest = name;
    while let Some((byte, behind)) = rest.split_first() {
        let hex = |digit: u8| char::from(digit).to_digit(16);
        match (byte, behind) {
            (b'%', [high, low, behind @ ..])
                if let (Some(high), Some(low)) = (hex(*high), hex(*low)) =>
            {
                decoded.push((high * 16 + low) as u8);
                rest = behind;
            }
            _ => {
                decoded.push(*byte);
                rest = behind;
            }
        }
    }
    decoded
}
