//! Steps that fail are tried again with growing pauses, and so is one that is done and changes
//! nothing: whatever a daemon answers, rounds cannot follow one another without an end.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use loam_deployment::ContractId;

use crate::{
    errand::contract,
    step::{Resource, Step},
};

/// First pause, doubled by every further failure.
const FIRST: Duration = Duration::from_secs(1);
/// What stands in the way (a port in use, a full pool) may be gone without a sign.
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct Retries {
    waits: BTreeMap<Resource, Wait>,
    /// Steps of the round before that were done.
    done: BTreeMap<Resource, Step>,
}

#[derive(Debug)]
struct Wait {
    step: Step,
    reason: String,
    failures: u32,
    until: Instant,
}

impl Retries {
    /// Begins a round with the steps of its plan. Forgets what is planned no more; what was done in
    /// the round before and is planned again has changed nothing.
    pub fn begin_round<'a>(&mut self, plan: impl Iterator<Item = &'a Step>, now: Instant) {
        let mut planned: BTreeMap<Resource, Vec<&Step>> = BTreeMap::new();
        for step in plan {
            planned.entry(step.resource()).or_default().push(step);
        }
        self.waits.retain(|resource, wait| {
            planned
                .get(resource)
                .is_some_and(|s| s.contains(&&wait.step))
        });
        for (resource, step) in std::mem::take(&mut self.done) {
            if planned.get(&resource).is_some_and(|s| s.contains(&&step)) {
                self.failed(&step, "it is done and changes nothing", now);
            }
        }
    }

    /// Why this very step is not tried now.
    pub fn held(&self, step: &Step, now: Instant) -> Option<&str> {
        let wait = self.waits.get(&step.resource())?;
        (wait.step == *step && wait.until > now).then_some(&*wait.reason)
    }

    pub fn failed(&mut self, step: &Step, reason: &str, now: Instant) {
        let resource = step.resource();
        let failures = match self.waits.get(&resource) {
            Some(wait) if wait.step == *step => wait.failures.saturating_add(1),
            _ => 0,
        };
        let pause = FIRST.saturating_mul(1 << failures.min(16)).min(LONGEST);
        let wait = Wait {
            step: step.clone(),
            reason: reason.into(),
            failures,
            until: now + pause,
        };
        self.waits.insert(resource, wait);
    }

    pub fn done(&mut self, step: &Step) {
        self.done.insert(step.resource(), step.clone());
    }

    /// A new deployment may have mended what failed.
    pub fn forgive(&mut self, forgiven: ContractId) {
        self.waits
            .retain(|resource, _| contract(resource) != Some(forgiven));
    }

    /// Something was freed or has come; what failed for the want of it is tried at once, and if
    /// it fails again, waits as long as it would have.
    pub fn try_now(&mut self, concerns: impl Fn(&Resource) -> bool, now: Instant) {
        for (resource, wait) in &mut self.waits {
            if concerns(resource) {
                wait.until = now;
            }
        }
    }

    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        let due = self.waits.values().map(|wait| wait.until);
        due.filter(|until| *until > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str) -> Step {
        Step::NetworkDelete(format!("1.{name}").parse().unwrap())
    }

    #[test]
    fn what_is_done_and_planned_again_is_held_with_growing_pauses() {
        let mut retries = Retries::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            retries.begin_round([step("a"), step("b")].iter(), now);
            if let Some(due) = retries.next_due(now) {
                assert!(retries.held(&step("a"), now).is_some());
                assert!(retries.held(&step("b"), now).is_none());
                pauses.push((due - now).as_secs());
                now = due;
            }
            assert!(retries.held(&step("a"), now).is_none());
            retries.done(&step("a"));
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        // It took effect at last.
        retries.begin_round([step("b")].iter(), now);
        retries.begin_round([step("a")].iter(), now);
        assert!(retries.held(&step("a"), now).is_none());
        assert!(retries.waits.is_empty());
    }

    #[test]
    fn what_is_now_to_be_done_instead_does_not_wait_for_what_failed() {
        let mut retries = Retries::default();
        let now = Instant::now();
        let other = Step::NetworkEnsure("1.a".parse().unwrap(), crate::fixture::network());
        for _ in 0..5 {
            retries.failed(&step("a"), "busy", now);
        }
        assert!(retries.held(&other, now).is_none());
        retries.failed(&other, "busy", now);
        assert_eq!(retries.next_due(now), Some(now + FIRST));
        // Then it is due, and nothing is waited for.
        assert!(retries.held(&other, now + FIRST).is_none());
        assert_eq!(retries.next_due(now + FIRST), None);
    }

    #[test]
    fn a_failure_is_tried_again_when_something_was_freed_or_asked_for_anew() {
        let mut retries = Retries::default();
        let now = Instant::now();
        retries.failed(&step("a"), "no room", now);
        assert_eq!(retries.held(&step("a"), now), Some("no room"));
        retries.try_now(|resource| matches!(resource, Resource::Network(_)), now);
        assert!(retries.held(&step("a"), now).is_none());
        retries.failed(&step("a"), "no room", now);
        assert_eq!(retries.next_due(now), Some(now + 2 * FIRST));
        retries.forgive(ContractId(1));
        assert_eq!(retries.next_due(now), None);
    }
}
