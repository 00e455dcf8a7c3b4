//! Finished images on pools.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use loam_deployment::Bytes;
use loam_node_api::{
    image::{Image, ImageContent},
    storage::ImageConfig,
};
use loam_oci::platform::Level;
use serde::{Deserialize, Serialize};

use crate::{durable, pool::Pool};

/// An image on a pool, its space counted in the pool's ledger.
#[derive(Clone, Debug)]
pub struct Kept {
    pool: Arc<Pool>,
    found: FoundImage,
}

/// An image of a pool that has just come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundImage {
    /// As which it was fetched. Other names of the same digest mean the same bytes.
    pub image: Image,
    pub size: Bytes,
    /// What a processor must have to run it. A disk may come to another machine.
    pub level: Level,
}

/// What `<digest>.json` says, or of a contract's own image, `<digest>-<contract>.json`.
#[derive(Serialize, Deserialize)]
struct Record {
    #[serde(flatten)]
    image: Image,
    size: Bytes,
    config: ImageConfig,
    #[serde(default)]
    level: Level,
}

impl Kept {
    /// Takes over a finished, synced file. Durable when it returns; after an error
    /// nothing is left that is not counted.
    pub fn create(
        pool: &Arc<Pool>,
        image: &Image,
        unfinished: &Path,
        config: ImageConfig,
        level: Level,
    ) -> io::Result<Self> {
        let size = Bytes(fs::metadata(unfinished)?.len());
        let kept = Self {
            pool: pool.clone(),
            found: FoundImage {
                image: image.clone(),
                size,
                level,
            },
        };
        let record = Record {
            image: image.clone(),
            size,
            config,
            level,
        };
        let written = durable::rename(unfinished, &kept.path())
            .and_then(|()| durable::write(&kept.record(), &serde_json::to_vec(&record)?));
        pool.with_ledger(|ledger| ledger.record_image(size));
        match written {
            Ok(()) => Ok(kept),
            Err(error) => {
                kept.remove()?;
                Err(error)
            }
        }
    }

    /// One that a pool brought, counted by then.
    pub fn found(pool: &Arc<Pool>, found: FoundImage) -> Self {
        Self {
            pool: pool.clone(),
            found,
        }
    }

    /// Durable when it returns.
    pub fn remove(&self) -> io::Result<()> {
        durable::remove(&self.record())?;
        durable::remove(&self.path())?;
        self.pool
            .with_ledger(|ledger| ledger.release_image(self.found.size));
        Ok(())
    }

    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    pub fn image(&self) -> &Image {
        &self.found.image
    }

    pub fn size(&self) -> Bytes {
        self.found.size
    }

    pub fn level(&self) -> Level {
        self.found.level
    }

    /// Read anew each time: together, those of all images would take much memory.
    pub fn config(&self) -> io::Result<ImageConfig> {
        Ok(read(&self.record())?.config)
    }

    pub fn path(&self) -> PathBuf {
        let name = name(self.found.image.content());
        self.pool.images().join(format!("{name}.erofs"))
    }

    fn record(&self) -> PathBuf {
        self.path().with_extension("json")
    }
}

/// Of an image's two files, without their ends.
fn name(content: ImageContent) -> String {
    let ImageContent { digest, only_for } = content;
    match only_for {
        None => digest.to_string(),
        Some(contract) => format!("{digest}-{contract}"),
    }
}

/// The images in a pool's folder. Half-written ones are removed, and one that the disk does not let be
/// read is left: it may answer later, and the image is fetched again where it is wanted, over what is
/// there if need be. The second value is what of both stays, in bytes.
pub fn find(images: &Path) -> (Vec<FoundImage>, u64) {
    let (mut found, mut strays) = (Vec::new(), 0);
    let entries = match fs::read_dir(images) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::error!(folder = %images.display(), %error, "cannot list a pool's images");
            return (found, 0);
        }
    };
    // Either of the two files may be there without the other.
    let ends = |path: &PathBuf| {
        path.extension()
            .is_some_and(|e| e == "erofs" || e == "json")
    };
    let files: BTreeSet<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(ends)
        .map(|path| path.with_extension("erofs"))
        .collect();
    for path in files {
        let both = [path.with_extension("json"), path.clone()];
        match open(&path) {
            Ok(image) => found.push(image),
            // It can be fetched again.
            Err(error) if is_not_whole(&error) => {
                tracing::warn!(path = %path.display(), %error, "removing an image that is not whole");
                for path in both {
                    if let Err(error) = durable::remove(&path) {
                        tracing::error!(path = %path.display(), %error, "cannot remove it");
                        strays += length(&path);
                    }
                }
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "an image cannot be read; it is left as it is and not used");
                strays += both.iter().map(|path| length(path)).sum::<u64>();
            }
        }
    }
    (found, strays)
}

/// Whether the error is of what is there, or is not, and not of the disk.
fn is_not_whole(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    matches!(error.kind(), InvalidData | NotFound | UnexpectedEof)
}

fn length(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |metadata| metadata.len())
}

