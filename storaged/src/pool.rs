//! One pool: a btrfs file system of ours on one disk, mounted at `/pools/<uuid>`.
//!
//! | path | what |
//! |---|---|
//! | `pool.json` | the mark: format and UUID; a file system without it is not used |
//! | `volumes/<name>.raw` | a volume's data, sparse; not copied on write |
//! | `volumes/<name>.json` | what the volume is; while it is absent, the volume is not there |
//! | `elsewhere/<name>.json` | which other pool has a volume |
//! | `images/<digest>.erofs` | an image's read-only root |
//! | `images/<digest>.json` | what the image says about how to run it; as for volumes |
//! | `images/attempts/<name>.json`, `images/fetch/<name>/` | an image that is not here yet ([`Staging`]) |
//! | `images/build/` | the file of an image that is being made; its layers' data, in files without names |
//! | `secrets/<name>` | the node's own small secrets, the same on every pool |
//!
//! Whose pool it is stands outside the file system (see [`crate::header`]).
//!
//! What a pool holds is known in memory. Its disk is touched on the pool's own thread
//! ([`crate::worker`]) alone, so that a disk that hangs holds up nobody who does not need it.
//!
//! [`Staging`]: crate::image::staging::Staging

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use loam_deployment::{Bytes, NodeKey, payload::Media};
use loam_node_api::storage::{self, MountId, StorageError};
use rustix::fs::{AtFlags, CWD, StatVfsMountFlags, StatxFlags, statvfs, statx};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    durable, folders,
    given_up::GivenUp,
    header::{Header, Use},
    header_in_use::HeaderInUse,
    image::found::Found,
    ledger::Ledger,
    pulse::{Beat, Pulse},
    sweep, time,
    volume::Volumes,
    whereabouts::{self, Notes},
    worker::{self, Worker},
};

const FORMAT: u32 = 1;

/// After so many times the patience without an answer (30 s) a disk is said to hang. Longer than what
/// a slow disk needs to make the largest file system in a volume.
const PATIENCES: u32 = 6;

/// One part of so many of the ledger's reserve must be free while an image is built: as much as a fast disk
/// writes between two looks. Of a small disk's, btrfs takes three quarters when it is made.
const RESERVE_PARTS: u64 = 8;

#[derive(Serialize, Deserialize)]
struct Mark {
    format: u32,
    uuid: Uuid,
}

#[derive(Debug)]
pub struct Pool {
    uuid: Uuid,
    media: Media,
    root: PathBuf,
    mount: MountId,
    ledger: Mutex<Ledger>,
    volumes: Volumes,
    images: Mutex<Found>,
    notes: Notes,
    given_up: GivenUp,
    space: Mutex<Space>,
    /// Whether its folders are as they should be.
    furnished: AtomicBool,
    /// Whether a look at the space is asked for and not done.
    looking: AtomicBool,
    worker: Worker,
    hangs_after: Duration,
    /// The disk under it; in unit tests there is none.
    disk: Option<Disk>,
}

#[derive(Debug)]
struct Disk {
    header: HeaderInUse,
    /// When it was taken into use, by its header.
    used: u64,
    pulse: Pulse,
}

/// As it was at the last look.
#[derive(Clone, Copy, Debug)]
struct Space {
    size: Bytes,
    free: Bytes,
    writable: bool,
}

/// Whether a pool can be worked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    Well,
    /// It does not answer; what is on it is known from before.
    Hangs,
    /// It answers with errors, or can only be read; the text says which.
    Fails(String),
}

impl Pool {
    /// Takes over the file system mounted at `root`, and clears away what a killed predecessor
    /// left unfinished on it. That, and what new volumes and images need, is never a reason to fail.
    pub fn open(root: PathBuf, uuid: Uuid, media: Media) -> io::Result<Self> {
        Self::open_with(root, uuid, media, worker::PATIENCE)
    }

