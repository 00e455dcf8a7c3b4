//! How long a machine that ends again and again waits before its next start.
//!
//! The only memory that noded has of its own: lost with the process, which costs one early start.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use loam_node_api::WorkloadId;

/// First wait, doubled by every further failure.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(5 * 60);
/// A machine that lived this long starts over with the first wait.
const HEALTHY: Duration = Duration::from_secs(10 * 60);

#[derive(Debug, Default)]
pub struct Backoff {
    waits: BTreeMap<WorkloadId, Wait>,
}

#[derive(Debug)]
struct Wait {
    failures: u32,
    until: Instant,
}

impl Backoff {
    /// A machine ended, or could not be started, after it had lived for `lived`.
    pub fn failed(&mut self, id: &WorkloadId, lived: Duration, now: Instant) {
        let failures = match self.waits.get(id) {
            Some(wait) if lived < HEALTHY => wait.failures.saturating_add(1),
            _ => 0,
        };
        let wait = FIRST.saturating_mul(1 << failures.min(16)).min(LONGEST);
        self.waits.insert(
            id.clone(),
            Wait {
                failures,
                until: now + wait,
            },
        );
    }

    /// A new deployment may have mended what failed.
    pub fn forgive(&mut self, contract: loam_deployment::ContractId) {
        self.waits.retain(|id, _| id.contract != contract);
    }

    pub fn held(&self, now: Instant) -> BTreeSet<WorkloadId> {
        self.waits
            .iter()
            .filter(|(_, w)| w.until > now)
            .map(|(id, _)| id.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_longer_each_time_until_it_was_healthy() {
        let id: WorkloadId = "1.web".parse().unwrap();
        let mut backoff = Backoff::default();
        let now = Instant::now();
        let mut waited = Vec::new();
        for _ in 0..12 {
            backoff.failed(&id, Duration::from_secs(1), now);
            waited.push(backoff.waits[&id].until - now);
        }
        assert_eq!(waited[..3], [1, 2, 4].map(Duration::from_secs));
        assert_eq!(waited[11], LONGEST);
        assert!(backoff.held(now).contains(&id));
        assert!(backoff.held(now + LONGEST).is_empty());

        backoff.failed(&id, HEALTHY, now);
        assert_eq!(backoff.waits[&id].until - now, FIRST);
    }

    #[test]
    fn a_new_deployment_starts_at_once() {
        let id: WorkloadId = "1.web".parse().unwrap();
        let mut backoff = Backoff::default();
        let now = Instant::now();
        backoff.failed(&id, Duration::ZERO, now);
        backoff.forgive(id.contract);
        assert!(backoff.held(now).is_empty());
    }
}
