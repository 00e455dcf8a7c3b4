//! [`Start`]: what tells one start of the server from another, and how the one before ended.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    thread,
};

use rustix::rand::{GetRandomFlags, getrandom};

/// The file in which an asked end is noted.
const FILE: &str = "farewell";

/// Shown as lines of the page.
#[derive(Clone, Debug)]
pub struct Start {
    number: u64,
    processors: usize,
    /// What the start before this one left when it was asked to end.
    farewell: Option<String>,
}

/// What is left on the volume by a server that was asked to end.
#[derive(Debug)]
pub struct Farewell {
    file: PathBuf,
    text: String,
}

impl Start {
    /// This start, on the volume at `data`.
    pub fn of(data: &Path) -> Self {
        let mut number = [0; 8];
        // So few bytes come whole, and a kernel that has booted always gives them (getrandom(2)).
        let _ = getrandom(&mut number, GetRandomFlags::empty());
        let file = data.join(FILE);
        let farewell = fs::read_to_string(&file).ok();
        // Whoever ends unasked leaves none.
        if farewell.is_some() {
            let _ = fs::remove_file(&file);
        }
        Self {
            number: u64::from_ne_bytes(number),
            processors: thread::available_parallelism().map_or(1, usize::from),
            farewell: farewell.map(|text| text.trim().to_owned()),
        }
    }

    /// What shall stay when this start ends because it was asked to.
    pub fn farewell(&self, data: &Path) -> Farewell {
        Farewell {
            file: data.join(FILE),
            text: format!("{:016x}\n", self.number),
        }
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "start: {:016x}", self.number)?;
        writeln!(f, "processors: {}", self.processors)?;
        let farewell = self.farewell.as_deref().unwrap_or("none");
        writeln!(
            f,
            "farewell of the one before: {}",
            farewell.escape_default()
        )
    }
}

impl Farewell {
    /// Nothing is synced: that this stays is the doing of whoever ends the machine in good order.
    pub fn leave(&self) -> io::Result<()> {
        fs::write(&self.file, &self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(start: &Start) -> String {
        let text = start.to_string();
        text.lines()
            .last()
            .and_then(|line| line.strip_prefix("farewell of the one before: "))
            .unwrap()
            .to_owned()
    }

    #[test]
    fn each_start_has_a_number_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (Start::of(folder.path()), Start::of(folder.path()));
        assert_ne!(one.number, two.number);
        assert!(one.processors >= 1);
    }

    #[test]
    fn the_next_start_and_no_later_one_shows_the_farewell() {
        let folder = tempfile::tempdir().unwrap();
        let first = Start::of(folder.path());
        assert_eq!(last(&first), "none");
        first.farewell(folder.path()).leave().unwrap();
        assert_eq!(
            last(&Start::of(folder.path())),
            format!("{:016x}", first.number)
        );
        assert_eq!(last(&Start::of(folder.path())), "none");
    }

    #[test]
    fn without_a_volume_there_is_no_farewell() {
        let start = Start::of("/nonexistent".as_ref());
        assert_eq!(last(&start), "none");
        assert!(start.farewell("/nonexistent".as_ref()).leave().is_err());
    }

    #[test]
    fn a_damaged_farewell_forges_no_line() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), "a\ncounter: 9\n").unwrap();
        assert_eq!(last(&Start::of(folder.path())), "a\\ncounter: 9");
    }
}
