//! What the node tells the owner of each contract, made from what is desired and what is there.

use std::collections::BTreeMap;

use loam_deployment::{
    ContractId, Name, NodeKey, Version, limits,
    report::{HealthState, Report, State, Verdict, WorkloadReport},
};
use loam_node_api::{
    WorkloadId,
    clock::UnixTime,
    machine::{EarlierEnds, Exit, Machine as ActualMachine, MachineState},
    network::{Interface, InterfaceId},
    storage::{ImageState, VolumeKey},
};

use crate::{
    actual::Actual,
    apply::fetching,
    course::Outcome,
    desired::{Contract, Desired, Halt, Machine, Workloads},
    ledger::Ledger,
    plan::Plan,
    step::Resource,
};

/// Of a machine that has ended, and cannot be started anew before the node lets go of it.
pub const ENDING: &str = "its process is still there: a disk of the node does not answer it";

/// All that reports are made from.
#[derive(Debug)]
pub struct Findings<'a> {
    pub ledger: &'a Ledger,
    pub desired: &'a Desired,
    pub actual: &'a Actual,
    pub plan: &'a Plan,
    pub outcome: &'a Outcome,
}

impl Findings<'_> {
    /// One report for each contract.
    pub fn reports(&self, node: NodeKey, image: &str, time: u64) -> Vec<Report> {
        self.ledger
            .verdicts()
            .map(|(contract, version, verdict)| Report {
                node,
                contract,
                version,
                time,
                image: image.to_owned(),
                verdict: verdict.clone(),
                workloads: self.of(contract),
            })
            .collect()
    }

    /// What became of each of the contract's workloads; nothing where it is not known which it has.
    pub fn of(&self, contract: ContractId) -> BTreeMap<Name, WorkloadReport> {
        match self.desired.contracts.get(&contract) {
            Some(Contract::Run(stated)) => self.workloads(contract, &stated.workloads, None),
            Some(Contract::Halted(stated, halt)) => {
                self.workloads(contract, &stated.workloads, Some(*halt))
            }
            Some(Contract::Keep(_)) | None => BTreeMap::new(),
        }
    }

    fn workloads(
        &self,
        contract: ContractId,
        workloads: &Workloads,
        halt: Option<Halt>,
    ) -> BTreeMap<Name, WorkloadReport> {
        let id = |name: &Name| WorkloadId::new(contract, name.clone());
        let mut reports = BTreeMap::new();
        for (name, machine) in &workloads.machines {
            reports.insert(name.clone(), self.machine(&id(name), machine, halt));
        }
        for name in workloads.volumes.keys() {
            let key = VolumeKey::Data(id(name));
            let there = self.actual.volumes.get(&key);
            let usable = there.is_some_and(|volume| volume.path.is_some());
            let mut report = self.simple(Resource::Volume(key), usable);
            report.used = there.map(|volume| volume.used);
            reports.insert(name.clone(), report);
        }
        for name in workloads.networks.keys() {
            let there = self.actual.networks.contains_key(&id(name));
            reports.insert(
                name.clone(),
                self.simple(Resource::Network(id(name)), there),
            );
        }
        for (volume, version) in self.unproved(contract) {
            let detail = format!(
                "is kept, though version {} does not name it: version {version} did",
                workloads.version
            );
            // A report has no more lines than the largest deployment.
            if reports.len() < limits::WORKLOADS {
                reports
                    .entry(volume.name.clone())
                    .or_insert(WorkloadReport {
                        state: State::Stopped,
                        detail,
                        ..WorkloadReport::default()
                    });
            }
        }
        reports
    }

    /// Volumes that are kept though the version which stands does not name them.
    fn unproved(&self, contract: ContractId) -> impl Iterator<Item = (&WorkloadId, Version)> {
        let name: Name = "a".parse().expect("a letter is a name");
        // Every name begins with a letter, so none sorts before this one.
        let first = VolumeKey::Data(WorkloadId::new(contract, name));
        self.plan
            .unproved
            .range(first..)
            .map_while(move |(key, version)| match key {
                VolumeKey::Data(id) if id.contract == contract => Some((id, *version)),
                _ => None,
            })
    }

    /// A volume or a network: there or not.
    fn simple(&self, resource: Resource, there: bool) -> WorkloadReport {
        let (state, detail) = match (self.outcome.failed.get(&resource), there) {
            (Some(reason), _) => (State::Failed, reason.clone()),
            (None, true) => (State::Running, String::new()),
            (None, false) => (State::Pending, String::new()),
        };
        WorkloadReport {
            state,
            detail,
            ..WorkloadReport::default()
        }
    }

    fn machine(&self, id: &WorkloadId, asked: &Machine, halt: Option<Halt>) -> WorkloadReport {
        let there = self.actual.machines.get(id);
        let (state, mut detail) = self.machine_state(id, asked, there, halt);
        // Only what is there of this version runs.
        let health = there
            .and_then(|machine| machine.health.as_ref())
            .filter(|_| state == State::Running);
        if let Some(told) = health.filter(|told| told.health.state == HealthState::Unhealthy)
            && detail.is_empty()
        {
            detail = format!("its check fails: {}", told.output);
        }
        let ends = there
            .filter(|there| !self.is_earlier(there))
            .and_then(|there| there.ends.as_ref());
        if let Some(ends) = ends.filter(|_| matches!(state, State::Starting | State::Running)) {
            say_also(&mut detail, &started_again(ends));
        }
        let mut addresses = Vec::new();
        let mut ports = Vec::new();
        for interface in self.interfaces(id) {
            addresses.extend(&interface.spec.addresses);
            if interface.in_force {
                ports.extend(&interface.spec.publish);
            }
        }
        WorkloadReport {
            state,
            detail,
            addresses,
            ports,
            exit_status: there.and_then(|machine| match machine.state {
                _ if self.is_earlier(machine) => None,
                MachineState::Exited(Exit::PoweredOff { status })
                | MachineState::Ending(Exit::PoweredOff { status }) => status,
                _ => None,
            }),
            restarts: ends.map_or(0, |ends| ends.count),
            health: health.map(|told| told.health),
            ..WorkloadReport::default()
        }
    }

    fn interfaces(&self, machine: &WorkloadId) -> impl Iterator<Item = &Interface> {
        // No contract has the number 0, so this sorts before all of the machine's.
        let first = InterfaceId {
            machine: machine.clone(),
            network: WorkloadId::new(ContractId(0), machine.name.clone()),
        };
        self.actual
            .interfaces
            .range(first..)
            .map(|(_, interface)| interface)
            .take_while(move |interface| interface.id.machine == *machine)
    }

    fn machine_state(
        &self,
        id: &WorkloadId,
        asked: &Machine,
        there: Option<&ActualMachine>,
        halt: Option<Halt>,
    ) -> (State, String) {
        if let Some(halt) = halt {
            let runs = there.is_some_and(|m| !matches!(m.state, MachineState::Exited(_)));
            let why = match halt {
                Halt::Suspended => "the contract is suspended".to_owned(),
                Halt::Ended(UnixTime(until)) => {
                    format!("its deployment was valid until {until} (seconds since 1970)")
                }
            };
            return match runs {
                true => (State::Pending, format!("stopping: {why}")),
                false => (State::Stopped, why),
            };
        }
        // Its state says nothing about this version.
        if let Some(there) = there.filter(|there| self.is_earlier(there)) {
            let (state, mut detail) = self.progress(id, asked);
            match there.state {
                MachineState::Stopping => return (State::Pending, "stopping".into()),
                MachineState::Ending(_) => return (State::Pending, ENDING.into()),
                MachineState::Exited(_) => return (state, detail),
                _ => {}
            }
            say_also(&mut detail, "an earlier version runs on");
            return (state, detail);
        }
        match there.map(|machine| &machine.state) {
            _ if self.trouble(id).is_some() => self.progress(id, asked),
            Some(MachineState::Running | MachineState::Paused) => (State::Running, String::new()),
            // A guest that panics does so, too, and again and again.
            Some(MachineState::Booting) if there.is_some_and(|machine| machine.resets > 0) => {
                (State::Starting, "its guest has reset itself".into())
            }
            Some(MachineState::Booting) => (State::Starting, String::new()),
            Some(MachineState::Stopping) => (State::Pending, "stopping".into()),
            Some(MachineState::Exited(exit)) => ended(exit),
            Some(MachineState::Ending(exit)) => match ended(exit) {
                (state, how) if how.is_empty() => (state, ENDING.into()),
                // It stands first, as a report has room for 256 bytes.
                (state, how) => (state, format!("{ENDING}; {how}")),
            },
            None => self.progress(id, asked),
        }
    }

    /// Whether what is there of the machine is of another version than the one that is told about.
    fn is_earlier(&self, there: &ActualMachine) -> bool {
        self.plan.outdated.get(&there.id) == Some(&there.fingerprint)
    }

    /// Why the machine cannot be had as it is wanted.
    fn trouble(&self, id: &WorkloadId) -> Option<&String> {
        let failed = || self.outcome.failed.get(&Resource::Machine(id.clone()));
        self.plan.problems.get(id).or_else(failed)
    }

    /// How far a machine is that does not run as it is wanted.
    fn progress(&self, id: &WorkloadId, asked: &Machine) -> (State, String) {
        if let Some(trouble) = self.trouble(id) {
            return (State::Failed, trouble.clone());
        }
        let images = &self.actual.images;
        match images.attempts.get(&asked.image_needed()) {
            _ if images.ready(asked.image_content()).is_some() => {}
            Some(ImageState::Failed(reason)) => return (State::Failed, reason.clone()),
            Some(state @ ImageState::Fetching { waits_for, .. }) => {
                // How far a fetch is changes all the while and is no news; what it waits for is.
                let word = match waits_for {
                    Some(_) => State::Pending,
                    None => State::Fetching,
                };
                return (word, fetching(state));
            }
            Some(ImageState::Ready { .. }) | None => {}
        }
        let waiting = self.outcome.waiting.get(&Resource::Machine(id.clone()));
        (State::Pending, waiting.cloned().unwrap_or_default())
    }
}

