//! How often a guest may have the host's kernel change interrupt routes and doorbells.

use std::{
    fmt,
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::{lock::Lock, pace::Pace};

/// Changes of interrupt routes and doorbells make the host's kernel wait for all its CPUs (SRCU), in
/// workers outside the machine's cgroup. A guest has no need for more than a few hundred at boot, so
/// from then on it gets so many a second, and waits for them itself.
pub const CHANGES_AT_ONCE: u32 = 1024;
pub const CHANGES_A_SECOND: u32 = 256;

fn changes(now: Instant) -> Pace {
    Pace::new(
        CHANGES_AT_ONCE,
        Duration::from_secs(1) / CHANGES_A_SECOND,
        now,
    )
}

/// The time as those who wait for their turn see it.
pub trait Clock: Send + Sync + fmt::Debug {
    fn now(&self) -> Instant;
    /// Returns after `time`, or earlier.
    fn wait(&self, time: Duration);
}

#[derive(Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    /// Parking is a futex, which the threads' filters allow.
    fn wait(&self, time: Duration) {
        std::thread::park_timeout(time);
    }
}

#[derive(Debug)]
pub struct Turns<C> {
    pace: Mutex<Pace>,
    clock: C,
}

impl<C: Clock> Turns<C> {
    pub fn new(clock: C) -> Self {
        Self {
            pace: Mutex::new(changes(clock.now())),
            clock,
        }
    }

    /// Holds up the guest's CPU that asks for a change too many.
    pub fn wait(&self) {
        loop {
            let taken = self.pace.locked().take(self.clock.now());
            match taken {
                Ok(()) => return,
                Err(time) => self.clock.wait(time),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_gets_a_burst_and_then_so_many_changes_a_second() {
        let start = Instant::now();
        let mut pace = changes(start);
        for _ in 0..CHANGES_AT_ONCE {
            pace.take(start).unwrap();
        }
        let every = Duration::from_secs(1) / CHANGES_A_SECOND;
        assert_eq!(pace.take(start), Err(every));
        assert_eq!(pace.take(start + every / 2), Err(every - every / 2));
        pace.take(start + every).unwrap();
        pace.take(start + every).unwrap_err();
        let taken = (0..10 * CHANGES_A_SECOND)
            .filter(|_| pace.take(start + every + Duration::from_secs(1)).is_ok())
            .count();
        assert_eq!(taken, CHANGES_A_SECOND as usize);
        // However long nothing was asked for, the burst is what it was.
        let later = start + Duration::from_secs(10_000);
        let taken = (0..2 * CHANGES_AT_ONCE)
            .filter(|_| pace.take(later).is_ok())
            .count();
        assert_eq!(taken, CHANGES_AT_ONCE as usize);
    }
}
