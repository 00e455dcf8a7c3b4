//! One pool: a btrfs file system of ours on one disk, mounted at `/pools/<uuid>`.
//!
//! | path | what |
//! |---|---|
//! | `pool.json` | the mark: format, UUID and the node's key; a file system without it is not used |
//! | `volumes/<name>.raw` | a volume's data, sparse; not copied on write |
//! | `volumes/<name>.json` | what the volume is; while it is absent, the volume is not there |
//! | `elsewhere/<name>.json` | which other pool has a volume |
//! | `images/<digest>.erofs` | an image's read-only root |
//! | `images/<digest>.json` | what the image says about how to run it; as for volumes |
//! | `images/attempts/<name>.json`, `images/fetch/<name>/` | an image that is not here yet ([`Staging`]) |
//! | `images/build/` | where `mkfs.erofs` works, without rights |
//! | `secrets/<name>` | the node's own small secrets, the same on every pool |
//!
//! [`Staging`]: crate::image::staging::Staging

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::Mutex,
};

use loam_deployment::{Bytes, NodeKey, payload::Media};
use loam_node_api::storage;
use rustix::fs::{IFlags, StatVfsMountFlags, ioctl_getflags, ioctl_setflags, statvfs};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    durable,
    image::{erofs::BUILDER_ID, found::Found},
    ledger::Ledger,
    volume::Volumes,
};

const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Mark {
    format: u32,
    uuid: Uuid,
    /// Whose it is, once the node has an identity.
    node: Option<NodeKey>,
}

#[derive(Debug)]
pub struct Pool {
    uuid: Uuid,
    media: Media,
    root: PathBuf,
    ledger: Mutex<Ledger>,
    volumes: Volumes,
    images: Mutex<Found>,
}

