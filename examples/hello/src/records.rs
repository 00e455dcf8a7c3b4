//! [`Records`]: numbered records on the volume. One that was acknowledged outlives a power cut.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use crate::pattern;

/// No divisor of a sector or a page: each write touches bytes that were acknowledged before.
const LENGTH: usize = 700;

#[derive(Debug)]
pub struct Records {
    folder: PathBuf,
    /// The file and how many records it has, once it was read. One request at a time writes.
    open: Mutex<Option<(File, u64)>>,
}

impl Records {
    /// Kept in the file `records` of `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            open: Mutex::new(None),
        }
    }

    /// Adds a record and gives its number, once it is on the disk.
    pub fn add(&self) -> io::Result<u64> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, count) = match open.take() {
            Some(open) => open,
            None => self.open()?,
        };
        let next = count + 1;
        file.write_all_at(&record(next), count * LENGTH as u64)?;
        file.sync_data()?;
        // After an error it stays closed: what the file holds then has to be read again.
        *open = Some((file, next));
        Ok(next)
    }

    /// How many there are, one after the other without a gap or a wrong byte. What a power cut left
    /// of one that was not acknowledged does not count.
    pub fn count(&self) -> io::Result<u64> {
        match File::open(self.folder.join("records")) {
            Ok(file) => whole(&file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn open(&self) -> io::Result<(File, u64)> {
        fs::create_dir_all(&self.folder)?;
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.folder.join("records"))?;
        // The file's name is durable only when its folder is.
        File::open(&self.folder)?.sync_all()?;
        let count = whole(&file)?;
        file.set_len(count * LENGTH as u64)?;
        Ok((file, count))
    }
}

/// The record of this number: the number, then bytes that no other record has.
fn record(number: u64) -> [u8; LENGTH] {
    let mut record = [0; LENGTH];
    pattern::fill(number * LENGTH as u64, &mut record);
    record[..8].copy_from_slice(&number.to_be_bytes());
    record
}

fn whole(file: &File) -> io::Result<u64> {
    let mut input = io::BufReader::new(file);
    let mut count = 0;
    let mut bytes = [0; LENGTH];
    loop {
        match input.read_exact(&mut bytes) {
            Ok(()) if bytes == record(count + 1) => count += 1,
            Ok(()) => return Ok(count),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(count),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_on_behind_the_last_whole_record() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records");
        let records = Records::new(folder.path().into());
        assert_eq!(records.count().unwrap(), 0);
        for number in 1..=3 {
            assert_eq!(records.add().unwrap(), number);
        }
        // The third is torn, as by a power cut.
        let mut bytes = fs::read(&path).unwrap();
        bytes.truncate(2 * LENGTH + 100);
        fs::write(&path, bytes).unwrap();
        let again = Records::new(folder.path().into());
        assert_eq!(again.count().unwrap(), 2);
        assert_eq!(again.add().unwrap(), 3);
        assert_eq!(again.count().unwrap(), 3);
    }

    #[test]
    fn a_wrong_byte_ends_the_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records");
        let records = Records::new(folder.path().into());
        for _ in 0..3 {
            records.add().unwrap();
        }
        let mut bytes = fs::read(&path).unwrap();
        bytes[LENGTH + 350] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(records.count().unwrap(), 1);
    }

    #[test]
    fn without_its_folder_nothing_is_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(Records::new(file.join("data")).add().is_err());
    }
}
