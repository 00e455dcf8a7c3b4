//! A token bucket: so much at once, and then one a pause.

use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    tokens: u32,
    /// Up to when tokens were counted.
    counted: Instant,
}

impl Bucket {
    pub fn full(burst: u32, now: Instant) -> Self {
        Self {
            tokens: burst,
            counted: now,
        }
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, burst: u32, pause: Duration, now: Instant) -> bool {
        self.refill(burst, pause, now);
        let there = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        there
    }

    /// When [`Bucket::take`] will succeed.
    pub fn ready_at(&mut self, burst: u32, pause: Duration, now: Instant) -> Instant {
        self.refill(burst, pause, now);
        if self.tokens > 0 {
            now
        } else {
            self.counted + pause
        }
    }

    pub fn left(&mut self, burst: u32, pause: Duration, now: Instant) -> u32 {
        self.refill(burst, pause, now);
        self.tokens
    }

    pub fn is_full(mut self, burst: u32, pause: Duration, now: Instant) -> bool {
        self.refill(burst, pause, now);
        self.tokens == burst
    }

    fn refill(&mut self, burst: u32, pause: Duration, now: Instant) {
        let pauses = now.saturating_duration_since(self.counted).as_nanos() / pause.as_nanos();
        let pauses = u32::try_from(pauses).unwrap_or(u32::MAX);
        self.tokens = self.tokens.saturating_add(pauses).min(burst);
        self.counted = if self.tokens == burst {
            now
        } else {
            self.counted + pause.saturating_mul(pauses)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_much_at_once_and_then_one_a_pause() {
        let pause = Duration::from_secs(300);
        let start = Instant::now();
        let mut bucket = Bucket::full(5, start);
        let taken =
            |bucket: &mut Bucket, now| (0..100).filter(|_| bucket.take(5, pause, now)).count();
        assert_eq!(taken(&mut bucket, start), 5);
        assert_eq!(bucket.ready_at(5, pause, start), start + pause);
        assert_eq!(taken(&mut bucket, start + pause * 2 + pause / 2), 2);
        // The half pause is not lost.
        assert_eq!(taken(&mut bucket, start + pause * 3), 1);
        assert!(!bucket.is_full(5, pause, start + pause * 4));
        assert_eq!(taken(&mut bucket, start + pause * 1000), 5);
        assert!(bucket.is_full(5, pause, start + pause * 1005));
    }
}
