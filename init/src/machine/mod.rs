//! Machine processes: who runs, who ended, and the one way to start one.
//!
//! | module | what |
//! |---|---|
//! | [`lifecycle`] | what one machine goes through (pure) |
//! | [`request`] | what a specification must keep to (pure) |
//! | [`memory`] | how much memory machines may have together (pure) |
//! | [`launch`], [`resource`], [`initrd`] | opening what a machine may use, and starting its VMM |
//! | [`console`] | what the guest last wrote |
//! | [`control`] | the VMM's control socket |

pub mod console;
pub mod control;
#[cfg(test)]
mod fixture;
mod initrd;
mod launch;
pub mod lifecycle;
pub mod memory;
mod record;
mod request;
mod resource;
mod voice;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::{Duration, Instant},
};

use loam_deployment::Bytes;
use loam_init::reap::End;
use loam_node_api::{
    WorkloadId,
    machine::{ConsoleChunk, Machine, MachineError, MachineSpec, MachineState},
    page::{Changes, Page},
};
use rustix::process::Pid;
use tokio::sync::mpsc;

pub use self::launch::EMPTY;
use self::{
    console::ConsoleTail,
    lifecycle::{Action, Input},
    memory::MemoryBudget,
    record::Record,
};
use crate::{event::Event, log::Log};

/// The first user that machines get; each has one of its own.
const FIRST_USER: u32 = 100_000;
const USERS: u32 = 10_000;

/// Every machine of this node, by its id.
#[derive(Debug)]
pub struct Machines {
    records: BTreeMap<WorkloadId, Record>,
    budget: MemoryBudget,
    events: mpsc::Sender<Event>,
    log: Log,
    changes: Changes,
    shutting_down: bool,
}

impl Machines {
    /// `changes` is told when what [`Machines::list`] shows is different.
    pub fn new(
        budget: MemoryBudget,
        events: mpsc::Sender<Event>,
        log: Log,
        changes: Changes,
    ) -> Self {
        Self {
            records: BTreeMap::new(),
            budget,
            events,
            log,
            changes,
            shutting_down: false,
        }
    }

    /// Whether [`Machines::start`] would take it if the machine of this id had ended.
    pub fn check(&self, spec: &MachineSpec) -> Result<(), MachineError> {
        if self.shutting_down {
            return Err(MachineError::ShuttingDown);
        }
        self.admit(spec).map(drop).map_err(|what| {
            let id = spec.id.clone();
            MachineError::Launch { id, what }
        })
    }

    /// Starts a machine, in the place of the one of this id that has ended.
    pub fn start(&mut self, spec: MachineSpec, now: Instant) -> Result<(), MachineError> {
        if self.shutting_down {
            return Err(MachineError::ShuttingDown);
        }
        let id = spec.id.clone();
        let before = match self.records.get(&id) {
            Some(record) if !record.life.is_over() => return Err(MachineError::Exists(id)),
            Some(record) => record.console.tail(),
            None => ConsoleTail::default(),
        };
        let record = self.make(spec, &before).and_then(|mut record| {
            self.launch(&mut record, now)
                .map_err(|error| format!("{error:#}"))?;
            Ok(record)
        });
        let record = record.map_err(|what| {
            tracing::error!(machine = %id, reason = %what, "not started");
            MachineError::Launch {
                id: id.clone(),
                what,
            }
        })?;
        tracing::info!(
            machine = %id, user = record.user, cpus = record.spec.cpus, memory = %record.spec.memory,
            "machine started"
        );
        self.records.insert(id, record);
        self.changes.note();
        Ok(())
    }

    pub fn stop(&mut self, id: &WorkloadId, grace: Duration, now: Instant) {
        if self
            .records
            .get(id)
            .is_some_and(|record| !record.life.is_over())
        {
            tracing::info!(machine = %id, grace_seconds = grace.as_secs(), "stopping machine");
        }
        self.step(id, now, Input::Stop { grace });
    }

    /// Stops all, and starts none from now on.
    pub fn stop_all(&mut self, grace: Duration, now: Instant) {
        self.shutting_down = true;
        let ids: Vec<_> = self.records.keys().cloned().collect();
        for id in ids {
            self.stop(&id, grace, now);
        }
    }

    pub fn all_over(&self) -> bool {
        self.records.values().all(|record| record.life.is_over())
    }

    /// In the order of their ids, from the first one behind `after` on.
    pub fn list(&self, after: Option<&WorkloadId>, now: Instant) -> Page<Machine> {
        let behind = (
            after.map_or(Bound::Unbounded, Bound::Excluded),
            Bound::Unbounded,
        );
        let records = self.records.range::<WorkloadId, _>(behind);
        Page::of(records.map(|(_, record)| record.describe(now)))
    }

    /// How many run, and their memory with all that comes with it.
    pub fn load(&self) -> (usize, Bytes) {
        let memory = self
            .running()
            .map(|record| memory::cost(record.spec.memory).get())
            .sum();
        (self.running().count(), Bytes(memory))
    }

    pub fn budget(&self) -> MemoryBudget {
        self.budget
    }