    fn open_with(root: PathBuf, uuid: Uuid, media: Media, patience: Duration) -> io::Result<Self> {
        check_mark(&root, uuid)?;
        let furnished = folders::make(&root).inspect_err(|error| {
            tracing::error!(pool = %uuid, %error, "cannot put a pool's folders right; trying again");
        });
        // Data is not held back for what only new data needs.
        sweep::everything(&root.join("images/build"));
        for folder in [
            "",
            "volumes",
            "elsewhere",
            "given-up",
            "images",
            "images/attempts",
            "secrets",
        ] {
            sweep::unfinished(&root.join(folder));
        }
        let volumes = Volumes::open(root.join("volumes"))?;
        let space = look(&root)?;
        let mut ledger = Ledger::new(space.size);
        ledger.record_volume(volumes.promised());
        let images = Found::look(&root.join("images"));
        ledger.record_image(Bytes(images.bytes()));
        Ok(Self {
            uuid,
            media,
            notes: Notes::open(root.join("elsewhere"))?,
            given_up: GivenUp::open(root.join("given-up"))?,
            mount: mount_id(&root)?,
            root,
            ledger: Mutex::new(ledger),
            volumes,
            images: Mutex::new(images),
            space: Mutex::new(space),
            furnished: AtomicBool::new(furnished.is_ok()),
            looking: AtomicBool::new(false),
            worker: Worker::start("pool", patience)?,
            hangs_after: patience * PATIENCES,
            disk: None,
        })
    }

