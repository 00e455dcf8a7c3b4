//! Taking disks into use: a disk becomes a pool, a pool is mounted and opened, and its header says so.

use std::sync::Arc;

use loam_node_api::storage::DiskState;
use uuid::Uuid;

use super::{Inventory, failed, lock};
use crate::{
    boot,
    disk::SysDisk,
    format::{self, FormatError},
    header::{DiskTag, Header, Use},
    known::{self, Doubt, PATIENCE, Stage},
    mount,
    pool::Pool,
    probe::Finding,
    time,
};

impl Inventory {
    pub(super) fn make(&self, disk: &SysDisk, set: Uuid) -> Stage {
        tracing::info!(disk = %disk.id, device = %disk.name, "looks empty; becomes a pool unless something is found on it");
        if let Err(error) = self.mounts.release(disk) {
            return failed(format!("cannot be made a pool, for it is mounted: {error}"));
        }
        match format::format(disk, set, &self.places.pools) {
            Ok(header) => {
                lock(&self.boot).change(|decided| {
                    decided.runs_on.insert(header.uuid, disk.id.clone());
                });
                self.open(disk, header, false)
            }
            Err(FormatError::Changed(finding)) => match *finding {
                Finding::Foreign(what) => Stage::Left(DiskState::Foreign(what), Doubt::None),
                other => failed(format!("cannot be made a pool: it changed to {other:?}")),
            },
            Err(error) => failed(format!("cannot be made a pool: {error}")),
        }
    }

    /// `first` says that it is not bound to this disk from before. Then a failure leaves it unbound.
    pub(super) fn open(&self, disk: &SysDisk, header: Header, first: bool) -> Stage {
        let uuid = header.uuid;
        if !self.mounts.await_detached(uuid, PATIENCE) {
            return failed(format!("pool {uuid} is still in use from before it went"));
        }
        match self.mount(disk, &header, first) {
            // Noted only now: a copy that cannot be used must not look like the one that was used last.
            Ok(pool) => {
                let (header, owed) = self.stamp(disk, header);
                let pool = pool.on(disk.device.clone(), header, owed);
                Stage::InUse(Arc::new(pool))
            }
            Err(why) => {
                let left = || Stage::Left(DiskState::Failed(why.clone()), known::doubt(&header));
                // Known to be in doubt before it is bound to no disk any more: in between, too, it is missing.
                if first && self.set(disk, left()) {
                    lock(&self.boot).change(|decided| {
                        decided.could_not_use(uuid, &disk.id, header.used);
                        decided.runs_on.remove(&uuid);
                        // Else a restart would take this disk for the one that machines use, once the
                        // pool is bound to another and not yet mounted of it.
                        decided.mounted.remove(&uuid);
                    });
                }
                left()
            }
        }
    }

    pub(super) fn mount(
        &self,
        disk: &SysDisk,
        header: &Header,
        first: bool,
    ) -> Result<Pool, String> {
        let uuid = header.uuid;
        let root = format::mount_point(&self.places.pools, header);
        let present: Vec<_> = self
            .read()
            .values()
            .map(|known| known.sys.clone())
            .collect();
        self.mounts
            .add(uuid, &root, disk, &present, &self.boot)
            .map_err(|error| format!("pool {uuid} cannot be mounted: {error}"))?;
        Pool::open(root.clone(), uuid, disk.media).map_err(|error| {
            // Another disk that holds it may be used yet.
            if first && let Err(error) = mount::detach(&root) {
                tracing::error!(pool = %uuid, %error, "cannot take away the mount of a pool that cannot be used");
            }
            format!("pool {uuid} cannot be used: {error}")
        })
    }

    /// Writes into the header where and when the pool was used last. The header as it is then, and what
    /// could not be written.
    pub(super) fn stamp(&self, disk: &SysDisk, header: Header) -> (Header, Option<Use>) {
        if header.used != 0 && header.disk != DiskTag::of(&disk.id) {
            tracing::warn!(disk = %disk.id, pool = %header.uuid, "was used last on another disk, of which this may be a copy; no other disk is left that may be that one");
        }
        let (instead_of, set_is_new) = {
            let boot = lock(&self.boot);
            let decided = boot.decided();
            (decided.unopened_at(header.uuid), decided.begun)
        };
        let using = Use {
            machine: self.machine,
            disk: DiskTag::of(&disk.id),
            now: time::now().0,
            instead_of,
            boot: boot::id(),
            set_is_new,
        };
        let stamped = header.taken_into_use(&using);
        match header.replace(&disk.device, &stamped) {
            Ok(()) => (stamped, None),
            Err(error) => {
                tracing::error!(disk = %disk.id, %error, "cannot note in this pool's header where it is used; trying again each hour");
                (header, Some(using))
            }
        }
    }
}
