//! [`Space`]: what an image's files take their room from while it is built.

use std::sync::Arc;

use loam_deployment::Bytes;

use super::{
    claim::SpaceClaim,
    failure::{FetchError, io},
};
use crate::{ledger::Full, pool::Pool};

pub trait Space: Sync {
    /// Before so many bytes are written. May touch the disk.
    fn take(&self, bytes: u64) -> Result<(), FetchError>;

    /// What was taken and is not needed.
    fn give_back(&self, bytes: u64);
}

/// A pool's, counted in its ledger for as long as this lives.
///
/// What the ledger does not know of fills a disk as well, and then others would not get what they are promised. So
/// it is also looked at what the disk has left. What was just written does not show there: btrfs counts it when
/// the transaction is committed.
#[derive(Debug)]
pub struct OfPool {
    pool: Arc<Pool>,
    claim: SpaceClaim,
    /// What the disk had before anything was taken.
    spare: Bytes,
}

impl OfPool {
    /// Looks at the disk, as all of this does.
    pub fn new(pool: &Arc<Pool>) -> Result<Self, FetchError> {
        Ok(Self {
            pool: pool.clone(),
            claim: SpaceClaim::recorded(pool, 0),
            spare: spare(pool)?,
        })
    }
}

fn spare(pool: &Pool) -> Result<Bytes, FetchError> {
    pool.spare().map_err(io("look at the disk's space"))
}

impl Space for OfPool {
    fn take(&self, bytes: u64) -> Result<(), FetchError> {
        self.claim.grow(bytes)?;
        let before = self.claim.bytes().saturating_sub(bytes);
        let free = spare(&self.pool)?.min(Bytes(self.spare.get().saturating_sub(before)));
        let wanted = Bytes(bytes);
        if wanted > free {
            return Err(Full { wanted, free }.into());
        }
        Ok(())
    }

    fn give_back(&self, bytes: u64) {
        self.claim.shrink_by(bytes);
    }
}

/// What is not on a pool has as much as there is.
#[derive(Debug)]
pub struct Unbounded;

impl Space for Unbounded {
    fn take(&self, _: u64) -> Result<(), FetchError> {
        Ok(())
    }

    fn give_back(&self, _: u64) {}
}
