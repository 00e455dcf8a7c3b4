//! What is kept between builds: each stage's result, beside the key of everything it was made from.

use std::fs::{self, File};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::cpio;
use super::tree::Tree;

/// Names everything that a result depends on.
#[derive(Debug, Clone)]
pub struct Key(Sha256);

/// The hash of the code that makes an image, and of the versions of all crates: `build.rs` counts it.
const PIPELINE: &str = env!("LOAM_PIPELINE");

impl Key {
    /// `recipe` stands for how the result is made: a number to raise, or the text of a file.
    pub fn new(recipe: &str) -> Self {
        Self(Sha256::new()).with(recipe)
    }

    /// Of a part of the image: a change in any code that makes images never meets an old result.
    pub fn of_pipeline() -> Self {
        Self::new(PIPELINE)
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

#[derive(Serialize, Deserialize)]
struct Record {
    key: String,
    /// Of the file, in bytes.
    length: u64,
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
        let record_file = self.folder.join(format!(".{name}.key"));
        let key = key.hex();
        if let Some(record) = read_record(&record_file)
            && record.key == key
            && fs::metadata(&file).is_ok_and(|there| there.len() == record.length)
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
        replace(&file, &bytes)?;
        let record = Record {
            key: key.clone(),
            length: bytes.len() as u64,
            size,
        };
        replace(&record_file, &serde_json::to_vec(&record)?)?;
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

    /// A cpio archive of the tree that `make` gives.
    pub fn archive(
        &self,
        name: &str,
        key: &Key,
        packing: Packing,
        make: impl FnOnce() -> Result<Tree>,
    ) -> Result<Kept> {
        self.packed(name, key, packing, || Ok(cpio::archive(&make()?)))
    }

    /// The same of one or more archives that are made already.
    pub fn packed(
        &self,
        name: &str,
        key: &Key,
        packing: Packing,
        make: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Kept> {
        let key = key.clone().with(format!("{packing:?}"));
        self.file(&packing.archive_name(name), &key, || {
            let archive = make()?;
            let unpacked = archive.len() as u64;
            let mut packed = packing
                .pack(archive)
                .with_context(|| format!("compressing {name}"))?;
            cpio::align(&mut packed);
            let size = Size {
                unpacked,
                packed: packed.len() as u64,
            };
            Ok((packed, size))
        })
    }
}

/// How an archive lies in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// As it is: what it holds is compressed already.
    Stored,
    /// By zstd, at this level.
    Zstd(i32),
    /// As small as zstd can, which takes a minute or two.
    Smallest,
}

/// As far as the kernel looks back (`lib/decompress_unzstd.c`).
const LARGEST_WINDOW: u32 = 27;

impl Packing {
    /// The file of an archive's stage.
    pub fn archive_name(self, stage: &str) -> String {
        match self {
            Self::Stored => format!("{stage}.cpio"),
            Self::Zstd(_) | Self::Smallest => format!("{stage}.cpio.zst"),
        }
    }

    fn pack(self, archive: Vec<u8>) -> io::Result<Vec<u8>> {
        match self {
            Self::Stored => Ok(archive),
            Self::Zstd(level) => zstd::encode_all(&archive[..], level),
            Self::Smallest => {
                let mut encoder = zstd::Encoder::new(Vec::new(), 22)?;
                encoder.long_distance_matching(true)?;
                encoder.window_log(LARGEST_WINDOW)?;
                // So that no more memory is asked for than there is to unpack.
                encoder.set_pledged_src_size(Some(archive.len() as u64))?;
                encoder.write_all(&archive)?;
                encoder.finish()
            }
        }
    }
}

impl Kept {
    pub fn read(&self) -> Result<Vec<u8>> {
        fs::read(&self.file).with_context(|| format!("reading {}", self.file.display()))
    }
}

/// Writes beside it, and renames once all bytes are on the disk: whoever has the old file open, such as a
/// node that runs from it, keeps it whole, and nobody meets half of the new one.
fn replace(file: &Path, bytes: &[u8]) -> Result<()> {
    let mut half = file.as_os_str().to_owned();
    half.push(".unfinished");
    let half = PathBuf::from(half);
    let write = || {
        let mut written = File::create(&half)?;
        write_sparse(&mut written, bytes)?;
        written.sync_all()?;
        fs::rename(&half, file)
    };
    write().with_context(|| format!("writing {}", file.display()))
}

/// Most of a disk's image is zeroes, which need not be written.
fn write_sparse(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    const PIECE: usize = 64 << 10;
    for piece in bytes.chunks(PIECE) {
        if piece.iter().all(|byte| *byte == 0) {
            file.seek(SeekFrom::Current(piece.len() as i64))?;
        } else {
            file.write_all(piece)?;
        }
    }
    file.set_len(bytes.len() as u64)
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
    fn a_write_that_fails_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let stages = Stages::new(folder.path().to_owned()).unwrap();
        let [old, new] = ["old", "new"].map(Key::new);
        stages.plain("x", &old, || Ok(b"one".into())).unwrap();
        // The disk is full, say: nothing can be written beside it.
        fs::create_dir(folder.path().join("x.unfinished")).unwrap();
        let failed = stages.plain("x", &new, || Ok(b"two".into())).unwrap_err();
        assert!(failed.to_string().contains("writing"), "{failed}");
        assert_eq!(fs::read(folder.path().join("x")).unwrap(), b"one");
        fs::remove_dir(folder.path().join("x.unfinished")).unwrap();
        let made = stages.plain("x", &new, || Ok(b"two".into())).unwrap();
        assert_eq!((made.made, made.read().unwrap()), (true, b"two".to_vec()));
    }

    #[test]
    fn what_was_cut_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let stages = Stages::new(folder.path().to_owned()).unwrap();
        let key = Key::new("a");
        let make = || stages.plain("x", &key, || Ok(b"whole".into()));
        let file = make().unwrap().file;
        fs::write(&file, b"wh").unwrap();
        assert!(make().unwrap().made);
        assert_eq!(fs::read(&file).unwrap(), b"whole");
    }

