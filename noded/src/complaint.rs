//! What is worth a line in the log: init keeps little of it, and one tenant's steps that fail again
//! and again, or machines that end and start for ever, must not flush everybody's history.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use loam_deployment::ContractId;

use crate::{
    bucket::Bucket,
    errand::contract,
    step::{Resource, Step},
};

/// A failure that goes on for one reason is told again after this, and then ever more seldom.
const FIRST: Duration = Duration::from_secs(10 * 60);
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// Reasons that differ each time, or very many things that fail: a contract's lines at once, and
/// then one a [`REFILL`].
const BURST: u32 = 8;
/// What goes well is told in full for a deployment of full size.
const NEWS_BURST: u32 = 512;
const REFILL: Duration = Duration::from_secs(5 * 60);

/// Lines about each contract.
#[derive(Debug)]
pub struct Lines {
    burst: u32,
    contracts: BTreeMap<Option<ContractId>, Bucket>,
}

impl Lines {
    /// About what goes well.
    pub fn of_news() -> Self {
        Self::new(NEWS_BURST)
    }

    fn new(burst: u32) -> Self {
        Self {
            burst,
            contracts: BTreeMap::new(),
        }
    }

    /// Whether there is room for a line about this contract.
    pub fn take(&mut self, contract: Option<ContractId>, now: Instant) -> bool {
        let bucket = self.contracts.entry(contract);
        let bucket = bucket.or_insert_with(|| Bucket::full(self.burst, now));
        bucket.take(self.burst, REFILL, now)
    }

    pub fn prune(&mut self, now: Instant) {
        let burst = self.burst;
        self.contracts
            .retain(|_, bucket| !bucket.is_full(burst, REFILL, now));
    }
}

#[derive(Debug)]
pub struct Complaints {
    told: BTreeMap<Resource, Told>,
    lines: Lines,
}

impl Default for Complaints {
    fn default() -> Self {
        Self {
            told: BTreeMap::new(),
            lines: Lines::new(BURST),
        }
    }
}

#[derive(Debug)]
struct Told {
    reason: String,
    pause: Duration,
    until: Instant,
}

impl Complaints {
    /// Whether to say that the step failed for this reason.
    pub fn is_worth_a_line(&mut self, step: &Step, reason: &str, now: Instant) -> bool {
        let resource = step.resource();
        let pause = match self.told.get(&resource) {
            Some(told) if told.reason == reason && told.until > now => return false,
            Some(told) if told.reason == reason => (told.pause * 2).min(LONGEST),
            _ => FIRST,
        };
        if !self.lines.take(contract(&resource), now) {
            return false;
        }
        let told = Told {
            reason: reason.into(),
            pause,
            until: now + pause,
        };
        self.told.insert(resource, told);
        true
    }

    /// Forgets what is about nothing that is planned.
    pub fn retain(&mut self, planned: impl Fn(&Resource) -> bool, now: Instant) {
        self.told.retain(|resource, _| planned(resource));
        self.lines.prune(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(contract: u64, name: usize) -> Step {
        Step::NetworkDelete(format!("{contract}.n{name}").parse().unwrap())
    }

    #[test]
    fn a_reason_is_told_once_and_then_ever_more_seldom() {
        let mut complaints = Complaints::default();
        let start = Instant::now();
        let lines = (0..5 * 24 * 60)
            .filter(|minute| {
                let now = start + Duration::from_secs(60 * minute);
                complaints.is_worth_a_line(&step(1, 0), "no", now)
            })
            .count();
        // After 0, 10, 30, 70, 150, 310, 630, 1270 and 2550 minutes, and then each day.
        assert_eq!(lines, 12);
        let now = start + Duration::from_secs(5 * 24 * 60 * 60);
        assert!(complaints.is_worth_a_line(&step(1, 0), "another reason", now));
    }

    #[test]
    fn another_reason_is_told_at_once_and_has_pauses_of_its_own() {
        let mut complaints = Complaints::default();
        let start = Instant::now();
        let mut told = |reason, seconds| {
            let now = start + Duration::from_secs(seconds);
            complaints.is_worth_a_line(&step(1, 0), reason, now)
        };
        assert!(told("no", 0) && told("another", 1));
        assert!(!told("another", 600) && told("another", 601));
    }

    #[test]
    fn one_tenant_s_failures_do_not_flush_the_log() {
        let mut complaints = Complaints::default();
        let now = Instant::now();
        let mut lines = 0;
        for round in 0..100 {
            for volume in 0..64 {
                // A reason with a number in it, another one each time.
                let reason = format!("{round} bytes are free");
                lines += u32::from(complaints.is_worth_a_line(&step(1, volume), &reason, now));
            }
        }
        assert_eq!(lines, BURST);
        assert!(complaints.is_worth_a_line(&step(2, 0), "no", now));
        let mut again = |seconds| {
            let now = now + Duration::from_secs(seconds);
            complaints.is_worth_a_line(&step(1, 99), &seconds.to_string(), now)
        };
        assert!(!again(299) && again(300) && !again(301));
        let mut news = Lines::of_news();
        let told = (0..10_000)
            .filter(|_| news.take(Some(ContractId(1)), now))
            .count();
        assert_eq!(told, NEWS_BURST as usize);
        complaints.retain(|_| false, now + 2 * BURST * REFILL);
        assert!(complaints.told.is_empty() && complaints.lines.contracts.is_empty());
    }
}
