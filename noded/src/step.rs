//! The steps of a plan: one call to one daemon each, named by what they act on.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use ipnet::IpNet;
use loam_deployment::{Bytes, Version, payload::Filesystem};
use loam_node_api::{
    WorkloadId,
    image::{Image, ImageRequest},
    machine::OnReset,
    network::{InterfaceId, InterfaceSpec, Mac, NetworkSpec},
    storage::{Deletion, VolumeKey, VolumeSpec},
};

/// Idempotent: doing a step twice is doing it once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    MachineStop(WorkloadId),
    MachineForget(WorkloadId),
    InterfaceDelete(InterfaceId),
    NetworkDelete(WorkloadId),
    VolumeDelete(VolumeKey, Deletion),
    ImageEnsure(ImageRequest),
    /// With the version of the deployment that names the volume.
    VolumeEnsure(VolumeKey, VolumeSpec, Version),
    /// Asks whether the network could be changed to this once nobody runs on it.
    NetworkCheck(WorkloadId, NetworkSpec),
    NetworkEnsure(WorkloadId, NetworkSpec),
    InterfaceEnsure(InterfaceId, InterfaceSpec),
    /// Asks whether the machine could be started once the one of its id has ended. An interface
    /// that is not there yet is left out.
    MachineCheck(Box<MachinePlan>),
    /// In place of one of its id that ended, if there is one.
    MachineStart(Box<MachinePlan>),
    /// Ends the fetch of this image, or removes what is ready of its content.
    ImageDelete(Image),
}

/// A machine to be started, by the names of what it needs; paths and taps are filled in when the
/// step is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachinePlan {
    pub id: WorkloadId,
    pub fingerprint: String,
    /// By its policy when it is started. No restart is worth another one: a job that runs shall not
    /// begin anew since its policy has changed.
    pub on_reset: OnReset,
    pub content: MachineContent,
}

/// All that a restart is needed to change; the fingerprint names it.
///
/// The uplink's name servers are not part of it: a machine that runs keeps those that it found, since
/// to restart every tenant's machines because the farmer's router has changed would be worse than to
/// wait for their next start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineContent {
    pub cpus: u32,
    pub memory: Bytes,
    pub image: Image,
    pub root: PlannedDisk,
    pub mounts: Vec<PlannedMount>,
    pub interfaces: Vec<PlannedInterface>,
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub ssh_keys: Vec<String>,
}

/// A volume as a machine's disk. The size is part of it: a running guest does not see its disk
/// grow, so growth restarts the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedDisk {
    pub volume: VolumeKey,
    pub size: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedMount {
    pub disk: PlannedDisk,
    pub path: String,
    pub filesystem: Filesystem,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedInterface {
    pub id: InterfaceId,
    pub mac: Mac,
    pub addresses: Vec<IpNet>,
    pub gateways: Vec<IpAddr>,
}

/// A piece of the node's state. A step acts on one and may need others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    Image(Image),
    Volume(VolumeKey),
    Network(WorkloadId),
    Interface(InterfaceId),
    Machine(WorkloadId),
}

impl Step {
    /// Whether it asks only, so that nothing has changed when it is done.
    pub fn is_check(&self) -> bool {
        matches!(self, Self::MachineCheck(_) | Self::NetworkCheck(..))
    }

    /// What the step acts on.
    pub fn resource(&self) -> Resource {
        match self {
            Self::MachineStop(id) | Self::MachineForget(id) => Resource::Machine(id.clone()),
            Self::MachineCheck(plan) | Self::MachineStart(plan) => {
                Resource::Machine(plan.id.clone())
            }
            Self::InterfaceDelete(id) | Self::InterfaceEnsure(id, _) => {
                Resource::Interface(id.clone())
            }
            Self::NetworkDelete(id) | Self::NetworkCheck(id, _) | Self::NetworkEnsure(id, _) => {
                Resource::Network(id.clone())
            }
            Self::VolumeDelete(key, _) | Self::VolumeEnsure(key, ..) => {
                Resource::Volume(key.clone())
            }
            Self::ImageEnsure(request) => Resource::Image(request.image()),
            Self::ImageDelete(image) => Resource::Image(image.clone()),
        }
    }
}

impl MachineContent {
    /// The writable layer and the volumes, in the order of the guest's disks.
    pub fn volumes(&self) -> impl Iterator<Item = &PlannedDisk> {
        std::iter::once(&self.root).chain(self.mounts.iter().map(|mount| &mount.disk))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MachineStop(id) => write!(f, "stop machine {id}"),
            Self::MachineForget(id) => write!(f, "forget machine {id}"),
            Self::MachineCheck(plan) => write!(f, "check machine {}", plan.id),
            Self::MachineStart(plan) => write!(f, "start machine {}", plan.id),
            Self::InterfaceDelete(id) => write!(f, "remove {} from {}", id.machine, id.network),
            Self::InterfaceEnsure(id, _) => write!(f, "attach {} to {}", id.machine, id.network),
            Self::NetworkDelete(id) => write!(f, "remove network {id}"),
            Self::NetworkCheck(id, _) => write!(f, "check network {id}"),
            Self::NetworkEnsure(id, _) => write!(f, "make network {id}"),
            Self::VolumeDelete(key, _) => write!(f, "delete {key}"),
            Self::VolumeEnsure(key, spec, _) => write!(f, "make {key} of {}", spec.size),
            Self::ImageEnsure(request) => write!(f, "fetch {}", request.image()),
            Self::ImageDelete(image) => write!(f, "drop {image}"),
        }
    }
}
