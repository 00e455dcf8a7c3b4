//! Records of what was asked for, one JSON file each, in a folder of `/run`.
//!
//! `/run` is a tmpfs: it lives exactly as long as the kernel's own state. A record is written
//! before the kernel is changed and removed after, so whatever the kernel holds when netd is
//! killed has a record, and a netd that starts makes or finishes what the records say.

use std::{
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

    pub fn all<T: DeserializeOwned>(&self) -> io::Result<Vec<T>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let record = serde_json::from_slice(&fs::read(&path)?);
            records.push(record.map_err(|error| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{}: {error}", path.display()),
                )
            })?);
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
        let mut all: Vec<i32> = records.all().unwrap();
        all.sort();
        assert_eq!(all, [2, 3]);
        assert_eq!(records.read::<i32>("a").unwrap(), Some(3));
        records.remove("a").unwrap();
        records.remove("a").unwrap();
        assert_eq!(records.read::<i32>("a").unwrap(), None);
    }
}
