//! [`Counter`]: a number in a file that a power cut leaves either old or new, never torn.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

#[derive(Debug)]
pub struct Counter {
    folder: PathBuf,
    /// One visit at a time reads, adds and writes.
    turn: Mutex<()>,
}

impl Counter {
    /// Kept in the file `counter` of `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            turn: Mutex::new(()),
        }
    }

    /// Adds one and gives the new number, once it is on the disk.
    pub fn raise(&self) -> io::Result<u64> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self.read()?.saturating_add(1);
        self.write(next)?;
        Ok(next)
    }

    fn read(&self) -> io::Result<u64> {
        let path = self.folder.join("counter");
        match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|_| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{} does not hold a number", path.display()),
                )
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn write(&self, number: u64) -> io::Result<()> {
        let fresh = self.folder.join("counter.new");
        let mut file = File::create(&fresh)?;
        writeln!(file, "{number}")?;
        file.sync_all()?;
        fs::rename(&fresh, self.folder.join("counter"))?;
        // The rename itself is durable only when the folder is.
        File::open(&self.folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Counter::new(folder.path().into()).raise().unwrap(), 1);
        let again = Counter::new(folder.path().into());
        assert_eq!(again.raise().unwrap(), 2);
        assert_eq!(again.raise().unwrap(), 3);
        assert_eq!(
            fs::read_to_string(folder.path().join("counter")).unwrap(),
            "3\n"
        );
    }

    #[test]
    fn visits_at_once_are_all_counted() {
        let folder = tempfile::tempdir().unwrap();
        let counter = Counter::new(folder.path().into());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| counter.raise().unwrap());
            }
        });
        assert_eq!(counter.raise().unwrap(), 9);
    }

    #[test]
    fn a_damaged_file_is_an_error_and_not_a_fresh_start() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("counter"), "three").unwrap();
        assert!(Counter::new(folder.path().into()).raise().is_err());
        assert_eq!(
            fs::read_to_string(folder.path().join("counter")).unwrap(),
            "three"
        );
    }

    #[test]
    fn without_its_folder_it_is_an_error() {
        assert!(Counter::new("/nonexistent/data".into()).raise().is_err());
    }
}
