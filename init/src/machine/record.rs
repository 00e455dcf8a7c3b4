//! [`Record`]: one machine with all that is kept for it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use loam_deployment::{
    Bytes, limits,
    report::{Health, HealthState},
};
use loam_node_api::{
    WorkloadId,
    clock::UnixTime,
    machine::{
        Boot, EarlierEnds, Exit, Machine, MachineError, MachineHealth, MachineSpec, MachineState,
    },
};
use rustix::process::Pid;
use tokio::sync::oneshot;

use super::{
    console::{Console, ConsoleRing, ConsoleTail},
    health,
    launcher::Order,
    lifecycle::Lifecycle,
    resource::DiskIdentity,
};

/// What a record takes that no machine's limit counts, beside the text in it: its own fields, the
/// nodes of the map that holds it, and what an allocator adds.
const RECORD: usize = 1 << 10;

/// How long whoever starts a machine waits to hear whether its launch succeeds. What takes longer
/// shows in the list of machines.
const STARTER_PATIENCE: Duration = Duration::from_secs(2);

pub type StartReply = oneshot::Sender<Result<(), MachineError>>;

#[derive(Debug)]
pub struct Record {
    pub id: WorkloadId,
    pub life: Lifecycle,
    pub console: Console,
    /// How many processes were launched for it.
    pub launches: u32,
    /// None when it is over.
    pub holding: Option<Holding>,
    /// Present until its first launch has succeeded or takes too long.
    pub starter: Option<Starter>,
    /// Which of the ended ones this is, in the order of their ends.
    pub ended: u64,
    /// Of its lives before this one.
    ends: Option<EarlierEnds>,
    fingerprint: String,
    started: Instant,
}

/// What only a machine that is not over needs.
#[derive(Debug)]
pub struct Holding {
    pub spec: Arc<MachineSpec>,
    /// User and group of the VMM.
    pub user: u32,
    pub disks: Vec<DiskIdentity>,
    /// Present while a process is to be waited for.
    pub pid: Option<Pid>,
    guest_config: Arc<[u8]>,
}

/// What a machine is left by the one that it replaces.
#[derive(Debug, Default)]
pub struct Legacy {
    console: ConsoleTail,
    ends: Option<EarlierEnds>,
}

/// Who asked for the machine.
#[derive(Debug)]
pub struct Starter {
    reply: StartReply,
    /// The record that comes back if the launch fails while the starter still waits.
    pub before: Option<Box<Record>>,
    pub until: Instant,
}

impl Starter {
    pub fn new(reply: StartReply, before: Option<Record>, now: Instant) -> Self {
        Self {
            reply,
            before: before.map(Box::new),
            until: now + STARTER_PATIENCE,
        }
    }

    /// Whoever asked may be gone: then the answer goes nowhere.
    pub fn answer(self, result: Result<(), MachineError>) {
        let _ = self.reply.send(result);
    }
}

impl Record {
    pub fn new(
        spec: MachineSpec,
        guest_config: Vec<u8>,
        user: u32,
        legacy: Legacy,
        now: Instant,
    ) -> anyhow::Result<Self> {
        let console = ConsoleRing::make(&spec.id, &legacy.console).context("making its console")?;
        Ok(Self {
            id: spec.id.clone(),
            life: Lifecycle::new(spec.on_reset, has_check(&spec.boot)),
            console: Console::Ring(Arc::new(console)),
            launches: 0,
            fingerprint: spec.fingerprint.clone(),
            started: now,
            ended: 0,
            ends: legacy.ends,
            starter: None,
            holding: Some(Holding {
                spec: Arc::new(spec),
                user,
                disks: Vec::new(),
                pid: None,
                guest_config: guest_config.into(),
            }),
        })
    }

    /// What it leaves to the machine that replaces it and has this fingerprint.
    pub fn legacy(&self, fingerprint: &str) -> Legacy {
        let same = self.fingerprint == fingerprint && !self.life.is_stopping();
        Legacy {
            console: self.console.tail(),
            ends: same.then(|| self.all_ends()).flatten(),
        }
    }

