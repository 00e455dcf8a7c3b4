//! What contracts want, in the daemons' terms, beside what is there of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use loam_deployment::{
    ContractId, Name, Version,
    payload::{Filesystem, Media, Restart},
    subnet,
};
use loam_node_api::{
    WorkloadId,
    machine::{Exit, Machine as MachineThere, MachineState, OnReset},
    network::{InterfaceId, InterfaceSpec, Mac, NetworkSpec},
    storage::{VolumeKey, VolumeSpec},
};
use sha2::{Digest, Sha256};

use crate::{
    actual::Actual,
    address,
    desired::{Machine, Stated, Workloads, root_key},
    fingerprint::{self, Fingerprint},
    step::{MachineContent, MachinePlan, PlannedDisk, PlannedInterface, PlannedMount},
};

/// One contract's wishes.
#[derive(Debug)]
pub struct Target<'a> {
    pub contract: ContractId,
    pub workloads: &'a Workloads,
    /// Whether its machines run. Else `machines` is empty.
    pub runs: bool,
    /// In the order of their names.
    pub machines: Vec<MachineTarget<'a>>,
}

#[derive(Debug)]
pub struct MachineTarget<'a> {
    pub id: WorkloadId,
    pub asked: &'a Machine,
    pub root: VolumeKey,
    pub interfaces: Vec<(PlannedInterface, InterfaceSpec)>,
    pub fingerprint: Fingerprint,
    pub condition: Condition,
    /// Why it cannot be had as it is wanted. Then nothing is done for it, and an earlier version of
    /// it that runs goes on running.
    pub problem: Option<String>,
}

/// What is there of a wanted machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Neither running nor ended.
    Absent,
    /// It ended, and is to be started: by its policy, or because it is wanted otherwise now.
    Ended,
    /// It ended as it should, and stays so.
    Finished,
    /// It ended, and its policy leaves it so, though it failed.
    GaveUp,
    /// Asked to shut down.
    Stopping,
    /// It has ended by itself, and its process does not let go of what it has. What its policy says
    /// of that is asked when it is gone.
    Ending,
    /// It runs as wanted. `up`: its command does, too.
    Runs { up: bool },
    /// It runs, but as another version wanted it, or with a tap that is gone.
    Outdated,
}

impl<'a> Target<'a> {
    pub fn of(
        contract: ContractId,
        stated: &'a Stated,
        runs: bool,
        actual: &Actual,
        stopped: &BTreeSet<WorkloadId>,
    ) -> Self {
        let workloads = &stated.workloads;
        let mut machines = Vec::new();
        if runs {
            let mut addresses = address::assign(contract, workloads, &actual.interfaces);
            for ((name, asked), digest) in workloads.machines.iter().zip(stated.digests.values()) {
                let id = WorkloadId::new(contract, name.clone());
                let interfaces = interfaces(&id, asked, workloads, &mut addresses);
                let (interfaces, problem) = match interfaces {
                    Ok(interfaces) => (interfaces, None),
                    Err(problem) => (Vec::new(), Some(problem)),
                };
                let planned = interfaces.iter().map(|(planned, _)| planned);
                let fingerprint = Fingerprint::new(digest, asked, planned);
                let mut machine = MachineTarget {
                    root: root_key(&id, &asked.image),
                    id,
                    asked,
                    interfaces,
                    fingerprint,
                    condition: Condition::Absent,
                    problem,
                };
                machine.condition = machine.look(actual, stopped);
                machines.push(machine);
            }
        }
        Self {
            contract,
            workloads,
            runs,
            machines,
        }
    }

