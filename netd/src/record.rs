//! Records of what was asked for, one JSON file each, in a folder of `/run`.
//!
//! `/run` is a tmpfs: it lives exactly as long as the kernel's own state. A record is written
//! before the kernel is changed, and removed before the kernel's part is. So a netd that starts
//! makes or finishes what the records say, and removes what no record names. Of a record that
//! cannot be read, the kernel tells the rest: see [`recovery`](crate::recovery).

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

#[derive(Clone, Debug)]
pub struct Records {
    folder: PathBuf,
}

impl Records {
    pub fn open(folder: impl Into<PathBuf>) -> io::Result<Self> {
        let folder = folder.into();
        fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    /// Replaces the record, whole or not at all.
    pub fn write(&self, name: &str, record: &impl Serialize) -> io::Result<()> {
        let next = self.folder.join(format!("{name}.next"));
        fs::write(&next, serde_json::to_vec(record)?)?;
        fs::rename(next, self.path(name))
    }

    /// Replaces a file that others read, beside the records.
    pub fn publish(&self, file: &str, text: &str) -> io::Result<()> {
        let next = self.folder.join(format!("{file}.next"));
        fs::write(&next, text)?;
        fs::rename(next, self.folder.join(file))
    }

    pub fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                fs::remove_dir_all(self.path(name))
            }
            other => other,
        }
    }

    pub fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        match fs::read(self.path(name)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All records by their names, also those that cannot be read: torn, or of another version.
    pub fn all<T: DeserializeOwned>(&self) -> io::Result<BTreeMap<String, io::Result<T>>> {
        let mut records = BTreeMap::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            // What has no name of ours is no record of ours.
            let Some(name) = path.file_stem().and_then(|name| name.to_str()) else {
                continue;
            };
            let record = fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
            records.insert(name.to_owned(), record);
        }
        Ok(records)
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(&self.folder).join(format!("{name}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path().join("networks")).unwrap();
        records.write("a", &1).unwrap();
        records.write("b", &2).unwrap();
        records.write("a", &3).unwrap();
        // What a crash in the middle of a write leaves is not a record.
        fs::write(folder.path().join("networks/c.next"), "{").unwrap();

        let records = Records::open(folder.path().join("networks")).unwrap();
        let all = records.all::<i32>().unwrap();
        let all: Vec<_> = all
            .iter()
            .map(|(name, n)| (&**name, *n.as_ref().unwrap()))
            .collect();
        assert_eq!(all, [("a", 3), ("b", 2)]);
        assert_eq!(records.read::<i32>("a").unwrap(), Some(3));
        records.remove("a").unwrap();
        records.remove("a").unwrap();
        assert_eq!(records.read::<i32>("a").unwrap(), None);
    }

    #[test]
    fn a_record_that_cannot_be_read_hides_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path()).unwrap();
        records.write("good", &1).unwrap();
        for (name, bytes) in [
            ("empty", &b""[..]),
            ("torn", b"{\"id"),
            ("garbage", &[0xff; 9]),
        ] {
            fs::write(folder.path().join(format!("{name}.json")), bytes).unwrap();
        }
        fs::create_dir(folder.path().join("folder.json")).unwrap();
        let all = records.all::<i32>().unwrap();
        let readable: Vec<_> = all.iter().filter(|(_, record)| record.is_ok()).collect();
        assert_eq!((all.len(), readable.len()), (5, 1));
        assert_eq!(readable[0].0, "good");
    }
}
