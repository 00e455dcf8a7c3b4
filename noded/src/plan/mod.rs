//! The plan: a pure function of what is desired and what is there.
//!
//! Its steps, done in an order that keeps to what each waits for, turn the actual state into the
//! desired one; planned again from there, nothing is left to do. A machine that is wanted otherwise
//! than it runs goes through these phases, and whatever fails in one leaves all later ones undone:
//!
//! 1. all that can be made beside the old one is made: image, layer, volumes, networks, interfaces;
//! 2. init is asked whether it would take the new one;
//! 3. the old one stops;
//! 4. what both cannot have at once changes hands: addresses, ports, a network's subnet;
//! 5. the new one starts;
//! 6. once it runs, what only the old one needed is deleted: layers, volumes, images.
//!
//! | module | what |
//! |---|---|
//! | [`survey`] | for which contracts there is anything to do at all |
//! | [`target`] | what contracts want, in the daemons' terms |
//! | [`claim`] | who must let go of what, before another can have it |

mod claim;
mod survey;
mod target;

use std::collections::{BTreeMap, BTreeSet};

use loam_deployment::{ContractId, ImageDigest, Version};
use loam_node_api::{
    WorkloadId,
    image::ImageContent,
    network::{InterfaceId, NetworkSpec},
    storage::{Deletion, Volume, VolumeKey},
};

use self::{
    claim::{Claims, Release, runs},
    survey::{Survey, lacks},
    target::{Condition, MachineTarget, Target, by_contract},
};
use crate::{
    actual::Actual,
    course::Outcome,
    desired::{Desired, Fate},
    fingerprint::Disks,
    step::{Resource, Step},
};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Each comes behind all that it waits for.
    pub tasks: Vec<Task>,
    /// Machines that cannot be had as desired, and why. They get no steps.
    pub problems: BTreeMap<WorkloadId, String>,
    /// Machines of which an earlier version runs or has ended, with its fingerprint.
    pub outdated: BTreeMap<WorkloadId, String>,
    /// Machines that end by themselves. They are waited for as if they were stopped.
    pub ending: BTreeSet<WorkloadId>,
    /// Volumes that the version which stands does not name, and which are kept all the same: this
    /// version named them, which is no older.
    pub unproved: BTreeMap<VolumeKey, Version>,
}

/// A step with those that must be done before it, by their places in the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    pub step: Step,
    pub after: Vec<usize>,
}

/// What the daemons do not know, and noded remembers for as long as it lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Machines that ended a short while ago and wait out their back-off before a new start.
    pub held: BTreeSet<WorkloadId>,
    /// Machines that noded has stopped, and not started since: that they ended says nothing by their
    /// policy, whatever their status.
    pub stopped: BTreeSet<WorkloadId>,
}

impl Memory {
    /// Takes in what became of a plan.
    pub fn note(&mut self, plan: &Plan, outcome: &Outcome) {
        for task in &plan.tasks {
            let machine = task.step.resource();
            let is_done =
                !outcome.failed.contains_key(&machine) && !outcome.waiting.contains_key(&machine);
            let is_told = is_done || outcome.begun.contains(&machine);
            match &task.step {
                // One that waits for its turn runs on, and may end by itself before it comes.
                Step::MachineStop(id) if is_told && !plan.ending.contains(id) => {
                    self.stopped.insert(id.clone());
                }
                Step::MachineForget(id) if is_done => {
                    self.stopped.remove(id);
                }
                Step::MachineStart(plan) if is_done => {
                    self.stopped.remove(&plan.id);
                }
                _ => {}
            }
        }
    }
}

pub fn plan(desired: &Desired, actual: &Actual, memory: &Memory) -> Plan {
    let survey = Survey::new(desired, actual, &memory.stopped);
    plan_surveyed(survey, desired, actual, &memory.held)
}

