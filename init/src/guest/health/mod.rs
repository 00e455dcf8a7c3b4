//! The machine's health: its image's check is run beside the command, again and again, and what that
//! says is told when it changes. Nothing follows from it in here.
//!
//! | module | what it does |
//! |---|---|
//! | [`judge`] | what checks say of the command, and what of it is told when; pure |
//! | [`check`] | runs one check |

mod check;
mod judge;

use std::{
    io,
    path::Path,
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use loam_deployment::report::HealthState;
use loam_init::reap::End;
use loam_node_api::{
    guest::{GuestConfig, GuestEvent, HEALTH_PAUSE},
    healthcheck::Healthcheck,
};
use rustix::process::Pid;

use crate::surroundings::Surroundings;
use check::Checker;
use judge::{Judge, Told};

/// Where checks have a cgroup of their own, by which all is found that one has started.
pub const GROUP: &str = "/sys/fs/cgroup/loam-check";

/// What is to be run beside the command.
#[derive(Debug)]
pub struct Watch {
    check: Healthcheck,
    checker: Checker,
    /// Between two tellings.
    pause: Duration,
}

/// As long as it is held, checks go on.
#[derive(Debug)]
pub struct Watching(#[expect(dead_code, reason = "dropped")] Sender<()>);

impl Watch {
    /// None: the image has no check. To be called before the command may be reaped; `ends` tells of
    /// the ends of other children.
    pub fn new(
        config: &GuestConfig,
        surroundings: &Surroundings,
        command: Pid,
        group: &Path,
        ends: Receiver<(Pid, End)>,
    ) -> io::Result<Option<Self>> {
        let Some(check) = config.healthcheck.clone() else {
            return Ok(None);
        };
        let checker = Checker::new(&check, surroundings, command, group, ends)?;
        Ok(Some(Self {
            check,
            checker,
            pause: HEALTH_PAUSE,
        }))
    }

    /// Checks in a thread of its own, until the command has ended or what is returned is dropped.
    /// `tell` says whether the node was told.
    pub fn start(
        self,
        tell: impl Fn(&GuestEvent) -> bool + Send + 'static,
    ) -> io::Result<Watching> {
        let (stop, stopped) = mpsc::channel();
        thread::Builder::new()
            .name("health".into())
            .spawn(move || self.run(&stopped, &tell))?;
        Ok(Watching(stop))
    }

    fn run(mut self, stopped: &Receiver<()>, tell: &impl Fn(&GuestEvent) -> bool) {
        let mut judge = Judge::new(self.check, Instant::now());
        let mut told = Told::new(self.pause);
        let mut output = String::new();
        loop {
            let next = Instant::now() + judge.pause(Instant::now());
            loop {
                let now = Instant::now();
                if told.due(judge.state(), now).is_some_and(|due| due <= now) {
                    told.tried(now);
                    if tell(&event(judge.state(), &output)) {
                        told.told(judge.state());
                    }
                }
                if next <= now {
                    break;
                }
                let due = told.due(judge.state(), now).unwrap_or(next);
                if !sleep(stopped, due.min(next)) {
                    return;
                }
            }
            let began = Instant::now();
            match self.checker.run() {
                Ok(outcome) => {
                    judge.checked(began, outcome.is_ok());
                    output = outcome.err().unwrap_or_default();
                }
                // The command and its namespaces are gone.
                Err(_) if self.checker.is_over() => return,
                Err(error) => {
                    judge.checked(began, false);
                    output = format!("it cannot be run: {error}");
                }
            }
        }
    }
}

/// False: it is over.
fn sleep(stopped: &Receiver<()>, until: Instant) -> bool {
    let left = until.saturating_duration_since(Instant::now());
    stopped.recv_timeout(left) == Err(RecvTimeoutError::Timeout)
}

fn event(state: HealthState, output: &str) -> GuestEvent {
    let healthy = state == HealthState::Healthy;
    GuestEvent::Health {
        healthy,
        output: match healthy {
            true => String::new(),
            false => output.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests;
