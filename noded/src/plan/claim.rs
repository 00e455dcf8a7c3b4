//! Who must let go of what, before another can have it.
//!
//! An address of a network, a port of the node and a volume are one machine's at a time. Where
//! machines change such things among themselves, also in a circle, the holders let go first; and
//! none of them is stopped before all that it would wait for can be had.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use loam_deployment::{
    ContractId,
    payload::{Protocol, Publish},
};
use loam_node_api::{
    WorkloadId,
    machine::MachineState,
    network::{Interface, InterfaceId, InterfaceSpec},
};

use super::{
    survey::{AtRest, Survey},
    target::{Condition, MachineTarget, Target, by_contract},
};
use crate::{
    actual::Actual,
    desired::{Desired, Fate},
    fingerprint::Disks,
    step::Resource,
};

#[derive(Debug, Default)]
pub struct Claims {
    /// Interfaces that have what another's shall get.
    pub in_the_way: BTreeMap<InterfaceId, BTreeSet<InterfaceId>>,
    /// Machines that have what another shall get, in whatever way.
    pub before: BTreeMap<WorkloadId, BTreeSet<WorkloadId>>,
    /// Interfaces that must let go of something.
    pub releases: BTreeMap<InterfaceId, Release>,
}

/// How an interface lets go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Release {
    /// The machine does not run, or not when its turn comes.
    Delete,
    /// The machine runs on, with these ports less.
    Ports(BTreeSet<Port>),
}

pub type Port = (Protocol, u16);

impl Claims {
    /// Finds them, and notes as a problem of its target what a machine can never have.
    pub fn settle(survey: &mut Survey<'_>, desired: &Desired, actual: &Actual) -> Self {
        let Survey {
            targets, at_rest, ..
        } = survey;
        if !targets
            .iter()
            .flat_map(|target| &target.machines)
            .any(|machine| changes(machine, actual))
        {
            return Self::default();
        }
        let mut claims = Self::default();
        let mut problems = Vec::new();
        {
            let holders = Holders::new(targets, at_rest, desired, actual);
            for target in targets.iter() {
                for machine in &target.machines {
                    if machine.problem.is_none()
                        && changes(machine, actual)
                        && let Err(problem) = claims.of_machine(target, machine, &holders)
                    {
                        problems.push((machine.id.clone(), problem));
                    }
                }
            }
        }
        claims.pass_on(problems, targets, actual);
        claims
    }

    fn of_machine(
        &mut self,
        target: &Target<'_>,
        machine: &MachineTarget<'_>,
        holders: &Holders<'_, '_>,
    ) -> Result<(), String> {
        for (planned, spec) in &machine.interfaces {
            let id = &planned.id;
            for port in ports(spec) {
                let holder = holders.ports.get(&port).copied();
                if holder == Some(id) {
                    continue;
                }
                let keeps = |spec: &InterfaceSpec| ports(spec).any(|other| other == port);
                let first = holders.wanted.get(&port).copied();
                let keeper = holder
                    .filter(|holder| holders.stays(holder, keeps))
                    .or(first.filter(|first| *first != id));
                if let Some(keeper) = keeper {
                    let keeper = &keeper.machine;
                    return Err(format!("port {} of the node leads to {keeper}", port.1));
                }
                if let Some(holder) = holder {
                    self.wait(id, holder);
                    self.release(holder, holders, Some(port));
                }
            }
            for address in &spec.addresses {
                let place = (&id.network, *address);
                let holder = holders
                    .addresses
                    .get(&place)
                    .filter(|holder| **holder != id);
                if let Some(holder) = holder {
                    let keeps = |spec: &InterfaceSpec| spec.addresses.contains(address);
                    if holders.stays(holder, keeps) {
                        let holder = &holder.machine;
                        return Err(format!("{holder} still has the address {address}"));
                    }
                    self.wait(id, holder);
                    self.release(holder, holders, None);
                }
            }
            // A network changes for all that hang on it at once.
            if holders.changing.contains(&id.network) {
                for other in holders.on.get(&id.network).into_iter().flatten() {
                    self.wait_for(&machine.id, other);
                }
            }
        }
        for (other, disks) in holders.disks.get(&target.contract).into_iter().flatten() {
            if machine
                .asked
                .volumes
                .keys()
                .any(|name| disks.may_hold(name))
            {
                self.wait_for(&machine.id, other);
            }
        }
        Ok(())
    }