fn plan_surveyed(
    mut survey: Survey<'_>,
    desired: &Desired,
    actual: &Actual,
    held: &BTreeSet<WorkloadId>,
) -> Plan {
    let claims = Claims::settle(&mut survey, desired, actual);
    let mut planner = Planner {
        desired,
        actual,
        held,
        survey: &survey,
        claims: &claims,
        tasks: Vec::new(),
        last: BTreeMap::new(),
        checks: BTreeMap::new(),
        stops: BTreeMap::new(),
        freed: BTreeMap::new(),
        ending: BTreeMap::new(),
    };
    planner.stop_unwanted();
    planner.make();
    planner.check();
    planner.delete_left_behind();
    planner.stop_outdated();
    planner.change_hands();
    planner.attach();
    planner.start();
    let unproved = planner.delete_volumes();
    planner.delete_images();
    let tasks = planner.tasks;
    let mut plan = Plan {
        tasks,
        unproved,
        ..Plan::default()
    };
    for machine in survey.targets.iter().flat_map(|t| &t.machines) {
        if let Some(problem) = &machine.problem {
            plan.problems.insert(machine.id.clone(), problem.clone());
        }
        if machine.condition == Condition::Ending {
            plan.ending.insert(machine.id.clone());
        }
        let Some(there) = actual.machines.get(&machine.id) else {
            continue;
        };
        let is_earlier = match machine.condition {
            Condition::Outdated | Condition::Stopping => true,
            Condition::Ended => !machine.fingerprint.is_of(&there.fingerprint),
            _ => false,
        };
        if is_earlier {
            plan.outdated
                .insert(machine.id.clone(), there.fingerprint.clone());
        }
    }
    plan
}

struct Planner<'p, 'a> {
    desired: &'p Desired,
    actual: &'p Actual,
    held: &'p BTreeSet<WorkloadId>,
    survey: &'p Survey<'a>,
    claims: &'p Claims,
    tasks: Vec<Task>,
    /// The last step on each thing so far.
    last: BTreeMap<Resource, usize>,
    /// The check of each machine that is to be replaced.
    checks: BTreeMap<WorkloadId, usize>,
    /// The stop of each machine that is to stop.
    stops: BTreeMap<WorkloadId, usize>,
    /// Where each interface lets go of what it has.
    freed: BTreeMap<InterfaceId, usize>,
    /// Contracts with machines that shall not run in any version, and the last steps on these.
    ending: BTreeMap<ContractId, Vec<usize>>,
}

impl<'p, 'a> Planner<'p, 'a> {
    /// The step waits for earlier ones on the same thing, and for the tasks in `after`.
    fn push(&mut self, step: Step, after: impl IntoIterator<Item = usize>) -> usize {
        let index = self.tasks.len();
        let resource = step.resource();
        let mut after: Vec<usize> = after.into_iter().collect();
        after.extend(self.last.insert(resource, index));
        after.sort_unstable();
        after.dedup();
        self.tasks.push(Task { step, after });
        index
    }

    fn last(&self, resource: Resource) -> Option<usize> {
        self.last.get(&resource).copied()
    }

    fn machines(
        &self,
    ) -> impl Iterator<Item = (&'p Target<'a>, &'p MachineTarget<'a>)> + use<'p, 'a> {
        let targets = self.survey.targets.iter();
        targets
            .flat_map(|target| target.machines.iter().map(move |machine| (target, machine)))
            .filter(|(_, machine)| machine.problem.is_none())
    }

    /// Whether there may be something to do for a contract.
    fn moves(&self, contract: ContractId) -> bool {
        !self.survey.at_rest.has(contract)
    }

    fn target(&self, contract: ContractId) -> Option<&'p Target<'a>> {
        by_contract(&self.survey.targets, contract)
    }

    fn machine(&self, id: &WorkloadId) -> Option<&'p MachineTarget<'a>> {
        self.target(id.contract)?.machine(&id.name)
    }

    fn stop(&mut self, id: &WorkloadId, after: impl IntoIterator<Item = usize>) {
        let stop = self.push(Step::MachineStop(id.clone()), after);
        self.stops.insert(id.clone(), stop);
    }

    /// Machines that shall not run in any version.
    fn stop_unwanted(&mut self) {
        for id in self.actual.machines.keys() {
            if !self.moves(id.contract) {
                continue;
            }
            let kept = match self.desired.of(id.contract) {
                Fate::Kept(kept) => Some(kept),
                Fate::Stated(..) | Fate::Cancelled => None,
            };
            let owned = kept.is_some_and(|kept| kept.owns(&Resource::Machine(id.clone())));
            if owned || self.machine(id).is_some() {
                continue;
            }
            if runs(id, self.actual) {
                self.stop(id, None);
            }
            // Of a kept contract it is not known whether the machine will be wanted again.
            if kept.is_none() {
                let forget = self.push(Step::MachineForget(id.clone()), None);
                self.ending.entry(id.contract).or_default().push(forget);
            }
        }
    }