    /// Those before this life, and its own if it has begun and is over.
    fn all_ends(&self) -> Option<EarlierEnds> {
        let last = match self.life.state() {
            MachineState::Exited(Exit::Failed(mut reason)) => {
                reason.truncate(reason.floor_char_boundary(limits::DETAIL_BYTES));
                Exit::Failed(reason)
            }
            MachineState::Exited(exit @ Exit::PoweredOff { .. }) => exit,
            _ => return self.ends.clone(),
        };
        let count = self.ends.as_ref().map_or(0, |ends| ends.count);
        Some(EarlierEnds {
            count: count.saturating_add(1),
            last,
        })
    }

    /// The order for its next process.
    pub fn order(&mut self) -> anyhow::Result<Order> {
        let (Some(holding), Console::Ring(console)) = (&self.holding, &self.console) else {
            bail!("it has ended");
        };
        self.launches += 1;
        Ok(Order {
            spec: holding.spec.clone(),
            guest_config: holding.guest_config.clone(),
            console: console.clone(),
            user: holding.user,
            launch: self.launches,
        })
    }

    pub fn launched(&mut self, pid: Pid, now: Instant) {
        self.started = now;
        if let Some(holding) = &mut self.holding {
            holding.pid = Some(pid);
        }
    }

    /// Its process is gone.
    pub fn reaped(&mut self) {
        if let Some(holding) = &mut self.holding {
            holding.pid = None;
        }
    }

    pub fn pid(&self) -> Option<Pid> {
        self.holding.as_ref()?.pid
    }

    pub fn memory(&self) -> Option<Bytes> {
        self.holding.as_ref().map(|holding| holding.spec.memory)
    }

    /// A disk of this machine that must not be one of the other's at once.
    pub fn conflicts_with(&self, disks: &[DiskIdentity]) -> bool {
        let ours = self.holding.iter().flat_map(|holding| &holding.disks);
        ours.into_iter()
            .any(|ours| disks.iter().any(|theirs| theirs.conflicts_with(ours)))
    }

    /// How much memory is kept for it now that it has ended.
    pub fn kept(&self) -> Bytes {
        let before = self.ends.as_ref().and_then(|ends| ends.last.reason());
        let reasons = self.life.reason().into_iter().chain(before);
        let reasons: usize = reasons.map(str::len).sum();
        let record = RECORD + self.fingerprint.len() + reasons;
        Bytes(self.console.kept() + record as u64)
    }

    pub fn describe(&self, now: Instant) -> Machine {
        Machine {
            id: self.id.clone(),
            fingerprint: self.fingerprint.clone(),
            state: self.life.state(),
            age_seconds: now.saturating_duration_since(self.started).as_secs(),
            health: self.life.health().map(|health| shown_health(health, now)),
            resets: self.life.resets(),
            ends: self.ends.clone(),
            console_position: self.console.position(),
        }
    }

    /// What a list shows of it, but for what only grows.
    pub fn shown(&self) -> (MachineState, u32, Option<HealthState>) {
        let health = self.life.health().map(|health| health.state);
        (self.life.state(), self.life.resets(), health)
    }

    /// Why there is no machine, for whoever waits for its start.
    pub fn start_error(&self) -> MachineError {
        let what = match self.life.state() {
            MachineState::Exited(Exit::Failed(what) | Exit::NotStarted(what)) => what,
            _ => "it was stopped before it ran".to_owned(),
        };
        let id = self.id.clone();
        MachineError::Launch { id, what }
    }

    /// Gives back what only a machine that is not over needs.
    pub fn release(&mut self) {
        self.holding = None;
        self.console.shrink();
    }
}

fn has_check(boot: &Boot) -> bool {
    let Boot::Guest(config) = boot;
    config.healthcheck.is_some()
}

/// The clock may have been set since the change, so it is asked how long ago that was.
fn shown_health(health: &health::Health, now: Instant) -> MachineHealth {
    let age = now.saturating_duration_since(health.since).as_secs();
    MachineHealth {
        health: Health {
            state: health.state,
            since: UnixTime::kernel().0.saturating_sub(age),
        },
        output: health.output.clone(),
    }
}