    pub fn machine(&self, name: &Name) -> Option<&MachineTarget<'a>> {
        self.machines
            .binary_search_by(|machine| machine.id.name.cmp(name))
            .ok()
            .map(|index| &self.machines[index])
    }

    pub fn version(&self) -> Version {
        self.workloads.version
    }

    /// Volumes other than the machines' root layers.
    fn volumes(&self) -> impl Iterator<Item = (VolumeKey, VolumeSpec)> {
        self.workloads.volumes.iter().map(|(name, volume)| {
            let key = VolumeKey::Data(WorkloadId::new(self.contract, name.clone()));
            let spec = VolumeSpec {
                size: volume.size,
                media: volume.media,
                filesystem: volume.filesystem,
            };
            (key, spec)
        })
    }

    /// All that its machines have to find, but for those that cannot be had.
    pub fn needed_volumes(&self) -> impl Iterator<Item = (VolumeKey, VolumeSpec)> {
        let runnable = self.machines.iter().filter(|m| m.problem.is_none());
        let roots = runnable.map(|machine| (machine.root.clone(), machine.root_spec()));
        self.volumes().chain(roots)
    }

    /// How many there are.
    pub fn interfaces(&self) -> usize {
        let machines = self.machines.iter();
        machines.map(|machine| machine.interfaces.len()).sum()
    }

    pub fn network(&self, id: &WorkloadId) -> Option<&'a NetworkSpec> {
        self.workloads.networks.get(&id.name)
    }

    /// Whether the volume is one of the version's.
    pub fn names(&self, key: &VolumeKey) -> bool {
        self.workloads.names(key)
    }

    /// Whether all machines have got where this version wants them, so that nobody misses what only
    /// the version before needed.
    pub fn is_settled(&self) -> bool {
        self.runs && self.machines.iter().all(MachineTarget::is_settled)
    }
}

impl MachineTarget<'_> {
    pub fn is_settled(&self) -> bool {
        let there = matches!(
            self.condition,
            Condition::Runs { up: true } | Condition::Finished
        );
        self.problem.is_none() && there
    }

    pub fn interface(&self, id: &InterfaceId) -> Option<&InterfaceSpec> {
        let mine = self
            .interfaces
            .iter()
            .find(|(planned, _)| planned.id == *id);
        mine.map(|(_, spec)| spec)
    }

    pub fn root_spec(&self) -> VolumeSpec {
        VolumeSpec {
            size: self.asked.root,
            media: Media::Any,
            filesystem: Filesystem::Ext4,
        }
    }

    /// The volumes that it mounts.
    pub fn mounts(&self) -> impl Iterator<Item = VolumeKey> {
        let key = |name: &Name| VolumeKey::Data(WorkloadId::new(self.id.contract, name.clone()));
        self.asked.volumes.keys().map(key)
    }

    pub fn plan(&self, workloads: &Workloads) -> Box<MachinePlan> {
        let asked = self.asked;
        let mounts = asked.volumes.iter().filter_map(|(name, path)| {
            let volume = workloads.volumes.get(name)?;
            Some(PlannedMount {
                disk: PlannedDisk {
                    volume: VolumeKey::Data(WorkloadId::new(self.id.contract, name.clone())),
                    size: volume.size,
                },
                path: path.clone(),
                filesystem: volume.filesystem,
            })
        });
        let planned = self.interfaces.iter().map(|(planned, _)| planned.clone());
        Box::new(MachinePlan {
            id: self.id.clone(),
            fingerprint: self.fingerprint.as_str().to_owned(),
            on_reset: match asked.restart {
                Restart::Always | Restart::OnFailure => OnReset::Restart,
                Restart::Never => OnReset::End,
            },
            content: MachineContent {
                cpus: asked.cpus,
                memory: asked.memory,
                image: asked.image_needed(),
                root: PlannedDisk {
                    volume: self.root.clone(),
                    size: asked.root,
                },
                mounts: mounts.collect(),
                interfaces: planned.collect(),
                command: asked.command.clone(),
                env: asked.env.clone(),
                ssh_keys: asked.ssh_keys.clone(),
            },
        })
    }

    /// Whether a disk of it was away, and is there again: what the machine has open is of the mount
    /// that is gone, and only a new start finds the files. While the disk is away, that is no help.
    fn has_lost_files(&self, there: &MachineThere, actual: &Actual) -> bool {
        let is_gone = |(pool, mount)| {
            let mut there = actual.mounts.values();
            match there.find(|there| there.pool == pool) {
                Some(there) => there.mount != mount,
                None => !actual.unsure,
            }
        };
        if !fingerprint::mounts(&there.fingerprint).any(is_gone) {
            return false;
        }
        let image = actual.images.ready(self.asked.image_content());
        let image = image.map(|image| image.path.as_path());
        let volumes = std::iter::once(self.root.clone()).chain(self.mounts());
        let volumes = volumes.map(|key| actual.volumes.get(&key)?.path.as_deref());
        let mut files = std::iter::once(image).chain(volumes);
        files.all(|file| file.is_some_and(|file| actual.mount_of(file).is_some()))
    }

    fn look(&self, actual: &Actual, stopped: &BTreeSet<WorkloadId>) -> Condition {
        let Some(there) = actual.machines.get(&self.id) else {
            return Condition::Absent;
        };
        let same = self.fingerprint.is_of(&there.fingerprint);
        // A machine whose tap is gone holds a dead one, and must be started anew to get another.
        let mut taps = self.interfaces.iter();
        let as_wanted = same
            && taps.all(|(planned, _)| actual.interfaces.contains_key(&planned.id))
            && !self.has_lost_files(there, actual);
        match &there.state {
            MachineState::Ending(_) if same && !stopped.contains(&self.id) => Condition::Ending,
            MachineState::Stopping | MachineState::Ending(_) => Condition::Stopping,
            MachineState::Exited(exit) if same && !stopped.contains(&self.id) => {
                after(exit, self.asked.restart)
            }
            MachineState::Exited(_) => Condition::Ended,
            MachineState::Booting if as_wanted => Condition::Runs { up: false },
            MachineState::Running | MachineState::Paused if as_wanted => {
                Condition::Runs { up: true }
            }
            MachineState::Booting | MachineState::Running | MachineState::Paused => {
                Condition::Outdated
            }
        }
    }
}

