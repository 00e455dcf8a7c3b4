//! The actual state: what the daemons say is there.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use loam_deployment::ContractId;
use loam_node_api::{
    WorkloadId,
    image::{Image, ImageContent},
    machine::Machine,
    network::{Interface, InterfaceId, Network},
    storage::{ImageState, ImageStatus, MountId, Volume, VolumeKey},
};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    /// Where each pool is.
    pub mounts: BTreeMap<PathBuf, Mounted>,
    /// Whether there is a disk that could not be read, or has not answered: a pool that is not among
    /// `mounts` may be on it all the same.
    pub unsure: bool,
    /// Volumes that were here, and nobody deleted: their disk is away.
    pub away: BTreeMap<VolumeKey, Volume>,
    pub images: Images,
    pub volumes: BTreeMap<VolumeKey, Volume>,
    pub networks: BTreeMap<WorkloadId, Network>,
    pub interfaces: BTreeMap<InterfaceId, Interface>,
    pub machines: BTreeMap<WorkloadId, Machine>,
}

/// A pool, and which mount of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mounted {
    pub pool: String,
    pub mount: MountId,
}

/// What is ready belongs to its digest, whoever named it; an attempt to fetch belongs to the
/// reference that asked for it, so that no tenant's registry stands for another's. What was asked for
/// with a contract's login is that contract's alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Images {
    pub ready: BTreeMap<ImageContent, ReadyImage>,
    /// Under way or failed.
    pub attempts: BTreeMap<Image, ImageState>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyImage {
    /// One of the names under which storaged has it.
    pub image: Image,
    /// The read-only EROFS file to hand to a machine as its disk.
    pub path: PathBuf,
}

impl Images {
    pub fn ready(&self, content: ImageContent) -> Option<&ReadyImage> {
        self.ready.get(&content)
    }

    /// Takes in what storaged says of an image.
    pub fn note(&mut self, ImageStatus { image, state }: ImageStatus) {
        match state {
            ImageState::Ready { path } => {
                self.attempts.remove(&image);
                let content = image.content();
                self.ready.insert(content, ReadyImage { image, path });
            }
            state @ (ImageState::Fetching { .. } | ImageState::Failed(_)) => {
                self.attempts.insert(image, state);
            }
        }
    }
}

impl Actual {
    /// The mount that a file of storaged's is on. None when its pool is not there.
    pub fn mount_of(&self, file: &Path) -> Option<&Mounted> {
        let mut folders = file.ancestors();
        folders.find_map(|folder| self.mounts.get(folder))
    }

    /// Takes in what storaged lists.
    pub fn list_volumes(&mut self, there: BTreeMap<VolumeKey, Volume>) {
        let before = std::mem::replace(&mut self.volumes, there);
        self.away.extend(before);
        self.away.retain(|key, _| !self.volumes.contains_key(key));
    }

    /// All volumes that a deployment may not change at will, also those whose disk is away.
    pub fn known_volumes(&self) -> Cow<'_, BTreeMap<VolumeKey, Volume>> {
        if self.away.is_empty() {
            return Cow::Borrowed(&self.volumes);
        }
        let mut known = self.away.clone();
        known.extend(self.volumes.clone());
        Cow::Owned(known)
    }

    /// Every contract that has something on this node.
    pub fn contracts(&self) -> BTreeSet<ContractId> {
        let volumes = self.volumes.keys().map(VolumeKey::contract);
        let networks = self.networks.keys().map(|id| id.contract);
        let interfaces = self.interfaces.keys().map(|id| id.machine.contract);
        let machines = self.machines.keys().map(|id| id.contract);
        volumes
            .chain(networks)
            .chain(interfaces)
            .chain(machines)
            .collect()
    }
}
