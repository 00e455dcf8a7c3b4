//! [`Tester`]: the process that tests the network when a key asks for it (`loam-noded network-test`).
//!
//! It is started as daemons are, writes what it finds out to a pipe and ends. Whatever becomes of it, the node goes on:
//! it has a time limit, nothing waits for it, and of what it writes no more is read than a screen can show.

use std::{
    ffi::{CStr, CString},
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use loam_deployment::Bytes;
use loam_init::reap::End;
use loam_node_api::network_test::{
    ARGUMENT, Finding, MAX_FINDINGS, MAX_LINE, NetworkTest, TestState,
};
use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, kill_process},
};
use tokio::sync::mpsc;

use crate::{
    cgroup::{DAEMONS, Group, GroupLimits},
    event::Event,
    lines::Lines,
    log::{Log, Source},
    spawn::{Confinement, Limits, Program, Spawn},
};

const PROGRAM: &CStr = c"/usr/bin/loam-noded";
const NAME: &str = ARGUMENT;

/// It ends within 40 seconds by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// Far above what it uses: no more than noded has when it connects.
const MEMORY: Bytes = Bytes::mib(256);
const TASKS: u32 = 64;
const OPEN_FILES: u64 = 256;
/// Nothing but an answer is lost with it.
const OOM_SCORE: i16 = 100;

/// A record of what it has to complain about.
const MAX_RECORD: usize = 4 << 10;

/// What comes from the test with this number.
#[derive(Debug)]
pub struct News {
    pub test: u32,
    /// None: there will be no more.
    pub finding: Option<Finding>,
}

#[derive(Debug)]
pub struct Tester {
    events: mpsc::Sender<Event>,
    log: Log,
    /// The number of the last one, so that what comes late from an earlier one is not taken for its own.
    test: u32,
    process: Option<Process>,
    told: Option<NetworkTest>,
}

#[derive(Debug)]
struct Process {
    pid: Pid,
    until: Instant,
    /// All that it wrote has come.
    told_all: bool,
    end: Option<End>,
    killed: bool,
}

impl Tester {
    pub fn new(events: mpsc::Sender<Event>, log: Log) -> Self {
        Self {
            events,
            log,
            test: 0,
            process: None,
            told: None,
        }
    }

    /// What the last test has found out so far; none before the first.
    pub fn told(&self) -> Option<&NetworkTest> {
        self.told.as_ref()
    }

    /// Begins a test, unless one is under way.
    pub fn begin(&mut self, now: Instant) {
        if self.process.is_some() {
            return;
        }
        let started = group().and_then(|group| {
            let arguments = vec![PROGRAM.to_owned(), CString::new(ARGUMENT)?];
            self.start(PROGRAM, arguments, Some(group.folder()), now)
        });
        if let Err(error) = started {
            let error = format!("{error:#}");
            tracing::error!(error, "the network is not tested");
            self.told = Some(NetworkTest {
                state: TestState::BrokeOff("The test could not be started.".to_owned()),
                ..NetworkTest::default()
            });
        }
    }

