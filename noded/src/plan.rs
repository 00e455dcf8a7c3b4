//! The plan: a pure function of what is desired and what is there.
//!
//! Its steps, done in order, turn the actual state into the desired one; planned again from there,
//! nothing is left to do. Removing comes before making, machines go before what they use and come
//! after it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use loam_deployment::{
    ContractId, Name, Version,
    payload::{Filesystem, Media, OciReference, Restart},
    subnet,
};
use loam_node_api::{
    WorkloadId,
    machine::{Exit, MachineState},
    network::{InterfaceId, InterfaceSpec, Mac},
    storage::{Deletion, VolumeKey, VolumeSpec},
};
use sha2::{Digest, Sha256};

use crate::{
    actual::Actual,
    address,
    desired::{Contract, Desired, Machine, Workloads},
    step::{MachineContent, MachinePlan, PlannedDisk, PlannedInterface, PlannedMount, Step},
};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// Workloads that cannot be had as desired, and why. They get no steps.
    pub problems: BTreeMap<WorkloadId, String>,
}

/// Machines in `held` ended a short while ago and wait out their back-off before a new start.
pub fn plan(desired: &Desired, actual: &Actual, held: &BTreeSet<WorkloadId>) -> Plan {
    let target = Target::of(desired, actual);
    let kept = kept(desired, actual);
    let mut plan = Plan {
        problems: target.problems.clone(),
        ..Plan::default()
    };
    remove(desired, &target, actual, &kept, held, &mut plan.steps);
    make(&target, actual, &mut plan.steps);
    start(&target, actual, held, &mut plan.steps);
    drop_images(&target, actual, &kept, &mut plan.steps);
    plan
}

/// Whose things are left as they are: nothing is known of what they shall be.
fn kept(desired: &Desired, actual: &Actual) -> BTreeSet<ContractId> {
    let mut kept = desired.kept();
    let known =
        |id: &ContractId| desired.contracts.contains_key(id) || desired.cancelled.contains(id);
    kept.extend(actual.contracts().into_iter().filter(|id| !known(id)));
    kept
}

/// The desired state in the daemons' terms.
#[derive(Debug, Default)]
struct Target {
    images: BTreeSet<OciReference>,
    volumes: BTreeMap<VolumeKey, (VolumeSpec, Version)>,
    networks: BTreeMap<WorkloadId, loam_node_api::network::NetworkSpec>,
    interfaces: BTreeMap<InterfaceId, InterfaceSpec>,
    machines: BTreeMap<WorkloadId, (MachineContent, Restart)>,
    problems: BTreeMap<WorkloadId, String>,
}

impl Target {
    fn of(desired: &Desired, actual: &Actual) -> Self {
        let mut target = Self::default();
        for (contract, workloads, running) in desired.stated() {
            for (name, volume) in &workloads.volumes {
                target.volumes.insert(
                    VolumeKey::Data(WorkloadId::new(contract, name.clone())),
                    (
                        VolumeSpec {
                            size: volume.size,
                            media: volume.media,
                            filesystem: volume.filesystem,
                        },
                        workloads.version,
                    ),
                );
            }
            for (name, network) in &workloads.networks {
                target
                    .networks
                    .insert(WorkloadId::new(contract, name.clone()), network.clone());
            }
            let addresses = address::assign(contract, workloads, &actual.interfaces);
            for (name, machine) in &workloads.machines {
                target.add_machine(contract, name, machine, workloads, &addresses, running);
            }
        }
        target
    }

