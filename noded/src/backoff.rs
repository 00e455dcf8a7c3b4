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
const LONGEST: Duration = Duration::from_mins(5);
/// A machine that lived this long starts over with the first wait.
const HEALTHY: Duration = Duration::from_mins(10);

#[derive(Debug, Default)]
pub struct Backoff {
    waits: BTreeMap<WorkloadId, Wait>,
}

#[derive(Debug)]
struct Wait {
    failures: u32,
    until: Instant,
    /// Why its start was refused, if it was.
    refusal: Option<String>,
}

impl Backoff {
    /// A machine ended after it had lived for `lived`.
    pub fn ended(&mut self, id: &WorkloadId, lived: Duration, now: Instant) {
        self.fail(id, lived, None, now);
    }

    /// A machine could not even be started.
    pub fn refused(&mut self, id: &WorkloadId, reason: String, now: Instant) {
        self.fail(id, Duration::ZERO, Some(reason), now);
    }

    fn fail(&mut self, id: &WorkloadId, lived: Duration, refusal: Option<String>, now: Instant) {
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
                refusal,
            },
        );
    }

    pub fn started(&mut self, id: &WorkloadId) {
        if let Some(wait) = self.waits.get_mut(id) {
            wait.refusal = None;
        }
    }

    /// A new deployment may have mended what failed.
    pub fn forgive(&mut self, contract: loam_deployment::ContractId) {
        self.waits.retain(|id, _| id.contract != contract);
    }

    /// Forgets those that have been healthy since, or that nobody wants started.
    pub fn prune(&mut self, now: Instant) {
        self.waits.retain(|_, wait| wait.until + HEALTHY > now);
    }

    pub fn held(&self, now: Instant) -> BTreeSet<WorkloadId> {
        self.waits
            .iter()
            .filter(|(_, w)| w.until > now)
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// Machines that wait because their start was refused, and why it was.
    pub fn refusals(&self) -> impl Iterator<Item = (&WorkloadId, &str)> {
        let waits = self.waits.iter();
        waits.filter_map(|(id, wait)| Some((id, wait.refusal.as_deref()?)))
    }

    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        let due = self.waits.values().map(|wait| wait.until);
        due.filter(|until| *until > now).min()
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
            backoff.ended(&id, Duration::from_secs(1), now);
            waited.push(backoff.waits[&id].until - now);
        }
        assert_eq!(waited[..3], [1, 2, 4].map(Duration::from_secs));
        assert_eq!(waited[11], LONGEST);
        assert!(backoff.held(now).contains(&id));
        assert!(backoff.held(now + LONGEST).is_empty());

        backoff.ended(&id, HEALTHY, now);
        assert_eq!(backoff.waits[&id].until - now, FIRST);
    }

    #[test]
    fn a_new_deployment_starts_at_once() {
        let id: WorkloadId = "1.web".parse().unwrap();
        let mut backoff = Backoff::default();
        let now = Instant::now();
        backoff.refused(&id, "no memory".into(), now);
        backoff.forgive(id.contract);
        assert!(backoff.held(now).is_empty());
    }

    #[test]
    fn what_has_been_healthy_or_gone_for_long_is_forgotten() {
        let id: WorkloadId = "1.web".parse().unwrap();
        let mut backoff = Backoff::default();
        let now = Instant::now();
        backoff.refused(&id, "no memory".into(), now);
        assert_eq!(backoff.refusals().collect::<Vec<_>>(), [(&id, "no memory")]);
        assert_eq!(backoff.next_due(now), Some(now + FIRST));
        assert_eq!(
            backoff.next_due(now + FIRST),
            None,
            "it is due, not to come"
        );
        backoff.started(&id);
        assert_eq!(backoff.refusals().count(), 0);
        // Ends soon enough to be counted on.
        backoff.prune(now + HEALTHY);
        assert_eq!(backoff.waits.len(), 1);
        backoff.prune(now + FIRST + HEALTHY);
        assert!(backoff.waits.is_empty());
    }
}
