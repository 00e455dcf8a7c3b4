//! A node's storaged, from one boot to the next.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc, thread};

use loam_node_api::{page::Changes, storage::DiskState};
use loam_storaged::{
    inventory::{Inventory, Places},
    machine::Machine,
};

use crate::loops::Loop;

/// Of a disk.
pub const SIZE: u64 = 1100 << 20;

/// One boot of a node, with its own idea of `/sys/block`, `/pools` and `/run`.
pub struct Node {
    pub folder: PathBuf,
    pub inventory: Arc<Inventory>,
}

impl Node {
    /// Starts in this machine with these disks plugged in. A folder is for one boot.
    pub fn boot(folder: PathBuf, machine: u8, disks: &[&Loop]) -> Self {
        for disk in disks {
            disk.plug(&folder.join("sys"));
        }
        let places = Places {
            sys_block: folder.join("sys"),
            pools: folder.join("pools"),
            boot: folder.join("run/storaged.json"),
        };
        let machine = Some(Machine([machine; 16]));
        let inventory = Arc::new(Inventory::new(places, machine, Changes::new()));
        let watched = inventory.clone();
        thread::spawn(move || watched.watch());
        let node = Self { folder, inventory };
        block_on(node.inventory.settled());
        node
    }

    pub fn plug(&self, disk: &Loop) {
        disk.plug(&self.folder.join("sys"));
    }

    /// Pulls the disk, and waits until it is seen to be gone.
    pub fn pull(&self, disk: &Loop) {
        disk.unplug(&self.folder.join("sys"));
        self.wait(disk, |state| state.is_none());
    }

    pub fn states(&self) -> BTreeMap<String, DiskState> {
        let disks = self.inventory.disks();
        disks
            .into_iter()
            .map(|disk| (disk.id, disk.state))
            .collect()
    }

    /// Waits until the disk's state is as asked for.
    pub fn wait(&self, disk: &Loop, ok: impl Fn(Option<&DiskState>) -> bool) {
        loop {
            let seen = self.inventory.changes().now();
            if ok(self.states().get(&disk.sys.id)) {
                return;
            }
            block_on(self.inventory.changes().since(seen));
        }
    }

    pub fn pool(&self, disk: &Loop) -> Option<String> {
        match self.states().remove(&disk.sys.id) {
            Some(DiskState::Pool(uuid)) => Some(uuid),
            _ => None,
        }
    }

    pub fn is_foreign(&self, disk: &Loop, why: &str) -> bool {
        let states = self.states();
        matches!(states.get(&disk.sys.id), Some(DiskState::Foreign(what)) if what.contains(why))
    }

    /// As the power button does: all is written, nothing is mounted any more, nothing is looked at.
    pub fn end(self, disks: &[&Loop]) {
        for disk in disks {
            self.pull(disk);
        }
        let pools = self.folder.join("pools");
        let mounted = || fs::read_to_string("/proc/self/mountinfo").unwrap();
        while mounted().contains(pools.to_str().unwrap()) {
            thread::yield_now();
        }
    }
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}
