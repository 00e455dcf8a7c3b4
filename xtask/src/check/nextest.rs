//! Tests by `cargo-nextest`: each in a process of its own, those of all rooms beside each other.
//! What it does is told in lines for people on stderr, and in JSON for us on stdout.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal};
use serde::Deserialize;

use crate::{setup, workspace};

/// `PACKAGE::BINARY$TEST`, as nextest's messages name it.
pub type Name = String;

/// A test as it is built.
#[derive(Debug, Clone)]
pub struct Test {
    pub name: Name,
    /// Without its binary, such as `update::a_new_version_replaces_the_machine`.
    pub short: String,
    pub binary: PathBuf,
    /// What chooses this test alone.
    pub filter: String,
    /// Has `#[ignore = "slow: ..."]`.
    pub ignored: bool,
}

/// What became of the tests of one run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// With seconds.
    pub passed: Vec<(Name, f64)>,
    pub failed: Vec<Name>,
    /// The time was over before all had run.
    pub stopped: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Passed(Name, f64),
    Failed(Name),
}

/// What has to be built. Features are the same for both, so that neither builds anything anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Scope {
    #[default]
    Workspace,
    /// The package `qemu-tests` alone: whoever asks for one case need not wait for the others'
    /// tests.
    Cases,
}

impl Scope {
    fn argument(self) -> &'static str {
        match self {
            Self::Workspace => "--workspace",
            Self::Cases => "--package=qemu-tests",
        }
    }
}

/// One run: which tests, and how.
#[derive(Debug, Default)]
pub struct Run {
    pub scope: Scope,
    pub arguments: Vec<String>,
    pub environment: Vec<(&'static str, PathBuf)>,
    /// When to stop, whatever still runs.
    pub deadline: Option<Instant>,
}

impl Run {
    /// Runs them; `each` hears of every test that ends. A failed test is no error here.
    pub fn run(&self, each: impl FnMut(&Event)) -> Result<Outcome> {
        let mut nextest = command("run")?;
        nextest
            .args([self.scope.argument(), "--locked", "--no-tests", "pass"])
            .args(["--message-format", "libtest-json"])
            .args(["--message-format-version", "0.1"])
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("NEXTEST_EXPERIMENTAL_LIBTEST_JSON", "1");
        self.follow(nextest, each)
    }

    fn follow(&self, mut nextest: Command, mut each: impl FnMut(&Event)) -> Result<Outcome> {
        nextest.stdout(Stdio::piped());
        let mut child = nextest.spawn().context("running cargo-nextest")?;
        let said = child.stdout.take().context("a pipe was asked for")?;
        let watch = self.deadline.map(|deadline| Watch::start(&child, deadline));

        let mut outcome = Outcome::default();
        for line in BufReader::new(said).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            let Some(event) = event(&line) else {
                // What a test says for itself, when it is the only one and nothing is held back.
                if !is_message(&line) {
                    println!("{line}");
                }
                continue;
            };
            let over = watch.as_ref().is_some_and(Watch::is_over);
            if over && matches!(event, Event::Failed(_)) {
                // It was broken off, which says nothing about it.
                continue;
            }
            each(&event);
            match event {
                Event::Passed(name, seconds) => outcome.passed.push((name, seconds)),
                Event::Failed(name) => outcome.failed.push(name),
            }
        }
        outcome.stopped = watch.is_some_and(Watch::end);
        let status = child.wait()?;
        // It fails for failed tests, which are told of by name, and for what it could not build.
        ensure!(
            status.success() || outcome.stopped || !outcome.failed.is_empty(),
            "cargo-nextest ended with {status}"
        );
        Ok(outcome)
    }
}

impl Outcome {
    /// An error if not all was well.
    pub fn check(&self) -> Result<()> {
        if !self.failed.is_empty() {
            bail!("failed: {}", self.failed.join(", "));
        }
        Ok(())
    }
}

/// Interrupts nextest when the time is over; it ends its tests then.
struct Watch {
    over: Arc<AtomicBool>,
    done: mpsc::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Watch {
    fn start(child: &std::process::Child, deadline: Instant) -> Self {
        let pid = Pid::from_child(child);
        let over = Arc::new(AtomicBool::new(false));
        let (done, end) = mpsc::channel();
        let tell = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let left = deadline.saturating_duration_since(Instant::now());
            if end.recv_timeout(left) == Err(mpsc::RecvTimeoutError::Timeout) {
                tell.store(true, Ordering::SeqCst);
                // The child is not waited for before this thread has ended.
                let _ = rustix::process::kill_process(pid, Signal::INT);
            }
        });
        Self { over, done, thread }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Whether the time was over.
    fn end(self) -> bool {
        drop(self.done);
        // It has nothing that could panic.
        let _ = self.thread.join();
        self.over.load(Ordering::SeqCst)
    }
}

/// Builds the tests that `filter` chooses, and names them.
pub fn list(scope: Scope, filter: &str) -> Result<Vec<Test>> {
    let mut nextest = command("list")?;
    nextest
        .args([scope.argument(), "--locked", "--message-format", "json"])
        .args(["--run-ignored", "all", "--filterset", filter])
        .stderr(Stdio::inherit());
    let output = nextest.output().context("running cargo-nextest")?;
    ensure!(
        output.status.success(),
        "cargo-nextest ended with {}",
        output.status
    );
    listed(&output.stdout)
}