    #[test]
    fn an_open_old_file_stays_whole() {
        use std::io::Read as _;
        let folder = tempfile::tempdir().unwrap();
        let stages = Stages::new(folder.path().to_owned()).unwrap();
        let make = |key: &str, text: &'static str| {
            let key = Key::new(key);
            stages.plain("x", &key, || Ok(text.into())).unwrap()
        };
        let mut open = File::open(make("a", "what a node runs from").file).unwrap();
        make("b", "new");
        let mut text = String::new();
        open.read_to_string(&mut text).unwrap();
        assert_eq!(text, "what a node runs from");
    }

    #[test]
    fn all_code_that_makes_images_is_in_the_key() {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut all = Sha256::new();
        let mut count = 0;
        let mut folders = vec![package.join("src/image"), package.join("src/debian")];
        let mut files = vec![package.join("../Cargo.lock")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.push(path);
                }
            }
        }
        files.sort();
        for file in files {
            count += 1;
            let bytes = fs::read(file).unwrap();
            all.update((bytes.len() as u64).to_le_bytes());
            all.update(bytes);
        }
        assert!(count > 20);
        assert_eq!(hex::encode(all.finalize()), PIPELINE);
    }

    #[test]
    fn zeroes_are_kept_and_take_no_room() {
        use std::os::unix::fs::MetadataExt as _;
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = vec![0; 5 << 20];
        bytes[1 << 20..(1 << 20) + 3].copy_from_slice(b"abc");
        bytes[4 << 20] = 1;
        let file = folder.path().join("x");
        replace(&file, &bytes).unwrap();
        assert!(fs::read(&file).unwrap() == bytes);
        assert!(fs::metadata(&file).unwrap().blocks() * 512 < 1 << 20);
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
