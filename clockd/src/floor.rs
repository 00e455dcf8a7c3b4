//! [`Floor`]: the latest moment that has surely passed.

use loam_node_api::clock::UnixTime;

/// What is known to have passed, by where it comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Floor {
    built: UnixTime,
    kept: UnixTime,
    /// The newest block that was seen finalized since this boot.
    block: Option<UnixTime>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Built,
    Disk,
    Block,
}

impl Floor {
    pub fn new(built: UnixTime) -> Self {
        Self {
            built,
            ..Self::default()
        }
    }

    /// The disks kept this time from an earlier life of the node.
    pub fn kept_on_disk(&mut self, time: UnixTime) {
        self.kept = self.kept.max(time);
    }

    /// A finalized block has this time. `proved` is the kernel's clock, once NTS has set it. False if
    /// the block cannot be: that it is of the future says that its endpoint lies, and were it believed,
    /// no certificate would be valid any longer.
    pub fn finalized_block(&mut self, time: UnixTime, proved: Option<UnixTime>) -> bool {
        if proved.is_some_and(|now| time > now && !now.is_near(time)) {
            return false;
        }
        self.block = self.block.max(Some(time));
        true
    }

    pub fn block(&self) -> Option<UnixTime> {
        self.block
    }

    /// Which of them is the latest.
    pub fn origin(&self) -> Origin {
        let time = self.time();
        // What a predecessor of clockd knew counts as kept, whichever it was.
        if self.block == Some(time) {
            Origin::Block
        } else if self.built == time {
            Origin::Built
        } else {
            Origin::Disk
        }
    }

    pub fn time(&self) -> UnixTime {
        self.built
            .max(self.kept)
            .max(self.block.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600;

    #[test]
    fn the_latest_of_build_disk_and_block() {
        let mut floor = Floor::new(UnixTime(10));
        assert_eq!(floor.time(), UnixTime(10));
        assert_eq!(floor.origin(), Origin::Built);
        floor.kept_on_disk(UnixTime(5));
        assert_eq!(floor.time(), UnixTime(10));
        floor.kept_on_disk(UnixTime(20));
        floor.kept_on_disk(UnixTime(15));
        assert_eq!(floor.time(), UnixTime(20));
        assert_eq!(floor.origin(), Origin::Disk);
        assert_eq!(floor.block(), None);
        assert!(floor.finalized_block(UnixTime(30), None));
        assert!(floor.finalized_block(UnixTime(25), None));
        assert_eq!(floor.time(), UnixTime(30));
        assert_eq!(floor.block(), Some(UnixTime(30)));
        // As a clockd that was started anew has it.
        floor.kept_on_disk(UnixTime(30));
        assert_eq!(floor.origin(), Origin::Block);
    }

    #[test]
    fn a_block_of_the_future_is_not_believed_by_a_clock_that_is_set() {
        let mut floor = Floor::new(UnixTime(10));
        let now = UnixTime(1_000_000);
        assert!(!floor.finalized_block(UnixTime(now.0 + DAY + 1), Some(now)));
        assert_eq!(floor.block(), None);
        assert!(floor.finalized_block(UnixTime(now.0 + DAY), Some(now)));
        assert_eq!(floor.time(), UnixTime(now.0 + DAY));
    }
}
