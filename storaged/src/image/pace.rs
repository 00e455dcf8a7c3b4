//! [`Pace`]: whether an attempt moves fast enough to keep its place.

use std::time::Duration;

/// What a fetch must keep to.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Bytes are counted over so long. A registry may be silent for a part of it.
    pub window: Duration,
    /// Bytes that each window must bring, but for the first, in which connections are made and
    /// proxies fetch for themselves.
    pub least: u64,
    /// For the whole transfer, its waiting included.
    pub transfer: Duration,
    /// For one manifest or configuration.
    pub document: Duration,
    /// For reading all layers and putting their data aside, but not for making the image of it: how long that takes
    /// is the disk's doing.
    pub build: Duration,
}

impl Patience {
    /// An image of 32 GiB comes in twelve hours over 6 Mbit/s. 64 KiB/s is half a megabit: four
    /// fetches at that pace fit any line that a node can live with, and whoever sends more slowly
    /// holds places and disk for nothing. Even a slow disk takes 64 GiB in two hours.
    pub const USUAL: Self = Self {
        window: Duration::from_secs(60),
        least: 60 * (64 << 10),
        transfer: Duration::from_secs(12 * 3600),
        document: Duration::from_secs(30),
        build: Duration::from_secs(2 * 3600),
    };
}

/// Bytes so far, looked at once a window.
#[derive(Debug)]
pub struct Pace {
    least: u64,
    seen: u64,
    first: bool,
}

impl Pace {
    pub fn new(patience: &Patience, done: u64) -> Self {
        Self {
            least: patience.least,
            seen: done,
            first: true,
        }
    }

    /// Whether the window that has just ended brought enough. `done` may have fallen: a layer began
    /// anew, and what it brought before counts for nothing.
    pub fn keeps_up(&mut self, done: u64) -> bool {
        let brought = done.saturating_sub(self.seen);
        self.seen = done;
        std::mem::replace(&mut self.first, false) || brought >= self.least
    }

    /// After a pause, in which nothing could come.
    pub fn resume(&mut self, done: u64) {
        self.seen = done;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        least: 100,
        ..Patience::USUAL
    };

    #[test]
    fn each_window_but_the_first_must_bring_enough() {
        let mut pace = Pace::new(&PATIENCE, 50);
        assert!(pace.keeps_up(50));
        assert!(pace.keeps_up(150));
        assert!(!pace.keeps_up(249));
        assert!(pace.keeps_up(349));
        // Much at once does not pay for later silence.
        assert!(pace.keeps_up(1_000_000));
        assert!(!pace.keeps_up(1_000_000));
    }

    #[test]
    fn a_layer_that_begins_anew_brings_nothing() {
        let mut pace = Pace::new(&PATIENCE, 0);
        assert!(pace.keeps_up(5000));
        assert!(!pace.keeps_up(90));
        assert!(pace.keeps_up(190));
        pace.resume(500);
        assert!(!pace.keeps_up(550));
    }
}
