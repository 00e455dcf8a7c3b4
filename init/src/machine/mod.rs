//! Machine processes: who runs, who ended, and the one way to start one.
//!
//! | module | what |
//! |---|---|
//! | [`lifecycle`] | what one machine goes through (pure) |
//! | [`health`] | what is kept of what a guest says of its health (pure) |
//! | [`request`] | what a specification must keep to (pure) |
//! | [`memory`] | how much memory machines may have together (pure) |
//! | [`launcher`] | what may be asked of whoever makes processes |
//! | [`launch`], [`resource`], [`initrd`] | opening what a machine may use, and starting its VMM |
//! | [`disk_opener`], [`seat`] | the threads that wait for disks and make cgroups |
//! | [`console`] | what the guest last wrote |
//! | [`voice`], [`control`] | what the VMM says, and its control socket |

pub mod console;
pub mod control;
mod disk_opener;
#[cfg(test)]
pub mod fixture;
mod health;
mod initrd;
mod launch;
pub mod launcher;
pub mod lifecycle;
pub mod memory;
mod record;
mod request;
mod resource;
mod seat;
#[cfg(test)]
mod tests;
mod voice;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::{Duration, Instant},
};

use loam_deployment::{Bytes, ContractId, limits};
use loam_init::reap::End;
use loam_node_api::{
    WorkloadId,
    machine::{ConsoleChunk, Machine, MachineError, MachineSpec, MachineState},
    page::{Changes, Page},
};
use rustix::process::Pid;

pub use self::launch::{EMPTY, NodeLauncher};
use self::{
    launcher::{Launcher, News},
    lifecycle::{Action, Input},
    memory::MemoryBudget,
    record::{Legacy, Record, StartReply, Starter},
    resource::DiskIdentity,
};

/// The first user that machines get; each has one of its own.
const FIRST_USER: u32 = 100_000;
const USERS: u32 = 10_000;

/// Consoles that are kept of machines that have ended, [`console::MAX_TAIL`] each: as many as a
/// contract has workloads, and 64 MiB of a node.
const MAX_CONSOLES_OF_CONTRACT: usize = limits::WORKLOADS;
const MAX_CONSOLES: usize = 1024;

/// Machines that are known here. How one ended is kept until noded wants it forgotten: else it would
/// take a machine that has done its work for one that was never started. So there is room for all
/// that the grid lets a node have, 1,024 contracts (`MAX_CONTRACTS_PER_NODE` of the chain's `Grid`);
/// and as what is kept of each is counted, machines that run have that much less memory.
const MAX_RECORDS: usize = 1024 * limits::WORKLOADS;

/// Every machine of this node, by its id.
#[derive(Debug)]
pub struct Machines<L> {
    records: BTreeMap<WorkloadId, Record>,
    /// Those that are not over. Each turn of the main loop looks at them, and not at the others,
    /// of which there may be tens of thousands.
    live: BTreeSet<WorkloadId>,
    budget: MemoryBudget,
    launcher: L,
    changes: Changes,
    /// How many have ended.
    ends: u64,
    shutting_down: bool,
}

