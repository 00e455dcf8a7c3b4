//! What every pool of a node has: the node's name, its secrets, notes of where volumes are.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use loam_deployment::NodeKey;
use loam_node_api::storage::StorageError;

use super::{Inventory, lock};
use crate::{
    known::{self, Known},
    pool::Pool,
    secret, whereabouts,
};

impl Inventory {
    /// Writes into the headers of the pools, of now and of later, whose they are.
    pub fn node_is(&self, node: NodeKey) -> Result<(), StorageError> {
        *lock(&self.node) = Some(node);
        for pool in self.pools() {
            match name_node(&pool, node) {
                // It is made good when the pool answers again.
                Err(StorageError::Hangs(_)) => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// One of the node's own secrets. That there is none is said only when nothing is missing that could
    /// have it: a node without its seed makes itself another.
    pub fn secret(&self, name: &str) -> Result<Option<Vec<u8>>, StorageError> {
        let (pools, missing) = {
            let disks = self.read();
            let missing = match self.searching.load(Ordering::Acquire) {
                true => Some("some may yet come".to_owned()),
                false => {
                    let boot = lock(&self.boot);
                    known::missing(&disks, boot.decided(), Instant::now())
                }
            };
            let pools: Vec<_> = disks.values().filter_map(Known::pool).cloned().collect();
            (pools, missing)
        };
        if let Some(secret) = secret::load(&pools, name)? {
            return Ok(Some(secret));
        }
        if let Some(why) = missing {
            return Err(StorageError::Io(format!(
                "no disk has the secret `{name}`, and not all of this node's have answered: {why}"
            )));
        }
        self.check_owner(&pools)?;
        Ok(None)
    }

    /// What pools that are marked as a node's lack was lost: noded does not make it anew before it has
    /// said that it is that node.
    fn check_owner(&self, pools: &[Arc<Pool>]) -> Result<(), StorageError> {
        if lock(&self.node).is_none()
            && let Some((pool, node)) = secret::owner(pools)?
        {
            return Err(StorageError::Io(format!(
                "pool {pool} is marked as a pool of node {node}, of whose secrets some are missing"
            )));
        }
        Ok(())
    }

    /// Pools that have just come, or answer again, get what they lack of what every pool has.
    pub(super) fn share(&self) {
        let _alone = lock(&self.sharing);
        let pools = self.pools();
        whereabouts::share(&pools);
        secret::level(&pools);
        let node = *lock(&self.node);
        for pool in &pools {
            if let Some(node) = node
                && let Err(error) = name_node(pool, node)
            {
                tracing::error!(pool = %pool.uuid(), %error, "cannot mark this pool as this node's");
            }
        }
    }
}

fn name_node(pool: &Arc<Pool>, node: NodeKey) -> Result<(), StorageError> {
    let at = pool.clone();
    pool.run(move || at.name_node(node))?.map_err(|error| {
        StorageError::Io(format!("mark pool {} as this node's: {error}", pool.uuid()))
    })
}
