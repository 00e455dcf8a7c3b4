//! [`Lifecycle`]: what one machine goes through, from its first process to its end.
//!
//! Pure: it is told what happened and when, and says what to do.

use std::time::{Duration, Instant};

use loam_init::reap::End;
use loam_node_api::{
    machine::{Exit, MachineState},
    vmm::VmmEvent,
};

/// A guest that resets itself sooner than this after its start is in a loop.
const HEALTHY: Duration = Duration::from_secs(60);

/// So many resets in a row, each sooner than [`HEALTHY`], and the machine has failed. With the
/// back-off between them this is after about three minutes.
const MAX_QUICK_RESETS: u32 = 10;
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// An honest VMM sends four events at most. One that sends more is not listened to any longer.
const MAX_EVENTS: u32 = 64;

#[derive(Debug)]
pub struct Lifecycle {
    /// None: no process now.
    process: Option<Process>,
    /// When to start the next process, between a reset and the start that follows.
    restart_at: Option<Instant>,
    stop: Stop,
    resets: u32,
    quick_resets: u32,
    exit: Option<Exit>,
}

#[derive(Debug)]
struct Process {
    started: Instant,
    events: u32,
    command_started: bool,
    /// Status of the guest's command.
    status: Option<i32>,
    /// Why the guest could not set itself up.
    guest_failure: Option<String>,
    last_word: Option<LastWord>,
    /// It was reaped, and how it ended. What it said before may still be in the pipe.
    end: Option<End>,
    /// The pipe of its events is empty and closed.
    silent: bool,
}

#[derive(Debug)]
enum LastWord {
    PoweredOff,
    Reset,
    Failed(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    No,
    Asked { kill_at: Instant },
    Killed,
}

#[derive(Clone, Debug)]
pub enum Input {
    /// The process runs. Its life before this is the launcher's affair.
    Launched,
    LaunchFailed(String),
    Event(VmmEvent),
    /// The VMM broke the rules of its event pipe.
    Broken(String),
    EventsClosed,
    ProcessEnded(End),
    Stop {
        grace: Duration,
    },
    /// Time has passed.
    Tick,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the guest to shut down, over the control socket.
    AskToStop,
    /// Kill all that is in the machine's cgroup.
    Kill,
    /// Start a process for it.
    Launch,
    /// It has ended: give back all but its record and its console.
    Release,
}

impl Lifecycle {
    /// The first process is about to be launched.
    pub fn new() -> Self {
        Self {
            process: None,
            restart_at: None,
            stop: Stop::No,
            resets: 0,
            quick_resets: 0,
            exit: None,
        }
    }

    pub fn state(&self) -> MachineState {
        if let Some(exit) = &self.exit {
            return MachineState::Exited(exit.clone());
        }
        if self.stop != Stop::No {
            return MachineState::Stopping;
        }
        match &self.process {
            Some(process) if process.command_started => MachineState::Running,
            _ => MachineState::Booting,
        }
    }

    pub fn resets(&self) -> u32 {
        self.resets
    }

    pub fn is_over(&self) -> bool {
        self.exit.is_some()
    }

    /// When [`Input::Tick`] is wanted next.
    pub fn deadline(&self) -> Option<Instant> {
        match self.stop {
            _ if self.is_over() => None,
            Stop::No => self.restart_at,
            Stop::Asked { kill_at } => Some(kill_at),
            Stop::Killed => None,
        }
    }

    pub fn step(&mut self, now: Instant, input: Input) -> Option<Action> {
        if self.is_over() {
            return None;
        }
        match input {
            Input::Launched => {
                self.restart_at = None;
                self.process = Some(Process::new(now));
                // Asked to stop while the launch was under way: nobody has told this process.
                matches!(self.stop, Stop::Asked { .. }).then_some(Action::AskToStop)
            }
            Input::LaunchFailed(what) => self.over(Exit::Failed(what)),
            Input::Event(event) => self.event(event),
            Input::Broken(what) => self.broken(what),
            Input::EventsClosed => {
                self.process.as_mut()?.silent = true;
                self.conclude(now)
            }
            Input::ProcessEnded(end) => {
                self.process.as_mut()?.end = Some(end);
                self.conclude(now)
            }
            Input::Stop { grace } => self.ask_to_stop(now, grace),
            Input::Tick => self.tick(now),
        }
    }

