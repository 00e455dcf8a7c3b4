//! [`Follower`]: finalized blocks as they come, never backwards.

use std::{sync::Arc, time::Duration};

use rand::Rng;
use tokio::time::{Instant, sleep_until};

use crate::{BlockRef, GridReader, ReadError};

/// Asking more often than this learns nothing: no chain in use finalizes faster.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
/// An endpoint that comes back is noticed within this, plus jitter.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
pub struct FollowerOptions {
    /// Pause between two questions while all is well; at least one second.
    pub interval: Duration,
}

impl Default for FollowerOptions {
    /// A compromise between Ethereum, which finalizes every 6.4 minutes, and chains that do so
    /// every two seconds.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(3),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FollowError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    WentBack(#[from] WentBack),
}

/// The chain took back what it had called final: the endpoint lags, lies, or serves another
/// chain. Nothing that it says is taken until it is again where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the chain went back: block {} ({}) was final, now the endpoint says block {} ({})",
    seen.number, seen.hash, said.number, said.hash
)]
pub struct WentBack {
    pub seen: BlockRef,
    pub said: BlockRef,
}

/// Waits for finalized blocks.
///
/// It holds nothing but the last block seen, so a restarted process starts at the block that is
/// finalized then. Blocks in between are not replayed: state is read at a block, not events.
pub struct Follower {
    reader: Arc<dyn GridReader>,
    interval: Duration,
    seen: Option<BlockRef>,
    /// Failures since the last good answer.
    failures: u32,
    next: Instant,
}

impl Follower {
    pub fn new(reader: Arc<dyn GridReader>, options: FollowerOptions) -> Self {
        Self {
            reader,
            interval: options.interval.max(SHORTEST_INTERVAL),
            seen: None,
            failures: 0,
            next: Instant::now(),
        }
    }

    /// The next finalized block above the last one. An error is worth telling, and no reason to
    /// stop calling: the pause before the next try grows by itself. May be dropped at any time.
    pub async fn next(&mut self) -> Result<BlockRef, FollowError> {
        loop {
            sleep_until(self.next).await;
            // If the caller gives up while we ask, the next call must not ask again at once.
            self.next = Instant::now() + self.interval;
            let answer = self.ask().await;
            self.failures = match answer {
                Ok(_) => 0,
                Err(_) => self.failures.saturating_add(1),
            };
            let pause = pause(self.interval, self.failures);
            self.next = Instant::now() + pause.mul_f64(rand::rng().random_range(0.8..1.2));
            if let Some(block) = answer? {
                return Ok(block);
            }
        }
    }

    /// The last block that [`Follower::next`] gave.
    pub fn seen(&self) -> Option<BlockRef> {
        self.seen
    }

    async fn ask(&mut self) -> Result<Option<BlockRef>, FollowError> {
        let said = self.reader.finalized().await?;
        let Some(seen) = self.seen else {
            self.seen = Some(said);
            return Ok(Some(said));
        };
        if !advances(seen, said)? {
            return Ok(None);
        }
        // A higher block may still belong to a chain that never had ours.
        match self.reader.block(seen.number).await? {
            Some(now) if now == seen => {}
            Some(now) => return Err(WentBack { seen, said: now }.into()),
            // Nodes that prune old headers say nothing about them.
            None => {}
        }
        self.seen = Some(said);
        Ok(Some(said))
    }
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower")
            .field("seen", &self.seen)
            .field("failures", &self.failures)
            .finish_non_exhaustive()
    }
}

/// Whether `said` is news after `seen`.
fn advances(seen: BlockRef, said: BlockRef) -> Result<bool, WentBack> {
    if said.number < seen.number || (said.number == seen.number && said.hash != seen.hash) {
        return Err(WentBack { seen, said });
    }
    Ok(said.number > seen.number)
}

/// How long to wait after so many failures in a row, before jitter.
fn pause(interval: Duration, failures: u32) -> Duration {
    let longest = LONGEST_PAUSE.max(interval);
    // 2^20 intervals are past any limit.
    interval.saturating_mul(1 << failures.min(20)).min(longest)
}

#[cfg(test)]
mod tests;
