//! The disks and pools of this moment. One thread looks for disks that came or went, and makes the
//! empty ones pools.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    thread,
    time::{Duration, Instant},
};

use loam_deployment::NodeKey;
use loam_node_api::{
    page::Changes,
    storage::{Disk, DiskState, StorageError},
};
use tokio::sync::watch;

use crate::{
    disk::{self, SysDisk},
    format,
    header::Header,
    mount,
    pool::Pool,
    probe::{self, Finding},
    secret,
    uevent::Uevents,
    whereabouts,
};

/// Disks that spin up, or hang off a bus that is slow to be searched, come seconds after the first
/// ones. Until this many looks in a row found nothing new, nothing is said to be absent: a volume
/// or an identity that is on a late disk must not be made anew on another.
const QUIET_LOOKS: u32 = 3;
const SETTLING_INTERVAL: Duration = Duration::from_secs(1);

/// The kernel says when a disk comes; this is for what it cannot say (a file system that went bad).
const INTERVAL: Duration = Duration::from_secs(10);

/// A disk that failed is tried again: a cable is put right, a predecessor's `mkfs` ends.
const RETRY: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Inventory {
    sys_block: PathBuf,
    pools_folder: PathBuf,
    disks: RwLock<BTreeMap<String, Known>>,
    settled: watch::Sender<bool>,
    /// Told whenever a disk or a pool is another than before.
    changes: Changes,
    /// Whose pools these are, once noded has said so.
    node: Mutex<Option<NodeKey>>,
}

#[derive(Debug)]
struct Known {
    sys: SysDisk,
    state: DiskState,
    looked: Instant,
    pool: Option<Arc<Pool>>,
}

impl Inventory {
    pub fn new(sys_block: PathBuf, pools_folder: PathBuf, changes: Changes) -> Self {
        Self {
            sys_block,
            pools_folder,
            disks: RwLock::default(),
            settled: watch::Sender::new(false),
            changes,
            node: Mutex::default(),
        }
    }

    pub fn disks(&self) -> Vec<Disk> {
        self.read().values().map(describe).collect()
    }

    pub fn pools(&self) -> Vec<Arc<Pool>> {
        self.read()
            .values()
            .filter_map(|known| known.pool.clone())
            .collect()
    }

    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Writes into the marks of the pools, of now and of later, whose they are.
    pub fn node_is(&self, node: NodeKey) -> Result<(), StorageError> {
        let mut known = self.node.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some(node);
        for pool in self.pools() {
            pool.mark(node).map_err(|error| {
                StorageError::Io(format!("mark pool {} as this node's: {error}", pool.uuid()))
            })?;
        }
        Ok(())
    }

    /// Returns once every disk that was there when the node started has been looked at.
    pub async fn settled(&self) {
        let mut settled = self.settled.subscribe();
        // The sender is `self`, so it is there for as long as we wait.
        let _ = settled.wait_for(|settled| *settled).await;
    }

    /// Looks for disks for ever. Blocks.
    pub fn watch(&self) {
        let uevents = Uevents::listen()
            .inspect_err(|error| tracing::warn!(%error, "cannot hear of new disks; looking for them every {INTERVAL:?}"))
            .ok();
        let mut quiet = 0;
        loop {
            match self.look() {
                Ok(0) => quiet += 1,
                Ok(_) => quiet = 0,
                Err(error) => tracing::error!(%error, "cannot list the disks; trying again"),
            }
            let settled = quiet >= QUIET_LOOKS;
            if settled && !self.settled.send_replace(true) {
                tracing::info!(pools = self.pools().len(), "every disk has been looked at");
            }
            let interval = if *self.settled.borrow() {
                INTERVAL
            } else {
                SETTLING_INTERVAL
            };
            let heard = uevents.as_ref().map(|uevents| uevents.wait(interval));
            if !matches!(heard, Some(Ok(()))) {
                thread::sleep(interval);
            }
        }
    }

    /// One look: how many disks came or went.
    fn look(&self) -> io::Result<usize> {
        let present = disk::scan(&self.sys_block)?;
        let gone = self.forget_all_but(&present);
        let due: Vec<SysDisk> = {
            let known = self.read();
            present
                .into_iter()
                .filter(|disk| match known.get(&disk.name) {
                    None => true,
                    Some(known) => {
                        matches!(known.state, DiskState::Failed(_))
                            && known.pool.is_none()
                            && known.looked.elapsed() >= RETRY
                    }
                })
                .collect()
        };
        let came = due.len();
        // Side by side, for making a file system takes seconds and a node may have dozens of disks.
        thread::scope(|scope| {
            for disk in due {
                scope.spawn(|| self.examine(disk));
            }
        });
        if came > 0 {
            self.share();
        }
        if came + gone > 0 {
            self.changes.note();
        }
        self.note_bad_pools();
        Ok(came + gone)
    }

    /// A pool that has just come gets what it lacks of what every pool has.
    fn share(&self) {
        let pools = self.pools();
        whereabouts::share(&pools);
        let node = *self.node.lock().unwrap_or_else(PoisonError::into_inner);
        for pool in &pools {
            if let Some(node) = node
                && let Err(error) = pool.mark(node)
            {
                tracing::error!(pool = %pool.uuid(), %error, "cannot mark this pool as this node's");
            }
            if let Err(error) = secret::replicate(&pools, pool) {
                tracing::error!(pool = %pool.uuid(), %error, "cannot copy the node's secrets to this pool");
            }
        }
    }