    /// With the disk that it is on, whose header is `header`; `owed` as in [`HeaderInUse::new`].
    pub fn on(self, device: PathBuf, header: Header, owed: Option<Use>) -> Self {
        let disk = Disk {
            used: header.used,
            pulse: Pulse::new(device.clone(), header.filesystem_size),
            header: HeaderInUse::new(device, header, owed),
        };
        Self {
            disk: Some(disk),
            ..self
        }
    }

    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// When it was taken into use, by the header of its disk.
    pub fn used(&self) -> u64 {
        self.disk.as_ref().map_or(0, |disk| disk.used)
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

    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    pub fn given_up(&self) -> &GivenUp {
        &self.given_up
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

    pub fn images(&self) -> PathBuf {
        self.root.join("images")
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

    /// Does `act`, which may touch the disk, on the pool's own thread.
    pub fn run<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, StorageError> {
        self.worker
            .run(act)
            .map_err(|_| StorageError::Hangs(self.uuid.to_string()))
    }

    /// Has `act` done there without waiting. Not at all, and says so, if the pool does not answer: for
    /// what is made good later.
    pub fn post(&self, act: impl FnOnce() + Send + 'static) -> bool {
        self.worker.post(act)
    }

    /// As [`Self::run`], for a task: it takes no thread to wait.
    pub async fn ask<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, StorageError> {
        let asked = self.worker.ask(act).await;
        asked.map_err(|_| StorageError::Hangs(self.uuid.to_string()))
    }

    /// Has `act` done there once the pool answers, however late (see [`Worker::queue`]).
    pub fn queue(&self, act: impl FnOnce() + Send + 'static) {
        self.worker.queue(act);
    }

    /// Whether it makes sense to ask it for anything now.
    pub fn answers(&self) -> bool {
        self.worker.answers() && !self.pulse_stopped()
    }

    /// Whether it has not answered for so long that whoever can goes elsewhere.
    pub fn hangs(&self) -> bool {
        self.worker.busy_for() > self.hangs_after || self.pulse_stopped()
    }

    /// False once btrfs has met an error that it cannot mend and refuses to write.
    pub fn is_writable(&self) -> bool {
        self.space().writable
    }

    pub fn health(&self) -> Health {
        if self.hangs() {
            return Health::Hangs;
        }
        if !self.is_writable() {
            let why = "its file system met an error and can only be read";
            return Health::Fails(why.to_owned());
        }
        match self.disk.as_ref().map(|disk| disk.pulse.last()) {
            Some(Beat::Error(error)) => Health::Fails(format!("cannot be read: {error}")),
            _ => Health::Well,
        }
    }

    fn pulse_stopped(&self) -> bool {
        let waiting = |disk: &Disk| disk.pulse.waiting_for();
        self.disk.as_ref().map_or(Duration::ZERO, waiting) > self.hangs_after
    }

    /// Asks for a look at the space, at what volumes take, and whether the disk answers, and for notes
    /// and folders that are owed; what is found shows later.
    pub fn refresh(self: &Arc<Self>) {
        if let Some(disk) = &self.disk {
            disk.pulse.feel();
        }
        if !self.answers() || self.looking.swap(true, Ordering::AcqRel) {
            return;
        }
        let pool = self.clone();
        let asked = self.post(move || {
            match look(&pool.root) {
                Ok(space) => *pool.space.lock().unwrap_or_else(PoisonError::into_inner) = space,
                Err(error) => {
                    tracing::error!(pool = %pool.uuid, %error, "cannot look at a pool's space");
                }
            }
            if !pool.furnished.load(Ordering::Acquire) {
                let furnished = folders::make(&pool.root).is_ok();
                pool.furnished.store(furnished, Ordering::Release);
            }
            if pool.is_writable()
                && let Some(disk) = &pool.disk
            {
                disk.header.note_use(time::to_keep(), Instant::now());
            }
            pool.volumes.measure();
            whereabouts::pay(&pool);
            pool.looking.store(false, Ordering::Release);
        });
        if !asked {
            self.looking.store(false, Ordering::Release);
        }
    }

    /// Whose pool it is by its header. On the pool's own thread, which may be writing it.
    pub fn node(&self) -> Option<NodeKey> {
        self.disk.as_ref()?.header.node()
    }

    /// Writes into the header whose pool this is. On the pool's own thread.
    pub fn name_node(&self, node: NodeKey) -> io::Result<()> {
        let named = self.disk.as_ref().map(|disk| disk.header.name_node(node));
        named.unwrap_or(Ok(()))
    }

    pub fn describe(&self) -> storage::Pool {
        let Space { size, free, .. } = self.space();
        storage::Pool {
            id: self.uuid.to_string(),
            root: self.root.clone(),
            mount: self.mount,
            media: self.media,
            size,
            reserved: self.with_ledger(|ledger| ledger.promised_to_volumes()),
            free,
        }
    }

    /// What is free beside what volumes are promised and have not taken, and a part of the ledger's reserve:
    /// what an image may take while it is built, whatever the ledger says. Blocks.
    pub fn spare(&self) -> io::Result<Bytes> {
        let free = look(&self.root)?.free;
        // After that: what is written in between makes the result larger and never less.
        self.volumes.measure();
        let reserve = self.with_ledger(|ledger| ledger.reserve());
        let kept = self.volumes.unused().get() + reserve.get() / RESERVE_PARTS;
        Ok(Bytes(free.get().saturating_sub(kept)))
    }

    fn space(&self) -> Space {
        *self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether one of them could take what a disk that hangs cannot.
pub fn has_place(pools: &[Arc<Pool>]) -> bool {
    pools.iter().any(|pool| !pool.hangs() && pool.is_writable())
}

fn mount_id(root: &Path) -> io::Result<MountId> {
    // Linux 6.8; `rustix` does not name it yet.
    const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);
    let found = statx(CWD, root, AtFlags::empty(), MNT_ID_UNIQUE)?;
    Ok(MountId(found.stx_mnt_id))
}

/// Makes an empty file system a pool.
pub fn furnish(root: &Path, uuid: Uuid) -> io::Result<()> {
    folders::make(root)?;
    let mark = Mark {
        format: FORMAT,
        uuid,
    };
    durable::write(&root.join("pool.json"), &serde_json::to_vec(&mark)?)?;
    Ok(rustix::fs::syncfs(File::open(root)?)?)
}

fn check_mark(root: &Path, uuid: Uuid) -> io::Result<()> {
    let mark: Mark = serde_json::from_slice(&fs::read(root.join("pool.json"))?)?;
    if mark.uuid != uuid || mark.format != FORMAT {
        return Err(io::Error::other(format!(
            "pool.json is of pool {} in format {}; expected {uuid} in format {FORMAT}",
            mark.uuid, mark.format
        )));
    }
    Ok(())
}

fn look(root: &Path) -> io::Result<Space> {
    let stat = statvfs(root)?;
    Ok(Space {
        size: Bytes(stat.f_blocks * stat.f_frsize),
        free: Bytes(stat.f_bavail * stat.f_frsize),
        writable: !stat.f_flag.contains(StatVfsMountFlags::RDONLY),
    })
}

#[cfg(test)]
pub mod testing {
    use std::sync::{Arc, mpsc};

    use super::*;

    /// A pool in a folder of the machine's own file system, whose answers are waited for as long as a
    /// busy machine needs.
    pub fn pool(root: &Path, media: Media) -> Pool {
        pool_with(root, media, Duration::from_secs(600))
    }

    /// One that is given up soon.
    pub fn hasty_pool(root: &Path, media: Media) -> Pool {
        pool_with(root, media, Duration::from_millis(5))
    }

    /// One that was there before, given up soon.
    pub fn hasty_again(root: &Path, uuid: Uuid) -> Pool {
        Pool::open_with(root.to_owned(), uuid, Media::Ssd, Duration::from_millis(5)).unwrap()
    }

    fn pool_with(root: &Path, media: Media, patience: Duration) -> Pool {
        let uuid = Uuid::new_v4();
        furnish(root, uuid).unwrap();
        Pool::open_with(root.to_owned(), uuid, media, patience).unwrap()
    }

    /// Waits until all that was asked of them is done.
    pub fn settle(pools: &[Arc<Pool>]) {
        for pool in pools {
            pool.run(|| ()).unwrap();
        }
    }

    /// The pool's disk hangs from now on, until what this returns is dropped.
    pub fn hang(pool: &Pool) -> mpsc::Sender<()> {
        let (release, hanging) = mpsc::channel::<()>();
        let (begin, begun) = mpsc::channel();
        pool.post(move || {
            begin.send(()).unwrap();
            hanging.recv().unwrap_err();
        });
        begun.recv().unwrap();
        while pool.answers() {
            std::thread::yield_now();
        }
        release
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
        open(uuid).unwrap();
    }

    #[test]
    fn what_a_build_left_takes_no_pool_away() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), b"x").unwrap();
        let uuid = Uuid::new_v4();
        furnish(root.path(), uuid).unwrap();
        let build = root.path().join("images/build");
        fs::create_dir_all(build.join("a/b")).unwrap();
        fs::write(build.join("a/b/file"), b"x").unwrap();
        fs::write(build.join("file"), b"x").unwrap();
        for link in [build.join("link"), build.join("a/link")] {
            std::os::unix::fs::symlink(outside.path(), link).unwrap();
        }
        // Nor does what is in the way where a file would be.
        let odd = root
            .path()
            .join("secrets")
            .join(format!("{}seed", durable::UNFINISHED));
        fs::create_dir(&odd).unwrap();
        Pool::open(root.path().to_owned(), uuid, Media::Ssd).unwrap();
        assert_eq!(fs::read_dir(&build).unwrap().count(), 0);
        assert!(!odd.exists() && outside.path().join("kept").exists());
    }

    #[test]
    fn folders_that_cannot_be_made_are_owed() {
        let root = tempfile::tempdir().unwrap();
        let uuid = Uuid::new_v4();
        furnish(root.path(), uuid).unwrap();
        let folder = root.path().join("images/attempts");
        fs::remove_dir(&folder).unwrap();
        fs::write(&folder, b"in the way").unwrap();
        // What comes after it is made all the same.
        fs::remove_dir(root.path().join("secrets")).unwrap();
        let pool = Pool::open(root.path().to_owned(), uuid, Media::Ssd).unwrap();
        assert!(root.path().join("secrets").is_dir());
        fs::remove_file(&folder).unwrap();
        let pool = Arc::new(pool);
        pool.refresh();
        testing::settle(std::slice::from_ref(&pool));
        assert!(folder.is_dir());
    }

    #[test]
    fn a_pool_that_hangs_is_still_described_and_refuses_at_once() {
        let root = tempfile::tempdir().unwrap();
        let pool = std::sync::Arc::new(testing::hasty_pool(root.path(), Media::Ssd));
        let release = testing::hang(&pool);
        let hangs = Err(StorageError::Hangs(pool.uuid().to_string()));
        assert_eq!(pool.run(|| ()), hangs);
        pool.refresh();
        assert!(pool.describe().size > Bytes(0));
        drop(release);
        while !pool.answers() {
            std::thread::yield_now();
        }
        assert_eq!(pool.health(), Health::Well);
    }
}