    /// All that the machines that now run do not mind.
    fn make(&mut self) {
        let mut images = BTreeSet::new();
        for (_, machine) in self.machines() {
            let asked = machine.asked;
            // Of a contract with several logins for one image, the first counts.
            if self.actual.images.ready(asked.image_content()).is_none()
                && images.insert((&asked.image, asked.image_content()))
            {
                self.push(Step::ImageEnsure(asked.image_request()), None);
            }
        }
        // What is halted keeps what it has, and gets nothing.
        for target in self.survey.targets.iter().filter(|target| target.runs) {
            let version = target.version();
            for (key, spec) in target.needed_volumes() {
                let there = self.actual.volumes.get(&key);
                if there.is_none_or(|volume| lacks(volume, &spec, version)) {
                    self.push(Step::VolumeEnsure(key, spec, version), None);
                }
            }
            for (name, spec) in &target.workloads.networks {
                let id = WorkloadId::new(target.contract, name.clone());
                if !self.actual.networks.contains_key(&id) {
                    self.push(Step::NetworkEnsure(id, spec.clone()), None);
                }
            }
        }
        for (target, machine) in self.machines() {
            for (planned, spec) in &machine.interfaces {
                let id = &planned.id;
                let changes = self.changed(target, &id.network).is_some();
                if !self.actual.interfaces.contains_key(id)
                    && !self.claims.in_the_way.contains_key(id)
                    && !changes
                {
                    let after = self.last(Resource::Network(id.network.clone()));
                    self.push(Step::InterfaceEnsure(id.clone(), spec.clone()), after);
                }
            }
        }
    }

