//! [`Lifecycle`]: what one machine goes through, from its first process to its end.
//!
//! Pure: it is told what happened and when, and says what to do.

use std::time::{Duration, Instant};

use loam_init::reap::End;
use loam_node_api::{
    machine::{Exit, MachineState, OnReset},
    vmm::VmmEvent,
};

use super::health::{Health, plain_text};

/// A guest that resets itself sooner than this after its start is in a loop: it waits longer and
/// longer before its next process, but for ever gets one.
const HEALTHY: Duration = Duration::from_secs(60);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// How long a VMM may take to go once its guest has ended or it was killed: what the guest had
/// acknowledged is written, so an honest one has little left to do. Then it is killed; and if even
/// that does not help, as the kernel waits for a disk on its behalf, the list says so.
const LETS_GO: Duration = Duration::from_secs(10);

/// How long a guest's kernel may take to come to guest init. It takes a second or two, and with twenty others on a
/// processor that is emulated less than a minute: one that has said nothing by then hangs.
const BOOTS: Duration = Duration::from_secs(10 * 60);

/// An honest VMM sends five events at most, and one for each change of health that it passes on, which
/// it does once in 30 s after the first four. So one is forgotten in somewhat less. Who sends more is
/// not listened to any longer.
const MAX_EVENTS: u32 = 64;
const FORGETS: Duration = Duration::from_secs(20);

/// What a machine's end says at most: lists of machines must fit their frame.
const MAX_REASON: usize = 2 << 10;

#[derive(Debug)]
pub struct Lifecycle {
    on_reset: OnReset,
    /// Whether its image has a check; else it has no health, whatever it says.
    has_check: bool,
    phase: Phase,
    stop: Stop,
    resets: u32,
    quick_resets: u32,
}

#[derive(Debug)]
enum Phase {
    /// What the next process may use is being opened, which may take as long as a disk does.
    Opening,
    Process(Process),
    /// Between a reset and the opening that follows.
    Pause {
        until: Instant,
    },
    Over(Exit),
}

#[derive(Debug)]
struct Process {
    started: Instant,
    events: u32,
    /// Up to when events were forgotten.
    forgotten: Instant,
    /// Whether the guest has said anything.
    booted: bool,
    command_started: bool,
    /// Of the command, in its present life.
    health: Option<Health>,
    /// Status of the guest's command, in its present life.
    status: Option<i32>,
    /// Why the guest could not set itself up, in its present life.
    guest_failure: Option<String>,
    last_word: Option<LastWord>,
    /// It was reaped, and how it ended. What it said before may still be in the pipe.
    end: Option<End>,
    /// The pipe of its events is empty and closed.
    silent: bool,
    /// Present once it has no reason to be there any more.
    leaving: Option<Leaving>,
}

/// The end of a process that is to go, until it is gone.
#[derive(Clone, Copy, Debug)]
struct Leaving {
    by: Instant,
    /// That time has passed.
    late: bool,
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
    /// All that a process may use is open.
    Opened,
    /// The process is there.
    Launched,
    /// Opening failed, or making the process: there is none.
    LaunchFailed(String),
    Event(VmmEvent),
    /// The process could not be executed, or the VMM broke the rules of its event pipe.
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
    /// Open what a process may use.
    Open,
    /// Opening is for nothing now, and shall end soon; that it did is told all the same.
    GiveUp,
    /// Make the process.
    Launch,
    /// Ask the guest to shut down, over the control socket.
    AskToStop,
    /// Kill the process.
    Kill,
    /// It has ended: give back all but its record and the end of its console.
    Release,
}

impl Lifecycle {
    /// What the first process may use is about to be opened.
    pub fn new(on_reset: OnReset, has_check: bool) -> Self {
        Self {
            on_reset,
            has_check,
            phase: Phase::Opening,
            stop: Stop::No,
            resets: 0,
            quick_resets: 0,
        }
    }

    pub fn state(&self) -> MachineState {
        match &self.phase {
            Phase::Over(exit) => MachineState::Exited(exit.clone()),
            Phase::Process(process) if process.is_late() => {
                MachineState::Ending(bounded(process.exit(self.stop)))
            }
            _ if self.is_stopping() => MachineState::Stopping,
            Phase::Process(process) if process.command_started => MachineState::Running,
            _ => MachineState::Booting,
        }
    }

    /// While it runs, if it is checked.
    pub fn health(&self) -> Option<&Health> {
        match &self.phase {
            Phase::Process(process) if self.state() == MachineState::Running => {
                process.health.as_ref()
            }
            _ => None,
        }
    }

    pub fn resets(&self) -> u32 {
        self.resets
    }

