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
    let mut told = Told::default();
    loop {
        // Read anew: the report is part of the contract's record.
        let record = session.contract(contract.id).await?;
        let report = session.report(&record).await?;
        let report = report.filter(|report| report.version >= contract.version());
        let progress = match &report {
            None => Progress::new("the node has not answered yet"),
            Some(report) => match judge(report) {
                Judged::Ended(ending) => {
                    bar.finish_and_clear();
                    return Ok(ending);
                }
                Judged::UnderWay(progress) => progress,
            },
        };
        let is_news = told.now.as_ref() != Some(&progress);
        told.take_in(progress);
        let shown = plain(&told.shown());
        // Where there is no terminal, each line stays; so only what is new is a line.
        if is_news && bar.is_hidden() {
            eprintln!("{shown}");
        }
        bar.set_message(shown);
        if started.elapsed() > Duration::from_secs(wait.timeout) {
            bar.finish_and_clear();
            return Ok(Ending::Undecided(told.shown()));
        }
        sleep(INTERVAL).await;
    }
}

/// What the node said last, and why it was not further when it last said why: a registry that is asked
/// again and again is being fetched from now and then, which is no reason.
#[derive(Debug, Default)]
struct Told {
    now: Option<Progress>,
    why: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Progress {
    text: String,
    /// Whether the node gave a reason.
    has_reason: bool,
}

impl Progress {
    fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        let has_reason = false;
        Self { text, has_reason }
    }
}

impl Told {
    fn take_in(&mut self, progress: Progress) {
        if progress.has_reason {
            self.why = Some(progress.text.clone());
        }
        self.now = Some(progress);
    }

    fn shown(&self) -> String {
        let now = self.now.as_ref().map_or("", |now| &now.text);
        match &self.why {
            Some(why) if why != now => format!("{now}; before that, {why}"),
            _ => now.to_owned(),
        }
    }
}

enum Judged {
    Ended(Ending),
    UnderWay(Progress),
}

fn judge(report: &Report) -> Judged {
    if let Verdict::Rejected { reason, .. } = &report.verdict {
        return Judged::Ended(Ending::Rejected(reason.clone()));
    }
    let mut under_way = Vec::new();
    let mut has_reason = false;
    for (name, workload) in &report.workloads {
        match workload.state {
            State::Running | State::Stopped => {}
            State::Failed => {
                return Judged::Ended(Ending::Failed(format!("{name}: {}", workload.detail)));
            }
            State::Pending | State::Fetching | State::Starting => {
                let mut progress = format!("{name} is {}", workload.state.as_str());
                if !workload.detail.is_empty() {
                    // How far a fetch is is none.
                    has_reason |= workload.state != State::Fetching;
                    progress = format!("{progress} ({})", workload.detail);
                }
                under_way.push(progress);
            }
        }
    }
    if under_way.is_empty() {
        Judged::Ended(Ending::Runs)
    } else {
        let text = under_way.join(", ");
        Judged::UnderWay(Progress { text, has_reason })
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
            image: String::new(),
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
        assert!(
            matches!(judge(&some), Judged::UnderWay(what) if what.text == "b is starting (why)")
        );
        let mut rejected = report(&[("a", State::Running)]);
        rejected.verdict = Verdict::Rejected {
            code: "port".into(),
            reason: "no".into(),
        };
        assert!(matches!(judge(&rejected), Judged::Ended(Ending::Rejected(why)) if why == "no"));
    }

    #[test]
    fn who_gives_up_hears_why_also_while_it_is_being_tried_again() {
        let take_in = |told: &mut Told, states: &[(&str, State)]| match judge(&report(states)) {
            Judged::UnderWay(progress) => told.take_in(progress),
            Judged::Ended(ending) => panic!("{ending:?}"),
        };
        let mut told = Told::default();
        told.take_in(Progress::new("the node has not answered yet"));
        assert_eq!(told.shown(), "the node has not answered yet");
        take_in(&mut told, &[("a", State::Pending)]);
        assert_eq!(told.shown(), "a is pending (why)");
        take_in(&mut told, &[("a", State::Fetching)]);
        assert_eq!(
            told.shown(),
            "a is fetching (why); before that, a is pending (why)"
        );
        take_in(&mut told, &[("a", State::Pending)]);
        assert_eq!(told.shown(), "a is pending (why)");
    }
}