fn open(path: &Path) -> io::Result<FoundImage> {
    let Record {
        image, size, level, ..
    } = read(&path.with_extension("json"))?;
    let name = name(image.content());
    let named = path.file_stem().is_some_and(|stem| *stem == *name);
    if !named || fs::metadata(path)?.len() != size.get() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "its record is of another file",
        ));
    }
    Ok(FoundImage { image, size, level })
}

fn read(record: &Path) -> io::Result<Record> {
    Ok(serde_json::from_slice(&fs::read(record)?)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use loam_deployment::{
        ContractId,
        payload::{Media, OciReference},
    };

    use super::*;

    struct Disk {
        _folder: tempfile::TempDir,
        pool: Arc<Pool>,
    }

    impl Disk {
        /// With a finished image.
        fn new() -> (Self, Kept) {
            let folder = tempfile::tempdir().unwrap();
            let pool = Arc::new(crate::pool::testing::pool(folder.path(), Media::Ssd));
            let built = pool.images().join("build/x");
            fs::write(&built, b"12345").unwrap();
            let image = format!("a.org/x@sha256:{}", "ab".repeat(32));
            let image = Image::from(image.parse::<OciReference>().unwrap());
            let kept =
                Kept::create(&pool, &image, &built, ImageConfig::default(), Level::V1).unwrap();
            let disk = Self {
                _folder: folder,
                pool,
            };
            (disk, kept)
        }

        fn find(&self) -> (usize, u64) {
            let (found, strays) = find(&self.pool.images());
            (found.len(), strays)
        }
    }

    /// Whatever reads this fails, and not because it is absent.
    fn spoil(path: &Path) {
        fs::remove_file(path).unwrap();
        symlink(path, path).unwrap();
    }

    fn is_there(path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok()
    }

    /// Whatever reads or writes the record without knowing of owners.
    fn without_owner(record: &Path) {
        let mut value: serde_json::Value =
            serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
        value.as_object_mut().unwrap().remove("only_for");
        fs::write(record, serde_json::to_vec(&value).unwrap()).unwrap();
    }

    #[test]
    fn an_image_is_found_as_whose_it_was_kept_and_never_as_anybody_s() {
        let (disk, shared) = Disk::new();
        let own = Image {
            only_for: Some(ContractId(7)),
            ..shared.image().clone()
        };
        let built = disk.pool.images().join("build/y");
        fs::write(&built, b"another").unwrap();
        let config = ImageConfig::default();
        let own = Kept::create(&disk.pool, &own, &built, config, Level::V1).unwrap();
        let images = disk.pool.images();
        let all = [shared.clone(), own.clone()].map(|kept| kept.image().clone());
        let found = |images: &Path| find(images).0.into_iter().map(|found| found.image);
        let mut both: Vec<_> = found(&images).collect();
        both.sort();
        assert_eq!(both, all);

        // Records of before there were owners are of what is anybody's.
        without_owner(&shared.record());
        assert!(found(&images).any(|image| image == all[0]));
        // One that has lost its owner is nobody's.
        without_owner(&own.record());
        assert_eq!(found(&images).collect::<Vec<_>>(), all[..1]);
        assert!(!is_there(&own.path()) && is_there(&shared.path()));
    }

    #[test]
    fn an_image_that_cannot_be_read_is_left_and_counted() {
        for of_record in [false, true] {
            let (disk, kept) = Disk::new();
            assert_eq!(disk.find(), (1, 0));
            let (record, data) = (kept.record(), kept.path());
            spoil(if of_record { &record } else { &data });
            let (found, strays) = disk.find();
            assert_eq!(found, 0);
            assert!(is_there(&record) && is_there(&data), "{of_record}");
            let both = [&record, &data].map(|path| fs::symlink_metadata(path).unwrap().len());
            assert_eq!(strays, both.iter().sum::<u64>());
            // It is fetched again, to the same place if need be.
            let built = disk.pool.images().join("build/y");
            fs::write(&built, b"12345").unwrap();
            let image = kept.image().clone();
            Kept::create(
                &disk.pool,
                &image,
                &built,
                ImageConfig::default(),
                Level::V1,
            )
            .unwrap();
            assert_eq!(disk.find(), (1, 0));
        }
    }

    #[test]
    fn what_is_certainly_no_whole_image_is_removed() {
        type Act = fn(&Kept);
        let acts: [Act; 6] = [
            |kept| fs::remove_file(kept.record()).unwrap(),
            |kept| fs::remove_file(kept.path()).unwrap(),
            |kept| fs::write(kept.record(), b"").unwrap(),
            |kept| fs::write(kept.record(), b"{").unwrap(),
            |kept| fs::write(kept.record(), b"garbage").unwrap(),
            |kept| fs::write(kept.path(), b"1234").unwrap(),
        ];
        for act in acts {
            let (disk, kept) = Disk::new();
            act(&kept);
            assert_eq!(disk.find(), (0, 0));
            assert!(!is_there(&kept.record()) && !is_there(&kept.path()));
        }
    }
}