    pub fn forget(&mut self, id: &WorkloadId) -> Result<(), MachineError> {
        match self.records.get(id) {
            Some(record) if !record.life.is_over() => Err(MachineError::Runs(id.clone())),
            _ => {
                if self.records.remove(id).is_some() {
                    self.changes.note();
                }
                Ok(())
            }
        }
    }

    pub fn console_read(&self, id: &WorkloadId, from: u64) -> Result<ConsoleChunk, MachineError> {
        let record = self
            .records
            .get(id)
            .ok_or_else(|| MachineError::Unknown(id.clone()))?;
        record
            .console
            .read(from)
            .map_err(|error| MachineError::Launch {
                id: id.clone(),
                what: format!("reading its console: {error}"),
            })
    }

    /// Whether the machine has a VMM to speak to now.
    pub fn reachable(&self, id: &WorkloadId) -> Result<(), MachineError> {
        match self.records.get(id) {
            None => Err(MachineError::Unknown(id.clone())),
            Some(record) if record.pid.is_none() => Err(MachineError::Launch {
                id: id.clone(),
                what: "it does not run".to_owned(),
            }),
            Some(_) => Ok(()),
        }
    }

    /// A child of PID 1 ended; whether it was one of these.
    pub fn child_ended(&mut self, pid: Pid, end: End, now: Instant) -> bool {
        let owner = self
            .records
            .iter_mut()
            .find(|(_, record)| record.pid == Some(pid));
        let Some((id, record)) = owner else {
            return false;
        };
        record.pid = None;
        let id = id.clone();
        self.step(&id, now, Input::ProcessEnded(end));
        true
    }

    /// The process number `launch` of the machine said something.
    pub fn heard(&mut self, id: &WorkloadId, launch: u32, input: Input, now: Instant) {
        if self
            .records
            .get(id)
            .is_some_and(|record| record.launches == launch)
        {
            self.step(id, now, input);
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.records
            .values()
            .filter_map(|record| record.life.deadline())
            .min()
    }

    pub fn tick(&mut self, now: Instant) {
        let due = |record: &Record| record.life.deadline().is_some_and(|at| at <= now);
        let ids: Vec<_> = self
            .records
            .iter()
            .filter(|(_, r)| due(r))
            .map(|(id, _)| id.clone())
            .collect();
        for id in ids {
            self.step(&id, now, Input::Tick);
        }
    }

    fn running(&self) -> impl Iterator<Item = &Record> {
        self.records
            .values()
            .filter(|record| !record.life.is_over())
    }

    /// The guest's configuration and the user of a machine that fits beside the others that run.
    fn admit(&self, spec: &MachineSpec) -> Result<(Vec<u8>, u32), String> {
        let guest_config = request::check(spec)?;
        let others = || self.running().filter(|record| record.spec.id != spec.id);
        let memory = others().map(|record| record.spec.memory);
        self.budget.admit(memory, spec.memory)?;
        let taken: BTreeSet<_> = others().map(|record| record.user).collect();
        let user = (FIRST_USER..FIRST_USER + USERS).find(|user| !taken.contains(user));
        let user = user.ok_or("the node has no user left for it")?;
        Ok((guest_config, user))
    }

    fn make(&self, spec: MachineSpec, before: &ConsoleTail) -> Result<Record, String> {
        let (guest_config, user) = self.admit(&spec)?;
        Record::new(spec, guest_config, user, before).map_err(|error| format!("{error:#}"))
    }

    fn launch(&self, record: &mut Record, now: Instant) -> anyhow::Result<()> {
        // The record itself is not in the list while it is launched.
        let others = self.records.values().filter(|other| !other.life.is_over());
        let launched = record.launch(others, now);
        let launched = launched.inspect_err(|_| record.release())?;
        let voice = voice::Voice {
            id: record.spec.id.clone(),
            launch: record.launches,
            sender: self.events.clone(),
            log: self.log.clone(),
        };
        if let Err(error) = voice.listen(launched.events, launched.stderr) {
            record.kill();
            return Err(error);
        }
        Ok(())
    }

    fn step(&mut self, id: &WorkloadId, now: Instant, input: Input) {
        let Some(mut record) = self.records.remove(id) else {
            return;
        };
        let before = record.shown();
        let mut next = record.life.step(now, input);
        while let Some(action) = next.take() {
            match action {
                Action::AskToStop => ask_to_stop(id.clone()),
                Action::Kill => record.kill(),
                Action::Release => record.release(),
                Action::Launch => {
                    tracing::info!(machine = %id, resets = record.life.resets(), "starting again");
                    if let Err(error) = self.launch(&mut record, now) {
                        let what = Input::LaunchFailed(format!("{error:#}"));
                        next = record.life.step(now, what);
                    }
                }
            }
        }
        let after = record.shown();
        if after != before {
            self.changes.note();
            if matches!(after.0, MachineState::Exited(_)) {
                tracing::info!(machine = %id, state = ?after.0, "machine ended");
            }
        }
        self.records.insert(id.clone(), record);
    }
}

/// If the VMM does not take the request, the end of the grace settles it.
fn ask_to_stop(id: WorkloadId) {
    tokio::task::spawn_local(async move {
        let request = loam_node_api::vmm::ControlRequest::Stop;
        if let Err(error) = control::ask(&id, &request).await {
            tracing::info!(machine = %id, error = format!("{error:#}"), "asking it to stop failed");
        }
    });
}
