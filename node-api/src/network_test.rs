//! The test of a node's network that whoever sits at its screen may ask for.
//!
//! PID 1 starts `loam-noded network-test`, which writes each [`Finding`] as a line of JSON to a pipe; the screen shows
//! what has come so far.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::status::bounded;

/// The argument with which `loam-noded` does the test and nothing else.
pub const ARGUMENT: &str = "network-test";

/// The descriptor that the findings are written to.
pub const FINDINGS_FD: i32 = 3;

/// More than there are steps and endpoints of any grid.
pub const MAX_FINDINGS: usize = 16;

/// The longest line, in bytes: two texts of at most [`crate::status::MAX_TEXT`], each byte of which JSON may write in
/// six, and little else.
pub const MAX_LINE: usize = 16 << 10;

/// What a test has found out so far, and whether more is to come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkTest {
    /// In the order of the steps; a step may have several.
    pub findings: Vec<Finding>,
    pub state: TestState,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TestState {
    #[default]
    Running,
    Done,
    /// It did not come to its end, and why.
    BrokeOff(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub step: Step,
    pub outcome: Outcome,
    /// None: nobody was asked.
    pub took: Option<Duration>,
}

/// What is tested, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    Link,
    Address,
    Router,
    /// Whether name servers answer.
    Names,
    Time,
    /// Each endpoint has a finding of its own.
    Chain,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Fine(String),
    /// What is wrong, and a sentence that says what to do.
    Wrong {
        what: String,
        advice: String,
    },
    /// Why nothing can be said.
    NotTried(String),
}

impl Step {
    pub const ALL: [Self; 6] = [
        Self::Link,
        Self::Address,
        Self::Router,
        Self::Names,
        Self::Time,
        Self::Chain,
    ];
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Link => "link",
            Self::Address => "address",
            Self::Router => "router",
            Self::Names => "names",
            Self::Time => "time",
            Self::Chain => "chain",
        })
    }
}

impl Finding {
    /// The same with texts of a bounded length: strangers may have written parts of them.
    pub fn bounded(self) -> Self {
        let outcome = match self.outcome {
            Outcome::Fine(what) => Outcome::Fine(bounded(what)),
            Outcome::Wrong { what, advice } => Outcome::Wrong {
                what: bounded(what),
                advice: bounded(advice),
            },
            Outcome::NotTried(why) => Outcome::NotTried(bounded(why)),
        };
        Self { outcome, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_finding_fits_its_line() {
        for text in ["\u{1b}", "\"", "\u{9b}", "x"] {
            let text = text.repeat(MAX_LINE);
            let finding = Finding {
                step: Step::Address,
                outcome: Outcome::Wrong {
                    what: text.clone(),
                    advice: text,
                },
                took: Some(Duration::MAX),
            };
            let line = serde_json::to_vec(&finding.bounded()).unwrap();
            assert!(line.len() < MAX_LINE, "{}", line.len());
        }
    }

    #[test]
    fn a_finding_is_the_same_behind_its_line() {
        for outcome in [
            Outcome::Fine("up".into()),
            Outcome::NotTried("away".into()),
            Outcome::Wrong {
                what: "no link".into(),
                advice: "Plug in.".into(),
            },
        ] {
            for step in Step::ALL {
                let finding = Finding {
                    step,
                    outcome: outcome.clone(),
                    took: None,
                };
                let line = serde_json::to_vec(&finding).unwrap();
                assert!(!line.contains(&b'\n'));
                let read: Finding = serde_json::from_slice(&line).unwrap();
                assert_eq!(read, finding);
            }
        }
    }
}