fn ended(exit: &Exit) -> (State, String) {
    match exit {
        Exit::PoweredOff {
            status: None | Some(0),
        } => (State::Stopped, String::new()),
        Exit::PoweredOff {
            status: Some(status),
        } => (State::Failed, ended_with(*status)),
        Exit::Killed => (State::Stopped, "ended by force".into()),
        Exit::Failed(reason) | Exit::NotStarted(reason) => (State::Failed, reason.clone()),
    }
}

/// Behind what is said already, if anything is.
fn say_also(detail: &mut String, more: &str) {
    if !detail.is_empty() {
        detail.push_str("; ");
    }
    detail.push_str(more);
}

/// A machine may run again before a report says how it ended.
fn started_again(ends: &EarlierEnds) -> String {
    let how = match &ends.last {
        Exit::PoweredOff { status: None } => "it powered off".to_owned(),
        Exit::PoweredOff {
            status: Some(status),
        } => ended_with(*status),
        Exit::Killed => "it was ended by force".to_owned(),
        Exit::Failed(reason) | Exit::NotStarted(reason) => reason.clone(),
    };
    let often = match ends.count {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    };
    format!("started again {often}; before that, {how}")
}

fn ended_with(status: i32) -> String {
    format!("its command ended with status {status}")
}

/// Whether two reports say the same to their reader: the time, how far a fetch is, how full a volume
/// is, and since when a machine is as healthy as it was before change all the while, and are not
/// worth a transaction each.
pub fn says_the_same(a: &Report, b: &Report) -> bool {
    essence(a) == essence(b)
}

fn essence(report: &Report) -> Report {
    let mut essence = report.clone();
    essence.time = 0;
    for workload in essence.workloads.values_mut() {
        workload.used = None;
        workload.console_position = None;
        if let Some(health) = &mut workload.health {
            health.since = 0;
        }
        if workload.state == State::Fetching {
            workload.detail.clear();
        }
    }
    essence
}

/// The word for a contract on the node's own screen.
pub fn verdict_word(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accepted => "accepted".into(),
        Verdict::Rejected { reason, .. } => format!("rejected: {reason}"),
    }
}

#[cfg(test)]
mod tests;