fn listed(json: &[u8]) -> Result<Vec<Test>> {
    #[derive(Deserialize)]
    struct List {
        #[serde(rename = "rust-suites")]
        suites: BTreeMap<String, Suite>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Suite {
        package_name: String,
        binary_id: String,
        binary_name: String,
        binary_path: PathBuf,
        testcases: BTreeMap<String, Case>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Case {
        ignored: bool,
        filter_match: Match,
    }
    #[derive(Deserialize)]
    struct Match {
        status: String,
    }
    let list: List = serde_json::from_slice(json).context("what cargo-nextest lists")?;
    let mut tests = Vec::new();
    for suite in list.suites.into_values() {
        for (short, case) in suite.testcases {
            if case.filter_match.status == "matches" {
                tests.push(Test {
                    name: format!("{}::{}${short}", suite.package_name, suite.binary_name),
                    filter: format!("(binary_id(={}) & test(={short}))", suite.binary_id),
                    binary: suite.binary_path.clone(),
                    ignored: case.ignored,
                    short,
                });
            }
        }
    }
    Ok(tests)
}

fn command(subcommand: &str) -> Result<Command> {
    let mut nextest = workspace::tool(&setup::nextest()?);
    nextest
        .args(["nextest", subcommand])
        .env("LOAM_CHRONYD", setup::chronyd()?)
        .env("LOAM_DOCKER_REGISTRY", setup::docker_registry()?)
        .env("LOAM_LEASE_SERVERS", setup::lease_servers()?);
    Ok(nextest)
}

/// What nextest tells, a line each.
#[derive(Deserialize)]
struct Message {
    r#type: String,
    event: String,
    #[serde(default)]
    name: Name,
    #[serde(default)]
    exec_time: f64,
}

fn is_message(line: &str) -> bool {
    serde_json::from_str::<Message>(line).is_ok()
}

/// What one message means, if it is the end of a test.
fn event(line: &str) -> Option<Event> {
    let message: Message = serde_json::from_str(line).ok()?;
    match (message.r#type.as_str(), message.event.as_str()) {
        ("test", "ok") => Some(Event::Passed(message.name, message.exec_time)),
        ("test", "failed") => Some(Event::Failed(message.name)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn reads_how_tests_end() {
        let lines = [
            r#"{"type":"suite","event":"started","test_count":3}"#,
            r#"{"type":"test","event":"started","name":"a::b$c::d"}"#,
            r#"{"type":"test","event":"ok","name":"a::b$c::d","exec_time":0.5}"#,
            r#"{"type":"test","event":"failed","name":"a::b$e","exec_time":1.5,"stdout":"x"}"#,
        ];
        assert!(lines.iter().all(|line| is_message(line)));
        assert!(!is_message("── update: 3.5 s") && !is_message(r#"{"counter":3}"#));
        let events: Vec<Event> = lines.iter().filter_map(|line| event(line)).collect();
        assert_eq!(
            events,
            [
                Event::Passed("a::b$c::d".into(), 0.5),
                Event::Failed("a::b$e".into())
            ]
        );
    }

    #[test]
    fn reads_the_list() {
        let json = r#"{"rust-suites": {"p::cases": {"package-name": "p", "binary-id": "p::cases",
            "binary-name": "cases", "binary-path": "/t/cases-1", "testcases": {
                "m::one": {"ignored": true, "filter-match": {"status": "matches"}},
                "m::two": {"ignored": false, "filter-match": {"status": "mismatch"}}}}}}"#;
        let tests = listed(json.as_bytes()).unwrap();
        let [one] = &tests[..] else {
            panic!("{tests:?}")
        };
        assert_eq!(one.name, "p::cases$m::one");
        assert_eq!(one.filter, "(binary_id(=p::cases) & test(=m::one))");
        assert!(one.ignored);
    }

    fn follow(script: &str, limit: Duration) -> Result<Outcome> {
        let run = Run {
            deadline: Some(Instant::now() + limit),
            ..Run::default()
        };
        // A shell traps no signal that was ignored at its start, as SIGINT is behind `&`.
        let mut shell = Command::new("env");
        shell.args(["--default-signal=INT", "sh", "-c", script]);
        run.follow(shell, |_| {})
    }

    const LONG: Duration = Duration::from_secs(60);
    const PASSED: &str = r#"echo '{"type":"test","event":"ok","name":"a","exec_time":1}'"#;
    const FAILED: &str = r#"echo '{"type":"test","event":"failed","name":"b","exec_time":1}'"#;

    #[test]
    fn a_failed_test_is_told_by_name() {
        let outcome = follow(&format!("{PASSED}; {FAILED}; exit 100"), LONG).unwrap();
        assert_eq!(outcome.passed, [("a".to_owned(), 1.0)]);
        assert_eq!(outcome.check().unwrap_err().to_string(), "failed: b");
    }

    #[test]
    fn an_end_that_no_test_explains_is_an_error() {
        assert!(follow(&format!("{PASSED}; exit 101"), LONG).is_err());
        follow(PASSED, LONG).unwrap().check().unwrap();
    }

    #[test]
    fn what_still_runs_ends_when_the_time_is_over() {
        // As nextest tells of the tests that it ended.
        let interrupted = format!(
            "told() {{ {FAILED}; exit 100; }}; trap told INT; {PASSED}; while :; do :; done"
        );
        let outcome = follow(&interrupted, Duration::ZERO).unwrap();
        assert!(outcome.stopped);
        assert!(outcome.failed.is_empty(), "{outcome:?}");
    }
}
