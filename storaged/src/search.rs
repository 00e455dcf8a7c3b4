//! How long the first search for disks goes on, for disks come one after another when a node starts.
//!
//! Until it is **quiet**, no pool is opened, and nothing is said to be absent: a volume that is on a
//! late disk must not be made anew on another. Until it is **over**, no new node begins, no disk of
//! another node's becomes this one, and no pool is used that may be a copy of a late one
//! ([`crate::original`]): all that is for good, and a disk of this node's that comes after that is left
//! alone until the next boot.
//!
//! A disk in doubt that drops off the bus later may be back in seconds, when the kernel has reset its link:
//! until then it is searched for, as long as for one that is late.
//!
//! Moments are told by the time since the kernel started, for what disks need counts from then.

use std::{collections::BTreeSet, time::Duration};

/// Nothing new for so long: what hangs off one controller has been found.
const QUIET: Duration = Duration::from_secs(3);

/// Disks spin up one after the other, some seconds apart, and the kernel tries a link again after ten
/// (Linux `drivers/ata/libata-eh.c`, `ata_eh_reset_timeouts`).
const LONG_QUIET: Duration = Duration::from_secs(10);

/// Makers give up to 25 s from power to readiness for large disks, of which firmware takes some before
/// the kernel starts.
const SPUN_UP: Duration = Duration::from_secs(20);

/// No search is longer, whatever comes and goes.
const MOST: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Search {
    began: Duration,
    /// When the last disk came that was not there before.
    last: Duration,
    ids: BTreeSet<String>,
    away: Option<Away>,
}

/// Disks that may hold something went, one not long after the other.
#[derive(Clone, Copy, Debug)]
struct Away {
    first: Duration,
    last: Duration,
}

impl Search {
    pub fn new(now: Duration) -> Self {
        Self {
            began: now,
            last: now,
            ids: BTreeSet::new(),
            away: None,
        }
    }

    /// These disks are there. One that comes again and again comes once.
    pub fn found(&mut self, ids: impl IntoIterator<Item = String>, now: Duration) {
        for id in ids {
            if self.ids.insert(id) {
                self.last = now;
            }
        }
    }

    /// What is there could not be told.
    pub fn failed(&mut self, now: Duration) {
        self.last = now;
    }

    /// A disk went that may hold something. The kernel may only be resetting its link.
    pub fn lost(&mut self, now: Duration) {
        let first = match self.away {
            Some(away) if now.saturating_sub(away.last) < LONG_QUIET => away.first,
            _ => now,
        };
        self.away = Some(Away { first, last: now });
    }

    fn is_away(&self, now: Duration) -> bool {
        self.away.is_some_and(|away| {
            now.saturating_sub(away.last) < LONG_QUIET && now.saturating_sub(away.first) < MOST
        })
    }

    pub fn is_quiet(&self, now: Duration) -> bool {
        self.quiet_for(now) >= QUIET || self.is_too_long(now)
    }

    pub fn is_over(&self, now: Duration) -> bool {
        let found_all = self.quiet_for(now) >= LONG_QUIET && now >= SPUN_UP;
        (found_all || self.is_too_long(now)) && !self.is_away(now)
    }

    /// Whether it has gone on for so long that nothing of it is waited for any more.
    pub fn is_too_long(&self, now: Duration) -> bool {
        now.saturating_sub(self.began) >= MOST
    }

    fn quiet_for(&self, now: Duration) -> Duration {
        now.saturating_sub(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn disks(search: &mut Search, ids: &[&str], seconds: u64) {
        search.found(ids.iter().map(|id| (*id).to_owned()), at(seconds));
    }

    #[test]
    fn pools_are_opened_before_a_new_node_may_begin() {
        let mut search = Search::new(at(6));
        disks(&mut search, &["a"], 6);
        assert!(!search.is_quiet(at(8)));
        assert!(search.is_quiet(at(9)) && !search.is_over(at(9)));
        // Quiet for long enough, and too early all the same: disks may be spinning up.
        assert!(!search.is_over(at(19)));
        assert!(search.is_over(at(20)));
        // Another comes, and perhaps more.
        disks(&mut search, &["a", "b"], 18);
        assert!(!search.is_over(at(27)));
        assert!(search.is_over(at(28)));
    }

    #[test]
    fn a_restart_long_after_the_boot_waits_for_quiet_alone() {
        let search = Search::new(at(5000));
        assert!(!search.is_quiet(at(5002)) && search.is_quiet(at(5003)));
        assert!(!search.is_over(at(5009)) && search.is_over(at(5010)));
    }

    #[test]
    fn a_device_that_comes_and_goes_holds_up_no_node() {
        let mut search = Search::new(at(6));
        for second in 6..16 {
            let there: &[&str] = if second % 2 == 0 {
                &["a", "usb"]
            } else {
                &["a"]
            };
            disks(&mut search, there, second);
        }
        assert!(search.is_quiet(at(9)) && search.is_over(at(20)));
        // Nor one that has another id each time, or disks that cannot be listed.
        for second in 6..=66 {
            disks(&mut search, &[&format!("usb-{second}")], second);
            search.failed(at(second));
        }
        assert!(!search.is_quiet(at(65)) && !search.is_over(at(65)));
        assert!(search.is_quiet(at(66)) && search.is_over(at(66)));
    }

    #[test]
    fn what_is_away_for_seconds_may_come_back_but_not_for_ever() {
        let mut search = Search::new(at(6));
        assert!(search.is_over(at(500)));
        search.lost(at(500));
        assert!(!search.is_over(at(509)) && search.is_over(at(510)));
        // One that goes again and again.
        for second in 600..660 {
            search.lost(at(second));
            assert!(!search.is_over(at(second)));
        }
        search.lost(at(660));
        assert!(search.is_over(at(660)));
        // Another, later.
        search.lost(at(700));
        assert!(!search.is_over(at(709)) && search.is_over(at(710)));
    }
}