    fn add_machine(
        &mut self,
        contract: ContractId,
        name: &Name,
        machine: &Machine,
        workloads: &Workloads,
        addresses: &BTreeMap<InterfaceId, Vec<IpAddr>>,
        running: bool,
    ) {
        let id = WorkloadId::new(contract, name.clone());
        let root = root_key(&id, &machine.image);
        self.images.insert(machine.image.clone());
        self.volumes.insert(
            root.clone(),
            (
                VolumeSpec {
                    size: machine.root,
                    media: Media::Any,
                    filesystem: Filesystem::Ext4,
                },
                workloads.version,
            ),
        );
        if !running {
            return;
        }
        let mut interfaces = Vec::new();
        for (index, attachment) in machine.networks.iter().enumerate() {
            let network_id = WorkloadId::new(contract, attachment.network.clone());
            let interface_id = InterfaceId {
                machine: id.clone(),
                network: network_id,
            };
            let (Some(network), Some(addresses)) = (
                workloads.networks.get(&attachment.network),
                addresses.get(&interface_id),
            ) else {
                let network = &attachment.network;
                self.problems
                    .insert(id, format!("network {network} has no free address"));
                return;
            };
            let mac = mac(&interface_id);
            interfaces.push((
                InterfaceSpec {
                    mac,
                    addresses: addresses.clone(),
                    // Published ports lead to the machine's first network.
                    publish: if index == 0 {
                        machine.publish.clone()
                    } else {
                        Vec::new()
                    },
                },
                PlannedInterface {
                    id: interface_id,
                    mac,
                    addresses: addresses
                        .iter()
                        .map(|address| {
                            let length = match address {
                                IpAddr::V4(_) => network.ipv4.prefix_len(),
                                IpAddr::V6(_) => network.ipv6.map_or(128, |net| net.prefix_len()),
                            };
                            IpNet::new_assert(*address, length)
                        })
                        .collect(),
                    gateways: if network.nat {
                        vec![IpAddr::V4(subnet::gateway4(network.ipv4))]
                    } else {
                        Vec::new()
                    },
                },
            ));
        }
        let mounts = machine
            .volumes
            .iter()
            .filter_map(|(volume_name, path)| {
                let volume = workloads.volumes.get(volume_name)?;
                Some(PlannedMount {
                    disk: PlannedDisk {
                        volume: VolumeKey::Data(WorkloadId::new(contract, volume_name.clone())),
                        size: volume.size,
                    },
                    path: path.clone(),
                    filesystem: volume.filesystem,
                })
            })
            .collect();
        let content = MachineContent {
            cpus: machine.cpus,
            memory: machine.memory,
            image: machine.image.clone(),
            root: PlannedDisk {
                volume: root,
                size: machine.root,
            },
            mounts,
            interfaces: interfaces
                .iter()
                .map(|(_, planned)| planned.clone())
                .collect(),
            command: machine.command.clone(),
            env: machine.env.clone(),
            ssh_keys: machine.ssh_keys.clone(),
        };
        for (spec, planned) in interfaces {
            self.interfaces.insert(planned.id, spec);
        }
        self.machines.insert(id, (content, machine.restart));
    }
}

/// The key of a machine's writable layer: another image gets another layer.
fn root_key(machine: &WorkloadId, image: &OciReference) -> VolumeKey {
    VolumeKey::Root {
        machine: machine.clone(),
        image: hex::encode(image.digest()),
    }
}

/// Locally administered and unicast, and the same for the same interface at every boot.
fn mac(id: &InterfaceId) -> Mac {
    let digest = Sha256::digest(format!("{}/{}", id.machine, id.network));
    Mac([0x02, digest[0], digest[1], digest[2], digest[3], digest[4]])
}

/// Names all that a restart is needed to change; equal content has an equal fingerprint.
pub fn fingerprint(content: &MachineContent) -> String {
    let mut digest = Sha256::new();
    let written =
        serde_json::to_vec(content).expect("plain data with text keys is always written as JSON");
    digest.update(written);
    hex::encode(digest.finalize())
}

/// Machines that are not wanted as they are, and what is not wanted at all.
fn remove(
    desired: &Desired,
    target: &Target,
    actual: &Actual,
    kept: &BTreeSet<ContractId>,
    held: &BTreeSet<WorkloadId>,
    steps: &mut Vec<Step>,
) {
    for (id, machine) in &actual.machines {
        if kept.contains(&id.contract) {
            continue;
        }
        let ended = matches!(machine.state, MachineState::Exited(_));
        let as_wanted = target
            .machines
            .get(id)
            .is_some_and(|(content, _)| fingerprint(content) == machine.fingerprint)
            && has_interfaces(target, actual, id);
        let goes = if as_wanted {
            ended && restarts(target, actual, held, id)
        } else {
            true
        };
        if goes {
            if !ended {
                steps.push(Step::MachineStop(id.clone()));
            }
            steps.push(Step::MachineForget(id.clone()));
        }
    }
    for id in actual.interfaces.keys() {
        if !kept.contains(&id.machine.contract) && !target.interfaces.contains_key(id) {
            steps.push(Step::InterfaceDelete(id.clone()));
        }
    }
    for id in actual.networks.keys() {
        if !kept.contains(&id.contract) && !target.networks.contains_key(id) {
            steps.push(Step::NetworkDelete(id.clone()));
        }
    }
    for key in actual.volumes.keys() {
        if !kept.contains(&key.contract())
            && !target.volumes.contains_key(key)
            && let Some(why) = deletion(desired, key.contract())
        {
            steps.push(Step::VolumeDelete(key.clone(), why));
        }
    }
}