    fn forget_all_but(&self, present: &[SysDisk]) -> usize {
        let mut known = self.write();
        let same = |known: &Known| {
            present
                .iter()
                .any(|disk| *disk == known.sys || is_mounted(known, disk))
        };
        let gone: Vec<String> = known
            .iter()
            .filter(|(_, k)| !same(k))
            .map(|(name, _)| name.clone())
            .collect();
        for name in &gone {
            let Some(lost) = known.remove(name) else {
                continue;
            };
            tracing::warn!(disk = %lost.sys.id, device = %name, "a disk is gone");
            if let Some(pool) = lost.pool
                && let Err(error) = mount::detach(pool.root())
            {
                tracing::error!(pool = %pool.uuid(), %error, "cannot detach the pool of a disk that is gone");
            }
        }
        gone.len()
    }

    fn examine(&self, disk: SysDisk) {
        let (state, pool) = match self.judge(&disk) {
            Ok(judged) => judged,
            Err(reason) => (DiskState::Failed(reason), None),
        };
        match &state {
            DiskState::Pool(uuid) => {
                tracing::info!(disk = %disk.id, device = %disk.name, %uuid, "pool is ready")
            }
            DiskState::Foreign(what) => {
                tracing::info!(disk = %disk.id, device = %disk.name, %what, "left alone: the disk holds something")
            }
            DiskState::Unfit(why) => {
                tracing::info!(disk = %disk.id, device = %disk.name, %why, "not fit for a pool")
            }
            DiskState::Failed(why) => {
                tracing::error!(disk = %disk.id, device = %disk.name, %why, "disk failed; trying again later")
            }
        }
        let name = disk.name.clone();
        let known = Known {
            sys: disk,
            state,
            looked: Instant::now(),
            pool,
        };
        self.write().insert(name, known);
    }

    fn judge(&self, disk: &SysDisk) -> Result<(DiskState, Option<Arc<Pool>>), String> {
        if let Some(why) = &disk.unfit {
            return Ok((DiskState::Unfit(why.clone()), None));
        }
        if let Some(what) = &disk.in_use {
            return Ok((DiskState::Foreign(what.clone()), None));
        }
        let finding = File::open(&disk.device)
            .and_then(|file| probe::probe(&file, disk.size.get()))
            .map_err(|error| format!("cannot be read: {error}"))?;
        let header = match finding {
            Finding::Foreign(what) => return Ok((DiskState::Foreign(what), None)),
            Finding::Pool(header) => header,
            Finding::Empty | Finding::HalfMade(_) => {
                tracing::info!(disk = %disk.id, device = %disk.name, "making an empty disk a pool");
                format::format(disk, &self.pools_folder)
                    .map_err(|error| format!("cannot be made a pool: {error}"))?
            }
        };
        let pool = self.open(disk, &header)?;
        Ok((DiskState::Pool(header.uuid.to_string()), Some(pool)))
    }

    fn open(&self, disk: &SysDisk, header: &Header) -> Result<Arc<Pool>, String> {
        let root = format::mount_point(&self.pools_folder, header);
        mount_once(&disk.device, &root)
            .map_err(|error| format!("pool {} cannot be mounted: {error}", header.uuid))?;
        let pool = Pool::open(root, header.uuid, disk.media)
            .map_err(|error| format!("pool {} cannot be used: {error}", header.uuid))?;
        Ok(Arc::new(pool))
    }

    /// A pool that went read-only still serves what it can; its disk is shown as failed.
    fn note_bad_pools(&self) {
        for known in self.write().values_mut() {
            let bad = known.pool.as_ref().is_some_and(|pool| !pool.is_writable());
            if bad && !matches!(known.state, DiskState::Failed(_)) {
                let why = "its file system met an error and can only be read".to_owned();
                tracing::error!(disk = %known.sys.id, %why, "disk failed");
                known.state = DiskState::Failed(why);
                self.changes.note();
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, Known>> {
        self.disks.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Known>> {
        self.disks.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A disk that is ours stays known when the kernel changes its mind about details such as its size.
fn is_mounted(known: &Known, disk: &SysDisk) -> bool {
    known.pool.is_some() && known.sys.name == disk.name && known.sys.id == disk.id
}

/// A restarted storaged finds its pools mounted already: machines go on using them meanwhile.
fn mount_once(device: &Path, root: &Path) -> io::Result<()> {
    match mount::source_of(root)? {
        None => mount::btrfs(device, root),
        Some(source) if source == device => Ok(()),
        // Two disks with one UUID: btrfs would take them for one.
        Some(source) => Err(io::Error::other(format!(
            "another disk with the same pool is in use: {}",
            source.display()
        ))),
    }
}

fn describe(known: &Known) -> Disk {
    Disk {
        id: known.sys.id.clone(),
        device: known.sys.device.clone(),
        size: known.sys.size,
        media: known.sys.media,
        state: known.state.clone(),
    }
}
