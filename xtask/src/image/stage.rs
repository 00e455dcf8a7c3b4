//! What is kept between builds: each stage's result, beside the key of everything it was made from.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::cpio;
use super::tree::Tree;

/// Names everything that a result depends on. The code of a stage is part of it, so that a change
/// there never meets an old result.
#[derive(Debug, Clone)]
pub struct Key(Sha256);

impl Key {
    /// `source` is the text of the stage's own file.
    pub fn new(source: &str) -> Self {
        Self(Sha256::new()).with(source)
    }

    #[must_use]
    pub fn with(mut self, input: impl AsRef<[u8]>) -> Self {
        let input = input.as_ref();
        // The length keeps ("ab", "c") apart from ("a", "bc").
        self.0.update((input.len() as u64).to_le_bytes());
        self.0.update(input);
        self
    }

    pub fn hex(&self) -> String {
        hex::encode(self.0.clone().finalize())
    }
}

/// Where stages keep their results.
#[derive(Debug, Clone)]
pub struct Stages {
    folder: PathBuf,
}

/// A result, and whether it had to be made now.
#[derive(Debug, Clone)]
pub struct Kept {
    pub file: PathBuf,
    pub key: String,
    pub made: bool,
    pub size: Size,
}

/// Bytes as they are used, and as they lie in the image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    pub unpacked: u64,
    pub packed: u64,
}

impl std::ops::AddAssign for Size {
    fn add_assign(&mut self, other: Self) {
        self.unpacked += other.unpacked;
        self.packed += other.packed;
    }
}

#[derive(Serialize, Deserialize)]
struct Record {
    key: String,
    size: Size,
}

impl Stages {
    pub fn new(folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(Self { folder })
    }

    /// A file named `name`, made by `make` unless the one that is there has the same key.
    pub fn file(
        &self,
        name: &str,
        key: &Key,
        make: impl FnOnce() -> Result<(Vec<u8>, Size)>,
    ) -> Result<Kept> {
        let file = self.folder.join(name);
        let record_file = self.folder.join(format!("{name}.key"));
        let key = key.hex();
        if let Some(record) = read_record(&record_file)
            && record.key == key
            && file.exists()
        {
            return Ok(Kept {
                file,
                key,
                made: false,
                size: record.size,
            });
        }
        let (bytes, size) = make()?;
        // The key goes first and comes back last, so that an interrupted build leaves no lie.
        if record_file.exists() {
            fs::remove_file(&record_file)?;
        }
        fs::write(&file, bytes).with_context(|| format!("writing {}", file.display()))?;
        let record = Record {
            key: key.clone(),
            size,
        };
        fs::write(&record_file, serde_json::to_vec(&record)?)
            .with_context(|| format!("writing {}", record_file.display()))?;
        Ok(Kept {
            file,
            key,
            made: true,
            size,
        })
    }

    /// The same, of bytes that lie in the image as they are used.
    pub fn plain(
        &self,
        name: &str,
        key: &Key,
        make: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Kept> {
        self.file(name, key, || {
            let bytes = make()?;
            let size = bytes.len() as u64;
            Ok((
                bytes,
                Size {
                    unpacked: size,
                    packed: size,
                },
            ))
        })
    }

    /// A compressed cpio archive of the tree that `make` gives. `level` is zstd's.
    pub fn archive(
        &self,
        name: &str,
        key: &Key,
        level: i32,
        make: impl FnOnce() -> Result<Tree>,
    ) -> Result<Kept> {
        let key = key
            .clone()
            .with(include_str!("cpio.rs"))
            .with(level.to_le_bytes());
        self.file(&archive_name(name), &key, || {
            let archive = cpio::archive(&make()?);
            let mut packed = zstd::encode_all(&archive[..], level)
                .with_context(|| format!("compressing {name}"))?;
            cpio::align(&mut packed);
            let size = Size {
                unpacked: archive.len() as u64,
                packed: packed.len() as u64,
            };
            Ok((packed, size))
        })
    }
}

impl Kept {
    pub fn read(&self) -> Result<Vec<u8>> {
        fs::read(&self.file).with_context(|| format!("reading {}", self.file.display()))
    }
}

/// The file of an archive's stage.
pub fn archive_name(stage: &str) -> String {
    format!("{stage}.cpio.zst")
}

fn read_record(file: &Path) -> Option<Record> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_again_only_for_another_key() {
        let folder = tempfile::tempdir().unwrap();
        let stages = Stages::new(folder.path().to_owned()).unwrap();
        let make = |text: &'static str| move || Ok((text.into(), Size::default()));
        let key = Key::new("code").with("a");
        assert!(stages.file("x", &key, make("one")).unwrap().made);
        let kept = stages.file("x", &key, || panic!("it is there")).unwrap();
        assert_eq!((kept.made, kept.read().unwrap()), (false, b"one".to_vec()));
        let other = stages.file("x", &key.with("b"), make("two")).unwrap();
        assert_eq!((other.made, other.read().unwrap()), (true, b"two".to_vec()));
    }

    #[test]
    fn keys_tell_their_parts_apart() {
        let key = |parts: &[&str]| {
            parts
                .iter()
                .fold(Key::new(""), |key, part| key.with(part))
                .hex()
        };
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
    }
}