/// What an end means by the machine's policy.
fn after(exit: &Exit, policy: Restart) -> Condition {
    let succeeded = matches!(
        exit,
        Exit::PoweredOff {
            status: None | Some(0)
        }
    );
    match policy {
        // No policy says anything of a machine that has never run.
        _ if matches!(exit, Exit::NotStarted(_)) => Condition::Ended,
        Restart::Always => Condition::Ended,
        Restart::OnFailure if !succeeded => Condition::Ended,
        Restart::OnFailure | Restart::Never if succeeded => Condition::Finished,
        Restart::OnFailure | Restart::Never => Condition::GaveUp,
    }
}

fn interfaces(
    machine: &WorkloadId,
    asked: &Machine,
    workloads: &Workloads,
    addresses: &mut BTreeMap<InterfaceId, Vec<IpAddr>>,
) -> Result<Vec<(PlannedInterface, InterfaceSpec)>, String> {
    let mut interfaces = Vec::new();
    for (index, attachment) in asked.networks.iter().enumerate() {
        let id = InterfaceId {
            machine: machine.clone(),
            network: WorkloadId::new(machine.contract, attachment.network.clone()),
        };
        let (Some(network), Some(addresses)) = (
            workloads.networks.get(&attachment.network),
            addresses.remove(&id),
        ) else {
            let network = &attachment.network;
            return Err(format!("network {network} has no free address"));
        };
        let mac = mac(&id);
        let with_length = |address: &IpAddr| {
            let length = match address {
                IpAddr::V4(_) => network.ipv4.prefix_len(),
                IpAddr::V6(_) => network.ipv6.map_or(128, |net| net.prefix_len()),
            };
            IpNet::new_assert(*address, length)
        };
        let planned = PlannedInterface {
            id,
            mac,
            addresses: addresses.iter().map(with_length).collect(),
            gateways: match network.nat {
                true => vec![IpAddr::V4(subnet::gateway4(network.ipv4))],
                false => Vec::new(),
            },
        };
        // Published ports lead to the machine's first network.
        let publish = match index {
            0 => asked.publish.clone(),
            _ => Vec::new(),
        };
        let spec = InterfaceSpec {
            mac,
            addresses,
            publish,
        };
        interfaces.push((planned, spec));
    }
    Ok(interfaces)
}

/// Locally administered and unicast, and the same for the same interface at every boot.
fn mac(id: &InterfaceId) -> Mac {
    let digest = Sha256::digest(format!("{}/{}", id.machine, id.network));
    Mac([0x02, digest[0], digest[1], digest[2], digest[3], digest[4]])
}

/// Every target by its contract.
pub fn by_contract<'t, 'a>(
    targets: &'t [Target<'a>],
    contract: ContractId,
) -> Option<&'t Target<'a>> {
    targets
        .binary_search_by_key(&contract, |target| target.contract)
        .ok()
        .map(|index| &targets[index])
}
