//! When a report may be written: each is a transaction that the node pays for, while what changes is
//! in the hands of tenants.

use std::time::{Duration, Instant};

use loam_deployment::report::Report;

use crate::{bucket::Bucket, report::says_the_same};

/// Reports of one contract at once: a deployment of many machines, each fetched, started, running,
/// with a failure or two between. After that one each [`REFILL`], twelve an hour: a machine that ends
/// and starts for ever costs no more.
const BURST: u32 = 16;
const REFILL: Duration = Duration::from_secs(5 * 60);
/// Reports that differ in words alone (how much room is missing) can wait.
const WORDS: Duration = Duration::from_secs(60 * 60);

/// What was written about one contract, and what it may still cost.
#[derive(Debug)]
pub struct Budget {
    bucket: Bucket,
    written: Option<(Report, Instant)>,
    tried: Option<Instant>,
}

impl Budget {
    pub fn new(now: Instant) -> Self {
        Self {
            bucket: Bucket::full(BURST, now),
            written: None,
            tried: None,
        }
    }

    /// The chain has this one.
    pub fn has(&mut self, report: Report, now: Instant) {
        self.written = Some((report, now));
    }

    /// When this report is to be written; none if the chain has what it says.
    pub fn due(&mut self, report: &Report, now: Instant) -> Option<Instant> {
        let mut due = self.bucket.ready_at(BURST, REFILL, now);
        if let Some((written, at)) = &self.written {
            if says_the_same(written, report) {
                return None;
            }
            if says_the_same(&wordless(written), &wordless(report)) {
                due = due.max(*at + WORDS);
            }
        }
        // The fewer are left, the longer a state must wait for the one that follows it.
        let pause = match self.bucket.left(BURST, REFILL, now) {
            12.. => Duration::from_secs(1),
            8.. => Duration::from_secs(5),
            4.. => Duration::from_secs(20),
            _ => Duration::from_secs(60),
        };
        Some(self.tried.map_or(due, |tried| due.max(tried + pause)))
    }

    /// It is being written. What fails may have cost something too.
    pub fn spend(&mut self, now: Instant) {
        self.bucket.take(BURST, REFILL, now);
        self.tried = Some(now);
    }
}

fn wordless(report: &Report) -> Report {
    let mut report = report.clone();
    for workload in report.workloads.values_mut() {
        workload.detail.clear();
    }
    report
}

#[cfg(test)]
mod tests {
    use loam_deployment::{
        ContractId, NodeKey, Version,
        report::{Health, HealthState, State, Verdict, WorkloadReport},
    };

    use super::*;

    fn report(state: State, detail: &str) -> Report {
        let workload = WorkloadReport {
            state,
            detail: detail.into(),
            ..WorkloadReport::default()
        };
        Report {
            node: NodeKey([1; 32]),
            contract: ContractId(1),
            version: Version(1),
            time: 0,
            image: String::new(),
            verdict: Verdict::Accepted,
            workloads: [("web".parse().unwrap(), workload)].into(),
        }
    }

    fn healthy(state: HealthState, since: u64) -> Report {
        let mut report = report(State::Running, "");
        for workload in report.workloads.values_mut() {
            workload.health = Some(Health { state, since });
        }
        report
    }

    /// Writes what is due, second by second.
    fn write(budget: &mut Budget, report: &Report, now: Instant, written: &mut Vec<Report>) {
        if budget.due(report, now).is_some_and(|due| due <= now) {
            budget.spend(now);
            budget.has(report.clone(), now);
            written.push(report.clone());
        }
    }

    #[test]
    fn a_machine_that_flaps_all_day_costs_a_dozen_reports_an_hour_and_its_end_is_told() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let mut written = Vec::new();
        let (up, down) = (report(State::Running, ""), report(State::Stopped, ""));
        for second in 0..86_400 {
            let said = if second % 2 == 0 { &up } else { &down };
            let now = start + Duration::from_secs(second);
            write(&mut budget, said, now, &mut written);
        }
        assert!(written.len() <= 16 + 12 * 24 + 1, "{}", written.len());
        for second in 86_400..86_400 + 600 {
            let now = start + Duration::from_secs(second);
            write(
                &mut budget,
                &report(State::Failed, "gone"),
                now,
                &mut written,
            );
        }
        assert_eq!(written.last(), Some(&report(State::Failed, "gone")));
    }

    #[test]
    fn a_check_that_flaps_all_day_costs_no_more_and_how_it_ends_is_told() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let mut written = Vec::new();
        let states = [HealthState::Healthy, HealthState::Unhealthy];
        for second in 0..86_400 {
            let said = healthy(states[(second / 60 % 2) as usize], second);
            let now = start + Duration::from_secs(second);
            write(&mut budget, &said, now, &mut written);
        }
        assert!(written.len() <= 16 + 12 * 24 + 1, "{}", written.len());
        for second in 86_400..86_400 + 600 {
            let said = healthy(HealthState::Starting, second);
            let now = start + Duration::from_secs(second);
            write(&mut budget, &said, now, &mut written);
        }
        let last = written.last().unwrap();
        assert!(says_the_same(last, &healthy(HealthState::Starting, 0)));
        // Since when is no news by itself.
        let told = written.len();
        let later = start + Duration::from_secs(2 * 86_400);
        write(
            &mut budget,
            &healthy(HealthState::Starting, 7),
            later,
            &mut written,
        );
        assert_eq!(written.len(), told);
    }

    #[test]
    fn the_first_reports_are_written_at_once() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let mut written = Vec::new();
        let states = [State::Fetching, State::Starting, State::Running];
        for (second, state) in states.into_iter().enumerate() {
            let now = start + Duration::from_secs(second as u64);
            write(&mut budget, &report(state, ""), now, &mut written);
        }
        assert_eq!(written.len(), 3);
    }

    #[test]
    fn the_fewer_are_left_the_longer_a_state_waits_for_what_follows() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        let pauses = [(); 16].map(|()| {
            budget.spend(now);
            let due = budget.due(&report(State::Running, ""), now).unwrap();
            (due - now).as_secs()
        });
        let expected = [1, 1, 1, 1, 5, 5, 5, 5, 20, 20, 20, 20, 60, 60, 60, 300];
        assert_eq!(pauses, expected);
    }

    #[test]
    fn words_alone_wait_and_what_the_chain_has_is_not_written_again() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        budget.has(report(State::Failed, "1 GiB is free"), now);
        assert_eq!(
            budget.due(&report(State::Failed, "1 GiB is free"), now),
            None
        );
        let later = budget.due(&report(State::Failed, "2 GiB are free"), now);
        assert_eq!(later, Some(now + Duration::from_secs(3600)));
        assert_eq!(budget.due(&report(State::Running, ""), now), Some(now));
    }
}
