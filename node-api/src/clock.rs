//! What the daemons may believe about the time, kept by `clockd` in [`crate::path::CLOCK`].
//!
//! A node may start with a dead clock battery and no network. Until a time source has answered, the
//! kernel's clock says nothing; what is certain is the **floor**: a moment that has surely passed.

use std::{
    io,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

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
    /// Who set it, or why it is not set; for people.
    pub source: String,
}

impl Clock {
    /// Reads what `clockd` wrote last. Absent, unreadable: nothing is known, and the floor is 0.
    pub fn read(path: &Path) -> Self {
        std::fs::read(path)
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::other))
            .unwrap_or_default()
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
    fn what_cannot_be_read_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clock.json");
        assert_eq!(Clock::read(&path), Clock::default());
        std::fs::write(&path, "{").unwrap();
        assert_eq!(Clock::read(&path), Clock::default());
    }
}
