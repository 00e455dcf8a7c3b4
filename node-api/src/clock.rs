//! What the daemons may believe about the time, kept by `clockd` in [`crate::path::CLOCK`].
//!
//! A node may start with a dead clock battery and no network. Until a time source has answered, the
//! kernel's clock says nothing; what is certain is the **floor**: a moment that has surely passed.

use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::told;

/// How far a time may be from a finalized block that confirms it, in seconds.
const NEAR: u64 = 24 * 3600;

/// Seconds since 1970, UTC.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct UnixTime(pub u64);

/// The kernel's clock and what is known about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// The latest of the build's date, the time kept on disk, and the finalized blocks seen.
    pub floor: UnixTime,
    /// Whether the kernel's clock was set from the network since this boot.
    pub set: bool,
    /// Whether it was NTS that set it. Plain NTP can be forged by whoever is on the way.
    pub authenticated: bool,
    /// The newest block that was seen finalized since this boot.
    pub block: Option<UnixTime>,
    /// Who set it, or why it is not set; for people.
    pub source: String,
}

impl Clock {
    /// Reads what `clockd` wrote last. Absent, unreadable: nothing is known, and the floor is 0.
    pub fn read(path: &Path) -> Self {
        told::read(path)
    }

    /// By which an end (of a deployment, of a certificate) is judged: the kernel's clock once it is
    /// set, else the floor. Never before the floor.
    pub fn for_ends(&self, kernel: UnixTime) -> UnixTime {
        if self.set {
            kernel.max(self.floor)
        } else {
            self.floor
        }
    }

    /// What may be kept for later boots, which it binds for good: the kernel's clock if NTS set it.
    /// Of a time that plain NTP told and a block confirms, the earlier of the two. `None`: nothing.
    pub fn to_keep(&self, kernel: UnixTime) -> Option<UnixTime> {
        if !self.set {
            return None;
        }
        if self.authenticated {
            return Some(kernel);
        }
        let block = self.block.filter(|block| kernel.is_near(*block))?;
        Some(kernel.min(block))
    }
}

impl UnixTime {
    /// The kernel's clock, right or wrong.
    pub fn kernel() -> Self {
        Self(
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
        )
    }

    /// Whether a finalized block confirms this time: within a day.
    pub fn is_near(self, block: Self) -> bool {
        self.0.abs_diff(block.0) <= NEAR
    }

    pub fn since_epoch(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

#[tarpc::service]
pub trait ClockService {
    /// A finalized block of the chain has this time, or the disks kept it: it has surely passed.
    async fn has_passed(time: UnixTime, finalized_block: bool);
    async fn clock() -> Clock;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_judged_by_the_floor_until_the_clock_is_set() {
        let mut clock = Clock {
            floor: UnixTime(100),
            ..Clock::default()
        };
        assert_eq!(clock.for_ends(UnixTime(5)), UnixTime(100));
        assert_eq!(clock.for_ends(UnixTime(900)), UnixTime(100));
        clock.set = true;
        assert_eq!(clock.for_ends(UnixTime(5)), UnixTime(100));
        assert_eq!(clock.for_ends(UnixTime(900)), UnixTime(900));
    }

    #[test]
    fn only_what_is_proved_or_confirmed_is_kept_for_later_boots() {
        let day = 24 * 3600;
        let now = UnixTime(100 * day);
        let keep = |set, authenticated, block: Option<u64>| {
            let clock = Clock {
                // A block may have raised the floor, which proves nothing.
                floor: UnixTime(now.0 + 5),
                set,
                authenticated,
                block: block.map(UnixTime),
                source: String::new(),
            };
            clock.to_keep(now)
        };
        assert_eq!(keep(true, true, None), Some(now));
        assert_eq!(keep(true, true, Some(5)), Some(now));
        // Plain NTP alone may be forged; so may a block.
        assert_eq!(keep(true, false, None), None);
        assert_eq!(keep(false, false, Some(now.0)), None);
        // Both: what both say has passed.
        assert_eq!(
            keep(true, false, Some(now.0 - 7)),
            Some(UnixTime(now.0 - 7))
        );
        assert_eq!(keep(true, false, Some(now.0 + 7)), Some(now));
        let edge = UnixTime(now.0 - day);
        assert_eq!(keep(true, false, Some(edge.0)), Some(edge));
        assert_eq!(keep(true, false, Some(now.0 + day)), Some(now));
        assert_eq!(keep(true, false, Some(edge.0 - 1)), None);
        assert_eq!(keep(true, false, Some(now.0 + day + 1)), None);
    }

    #[test]
    fn what_cannot_be_read_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clock.json");
        assert_eq!(Clock::read(&path), Clock::default());
        std::fs::write(&path, "{").unwrap();
        assert_eq!(Clock::read(&path), Clock::default());
    }
}