    fn event(&mut self, event: VmmEvent) -> Option<Action> {
        let process = self.process.as_mut()?;
        process.events += 1;
        if process.events > MAX_EVENTS {
            return self.broken(format!("the VMM sent more than {MAX_EVENTS} events"));
        }
        match event {
            VmmEvent::Started => {}
            VmmEvent::GuestStarted => process.command_started = true,
            VmmEvent::GuestExited { status } => process.status = Some(status),
            VmmEvent::GuestFailed { reason } => process.guest_failure = Some(reason),
            VmmEvent::PoweredOff => process.last_word = Some(LastWord::PoweredOff),
            VmmEvent::Reset => process.last_word = Some(LastWord::Reset),
            VmmEvent::Failed { reason } => process.last_word = Some(LastWord::Failed(reason)),
        }
        None
    }

    fn broken(&mut self, what: String) -> Option<Action> {
        let process = self.process.as_mut()?;
        process.last_word = Some(LastWord::Failed(what));
        process.silent = true;
        Some(Action::Kill)
    }

    fn ask_to_stop(&mut self, now: Instant, grace: Duration) -> Option<Action> {
        if self.restart_at.is_some() {
            return self.over(Exit::PoweredOff { status: None });
        }
        let kill_at = now + grace;
        match self.stop {
            Stop::No => {
                self.stop = Stop::Asked { kill_at };
                self.process.as_ref().map(|_| Action::AskToStop)
            }
            // A second call can only make it sooner.
            Stop::Asked { kill_at: before } => {
                self.stop = Stop::Asked {
                    kill_at: before.min(kill_at),
                };
                None
            }
            Stop::Killed => None,
        }
    }

    fn tick(&mut self, now: Instant) -> Option<Action> {
        match self.stop {
            Stop::Asked { kill_at } if kill_at <= now => {
                self.stop = Stop::Killed;
                Some(Action::Kill)
            }
            Stop::No if self.restart_at.is_some_and(|at| at <= now) => {
                self.restart_at = None;
                Some(Action::Launch)
            }
            _ => None,
        }
    }

    /// The process is over when it was reaped and all that it said is read, in whatever order.
    fn conclude(&mut self, now: Instant) -> Option<Action> {
        let process = self.process.as_ref()?;
        let end = process.end.filter(|_| process.silent)?;
        let process = self.process.take()?;
        let powered_off = || match process.guest_failure {
            Some(reason) => Exit::Failed(format!("the guest could not be set up: {reason}")),
            None => Exit::PoweredOff {
                status: process.status,
            },
        };
        match process.last_word {
            Some(LastWord::PoweredOff) => self.over(powered_off()),
            Some(LastWord::Reset) if self.stop != Stop::No => self.over(powered_off()),
            Some(LastWord::Reset) => self.reset(now, process.started),
            Some(LastWord::Failed(reason)) => self.over(Exit::Failed(reason)),
            None if self.stop == Stop::Killed => self.over(Exit::Killed),
            None => self.over(Exit::Failed(format!("the VMM {end} without saying why"))),
        }
    }

    fn reset(&mut self, now: Instant, started: Instant) -> Option<Action> {
        self.resets += 1;
        self.quick_resets = match now.duration_since(started) < HEALTHY {
            true => self.quick_resets + 1,
            false => 0,
        };
        if self.quick_resets >= MAX_QUICK_RESETS {
            return self.over(Exit::Failed(format!(
                "the guest reset itself {MAX_QUICK_RESETS} times in a row, each within {} seconds",
                HEALTHY.as_secs()
            )));
        }
        let delay = match self.quick_resets {
            0 | 1 => Duration::ZERO,
            n => MAX_BACKOFF.min(Duration::from_secs(1 << (n - 2).min(5))),
        };
        self.restart_at = Some(now + delay);
        self.tick(now)
    }

    fn over(&mut self, exit: Exit) -> Option<Action> {
        self.process = None;
        self.restart_at = None;
        self.exit = Some(exit);
        Some(Action::Release)
    }
}

impl Process {
    fn new(started: Instant) -> Self {
        Self {
            started,
            events: 0,
            command_started: false,
            status: None,
            guest_failure: None,
            last_word: None,
            end: None,
            silent: false,
        }
    }
}

#[cfg(test)]
mod tests;
