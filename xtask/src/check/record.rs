//! What has passed before, by content: a test that passed is not run again by `--all` while its
//! binary, the image and everything else that it runs with are the same bytes.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::nextest::{Event, Name, Test};
use crate::image::stage::Key;

/// A file for each test that passed, named after all that it depends on.
#[derive(Debug)]
pub struct Record {
    folder: PathBuf,
    /// By the test's name.
    keys: HashMap<Name, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Passed {
    pub name: Name,
    pub seconds: f64,
}

impl Record {
    /// `surroundings`: files and texts beside its binary that a test depends on.
    pub fn open(folder: PathBuf, tests: &[Test], surroundings: &Key) -> Result<Self> {
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let mut binaries = HashMap::new();
        let mut keys = HashMap::new();
        for test in tests {
            let binary = match binaries.get(&test.binary) {
                Some(hash) => hash,
                None => binaries
                    .entry(test.binary.clone())
                    .or_insert(hash(&test.binary)?),
            };
            let key = surroundings.clone().with(binary).with(&test.name);
            keys.insert(test.name.clone(), key.hex());
        }
        Ok(Self { folder, keys })
    }

    pub fn passed(&self, test: &Test) -> Option<Passed> {
        let text = fs::read(self.file(&test.name)?).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Keeps a success at once, so that a run that is stopped loses none; a failure takes away what
    /// an earlier run may have kept.
    pub fn note(&self, event: &Event) -> Result<()> {
        let (Event::Passed(name, _) | Event::Failed(name)) = event;
        let Some(file) = self.file(name) else {
            return Ok(());
        };
        match event {
            Event::Passed(name, seconds) => {
                let passed = Passed {
                    name: name.clone(),
                    seconds: *seconds,
                };
                // Beside it and renamed: half a file would be read as no success, which is right,
                // but a full disk must be told.
                let beside = file.with_extension("new");
                fs::write(&beside, serde_json::to_vec(&passed)?)
                    .and_then(|()| fs::rename(&beside, &file))
                    .with_context(|| format!("writing {}", file.display()))
            }
            Event::Failed(_) => match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(error).with_context(|| format!("removing {}", file.display()))
                }
                _ => Ok(()),
            },
        }
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        Some(self.folder.join(self.keys.get(name)?))
    }
}

/// SHA-256 of a file's bytes.
pub fn hash(file: &Path) -> Result<[u8; 32]> {
    let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    Ok(Sha256::digest(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_success_is_kept_for_the_same_bytes_alone() {
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join("cases");
        fs::write(&binary, "one").unwrap();
        let test = Test {
            name: "p::cases$a".into(),
            short: "a".into(),
            binary: binary.clone(),
            filter: String::new(),
            ignored: false,
        };
        let open = |image: &str| {
            let key = Key::new("").with(image);
            let kept = folder.path().join("kept");
            Record::open(kept, std::slice::from_ref(&test), &key).unwrap()
        };
        let record = open("image");
        assert_eq!(record.passed(&test), None);
        record.note(&Event::Passed(test.name.clone(), 1.5)).unwrap();
        assert_eq!(open("image").passed(&test).unwrap().seconds, 1.5);
        assert_eq!(open("another image").passed(&test), None);

        fs::write(&binary, "two").unwrap();
        assert_eq!(open("image").passed(&test), None);
        fs::write(&binary, "one").unwrap();

        record.note(&Event::Failed(test.name.clone())).unwrap();
        assert_eq!(open("image").passed(&test), None);
        // A test that was not asked for is nobody's business.
        record.note(&Event::Failed("other".into())).unwrap();
    }
}
