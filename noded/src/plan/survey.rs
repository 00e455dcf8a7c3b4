//! Who is at rest: on most days, nearly everybody.
//!
//! A contract is at rest when all that it wants is there as it wants it, and nothing else of it is:
//! a plan has no step for it. That is seen of one contract after another, and what was computed for it
//! is dropped at once: with ten thousand of them, memory that has left the processor's caches would
//! cost more than all that is computed.

use std::collections::BTreeSet;

use loam_deployment::{ContractId, Version};
use loam_node_api::{
    WorkloadId,
    image::ImageContent,
    storage::{Volume, VolumeSpec},
};

use super::{
    claim::{Port, changes, ports},
    target::{MachineTarget, Target},
};
use crate::{
    actual::Actual,
    desired::{Desired, Fate, Machine},
    owned,
};

#[derive(Debug)]
pub struct Survey<'a> {
    /// Of contracts of which it is known what they want and that are not at rest, in their order.
    pub targets: Vec<Target<'a>>,
    pub at_rest: AtRest,
    /// Images that any deployment names.
    pub images: BTreeSet<ImageContent>,
}

/// Contracts that a plan does nothing for. Their machines have what they want.
#[derive(Debug, Default)]
pub struct AtRest(Vec<ContractId>);

impl AtRest {
    pub fn has(&self, contract: ContractId) -> bool {
        self.0.binary_search(&contract).is_ok()
    }
}

impl<'a> Survey<'a> {
    pub fn new(desired: &'a Desired, actual: &Actual, stopped: &BTreeSet<WorkloadId>) -> Self {
        Self::with(desired, actual, stopped, is_at_rest)
    }

    /// As if nobody were at rest. The plan is the same.
    #[cfg(test)]
    pub fn of_all(desired: &'a Desired, actual: &Actual, stopped: &BTreeSet<WorkloadId>) -> Self {
        Self::with(desired, actual, stopped, |_, _| false)
    }

    fn with(
        desired: &'a Desired,
        actual: &Actual,
        stopped: &BTreeSet<WorkloadId>,
        is_at_rest: impl Fn(&Target<'_>, &Actual) -> bool,
    ) -> Self {
        let mut survey = Self {
            targets: Vec::new(),
            at_rest: AtRest::default(),
            images: BTreeSet::new(),
        };
        for contract in desired.contracts.keys() {
            let Some(target) = target(desired, *contract, actual, stopped) else {
                continue;
            };
            let machines = target.workloads.machines.values();
            survey.images.extend(machines.map(Machine::image_content));
            if is_at_rest(&target, actual) {
                survey.at_rest.0.push(*contract);
            } else {
                survey.targets.push(target);
            }
        }
        let woken = survey.in_the_way(actual);
        if !woken.is_empty() {
            survey
                .at_rest
                .0
                .retain(|contract| !woken.contains(contract));
            let woken = woken.iter();
            let woken = woken.filter_map(|contract| target(desired, *contract, actual, stopped));
            survey.targets.extend(woken);
            survey.targets.sort_by_key(|target| target.contract);
        }
        survey
    }

    /// Contracts at rest with a port of the node that another's machine shall get. All else that
    /// machines have to themselves is within one contract.
    fn in_the_way(&self, actual: &Actual) -> BTreeSet<ContractId> {
        let machines = self.targets.iter().flat_map(|target| &target.machines);
        let changing = machines.filter(|machine| changes(machine, actual));
        let specs = changing.flat_map(|machine| machine.interfaces.iter().map(|(_, spec)| spec));
        let wanted: BTreeSet<Port> = specs.flat_map(ports).collect();
        if wanted.is_empty() {
            return BTreeSet::new();
        }
        let holders = actual.interfaces.iter().filter(|(id, there)| {
            self.at_rest.has(id.machine.contract)
                && ports(&there.spec).any(|port| wanted.contains(&port))
        });
        holders.map(|(id, _)| id.machine.contract).collect()
    }
}

/// If it is known what the contract wants.
fn target<'a>(
    desired: &'a Desired,
    contract: ContractId,
    actual: &Actual,
    stopped: &BTreeSet<WorkloadId>,
) -> Option<Target<'a>> {
    match desired.of(contract) {
        Fate::Stated(stated, halt) => Some(Target::of(
            contract,
            stated,
            halt.is_none(),
            actual,
            stopped,
        )),
        Fate::Kept(_) | Fate::Cancelled => None,
    }
}

fn is_at_rest(target: &Target<'_>, actual: &Actual) -> bool {
    let rests = |machine: &MachineTarget<'_>| {
        machine.problem.is_none()
            && !changes(machine, actual)
            && actual.images.ready(machine.asked.image_content()).is_some()
    };
    target.runs
        && target.machines.iter().all(rests)
        && volumes_are_as_wanted(target, actual)
        && networks_are_as_wanted(target, actual)
        // All that is wanted is there, and where no more is there, nothing else is.
        && owned::of(&actual.machines, target.contract).count() == target.machines.len()
        && owned::of(&actual.interfaces, target.contract).count() == target.interfaces()
}

fn volumes_are_as_wanted(target: &Target<'_>, actual: &Actual) -> bool {
    let mut wanted = 0;
    let all_there = target.needed_volumes().all(|(key, spec)| {
        wanted += 1;
        let there = actual.volumes.get(&key);
        there.is_some_and(|volume| !lacks(volume, &spec, target.version()))
    });
    all_there && owned::volumes(&actual.volumes, target.contract).count() == wanted
}

fn networks_are_as_wanted(target: &Target<'_>, actual: &Actual) -> bool {
    let wanted = target.workloads.networks.iter();
    let there = owned::of(&actual.networks, target.contract);
    let there = there.map(|(id, network)| (&id.name, &network.spec));
    wanted.eq(there)
}

/// Whether storaged has to do something for a volume that is there. Of one that cannot be used its
/// answer says why.
pub fn lacks(volume: &Volume, wanted: &VolumeSpec, version: Version) -> bool {
    volume.path.is_none() || volume.spec.size < wanted.size || volume.version < version
}
