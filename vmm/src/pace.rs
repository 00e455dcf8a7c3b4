//! [`Pace`]: how often a guest may have something done: so much at once, then one a while.

use std::time::{Duration, Instant};

/// A token bucket.
#[derive(Debug)]
pub struct Pace {
    most: u32,
    every: Duration,
    left: u32,
    since: Instant,
}

impl Pace {
    /// `most` at once, and one more `every` so long.
    pub fn new(most: u32, every: Duration, now: Instant) -> Self {
        Self {
            most,
            every,
            left: most,
            since: now,
        }
    }

    /// Takes one; else says how long to wait for it.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.since);
        let come = u32::try_from(passed.as_nanos() / self.every.as_nanos()).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(come).min(self.most);
        self.since = if self.left == self.most {
            now
        } else {
            self.since + self.every * come
        };
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(self.every - now.saturating_duration_since(self.since)),
        }
    }
}
