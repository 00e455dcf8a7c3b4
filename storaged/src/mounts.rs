//! The mounts of pools, which outlive a storaged and sometimes their disks.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use uuid::Uuid;

use crate::{boot::Boot, disk::SysDisk, mount, pool::Pool};

#[derive(Debug)]
pub struct Mounts {
    /// What they are below.
    folder: PathBuf,
    /// Pools whose disk is gone and whose mount is being taken away.
    detaching: Mutex<BTreeSet<Uuid>>,
    detached: Condvar,
}

impl Mounts {
    pub fn below(folder: PathBuf) -> Self {
        Self {
            folder,
            detaching: Mutex::default(),
            detached: Condvar::new(),
        }
    }

    /// Mounts the pool at `root`, once. A restarted storaged finds its pools mounted already: machines go
    /// on using them meanwhile. But a disk may have gone, or may be another one now, while nobody looked.
    pub fn add(
        &self,
        pool: Uuid,
        root: &Path,
        disk: &SysDisk,
        present: &[SysDisk],
        boot: &Mutex<Boot>,
    ) -> io::Result<()> {
        let mounted = lock(boot).decided().mounted.get(&pool).copied();
        while let Some(source) = mount::source_of(root)? {
            let is_of = |disk: &SysDisk| {
                disk.device == source && mounted.is_none_or(|mounted| mounted == disk.seq)
            };
            if is_of(disk) {
                return Ok(());
            }
            // Two disks with one UUID: btrfs would take them for one.
            if present.iter().any(is_of) {
                return Err(io::Error::other(format!(
                    "another disk with the same pool is in use: {}",
                    source.display()
                )));
            }
            tracing::warn!(%pool, device = %source.display(), "taking away the mount of a disk that is gone");
            mount::detach(root)?;
        }
        lock(boot).change(|decided| {
            decided.mounted.insert(pool, disk.seq);
        });
        mount::btrfs(&disk.device, root)
    }

    /// Takes away what a predecessor that was killed while it made the disk a pool left mounted of it.
    pub fn release(&self, disk: &SysDisk) -> io::Result<()> {
        for target in mount::targets_of(&disk.device, &self.folder)? {
            tracing::warn!(disk = %disk.id, target = %target.display(), "taking away what is mounted of a disk that was never made a pool");
            mount::detach(&target)?;
        }
        Ok(())
    }

    /// Takes the mount of a pool away whose disk is gone. Machines may have files of it open.
    pub fn detach(self: &Arc<Self>, pool: Arc<Pool>) {
        let uuid = pool.uuid();
        lock(&self.detaching).insert(uuid);
        let this = self.clone();
        let detaching = thread::Builder::new().name("detach".to_owned()).spawn(move || {
            if let Err(error) = mount::detach(pool.root()) {
                tracing::error!(pool = %uuid, %error, "cannot detach the pool of a disk that is gone");
            }
            this.is_detached(uuid);
        });
        if let Err(error) = detaching {
            tracing::error!(pool = %uuid, %error, "no thread to detach the pool of a disk that is gone; it is detached when it comes back");
            self.is_detached(uuid);
        }
    }

    /// Waits until the pool's mount from before its disk went is gone; false if that takes longer.
    pub fn await_detached(&self, pool: Uuid, patience: Duration) -> bool {
        let waited = self
            .detached
            .wait_timeout_while(lock(&self.detaching), patience, |those| {
                those.contains(&pool)
            })
            .unwrap_or_else(PoisonError::into_inner);
        !waited.1.timed_out()
    }

    fn is_detached(&self, pool: Uuid) {
        lock(&self.detaching).remove(&pool);
        self.detached.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