impl Pool {
    /// Takes over the file system mounted at `root`, and clears away what a killed predecessor
    /// left unfinished on it.
    pub fn open(root: PathBuf, uuid: Uuid, media: Media) -> io::Result<Self> {
        check_mark(&root, uuid)?;
        make_folders(&root)?;
        let build = root.join("images/build");
        for entry in fs::read_dir(&build)? {
            fs::remove_file(entry?.path())?;
        }
        for folder in [
            "",
            "volumes",
            "elsewhere",
            "images",
            "images/attempts",
            "secrets",
        ] {
            durable::remove_unfinished(&root.join(folder))?;
        }
        let volumes = Volumes::open(root.join("volumes"))?;
        let mut ledger = Ledger::new(size(&root)?);
        for volume in volumes.list() {
            ledger.record_volume(volume.spec.size);
        }
        let images = Found::look(&root.join("images"));
        ledger.record_image(Bytes(images.bytes()));
        Ok(Self {
            uuid,
            media,
            root,
            ledger: Mutex::new(ledger),
            volumes,
            images: Mutex::new(images),
        })
    }

    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    pub fn media(&self) -> Media {
        self.media
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn volumes(&self) -> &Volumes {
        &self.volumes
    }

    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// What of images was here when the pool came, for whoever takes it over.
    pub fn take_found_images(&self) -> Found {
        std::mem::take(
            &mut self
                .images
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }

    pub fn elsewhere(&self) -> PathBuf {
        self.root.join("elsewhere")
    }

    pub fn secrets(&self) -> PathBuf {
        self.root.join("secrets")
    }

    /// Looks at or changes what the space is promised to.
    pub fn with_ledger<T>(&self, act: impl FnOnce(&mut Ledger) -> T) -> T {
        // Its sums are right at every moment, so a panic elsewhere has not spoilt it.
        act(&mut self
            .ledger
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// False once btrfs has met an error that it cannot mend and refuses to write.
    pub fn is_writable(&self) -> bool {
        statvfs(&self.root).is_ok_and(|stat| !stat.f_flag.contains(StatVfsMountFlags::RDONLY))
    }

    /// Writes into the mark whose pool this is. Never overwrites another's name.
    pub fn mark(&self, node: NodeKey) -> io::Result<()> {
        let mark = read_mark(&self.root)?;
        match mark.node {
            Some(noted) if noted == node => Ok(()),
            Some(other) => Err(io::Error::other(format!("it is of node {other}"))),
            None => {
                let node = Some(node);
                write_mark(&self.root, &Mark { node, ..mark })
            }
        }
    }

    pub fn describe(&self) -> storage::Pool {
        let (size, free) = statvfs(&self.root).map_or((0, 0), |stat| {
            (stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize)
        });
        storage::Pool {
            id: self.uuid.to_string(),
            media: self.media,
            size: Bytes(size),
            reserved: self.with_ledger(|ledger| ledger.promised_to_volumes()),
            free: Bytes(free),
        }
    }
}

/// Makes an empty file system a pool.
pub fn furnish(root: &Path, uuid: Uuid) -> io::Result<()> {
    make_folders(root)?;
    let mark = Mark {
        format: FORMAT,
        uuid,
        node: None,
    };
    write_mark(root, &mark)?;
    Ok(rustix::fs::syncfs(File::open(root)?)?)
}

fn read_mark(root: &Path) -> io::Result<Mark> {
    Ok(serde_json::from_slice(&fs::read(root.join("pool.json"))?)?)
}

fn write_mark(root: &Path, mark: &Mark) -> io::Result<()> {
    durable::write(&root.join("pool.json"), &serde_json::to_vec(mark)?)
}

fn check_mark(root: &Path, uuid: Uuid) -> io::Result<()> {
    let mark = read_mark(root)?;
    if mark.uuid != uuid || mark.format != FORMAT {
        return Err(io::Error::other(format!(
            "pool.json is of pool {} in format {}; expected {uuid} in format {FORMAT}",
            mark.uuid, mark.format
        )));
    }
    Ok(())
}

fn make_folders(root: &Path) -> io::Result<()> {
    // The builder of images, which has no rights, must be able to walk to its own folder.
    fs::set_permissions(root, Permissions::from_mode(0o711))?;
    for (folder, mode) in [
        ("volumes", 0o700),
        ("elsewhere", 0o700),
        ("images", 0o711),
        ("images/attempts", 0o700),
        ("images/fetch", 0o700),
        ("images/build", 0o700),
        ("secrets", 0o700),
    ] {
        let path = root.join(folder);
        DirBuilder::new().mode(mode).recursive(true).create(path)?;
    }
    // Only root may give a folder away; in tests run by others nobody needs it.
    if rustix::process::geteuid().is_root() {
        chown(
            root.join("images/build"),
            Some(BUILDER_ID),
            Some(BUILDER_ID),
        )?;
    }
    overwrite_in_place(&root.join("volumes"))
}

/// Turns copy-on-write off for the files that will be made in `folder`.
///
/// A guest that rewrites its volume at random would otherwise hold, through half-dead extents, much
/// more than its size, and so take the space promised to others. (It costs btrfs's checksums of
/// volumes; guests' file systems bring their own.)
fn overwrite_in_place(folder: &Path) -> io::Result<()> {
    let folder = File::open(folder)?;
    match ioctl_getflags(&folder) {
        Ok(flags) if flags.contains(IFlags::NOCOW) => Ok(()),
        Ok(flags) => match ioctl_setflags(&folder, flags | IFlags::NOCOW) {
            // Not btrfs: only in unit tests.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL) => Ok(()),
            other => Ok(other?),
        },
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOTTY) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn size(root: &Path) -> io::Result<Bytes> {
    let stat = statvfs(root)?;
    Ok(Bytes(stat.f_blocks * stat.f_frsize))
}

#[cfg(test)]
pub mod testing {
    use super::*;

    /// A pool in a folder of the machine's own file system.
    pub fn pool(root: &Path, media: Media) -> Pool {
        let uuid = Uuid::new_v4();
        furnish(root, uuid).unwrap();
        Pool::open(root.to_owned(), uuid, media).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_without_our_mark_is_not_taken() {
        let root = tempfile::tempdir().unwrap();
        let open = |uuid| Pool::open(root.path().to_owned(), uuid, Media::Ssd);
        open(Uuid::new_v4()).unwrap_err();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);

        let uuid = Uuid::new_v4();
        furnish(root.path(), uuid).unwrap();
        open(Uuid::new_v4()).unwrap_err();
        let pool = open(uuid).unwrap();

        pool.mark(NodeKey([1; 32])).unwrap();
        let again = open(uuid).unwrap();
        again.mark(NodeKey([1; 32])).unwrap();
        let error = again.mark(NodeKey([2; 32])).unwrap_err().to_string();
        assert!(error.contains(&NodeKey([1; 32]).to_string()), "{error}");
    }
}
