//! Extension headers of tar archives: PAX records (POSIX.1-2001), read and written.

use super::{
    limits,
    tarball::{TarError, show},
};

/// What extension headers say about the entry after them.
#[derive(Debug, Default)]
pub struct Extensions {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub modified: Option<u64>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: bool,
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
            let length: usize = number(&records[..space]).ok_or_else(bad)?;
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
        let bad = || TarError::Damaged(format!("the PAX value of `{}` is no number", show(key)));
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number(value).ok_or_else(bad)?),
            b"uid" => self.uid = Some(number(value).ok_or_else(bad)?),
            b"gid" => self.gid = Some(number(value).ok_or_else(bad)?),
            b"mtime" => {
                let whole = value.split(|b| *b == b'.').next().unwrap_or_default();
                self.modified = Some(if whole.starts_with(b"-") {
                    0
                } else {
                    number(whole).ok_or_else(bad)?
                });
            }
            _ if key.starts_with(b"GNU.sparse.") => self.sparse = true,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattr(name, value)?;
                }
            }
        }
        Ok(())
    }

    fn xattr(&mut self, name: &[u8], value: &[u8]) -> Result<(), TarError> {
        // `trusted.` belongs to overlayfs, which runs over this image; other `security.` values
        // belong to the kernel of the machine that built it.
        let kept = name.starts_with(b"user.")
            || name == b"security.capability"
            || name == b"system.posix_acl_access"
            || name == b"system.posix_acl_default";
        if !kept || name.len() > limits::NAME || name.contains(&0) {
            return Ok(());
        }
        self.xattrs.retain(|(other, _)| other != name);
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

/// `<length> <key>=<value>\n`, where the length counts its own digits.
pub fn write_record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    let text = std::str::from_utf8(digits).ok()?;
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())?
}