    fn wait(&mut self, id: &InterfaceId, holder: &InterfaceId) {
        self.in_the_way
            .entry(id.clone())
            .or_default()
            .insert(holder.clone());
        self.wait_for(&id.machine, &holder.machine);
    }

    fn wait_for(&mut self, machine: &WorkloadId, holder: &WorkloadId) {
        if machine != holder {
            self.before
                .entry(machine.clone())
                .or_default()
                .insert(holder.clone());
        }
    }

    /// A running machine whose interface changes in its ports only need not lose it.
    fn release(&mut self, holder: &InterfaceId, holders: &Holders<'_, '_>, port: Option<Port>) {
        let runs_on = holders
            .target(&holder.machine)
            .is_some_and(|machine| matches!(machine.condition, Condition::Runs { .. }));
        let release = self
            .releases
            .entry(holder.clone())
            .or_insert_with(|| Release::Ports(BTreeSet::new()));
        match (release, port) {
            (Release::Ports(ports), Some(port)) if runs_on => {
                ports.insert(port);
            }
            (release, _) => *release = Release::Delete,
        }
    }

    /// Who waits for what never comes cannot have it either.
    fn pass_on(
        &self,
        mut problems: Vec<(WorkloadId, String)>,
        targets: &mut [Target<'_>],
        actual: &Actual,
    ) {
        let mut waiting: BTreeMap<&WorkloadId, Vec<&WorkloadId>> = BTreeMap::new();
        for (machine, holders) in &self.before {
            for holder in holders {
                waiting.entry(holder).or_default().push(machine);
            }
        }
        // Those without an address were known before.
        for machine in targets.iter().flat_map(|target| &target.machines) {
            if let Some(problem) = &machine.problem {
                problems.push((machine.id.clone(), problem.clone()));
            }
        }
        let mut stuck = BTreeMap::new();
        while let Some((id, problem)) = problems.pop() {
            if stuck.contains_key(&id) {
                continue;
            }
            // Who does not run holds nothing for long.
            if runs(&id, actual) {
                for waiter in waiting.get(&id).into_iter().flatten() {
                    problems.push((
                        (*waiter).clone(),
                        format!("waits for {id}, of which an earlier version runs: {problem}"),
                    ));
                }
            }
            stuck.insert(id, problem);
        }
        for target in targets.iter_mut() {
            for machine in &mut target.machines {
                if let Some(problem) = stuck.remove(&machine.id) {
                    machine.problem = Some(problem);
                }
            }
        }
    }
}

/// Whether the node has to do something for the machine that others could be in the way of.
pub fn changes(machine: &MachineTarget<'_>, actual: &Actual) -> bool {
    let calm = matches!(
        machine.condition,
        Condition::Runs { .. } | Condition::Finished | Condition::GaveUp
    );
    !calm
        || machine.interfaces.iter().any(|(planned, spec)| {
            let there = actual.interfaces.get(&planned.id);
            there.is_none_or(|interface| interface.spec != *spec || !interface.in_force)
        })
}

pub fn runs(machine: &WorkloadId, actual: &Actual) -> bool {
    let there = actual.machines.get(machine);
    there.is_some_and(|machine| !matches!(machine.state, MachineState::Exited(_)))
}

pub fn ports(spec: &InterfaceSpec) -> impl Iterator<Item = Port> {
    let port = |publish: &Publish| (publish.protocol, publish.node_port);
    spec.publish.iter().map(port)
}

/// Who has what now, and who wants it.
struct Holders<'t, 'a> {
    targets: &'t [Target<'a>],
    desired: &'t Desired,
    actual: &'t Actual,
    ports: BTreeMap<Port, &'t InterfaceId>,
    addresses: BTreeMap<(&'t WorkloadId, IpAddr), &'t InterfaceId>,
    /// By the first that wants it.
    wanted: BTreeMap<Port, &'t InterfaceId>,
    /// Networks that are there and are wanted otherwise.
    changing: BTreeSet<&'t WorkloadId>,
    /// Machines of each contract that run otherwise than wanted, with what they may hold.
    disks: BTreeMap<ContractId, Vec<(&'t WorkloadId, Disks)>>,
    /// Those of them that hang on each network.
    on: BTreeMap<&'t WorkloadId, Vec<&'t WorkloadId>>,
}

impl<'t, 'a> Holders<'t, 'a> {
    fn new(
        targets: &'t [Target<'a>],
        at_rest: &AtRest,
        desired: &'t Desired,
        actual: &'t Actual,
    ) -> Self {
        // Who is at rest holds nothing that another wants.
        let moves = |machine: &WorkloadId| !at_rest.has(machine.contract);
        let interfaces = || {
            let all = actual.interfaces.values();
            all.filter(|interface| moves(&interface.id.machine))
        };
        let with_ports = |interface: &'t Interface| {
            ports(&interface.spec).map(move |port| (port, &interface.id))
        };
        let with_addresses = |interface: &'t Interface| {
            let place = move |address: &IpAddr| ((&interface.id.network, *address), &interface.id);
            interface.spec.addresses.iter().map(place)
        };
        let mut wanted = BTreeMap::new();
        for machine in targets.iter().flat_map(|target| &target.machines) {
            for (planned, spec) in &machine.interfaces {
                for port in ports(spec) {
                    wanted.entry(port).or_insert(&planned.id);
                }
            }
        }
        let changing = actual.networks.values().filter(|network| {
            let target = by_contract(targets, network.id.contract);
            let wanted = target.and_then(|target| target.network(&network.id));
            wanted.is_some_and(|spec| *spec != network.spec)
        });
        let mut holders = Self {
            targets,
            desired,
            actual,
            ports: interfaces().flat_map(with_ports).collect(),
            addresses: interfaces().flat_map(with_addresses).collect(),
            wanted,
            changing: changing.map(|network| &network.id).collect(),
            disks: BTreeMap::new(),
            on: BTreeMap::new(),
        };
        for machine in actual.machines.values().filter(|m| moves(&m.id)) {
            let id = &machine.id;
            let as_wanted = holders
                .target(id)
                .is_some_and(|target| matches!(target.condition, Condition::Runs { .. }));
            if runs(id, actual) && !as_wanted {
                let disks = (id, Disks::of(&machine.fingerprint));
                holders.disks.entry(id.contract).or_default().push(disks);
            }
        }
        for id in interfaces().map(|interface| &interface.id) {
            let others = holders.disks.get(&id.machine.contract);
            if others.is_some_and(|others| others.iter().any(|(other, _)| **other == id.machine)) {
                holders.on.entry(&id.network).or_default().push(&id.machine);
            }
        }
        holders
    }

    fn target(&self, machine: &WorkloadId) -> Option<&'t MachineTarget<'a>> {
        by_contract(self.targets, machine.contract)?.machine(&machine.name)
    }

    /// Whether the interface goes on having what its wanted state tells by `keeps`.
    fn stays(&self, id: &InterfaceId, keeps: impl Fn(&InterfaceSpec) -> bool) -> bool {
        if let Fate::Kept(kept) = self.desired.of(id.machine.contract) {
            return kept.owns(&Resource::Interface(id.clone()));
        }
        match self.target(&id.machine) {
            None => false,
            Some(machine) if machine.problem.is_some() => runs(&machine.id, self.actual),
            Some(machine) => machine.interface(id).is_some_and(keeps),
        }
    }
}
