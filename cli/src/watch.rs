//! Waiting until a node says that a deployment runs.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use loam_chain::ContractRecord;
use loam_deployment::report::{Report, State, Verdict};
use tokio::time::sleep;

use crate::{args::Wait, output::plain, session::Session};

const INTERVAL: Duration = Duration::from_secs(1);

/// How a deployment turned out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    Runs,
    Rejected(String),
    Failed(String),
    /// Neither, within the time that the user gave.
    Undecided(String),
}

impl Ending {
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Runs => ExitCode::SUCCESS,
            Self::Rejected(_) | Self::Failed(_) => ExitCode::FAILURE,
            // As of `timeout`(1): it may still come.
            Self::Undecided(_) => ExitCode::from(124),
        }
    }
}

/// Shows on standard error what the node says meanwhile.
pub async fn watch(
    session: &Session,
    contract: &ContractRecord,
    wait: Wait,
) -> anyhow::Result<Ending> {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4}  {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    let started = Instant::now();
    loop {
        // Read anew: the report is part of the contract's record.
        let record = session.contract(contract.id).await?;
        let report = session.report(&record).await?;
        let report = report.filter(|report| report.version >= contract.version());
        let progress = match &report {
            None => "the node has not answered yet".to_owned(),
            Some(report) => match judge(report) {
                Judged::Ended(ending) => {
                    bar.finish_and_clear();
                    return Ok(ending);
                }
                Judged::UnderWay(progress) => progress,
            },
        };
        bar.set_message(plain(&progress));
        if started.elapsed() > Duration::from_secs(wait.timeout) {
            bar.finish_and_clear();
            return Ok(Ending::Undecided(progress));
        }
        sleep(INTERVAL).await;
    }
}

enum Judged {
    Ended(Ending),
    UnderWay(String),
}

fn judge(report: &Report) -> Judged {
    if let Verdict::Rejected { reason, .. } = &report.verdict {
        return Judged::Ended(Ending::Rejected(reason.clone()));
    }
    let mut under_way = Vec::new();
    for (name, workload) in &report.workloads {
        match workload.state {
            State::Running | State::Stopped => {}
            State::Failed => {
                return Judged::Ended(Ending::Failed(format!("{name}: {}", workload.detail)));
            }
            State::Pending | State::Fetching | State::Starting => {
                let mut progress = format!("{name} is {}", workload.state.as_str());
                if !workload.detail.is_empty() {
                    progress = format!("{progress} ({})", workload.detail);
                }
                under_way.push(progress);
            }
        }
    }
    if under_way.is_empty() {
        Judged::Ended(Ending::Runs)
    } else {
        Judged::UnderWay(under_way.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use loam_deployment::{ContractId, NodeKey, Version, report::WorkloadReport};

    use super::*;

    fn report(states: &[(&str, State)]) -> Report {
        Report {
            node: NodeKey([1; 32]),
            contract: ContractId(1),
            version: Version(1),
            time: 0,
            verdict: Verdict::Accepted,
            workloads: states
                .iter()
                .map(|(name, state)| {
                    let report = WorkloadReport {
                        state: *state,
                        detail: "why".into(),
                        ..WorkloadReport::default()
                    };
                    (name.parse().unwrap(), report)
                })
                .collect(),
        }
    }

    #[test]
    fn runs_when_all_run_and_fails_when_one_fails() {
        let all = report(&[("a", State::Running), ("b", State::Stopped)]);
        assert!(matches!(judge(&all), Judged::Ended(Ending::Runs)));
        let one = report(&[("a", State::Pending), ("b", State::Failed)]);
        assert!(matches!(judge(&one), Judged::Ended(Ending::Failed(why)) if why == "b: why"));
        let some = report(&[("a", State::Running), ("b", State::Starting)]);
        assert!(matches!(judge(&some), Judged::UnderWay(what) if what == "b is starting (why)"));
        let mut rejected = report(&[("a", State::Running)]);
        rejected.verdict = Verdict::Rejected {
            code: "port".into(),
            reason: "no".into(),
        };
        assert!(matches!(judge(&rejected), Judged::Ended(Ending::Rejected(why)) if why == "no"));
    }
}
