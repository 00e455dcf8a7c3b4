//! [`SpaceClaim`]: space of a pool that an image's attempt takes.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use loam_deployment::Bytes;

use crate::{ledger::Full, pool::Pool};

/// Counts for as long as it lives. Grows before what it is for is written, so that the ledger never
/// says less than the disk holds.
#[derive(Debug)]
pub struct SpaceClaim {
    pool: Arc<Pool>,
    bytes: AtomicU64,
}

impl SpaceClaim {
    pub fn new(pool: &Arc<Pool>, bytes: u64) -> Result<Self, Full> {
        let claim = Self::recorded(pool, 0);
        claim.grow(bytes)?;
        Ok(claim)
    }

    /// Takes over what the ledger counts already.
    pub fn recorded(pool: &Arc<Pool>, bytes: u64) -> Self {
        Self {
            pool: pool.clone(),
            bytes: AtomicU64::new(bytes),
        }
    }

    pub fn grow(&self, bytes: u64) -> Result<(), Full> {
        self.pool
            .with_ledger(|ledger| ledger.promise_image(Bytes(bytes)))?;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Gives back what was claimed and is not there.
    pub fn shrink_to(&self, bytes: u64) {
        let before = self.bytes.fetch_min(bytes, Ordering::Relaxed);
        self.release(before.saturating_sub(bytes));
    }

    /// Never more than is claimed.
    pub fn shrink_by(&self, bytes: u64) {
        let shrink = |before: u64| Some(before.saturating_sub(bytes));
        let before = self
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, shrink);
        self.release(before.unwrap_or_default().min(bytes));
    }

    fn release(&self, bytes: u64) {
        self.pool
            .with_ledger(|ledger| ledger.release_image(Bytes(bytes)));
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for SpaceClaim {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}
