//! What the node tells the owner of each contract, made from what is desired and what is there.

use std::{collections::BTreeMap, net::IpAddr};

use loam_deployment::{
    Name, NodeKey,
    report::{Report, State, Verdict, WorkloadReport},
};
use loam_node_api::{
    WorkloadId,
    machine::{Exit, Machine, MachineState},
    network::InterfaceId,
    storage::{ImageState, VolumeKey},
};

use crate::{
    actual::Actual,
    apply::{Outcome, fetching},
    desired::{Contract, Desired, Workloads},
    ledger::Ledger,
    plan::Plan,
    step::Resource,
};

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
    pub fn reports(&self, node: NodeKey, time: u64) -> Vec<Report> {
        self.ledger
            .verdicts()
            .map(|(contract, version, verdict)| Report {
                node,
                contract,
                version,
                time,
                verdict: verdict.clone(),
                workloads: match self.desired.contracts.get(&contract) {
                    Some(Contract::Run(workloads) | Contract::Suspended(workloads)) => {
                        self.workloads(contract, workloads)
                    }
                    Some(Contract::Keep) | None => BTreeMap::new(),
                },
            })
            .collect()
    }

    fn workloads(
        &self,
        contract: loam_deployment::ContractId,
        workloads: &Workloads,
    ) -> BTreeMap<Name, WorkloadReport> {
        let id = |name: &Name| WorkloadId::new(contract, name.clone());
        let mut reports = BTreeMap::new();
        for (name, machine) in &workloads.machines {
            reports.insert(name.clone(), self.machine(&id(name), machine));
        }
        for name in workloads.volumes.keys() {
            let key = VolumeKey::Data(id(name));
            let there = self.actual.volumes.get(&key);
            let mut report = self.simple(Resource::Volume(key), there.is_some());
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
        reports
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

    fn machine(&self, id: &WorkloadId, asked: &crate::desired::Machine) -> WorkloadReport {
        let interfaces = self
            .actual
            .interfaces
            .values()
            .filter(|i| i.id.machine == *id);
        let addresses: Vec<IpAddr> = interfaces
            .clone()
            .flat_map(|i| i.spec.addresses.iter().copied())
            .collect();
        let there = self.actual.machines.get(id);
        let (state, detail) = self.machine_state(id, asked, there);
        let ports_lead = asked.networks.first().is_some_and(|first| {
            let network = WorkloadId::new(id.contract, first.network.clone());
            let interface = InterfaceId {
                machine: id.clone(),
                network,
            };
            self.actual
                .interfaces
                .get(&interface)
                .is_some_and(|interface| interface.in_force)
        });
        WorkloadReport {
            state,
            detail,
            addresses,
            ports: if ports_lead {
                asked.publish.clone()
            } else {
                Vec::new()
            },
            exit_status: there.and_then(|machine| match machine.state {
                MachineState::Exited(Exit::PoweredOff { status }) => status,
                _ => None,
            }),
            ..WorkloadReport::default()
        }
    }

    fn machine_state(
        &self,
        id: &WorkloadId,
        asked: &crate::desired::Machine,
        there: Option<&Machine>,
    ) -> (State, String) {
        if let Some(problem) = self.plan.problems.get(id) {
            return (State::Failed, problem.clone());
        }
        let resource = Resource::Machine(id.clone());
        if let Some(reason) = self.outcome.failed.get(&resource) {
            return (State::Failed, reason.clone());
        }
        match there.map(|machine| &machine.state) {
            Some(MachineState::Running | MachineState::Paused) => (State::Running, String::new()),
            Some(MachineState::Booting) => (State::Starting, String::new()),
            Some(MachineState::Stopping) => (State::Pending, "stopping".into()),
            Some(MachineState::Exited(exit)) => match exit {
                Exit::PoweredOff {
                    status: None | Some(0),
                } => (State::Stopped, String::new()),
                Exit::PoweredOff {
                    status: Some(status),
                } => (
                    State::Failed,
                    format!("its command ended with status {status}"),
                ),
                Exit::Killed => (State::Stopped, "ended by force".into()),
                Exit::Failed(reason) => (State::Failed, reason.clone()),
            },
            None if self.actual.images.ready(&asked.image).is_some() => {
                let why = self
                    .outcome
                    .waiting
                    .get(&resource)
                    .cloned()
                    .unwrap_or_default();
                (State::Pending, why)
            }
            None => match self.actual.images.attempts.get(&asked.image) {
                Some(ImageState::Failed(reason)) => (State::Failed, reason.clone()),
                Some(state @ ImageState::Fetching { .. }) => (State::Fetching, fetching(state)),
                Some(ImageState::Ready { .. }) | None => (State::Pending, String::new()),
            },
        }
    }
}

/// Whether two reports say the same to their reader: the time, how far a fetch is, and how full a
/// volume is change all the while, and are not worth a transaction each.
pub fn says_the_same(a: &Report, b: &Report) -> bool {
    essence(a) == essence(b)
}

fn essence(report: &Report) -> Report {
    let mut essence = report.clone();
    essence.time = 0;
    for workload in essence.workloads.values_mut() {
        workload.used = None;
        workload.console_position = None;
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
        Verdict::Rejected { reason } => format!("rejected: {reason}"),
    }
}