    fn start(
        &mut self,
        program: &CStr,
        arguments: Vec<CString>,
        cgroup: Option<BorrowedFd<'_>>,
        now: Instant,
    ) -> anyhow::Result<Pid> {
        let (stderr, stderr_end) = pipe_with(PipeFlags::CLOEXEC)?;
        let (findings, findings_end) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut records = Lines::new(stderr, MAX_RECORD)?;
        let findings = Lines::new(findings, MAX_LINE)?;
        let spawn = Spawn {
            program: Program::Path(program.to_owned()),
            arguments,
            environment: vec![c"PATH=/usr/bin:/usr/sbin".to_owned(), c"HOME=/".to_owned()],
            stderr: stderr_end.as_fd(),
            descriptors: vec![findings_end.as_fd()],
            cgroup,
            oom_score: OOM_SCORE,
            limits: Limits {
                open_files: OPEN_FILES,
                locked_memory: 0,
            },
            // It asks daemons, name servers and the chain, all of which need none.
            confinement: Confinement::Daemon { capabilities: 0 },
        };
        let (pid, outcome) = spawn.start()?;
        tracing::info!(pid = pid.as_raw_nonzero(), "the network is tested");
        let log = self.log.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = outcome.wait().await {
                // Its end follows, and is told.
                tracing::error!(%error, "the test of the network could not be started");
            }
            while let Some(record) = records.next().await {
                log.line(&Source::Daemon(NAME), &record);
            }
        });
        self.test = self.test.wrapping_add(1);
        tokio::task::spawn_local(forward(findings, self.test, self.events.clone()));
        self.told = Some(NetworkTest::default());
        self.process = Some(Process {
            pid,
            until: now + PATIENCE,
            told_all: false,
            end: None,
            killed: false,
        });
        Ok(pid)
    }

    /// Something came from a test.
    pub fn heard(&mut self, news: News) {
        let (Some(process), Some(told)) = (&mut self.process, &mut self.told) else {
            return;
        };
        if news.test != self.test || told.state != TestState::Running {
            return;
        }
        match news.finding {
            Some(finding) if told.findings.len() < MAX_FINDINGS => {
                told.findings.push(finding.bounded());
            }
            Some(_) => {}
            None => process.told_all = true,
        }
        self.conclude();
    }

    /// A child of PID 1 ended; whether it was this one.
    pub fn child_ended(&mut self, child: Pid, end: End) -> bool {
        match &mut self.process {
            Some(process) if process.pid == child && process.end.is_none() => {
                process.end = Some(end);
            }
            _ => return false,
        }
        self.conclude();
        true
    }

    /// Ends one that takes too long.
    pub fn tick(&mut self, now: Instant) {
        let Some(process) = &mut self.process else {
            return;
        };
        if process.until > now || process.killed {
            return;
        }
        process.killed = true;
        tracing::warn!("the test of the network takes too long, and is ended");
        // Only PID 1 reaps, so the number still means this process while its end is not known.
        if process.end.is_none()
            && let Err(error) = kill_process(process.pid, Signal::KILL)
        {
            tracing::warn!(%error, "the test of the network could not be ended");
        }
        self.finish(TestState::BrokeOff(
            "The test took too long and was ended.".to_owned(),
        ));
        self.conclude();
    }

    pub fn deadline(&self) -> Option<Instant> {
        let process = self.process.as_ref()?;
        (!process.killed).then_some(process.until)
    }

    /// The end of the process may be known before the last of what it wrote has come. One that was killed, or whose
    /// pipe somebody else holds open, is waited for no longer than its time.
    fn conclude(&mut self) {
        let Some(process) = &self.process else { return };
        let Some(end) = process.end else { return };
        if !process.told_all && !process.killed {
            return;
        }
        self.process = None;
        self.finish(match end {
            End::Exited(0) => TestState::Done,
            end => TestState::BrokeOff(format!("The test broke off: its program {end}.")),
        });
    }

    /// What was said first about the end stays.
    fn finish(&mut self, state: TestState) {
        if let Some(told) = &mut self.told
            && told.state == TestState::Running
        {
            told.state = state;
        }
    }
}

fn group() -> anyhow::Result<Group> {
    let limits = GroupLimits {
        memory_max: Some(MEMORY),
        tasks: Some(TASKS),
        ..GroupLimits::default()
    };
    Group::make(&format!("{DAEMONS}/{NAME}"), limits)
}

/// Hands the findings to the main loop. What is written beyond them is not read, so that nobody can keep the loop busy.
async fn forward(mut lines: Lines, test: u32, events: mpsc::Sender<Event>) {
    for _ in 0..MAX_FINDINGS {
        let Some(line) = lines.next().await else {
            break;
        };
        match serde_json::from_slice(&line) {
            Ok(finding) => {
                let finding = Some(finding);
                let _ = events
                    .send(Event::NetworkTest(News { test, finding }))
                    .await;
            }
            Err(error) => {
                tracing::warn!(%error, "the test of the network says what makes no sense")
            }
        }
    }
    drop(lines);
    let finding = None;
    let _ = events
        .send(Event::NetworkTest(News { test, finding }))
        .await;
}

#[cfg(test)]
mod tests;