impl<L: Launcher> Machines<L> {
    /// `changes` is told when what [`Machines::list`] shows is different.
    pub fn new(budget: MemoryBudget, launcher: L, changes: Changes) -> Self {
        Self {
            records: BTreeMap::new(),
            live: BTreeSet::new(),
            budget,
            launcher,
            changes,
            ends: 0,
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

    /// Starts a machine, in the place of the one of this id that has ended. Answers when the launch
    /// has succeeded, has failed (and then there is no such machine), or takes long.
    pub fn start(&mut self, spec: MachineSpec, reply: StartReply, now: Instant) {
        let id = spec.id.clone();
        let record = match self.make(spec, now) {
            Ok(record) => record,
            Err(error) => {
                tracing::error!(machine = %id, %error, "not started");
                Starter::new(reply, None, now).answer(Err(error));
                return;
            }
        };
        let before = self.records.insert(id.clone(), record);
        self.live.insert(id.clone());
        if let Some(record) = self.records.get_mut(&id) {
            // Numbers go on, so that no news of an earlier process is taken for its own.
            record.launches = before.as_ref().map_or(0, |before| before.launches);
            record.starter = Some(Starter::new(reply, before, now));
        }
        self.changes.note();
        self.perform(&id, Action::Open, now);
    }

    pub fn stop(&mut self, id: &WorkloadId, grace: Duration, now: Instant) {
        // It is asked again and again until it has ended.
        let is_news = |record: &Record| !record.life.is_over() && !record.life.is_stopping();
        if self.records.get(id).is_some_and(is_news) {
            tracing::info!(machine = %id, grace_seconds = grace.as_secs(), "stopping machine");
        }
        self.step(id, now, Input::Stop { grace });
    }

    /// Stops all, and starts none from now on.
    pub fn stop_all(&mut self, grace: Duration, now: Instant) {
        self.shutting_down = true;
        for id in self.live.clone() {
            self.stop(&id, grace, now);
        }
    }

    pub fn all_over(&self) -> bool {
        self.live.is_empty()
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
        let memory = self.running().filter_map(Record::memory);
        let memory = memory.map(|memory| memory::cost(memory).get()).sum();
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
            Some(record) if record.pid().is_none() => Err(MachineError::Launch {
                id: id.clone(),
                what: "it does not run".to_owned(),
            }),
            Some(_) => Ok(()),
        }
    }

    /// A child of PID 1 ended; whether it was one of these.
    pub fn child_ended(&mut self, pid: Pid, end: End, now: Instant) -> bool {
        let owner = self
            .running()
            .find(|record| record.pid() == Some(pid))
            .map(|record| record.id.clone());
        let Some(id) = owner else {
            return false;
        };
        if let Some(record) = self.records.get_mut(&id) {
            record.reaped();
        }
        self.step(&id, now, Input::ProcessEnded(end));
        true
    }

    /// Something became of process number `launch` of the machine.
    pub fn heard(&mut self, id: &WorkloadId, launch: u32, news: News, now: Instant) {
        let record = self.records.get_mut(id);
        let Some(record) = record.filter(|record| record.launches == launch) else {
            return;
        };
        match news {
            News::Opened(opened) => {
                let opened = opened.and_then(|disks| self.claim(id, disks));
                self.step(
                    id,
                    now,
                    opened.map_or_else(Input::LaunchFailed, |()| Input::Opened),
                );
            }
            News::Executed => {
                if let Some(starter) = record.starter.take() {
                    tracing::info!(machine = %id, "machine started");
                    starter.answer(Ok(()));
                }
            }
            News::Life(input) => self.step(id, now, input),
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.running().filter_map(deadline).min()
    }

    pub fn tick(&mut self, now: Instant) {
        let due = |record: &&Record| deadline(record).is_some_and(|at| at <= now);
        let due = self.running().filter(due).map(|record| record.id.clone());
        for id in due.collect::<Vec<_>>() {
            if let Some(record) = self.records.get_mut(&id)
                && let Some(starter) = record.starter.take_if(|starter| starter.until <= now)
            {
                tracing::warn!(machine = %id, "its launch takes long");
                starter.answer(Ok(()));
            }
            self.step(&id, now, Input::Tick);
        }
    }

    fn running(&self) -> impl Iterator<Item = &Record> {
        self.live.iter().filter_map(|id| self.records.get(id))
    }

    /// The guest's configuration and the user of a machine that fits beside the others.
    fn admit(&self, spec: &MachineSpec) -> Result<(Vec<u8>, u32), String> {
        let guest_config = request::check(spec)?;
        let others = || self.records.values().filter(|record| record.id != spec.id);
        if others().count() >= MAX_RECORDS {
            return Err(format!(
                "this node knows of {MAX_RECORDS} machines already, which ended or run"
            ));
        }
        let memory = others().filter_map(Record::memory);
        let ended = others().filter(|record| record.life.is_over());
        let kept = ended.map(|record| record.kept().get()).sum();
        self.budget.admit(memory, Bytes(kept), spec.memory)?;
        let holdings = others().filter_map(|record| record.holding.as_ref());
        let taken: BTreeSet<_> = holdings.map(|holding| holding.user).collect();
        let user = free_user(&taken).ok_or("the node has no user left for it")?;
        Ok((guest_config, user))
    }

    fn make(&self, spec: MachineSpec, now: Instant) -> Result<Record, MachineError> {
        if self.shutting_down {
            return Err(MachineError::ShuttingDown);
        }
        let id = spec.id.clone();
        let legacy = match self.records.get(&id) {
            Some(record) if !record.life.is_over() => return Err(MachineError::Exists(id)),
            Some(record) => record.legacy(&spec.fingerprint),
            None => Legacy::default(),
        };
        let record = self.admit(&spec).and_then(|(guest_config, user)| {
            Record::new(spec, guest_config, user, legacy, now).map_err(|error| format!("{error:#}"))
        });
        record.map_err(|what| MachineError::Launch { id, what })
    }

    /// Takes the disks for this machine, unless another writes to one of them, or it would write to
    /// one that another reads.
    fn claim(&mut self, id: &WorkloadId, disks: Vec<DiskIdentity>) -> Result<(), String> {
        let conflict = self
            .running()
            .find(|other| other.id != *id && other.conflicts_with(&disks))
            .map(|other| format!("machine {} has one of its disks", other.id));
        if let Some(conflict) = conflict {
            return Err(conflict);
        }
        let record = self.records.get_mut(id);
        if let Some(holding) = record.and_then(|record| record.holding.as_mut()) {
            holding.disks = disks;
        }
        Ok(())
    }

    fn step(&mut self, id: &WorkloadId, now: Instant, input: Input) {
        let Some(record) = self.records.get_mut(id) else {
            return;
        };
        let before = record.shown();
        let action = record.life.step(now, input);
        let after = record.shown();
        if after != before {
            self.changes.note();
            match &after.0 {
                MachineState::Exited(exit) => {
                    tracing::info!(machine = %id, ?exit, "machine ended");
                }
                MachineState::Ending(exit) => tracing::warn!(
                    machine = %id, ?exit, "its process does not let go of what it has; killing it"
                ),
                _ => {}
            }
        }
        if let Some(action) = action {
            self.perform(id, action, now);
        }
    }

    fn perform(&mut self, id: &WorkloadId, action: Action, now: Instant) {
        let Some(record) = self.records.get_mut(id) else {
            return;
        };
        match action {
            Action::Open => {
                let resets = record.life.resets();
                tracing::info!(machine = %id, resets, "opening what it uses");
                let ordered = record.order().and_then(|order| self.launcher.open(order));
                if let Err(error) = ordered {
                    self.step(id, now, Input::LaunchFailed(format!("{error:#}")));
                }
            }
            Action::GiveUp => self.launcher.give_up(id),
            Action::Launch => {
                let launched = match self.launcher.launch(id) {
                    Ok(pid) => {
                        record.launched(pid, now);
                        Input::Launched
                    }
                    Err(error) => Input::LaunchFailed(format!("{error:#}")),
                };
                self.step(id, now, launched);
            }
            Action::AskToStop => self.launcher.ask_to_stop(id),
            Action::Kill => {
                if let Some(pid) = record.pid() {
                    self.launcher.kill(pid);
                }
            }
            Action::Release => {
                record.release();
                self.live.remove(id);
                self.launcher.release(id);
                self.ended(id);
            }
        }
    }

    /// Settles what a machine that is over leaves.
    fn ended(&mut self, id: &WorkloadId) {
        self.ends += 1;
        let Some(record) = self.records.get_mut(id) else {
            return;
        };
        record.ended = self.ends;
        if let Some(mut starter) = record.starter.take() {
            let error = record.start_error();
            tracing::error!(machine = %id, %error, "not started");
            match starter.before.take() {
                Some(before) => self.records.insert(id.clone(), *before),
                None => self.records.remove(id),
            };
            starter.answer(Err(error));
        }
        self.drop_oldest_console(id.contract);
    }

    /// The one that ended last keeps its console; of the contract with the most, the oldest goes.
    fn drop_oldest_console(&mut self, contract: ContractId) {
        let kept = || {
            self.records
                .values()
                .filter(|record| record.console.kept() > 0)
        };
        let of = |contract| kept().filter(move |record| record.id.contract == contract);
        let too_many = if of(contract).count() > MAX_CONSOLES_OF_CONTRACT {
            contract
        } else if kept().count() > MAX_CONSOLES {
            let mut counts = BTreeMap::new();
            for record in kept() {
                *counts.entry(record.id.contract).or_insert(0u32) += 1;
            }
            match counts.into_iter().max_by_key(|(_, count)| *count) {
                Some((contract, _)) => contract,
                None => return,
            }
        } else {
            return;
        };
        let oldest = of(too_many).min_by_key(|record| record.ended);
        let oldest = oldest.map(|record| record.id.clone());
        if let Some(record) = oldest.and_then(|id| self.records.get_mut(&id)) {
            tracing::info!(machine = %record.id, "dropping the oldest console of too many");
            record.console.clear();
        }
    }
}

fn free_user(taken: &BTreeSet<u32>) -> Option<u32> {
    (FIRST_USER..FIRST_USER + USERS).find(|user| !taken.contains(user))
}

fn deadline(record: &Record) -> Option<Instant> {
    let starter = record.starter.as_ref().map(|starter| starter.until);
    [starter, record.life.deadline()]
        .into_iter()
        .flatten()
        .min()
}