    /// What a network of the target shall be that is there and is otherwise.
    fn changed<'t>(&self, target: &Target<'t>, id: &WorkloadId) -> Option<&'t NetworkSpec> {
        let there = self.actual.networks.get(id)?;
        target.network(id).filter(|wanted| **wanted != there.spec)
    }

    /// What the machine needs and is being made or changed.
    fn needs(&self, machine: &MachineTarget<'_>) -> Vec<usize> {
        let image = Resource::Image(machine.asked.image_needed());
        let volumes = machine.mounts().chain([machine.root.clone()]);
        let volumes = volumes.map(Resource::Volume);
        let interfaces = machine.interfaces.iter().flat_map(|(planned, _)| {
            let network = planned.id.network.clone();
            [
                Resource::Interface(planned.id.clone()),
                Resource::Network(network),
            ]
        });
        std::iter::once(image)
            .chain(volumes)
            .chain(interfaces)
            .filter_map(|resource| self.last(resource))
            .collect()
    }

    fn check(&mut self) {
        for (target, machine) in self.machines() {
            if machine.condition == Condition::Outdated {
                self.check_networks(target, machine);
                let needs = self.needs(machine);
                let step = Step::MachineCheck(machine.plan(target.workloads));
                let check = self.push(step, needs);
                self.checks.insert(machine.id.clone(), check);
            }
        }
    }

    /// Networks that change for the machine's successor.
    fn check_networks(&mut self, target: &Target<'_>, machine: &MachineTarget<'_>) {
        for (planned, _) in &machine.interfaces {
            let id = &planned.id.network;
            if let Some(wanted) = self.changed(target, id)
                && self.last(Resource::Network(id.clone())).is_none()
            {
                self.push(Step::NetworkCheck(id.clone(), wanted.clone()), None);
            }
        }
    }

    /// Interfaces that no machine uses, though theirs runs.
    fn delete_left_behind(&mut self) {
        for id in self.actual.interfaces.keys() {
            if self.runs_without(id) {
                let delete = self.push(Step::InterfaceDelete(id.clone()), None);
                self.freed.insert(id.clone(), delete);
            }
        }
    }

    fn stop_outdated(&mut self) {
        // Those on their way down are awaited, also by others, and so come first.
        for (_, machine) in self.machines() {
            if matches!(machine.condition, Condition::Stopping | Condition::Ending) {
                self.stop(&machine.id, None);
            }
        }
        for (_, machine) in self.machines() {
            if machine.condition == Condition::Outdated {
                let after = self.readiness(&machine.id);
                self.stop(&machine.id, after);
            }
        }
    }

    /// What must be done before the machine may be stopped for another version of it: that version,
    /// and those of all whose place it waits for, are known to start; and who of these is on its way
    /// down already has ended. What was left behind is gone.
    fn readiness(&self, id: &WorkloadId) -> Vec<usize> {
        let mut ready = Vec::new();
        let mut seen = BTreeSet::from([id]);
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            match self.checks.get(id) {
                Some(check) => ready.push(*check),
                None => ready.extend(self.stops.get(id)),
            }
            let interfaces = self.machine(id).into_iter().flat_map(|m| &m.interfaces);
            let left = interfaces
                .filter_map(|(planned, _)| self.claims.in_the_way.get(&planned.id))
                .flatten();
            ready.extend(left.filter_map(|holder| self.freed.get(holder)));
            let holders = self.claims.before.get(id).into_iter().flatten();
            open.extend(holders.filter(|holder| seen.insert(*holder)));
        }
        ready
    }

    /// After which step the machine does not run; none if it goes on running.
    fn end_of(&self, machine: &WorkloadId) -> Option<Option<usize>> {
        if runs(machine, self.actual) {
            self.stops.get(machine).map(|stop| Some(*stop))
        } else {
            Some(None)
        }
    }

    /// Interfaces and networks that are not wanted, or are in another's way.
    fn change_hands(&mut self) {
        let mut staying: BTreeSet<&WorkloadId> = BTreeSet::new();
        for (id, interface) in &self.actual.interfaces {
            if !self.moves(id.machine.contract) {
                continue;
            }
            let resource = Resource::Interface(id.clone());
            let kept = match self.desired.of(id.machine.contract) {
                Fate::Kept(kept) => kept.owns(&resource),
                Fate::Stated(..) | Fate::Cancelled => false,
            };
            let machine = self.machine(&id.machine);
            let wanted = machine.and_then(|machine| machine.interface(id));
            let release = self.claims.releases.get(id);
            // One with a problem is left as it is for as long as it runs.
            if let Some(Release::Ports(given)) = release
                && machine.is_some_and(|machine| machine.problem.is_none())
                && !self.freed.contains_key(id)
            {
                let mut spec = interface.spec.clone();
                spec.publish
                    .retain(|publish| !given.contains(&(publish.protocol, publish.node_port)));
                let freed = self.push(Step::InterfaceEnsure(id.clone(), spec), None);
                self.freed.insert(id.clone(), freed);
            }
            let goes = !kept && (wanted.is_none() || release == Some(&Release::Delete));
            let after = self.may_lose(id).filter(|_| goes);
            if let Some(after) = after
                && !self.freed.contains_key(id)
            {
                let delete = self.push(Step::InterfaceDelete(id.clone()), after);
                self.freed.insert(id.clone(), delete);
            }
            if after.is_none() || wanted.is_some() {
                staying.insert(&id.network);
            }
        }
        self.change_networks(&staying);
    }

    /// Whether the interface can be taken from its machine, and after which step.
    fn may_lose(&self, id: &InterfaceId) -> Option<Option<usize>> {
        if self.runs_without(id) {
            return Some(None);
        }
        self.end_of(&id.machine)
    }

    fn runs_without(&self, id: &InterfaceId) -> bool {
        self.machine(&id.machine).is_some_and(|machine| {
            matches!(machine.condition, Condition::Runs { .. }) && machine.interface(id).is_none()
        })
    }

    fn change_networks(&mut self, staying: &BTreeSet<&WorkloadId>) {
        let mut on: BTreeMap<&WorkloadId, Vec<&InterfaceId>> = BTreeMap::new();
        let unchanged = |id: &WorkloadId, spec| {
            let target = self.target(id.contract);
            target.and_then(|target| target.network(id)) == Some(spec)
        };
        let changing: Vec<_> = self
            .actual
            .networks
            .values()
            .filter(|network| self.moves(network.id.contract))
            .filter(|network| !unchanged(&network.id, &network.spec))
            .collect();
        if changing.is_empty() {
            return;
        }
        for id in self.actual.interfaces.keys() {
            on.entry(&id.network).or_default().push(id);
        }
        for network in changing {
            let id = &network.id;
            let interfaces = on.remove(id).unwrap_or_default();
            let wanted = match self.desired.of(id.contract) {
                Fate::Kept(kept) if kept.owns(&Resource::Network(id.clone())) => continue,
                _ => match self.target(id.contract) {
                    // What is halted keeps what it has.
                    Some(target) if !target.runs => continue,
                    target => target.and_then(|target| target.network(id)),
                },
            };
            if let Some(spec) = wanted {
                let outdated = interfaces.iter().filter(|interface| {
                    let machine = self.machine(&interface.machine);
                    !machine.is_some_and(|m| matches!(m.condition, Condition::Runs { .. }))
                });
                let ends: Option<Vec<_>> = outdated.map(|i| self.end_of(&i.machine)).collect();
                // Someone who cannot be moved runs on it.
                let Some(ends) = ends else { continue };
                let step = Step::NetworkEnsure(id.clone(), spec.clone());
                self.push(step, ends.into_iter().flatten());
            } else if !staying.contains(id) {
                let gone = interfaces
                    .into_iter()
                    .filter_map(|id| self.last(Resource::Interface(id.clone())));
                let gone: Vec<_> = gone.collect();
                self.push(Step::NetworkDelete(id.clone()), gone);
            }
        }
    }

    /// Interfaces that could not be made or changed before.
    fn attach(&mut self) {
        for (_, machine) in self.machines() {
            for (planned, spec) in &machine.interfaces {
                let id = &planned.id;
                let now = match self.last(Resource::Interface(id.clone())) {
                    Some(last) => match &self.tasks[last].step {
                        Step::InterfaceEnsure(_, spec) => Some(spec),
                        _ => None,
                    },
                    None => {
                        let there = self.actual.interfaces.get(id);
                        there
                            .filter(|there| there.in_force)
                            .map(|there| &there.spec)
                    }
                };
                if now == Some(spec) {
                    continue;
                }
                let in_the_way = self.claims.in_the_way.get(id).into_iter().flatten();
                let mut after: Vec<_> = in_the_way
                    .filter_map(|other| self.freed.get(other).copied())
                    .collect();
                after.extend(self.last(Resource::Network(id.network.clone())));
                if !matches!(machine.condition, Condition::Runs { .. }) {
                    after.extend(self.end_of(&machine.id).flatten());
                }
                self.push(Step::InterfaceEnsure(id.clone(), spec.clone()), after);
            }
        }
    }

    fn start(&mut self) {
        for (target, machine) in self.machines() {
            let starts = match machine.condition {
                Condition::Absent | Condition::Ended => !self.held.contains(&machine.id),
                Condition::Stopping | Condition::Outdated => true,
                Condition::Ending
                | Condition::Runs { .. }
                | Condition::Finished
                | Condition::GaveUp => false,
            };
            if !starts {
                continue;
            }
            let mut after = self.needs(machine);
            let holders = self.claims.before.get(&machine.id).into_iter().flatten();
            after.extend(holders.filter_map(|holder| self.end_of(holder).flatten()));
            let step = Step::MachineStart(machine.plan(target.workloads));
            self.push(step, after);
        }
    }

    /// Volumes that are not named any more, as far as the chain proves it. Gives those for which it
    /// does not.
    fn delete_volumes(&mut self) -> BTreeMap<VolumeKey, Version> {
        let mut unproved = BTreeMap::new();
        let mut unnamed = Vec::new();
        for (key, volume) in &self.actual.volumes {
            if !self.moves(key.contract()) {
                continue;
            }
            match self.desired.of(key.contract()) {
                // Absence from the chain's list proves nothing, nor do bytes that are refused.
                Fate::Kept(_) => {}
                Fate::Cancelled => {
                    let ends = self.ending.get(&key.contract()).cloned();
                    let step = Step::VolumeDelete(key.clone(), Deletion::Cancelled);
                    self.push(step, ends.unwrap_or_default());
                }
                Fate::Stated(..) => match self.target(key.contract()) {
                    Some(target) if target.names(key) => {}
                    Some(target) if target.version() <= volume.version => {
                        unproved.insert(key.clone(), volume.version);
                    }
                    Some(target) => unnamed.push((target, volume)),
                    None => {}
                },
            }
        }
        let predecessors = self.predecessors(&unnamed);
        for (target, volume) in unnamed {
            let missed = match &volume.key {
                VolumeKey::Root { machine, image } if target.machine(&machine.name).is_some() => {
                    predecessors.get(machine).is_some_and(|old| old == image)
                }
                _ => !target.is_settled() || self.ending.contains_key(&target.contract),
            };
            if !missed {
                let by = target.version();
                let step = Step::VolumeDelete(volume.key.clone(), Deletion::Unnamed { by });
                self.push(step, None);
            }
        }
        unproved
    }

    /// The layer to which each machine would go back that is not yet where it is wanted, by its image.
    /// There is one, however many versions came to nothing since: the one that runs or ran, else
    /// that which the oldest version named.
    fn predecessors(
        &self,
        unnamed: &[(&Target<'_>, &Volume)],
    ) -> BTreeMap<WorkloadId, ImageDigest> {
        let mut oldest: BTreeMap<WorkloadId, (Version, ImageDigest)> = BTreeMap::new();
        for (target, volume) in unnamed {
            let VolumeKey::Root { machine, image } = &volume.key else {
                continue;
            };
            let Some(successor) = target.machine(&machine.name) else {
                continue;
            };
            if successor.is_settled() {
                continue;
            }
            let there = self.actual.machines.get(machine);
            let disks = there.map(|there| Disks::of(&there.fingerprint));
            let uses = disks.as_ref().and_then(Disks::image);
            let wanted = successor.asked.image.digest();
            let age = match uses {
                Some(used) if used == *image => Version(0),
                // What it uses is neither this layer nor the wanted one.
                Some(used) if used != wanted => continue,
                _ => volume.version,
            };
            let found = (age, *image);
            let entry = oldest.entry(machine.clone()).or_insert(found);
            *entry = found.min(*entry);
        }
        let layer = |(machine, (_, image))| (machine, image);
        oldest.into_iter().map(layer).collect()
    }

    /// Images that no machine needs which could be started: neither by a deployment nor, of one that
    /// is kept or might be gone back to, by a layer over the image. Whether such a one was of what is
    /// anybody's or of the contract's own, a layer does not tell, so that both stay for it.
    fn delete_images(&mut self) {
        let images = &self.actual.images;
        let named = &self.survey.images;
        let mut unneeded: BTreeMap<ImageContent, _> = images
            .ready
            .iter()
            .filter(|(content, _)| !named.contains(content))
            .map(|(content, ready)| (*content, (ready.image.clone(), Vec::new())))
            .collect();
        if !unneeded.is_empty() {
            for machine in self.actual.machines.values() {
                for content in Disks::of(&machine.fingerprint).images(machine.id.contract) {
                    unneeded.remove(&content);
                }
            }
            for key in self.actual.volumes.keys() {
                let VolumeKey::Root { image, .. } = key else {
                    continue;
                };
                // Of a layer that is named, so is the image.
                if self.desired.names(key) {
                    continue;
                }
                let delete = self.last(Resource::Volume(key.clone()));
                for only_for in [None, Some(key.contract())] {
                    let digest = *image;
                    let content = ImageContent { digest, only_for };
                    match delete {
                        Some(delete) => {
                            if let Some((_, after)) = unneeded.get_mut(&content) {
                                after.push(delete);
                            }
                        }
                        None => {
                            unneeded.remove(&content);
                        }
                    }
                }
            }
        }
        // To delete an attempt at what is ready would delete what is ready.
        let mut attempts: Vec<_> = images.attempts.keys().collect();
        attempts.retain(|image| images.ready(image.content()).is_none());
        if !attempts.is_empty() {
            let fetched = self.machines().map(|(_, m)| m.asked.image_needed());
            let fetched: BTreeSet<_> = fetched.collect();
            attempts.retain(|image| !fetched.contains(image));
        }
        for image in attempts {
            self.push(Step::ImageDelete(image.clone()), None);
        }
        for (image, after) in unneeded.into_values() {
            self.push(Step::ImageDelete(image), after);
        }
    }
}

#[cfg(test)]
mod tests;
