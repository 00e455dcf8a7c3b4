//! [`Judge`]: what checks say of the command, by Docker's rules (moby, `daemon/health.go`). Pure.

use std::time::{Duration, Instant};

use loam_deployment::report::HealthState;
use loam_node_api::healthcheck::Healthcheck;

#[derive(Debug)]
pub struct Judge {
    check: Healthcheck,
    /// When the command was started.
    started: Instant,
    state: HealthState,
    /// Failures in a row that count.
    failures: u32,
}

impl Judge {
    pub fn new(check: Healthcheck, started: Instant) -> Self {
        Self {
            check,
            started,
            state: HealthState::Starting,
            failures: 0,
        }
    }

    pub fn state(&self) -> HealthState {
        self.state
    }

    /// How long after `now`, when the command was started or a check has ended, the next begins.
    pub fn pause(&self, now: Instant) -> Duration {
        match self.state {
            HealthState::Starting if self.in_start_period(now) => self.check.start_interval,
            _ => self.check.interval,
        }
    }

    /// A check that had begun then is over.
    pub fn checked(&mut self, began: Instant, succeeded: bool) {
        if succeeded {
            self.failures = 0;
            self.state = HealthState::Healthy;
            return;
        }
        // The first success ends the start period.
        if self.state == HealthState::Starting && self.in_start_period(began) {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures >= self.check.retries {
            self.state = HealthState::Unhealthy;
        }
    }

    fn in_start_period(&self, at: Instant) -> bool {
        at.saturating_duration_since(self.started) < self.check.start_period
    }
}

/// What the node was told, and when it may be told the next. What changes and changes back meanwhile
/// is not told.
#[derive(Debug)]
pub struct Told {
    pause: Duration,
    state: HealthState,
    /// When it was last told, or that was tried.
    at: Option<Instant>,
}

impl Told {
    /// That the command was started is told, and so what its health is then.
    /// `pause` is the least time between two tellings.
    pub fn new(pause: Duration) -> Self {
        Self {
            pause,
            state: HealthState::Starting,
            at: None,
        }
    }

    /// When `state` is to be told; none if it was.
    pub fn due(&self, state: HealthState, now: Instant) -> Option<Instant> {
        let due = self.at.map_or(now, |at| at + self.pause);
        (state != self.state).then_some(due)
    }

    pub fn tried(&mut self, now: Instant) {
        self.at = Some(now);
    }

    pub fn told(&mut self, state: HealthState) {
        self.state = state;
    }
}

#[cfg(test)]
mod tests {
    use loam_node_api::guest::HEALTH_PAUSE;
    use proptest::prelude::*;

    use super::*;
    use HealthState::{Healthy, Starting, Unhealthy};

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn check(start_period: u64, retries: u32) -> Healthcheck {
        Healthcheck {
            interval: seconds(30),
            start_interval: seconds(5),
            start_period: seconds(start_period),
            retries,
            ..Healthcheck::new(vec!["/check".into()])
        }
    }

    #[test]
    fn so_many_failures_in_a_row_make_it_unhealthy_and_one_success_healthy() {
        let start = Instant::now();
        let mut judge = Judge::new(check(0, 3), start);
        let states = [
            (false, Starting),
            (false, Starting),
            (false, Unhealthy),
            (false, Unhealthy),
            (true, Healthy),
            (false, Healthy),
            (false, Healthy),
            (true, Healthy),
            (false, Healthy),
            (false, Healthy),
            (false, Unhealthy),
            (true, Healthy),
        ];
        for (n, (succeeded, expected)) in states.into_iter().enumerate() {
            judge.checked(start, succeeded);
            assert_eq!(judge.state(), expected, "{n}");
            assert_eq!(judge.pause(start), seconds(30));
        }
    }

    #[test]
    fn in_the_start_period_failures_do_not_count_and_a_success_ends_it() {
        let start = Instant::now();
        let at = |s: u64| start + seconds(s);
        let mut judge = Judge::new(check(60, 2), start);
        for second in [5, 30, 59] {
            assert_eq!(judge.pause(at(second)), seconds(5));
            judge.checked(at(second), false);
            assert_eq!(judge.state(), Starting);
        }
        // Counted by when it began.
        assert_eq!(judge.pause(at(60)), seconds(30));
        judge.checked(at(60), false);
        assert_eq!(judge.state(), Starting);
        judge.checked(at(90), false);
        assert_eq!(judge.state(), Unhealthy);

        let mut judge = Judge::new(check(60, 2), start);
        judge.checked(at(5), true);
        assert_eq!((judge.state(), judge.pause(at(6))), (Healthy, seconds(30)));
        judge.checked(at(10), false);
        judge.checked(at(15), false);
        assert_eq!(judge.state(), Unhealthy);
    }

    proptest! {
        /// Told in other words: the last success, and the failures since that count.
        #[test]
        fn it_is_what_the_last_checks_say(
            period in 0u64..100,
            retries in 1u32..5,
            checks in prop::collection::vec((any::<bool>(), 0u64..20), 0..40),
        ) {
            let start = Instant::now();
            let mut judge = Judge::new(check(period, retries), start);
            let (mut at, mut done) = (0, Vec::new());
            for (succeeded, pause) in checks {
                at += pause;
                judge.checked(start + seconds(at), succeeded);
                done.push((succeeded, at));
                let last_success = done.iter().rposition(|(succeeded, _)| *succeeded);
                let since = &done[last_success.map_or(0, |n| n + 1)..];
                let counted = since
                    .iter()
                    .filter(|(_, at)| last_success.is_some() || *at >= period)
                    .count();
                let expected = match last_success {
                    _ if counted >= retries as usize => Unhealthy,
                    Some(_) => Healthy,
                    None => Starting,
                };
                prop_assert_eq!(judge.state(), expected);
            }
        }

        /// However often it changes, it is told once in a while, and in the end what it is.
        #[test]
        fn changes_are_told_at_their_pace_and_the_last_one_always(
            changes in prop::collection::vec((any::<bool>(), 0u64..90), 1..12),
        ) {
            let start = Instant::now();
            let mut told = Told::new(HEALTH_PAUSE);
            let (mut now, mut times, mut state) = (start, Vec::new(), Starting);
            let mut changes = changes.into_iter().peekable();
            let mut next = start;
            for _ in 0..12 * 100 {
                while next <= now && let Some((healthy, pause)) = changes.next() {
                    state = if healthy { Healthy } else { Unhealthy };
                    next += seconds(pause);
                }
                if told.due(state, now).is_some_and(|due| due <= now) {
                    told.tried(now);
                    told.told(state);
                    times.push(now);
                }
                now += seconds(1);
            }
            prop_assert!(times.is_sorted_by(|a, b| *a + HEALTH_PAUSE <= *b));
            prop_assert_eq!(told.due(state, now), None);
        }
    }
}