/// What allows a contract's volume to be deleted that is not in the target.
fn deletion(desired: &Desired, contract: ContractId) -> Option<Deletion> {
    match desired.contracts.get(&contract) {
        Some(Contract::Run(workloads) | Contract::Suspended(workloads)) => {
            Some(Deletion::Unnamed {
                by: workloads.version,
            })
        }
        Some(Contract::Keep) => None,
        None => desired
            .cancelled
            .contains(&contract)
            .then_some(Deletion::Cancelled),
    }
}

/// A machine whose tap is gone holds a dead one, and must be started anew to get another.
fn has_interfaces(target: &Target, actual: &Actual, machine: &WorkloadId) -> bool {
    target
        .interfaces
        .keys()
        .filter(|id| id.machine == *machine)
        .all(|id| actual.interfaces.contains_key(id))
}

/// Whether a machine that ended shall be started again now.
fn restarts(
    target: &Target,
    actual: &Actual,
    held: &BTreeSet<WorkloadId>,
    id: &WorkloadId,
) -> bool {
    let Some((_, policy)) = target.machines.get(id) else {
        return false;
    };
    let Some(MachineState::Exited(exit)) = actual.machines.get(id).map(|machine| &machine.state)
    else {
        return false;
    };
    let wanted = match policy {
        Restart::Always => true,
        Restart::OnFailure => !matches!(
            exit,
            Exit::PoweredOff {
                status: None | Some(0)
            }
        ),
        Restart::Never => false,
    };
    wanted && !held.contains(id)
}

fn make(target: &Target, actual: &Actual, steps: &mut Vec<Step>) {
    for image in &target.images {
        if actual.images.ready(image).is_none() {
            steps.push(Step::ImageEnsure(image.clone()));
        }
    }
    for (key, (spec, version)) in &target.volumes {
        if actual
            .volumes
            .get(key)
            .is_none_or(|volume| volume.spec.size < spec.size)
        {
            steps.push(Step::VolumeEnsure(key.clone(), spec.clone(), *version));
        }
    }
    for (id, spec) in &target.networks {
        if actual
            .networks
            .get(id)
            .is_none_or(|network| network.spec != *spec)
        {
            steps.push(Step::NetworkEnsure(id.clone(), spec.clone()));
        }
    }
    for (id, spec) in &target.interfaces {
        if actual
            .interfaces
            .get(id)
            .is_none_or(|interface| interface.spec != *spec || !interface.in_force)
        {
            steps.push(Step::InterfaceEnsure(id.clone(), spec.clone()));
        }
    }
}

fn start(target: &Target, actual: &Actual, held: &BTreeSet<WorkloadId>, steps: &mut Vec<Step>) {
    for (id, (content, _)) in &target.machines {
        let forgotten = steps.contains(&Step::MachineForget(id.clone()));
        let absent = !actual.machines.contains_key(id);
        if (forgotten || absent) && !held.contains(id) {
            steps.push(Step::MachineStart(Box::new(MachinePlan {
                id: id.clone(),
                content: content.clone(),
            })));
        }
    }
}

/// Which images a kept contract's machines boot is not known, so none goes while there is one.
fn drop_images(
    target: &Target,
    actual: &Actual,
    kept: &BTreeSet<ContractId>,
    steps: &mut Vec<Step>,
) {
    if !kept.is_empty() {
        return;
    }
    let digests: BTreeSet<_> = target.images.iter().map(|image| image.digest()).collect();
    let ready = actual.images.ready.iter();
    let unwanted = ready.filter(|(digest, _)| !digests.contains(digest));
    steps.extend(unwanted.map(|(_, image)| Step::ImageDelete(image.reference.clone())));
    // To delete a reference whose digest is ready would delete what is ready.
    let attempts = actual.images.attempts.keys();
    let unwanted = attempts
        .filter(|image| !target.images.contains(image) && actual.images.ready(image).is_none());
    steps.extend(unwanted.cloned().map(Step::ImageDelete));
}

#[cfg(test)]
mod tests;
