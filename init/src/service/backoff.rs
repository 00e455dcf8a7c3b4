//! [`Backoff`]: how long to wait before a daemon that ended is started again.
//!
//! A node without one of its daemons acts on nothing that the chain says, so the pauses stay short
//! however often it ends: the longest only keeps a daemon that cannot start from taking the node's
//! processor.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(250);
const MAX: Duration = Duration::from_secs(2);

/// A daemon that ran for so long was healthy: its next end is a first one.
const HEALTHY: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The daemon ended after it ran for `ran`.
    pub fn next(&mut self, ran: Duration) -> Duration {
        if ran >= HEALTHY {
            self.failures = 0;
        }
        let delay = FIRST.saturating_mul(1 << self.failures.min(16)).min(MAX);
        self.failures = self.failures.saturating_add(1);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_its_limit_and_starts_over() {
        let mut backoff = Backoff::default();
        let short = Duration::from_secs(1);
        let delays: Vec<_> = (0..10).map(|_| backoff.next(short).as_millis()).collect();
        assert_eq!(
            delays,
            [250, 500, 1000, 2000, 2000, 2000, 2000, 2000, 2000, 2000]
        );
        assert_eq!(backoff.next(HEALTHY), FIRST);
        assert_eq!(backoff.next(short), 2 * FIRST);
    }

    #[test]
    fn a_hundred_kills_in_a_row_are_never_an_absence_of_minutes() {
        let mut backoff = Backoff::default();
        for _ in 0..100 {
            assert!(backoff.next(Duration::ZERO) <= Duration::from_secs(2));
        }
        // And one that then ran for a while is back at once.
        assert_eq!(backoff.next(Duration::from_secs(10)), FIRST);
    }

    #[test]
    fn never_overflows() {
        let mut backoff = Backoff {
            failures: u32::MAX - 1,
        };
        assert_eq!(backoff.next(Duration::ZERO), MAX);
    }
}