    /// Whether its stop was asked for.
    pub fn is_stopping(&self) -> bool {
        self.stop != Stop::No
    }

    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over(_))
    }

    /// Why it failed.
    pub fn reason(&self) -> Option<&str> {
        match &self.phase {
            Phase::Over(exit) => exit.reason(),
            _ => None,
        }
    }

    /// When [`Input::Tick`] is wanted next.
    pub fn deadline(&self) -> Option<Instant> {
        let own = match &self.phase {
            Phase::Over(_) => return None,
            Phase::Pause { until } => Some(*until),
            Phase::Process(process) => process.leaves_by().or(process.boots_by()),
            Phase::Opening => None,
        };
        let kill_at = match self.stop {
            Stop::Asked { kill_at } => Some(kill_at),
            Stop::No | Stop::Killed => None,
        };
        [own, kill_at].into_iter().flatten().min()
    }

    pub fn step(&mut self, now: Instant, input: Input) -> Option<Action> {
        match input {
            _ if self.is_over() => None,
            Input::Opened => match (&self.phase, self.stop) {
                (Phase::Opening, Stop::No) => Some(Action::Launch),
                (Phase::Opening, _) => self.over(STOPPED),
                _ => None,
            },
            Input::Launched => {
                self.phase = Phase::Process(Process::new(now));
                None
            }
            // Asked to stop meanwhile, it has nothing to complain of.
            Input::LaunchFailed(_) if self.stop != Stop::No => self.over(STOPPED),
            Input::LaunchFailed(what) if self.resets == 0 => self.over(Exit::NotStarted(what)),
            Input::LaunchFailed(what) => self.over(Exit::Failed(what)),
            Input::Event(event) => self.event(now, event),
            Input::Broken(what) => self.broken(now, what),
            Input::EventsClosed => {
                let process = self.process()?;
                process.silent = true;
                process.is_to_go(now);
                self.conclude(now)
            }
            Input::ProcessEnded(end) => {
                let process = self.process()?;
                process.end = Some(end);
                process.is_to_go(now);
                self.conclude(now)
            }
            Input::Stop { grace } => self.ask_to_stop(now, grace),
            Input::Tick => self.tick(now),
        }
    }

    fn process(&mut self) -> Option<&mut Process> {
        match &mut self.phase {
            Phase::Process(process) => Some(process),
            _ => None,
        }
    }

    fn event(&mut self, now: Instant, event: VmmEvent) -> Option<Action> {
        let has_check = self.has_check;
        let process = self.process()?;
        if process.count_event(now) > MAX_EVENTS {
            let what = format!("the VMM sent more than {MAX_EVENTS} events");
            return self.broken(now, what);
        }
        match event {
            VmmEvent::Started => {}
            VmmEvent::GuestBooted => process.booted = true,
            VmmEvent::GuestStarted => process.guest_started(now, has_check),
            VmmEvent::GuestHealth { healthy, output } => {
                if let Some(health) = &mut process.health {
                    health.checked(now, healthy, &output);
                }
            }
            VmmEvent::GuestExited { status } => process.status = Some(status),
            VmmEvent::GuestFailed { reason } => process.guest_failure = Some(reason),
            VmmEvent::PoweredOff => process.last_word = Some(LastWord::PoweredOff),
            VmmEvent::Reset => process.last_word = Some(LastWord::Reset),
            VmmEvent::Failed { reason } => process.last_word = Some(LastWord::Failed(reason)),
        }
        if process.last_word.is_some() {
            process.is_to_go(now);
        }
        None
    }

    fn broken(&mut self, now: Instant, what: String) -> Option<Action> {
        let process = self.process()?;
        process.last_word = Some(LastWord::Failed(what));
        process.silent = true;
        process.is_to_go(now);
        Some(Action::Kill)
    }

    fn ask_to_stop(&mut self, now: Instant, grace: Duration) -> Option<Action> {
        if matches!(self.phase, Phase::Pause { .. }) {
            return self.over(STOPPED);
        }
        let kill_at = now + grace;
        match self.stop {
            Stop::No => {
                self.stop = Stop::Asked { kill_at };
                match self.phase {
                    Phase::Opening => Some(Action::GiveUp),
                    _ => Some(Action::AskToStop),
                }
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
        if matches!(self.stop, Stop::Asked { kill_at } if kill_at <= now) {
            self.stop = Stop::Killed;
            if let Some(process) = self.process() {
                process.is_to_go(now);
            }
            return Some(Action::Kill);
        }
        match &mut self.phase {
            Phase::Pause { until } if *until <= now => {
                self.phase = Phase::Opening;
                Some(Action::Open)
            }
            Phase::Process(process) if process.leaves_by().is_some_and(|by| by <= now) => {
                process.leaving = process.leaving.map(|leaving| Leaving {
                    late: true,
                    ..leaving
                });
                if process.end.is_none() {
                    return Some(Action::Kill);
                }
                // It is gone. Whoever else holds the pipe has nothing to say.
                process.silent = true;
                self.conclude(now)
            }
            Phase::Process(process) if process.boots_by().is_some_and(|by| by <= now) => {
                let minutes = BOOTS.as_secs() / 60;
                let what =
                    format!("the guest's kernel has not started its init in {minutes} minutes");
                self.broken(now, what)
            }
            _ => None,
        }
    }

    /// The process is over when it was reaped and all that it said is read, in whatever order.
    fn conclude(&mut self, now: Instant) -> Option<Action> {
        let (stop, on_reset) = (self.stop, self.on_reset);
        let process = self.process()?;
        process.end.filter(|_| process.silent)?;
        let was_reset = stop == Stop::No && matches!(process.last_word, Some(LastWord::Reset));
        if was_reset && on_reset == OnReset::Restart {
            let started = process.started;
            return self.reset(now, started);
        }
        let exit = process.exit(stop);
        self.over(exit)
    }

    fn reset(&mut self, now: Instant, started: Instant) -> Option<Action> {
        self.resets = self.resets.saturating_add(1);
        self.quick_resets = match now.saturating_duration_since(started) < HEALTHY {
            true => self.quick_resets.saturating_add(1),
            false => 0,
        };
        let pause = match self.quick_resets {
            0 | 1 => Duration::ZERO,
            n => MAX_PAUSE.min(Duration::from_secs(1 << (n - 2).min(16))),
        };
        self.phase = Phase::Pause { until: now + pause };
        self.tick(now)
    }

    fn over(&mut self, exit: Exit) -> Option<Action> {
        self.phase = Phase::Over(bounded(exit));
        Some(Action::Release)
    }
}

/// Of a machine that was asked to stop while it had no process.
const STOPPED: Exit = Exit::PoweredOff { status: None };

/// A VMM may be taken over, and say anything.
fn bounded(exit: Exit) -> Exit {
    match exit {
        Exit::Failed(reason) => Exit::Failed(plain(&reason)),
        Exit::NotStarted(reason) => Exit::NotStarted(plain(&reason)),
        Exit::PoweredOff { .. } | Exit::Killed => exit,
    }
}

fn plain(reason: &str) -> String {
    plain_text(reason, MAX_REASON)
}

impl Process {
    fn new(started: Instant) -> Self {
        Self {
            started,
            events: 0,
            forgotten: started,
            booted: false,
            command_started: false,
            health: None,
            status: None,
            guest_failure: None,
            last_word: None,
            end: None,
            silent: false,
            leaving: None,
        }
    }

    /// A guest that starts another kernel (kexec) has a second life in the same process. How the
    /// one before ended says nothing about how this one will.
    fn guest_started(&mut self, now: Instant, has_check: bool) {
        self.booted = true;
        self.command_started = true;
        self.health = has_check.then(|| Health::starting(now));
        self.status = None;
        self.guest_failure = None;
    }

    /// How many events have come, those not counted that are long past.
    fn count_event(&mut self, now: Instant) -> u32 {
        let passed = now.saturating_duration_since(self.forgotten).as_nanos();
        let past = u32::try_from(passed / FORGETS.as_nanos()).unwrap_or(u32::MAX);
        self.events = self.events.saturating_sub(past);
        self.forgotten = match self.events {
            0 => now,
            _ => self.forgotten + FORGETS * past,
        };
        self.events += 1;
        self.events
    }

    /// Nothing that it does is of use any more. The first reason for that counts.
    fn is_to_go(&mut self, now: Instant) {
        let by = now + LETS_GO;
        self.leaving.get_or_insert(Leaving { by, late: false });
    }

    /// Until when the guest shall have said something; nothing once it has, or is to go.
    fn boots_by(&self) -> Option<Instant> {
        let awaited = !self.booted && self.leaving.is_none();
        awaited.then(|| self.started + BOOTS)
    }

    /// Until when it may be there, as long as that has not passed.
    fn leaves_by(&self) -> Option<Instant> {
        let leaving = self.leaving.filter(|leaving| !leaving.late);
        leaving.map(|leaving| leaving.by)
    }

    /// Whether it is there though it should be gone.
    fn is_late(&self) -> bool {
        self.leaving.is_some_and(|leaving| leaving.late)
    }

    /// What its end is to the machine, as far as is known.
    fn exit(&self, stop: Stop) -> Exit {
        match &self.last_word {
            Some(LastWord::Reset) if stop == Stop::No => {
                Exit::Failed("the guest has reset itself".into())
            }
            Some(LastWord::PoweredOff | LastWord::Reset) => match &self.guest_failure {
                Some(reason) => Exit::Failed(format!("the guest could not be set up: {reason}")),
                None => Exit::PoweredOff {
                    status: self.status,
                },
            },
            Some(LastWord::Failed(reason)) => Exit::Failed(reason.clone()),
            None if stop == Stop::Killed => Exit::Killed,
            None => Exit::Failed(match self.end {
                Some(end) => format!("the VMM {end} without saying why"),
                None => "the VMM has closed its pipe without saying why".into(),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
