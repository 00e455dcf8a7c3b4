//! The desired state: what verified and admitted deployments ask of this node.
//!
//! Secrets are open here and only here; nothing of this is ever written to a disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use loam_deployment::{
    Bytes, ContractId, Name, Version,
    payload::{NetworkAttachment, OciReference, Publish, Restart, Volume},
};
use loam_node_api::{
    WorkloadId,
    clock::UnixTime,
    image::{Image, ImageContent, ImageLogin, ImageRequest},
    network::NetworkSpec,
    storage::VolumeKey,
};

use crate::{fingerprint, step::Resource};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    pub contracts: BTreeMap<ContractId, Contract>,
    /// The chain has their records, and their state is cancelled. What belongs to a contract that
    /// stands neither here nor in `contracts` stays as it is: absence proves nothing.
    pub cancelled: BTreeSet<ContractId>,
}

/// What one contract asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contract {
    Run(Rc<Stated>),
    /// Data and networks stay, machines do not run.
    Halted(Rc<Stated>, Halt),
    /// What it wants is not known: its deployment was refused or could not be read, or the chain
    /// does not list it. Whatever is here stays as it is.
    Keep(Kept),
}

/// Why a contract's machines do not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// The chain says so.
    Suspended,
    /// Its deployment was valid until then.
    Ended(UnixTime),
}

/// What is done to a contract of which it is not known what it wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Machines of a suspended contract do not run, whatever else it wants.
    pub suspended: bool,
}

impl Kept {
    /// Whether a thing that is here must be left as it is. This is the whole policy.
    pub fn owns(self, resource: &Resource) -> bool {
        match resource {
            Resource::Machine(_) => !self.suspended,
            Resource::Interface(_) | Resource::Network(_) | Resource::Volume(_) => true,
            // Those that its machines need, its root layers name.
            Resource::Image(_) => false,
        }
    }
}

/// What a verified deployment states, with what is computed of it once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stated {
    pub workloads: Workloads,
    /// Of each machine, of what does not depend on the node.
    pub digests: BTreeMap<Name, [u8; 32]>,
}

impl From<Workloads> for Stated {
    fn from(workloads: Workloads) -> Self {
        let digest = |(name, machine): (&Name, &Machine)| {
            (name.clone(), fingerprint::digest(machine, &workloads))
        };
        let digests = workloads.machines.iter().map(digest).collect();
        Self { workloads, digests }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workloads {
    /// Of the deployment that says so.
    pub version: Version,
    pub machines: BTreeMap<Name, Machine>,
    pub volumes: BTreeMap<Name, Volume>,
    pub networks: BTreeMap<Name, NetworkSpec>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub image: OciReference,
    /// What the image's registry is told, opened. It changes without a restart.
    pub image_login: Option<ImageLogin>,
    pub cpus: u32,
    pub memory: Bytes,
    pub root: Bytes,
    pub command: Vec<String>,
    /// Plain and opened sealed variables together.
    pub env: BTreeMap<String, String>,
    pub ssh_keys: Vec<String>,
    /// Volume to mount path.
    pub volumes: BTreeMap<Name, String>,
    pub networks: Vec<NetworkAttachment>,
    pub publish: Vec<Publish>,
    pub restart: Restart,
}

impl Machine {
    pub fn image_request(&self) -> ImageRequest {
        ImageRequest {
            reference: self.image.clone(),
            login: self.image_login.clone(),
        }
    }

    /// Which image it needs, and whose.
    pub fn image_needed(&self) -> Image {
        Image {
            reference: self.image.clone(),
            only_for: ImageLogin::owner(self.image_login.as_ref()),
        }
    }

    /// The same, by whatever name.
    pub fn image_content(&self) -> ImageContent {
        ImageContent {
            digest: self.image.digest(),
            only_for: ImageLogin::owner(self.image_login.as_ref()),
        }
    }
}

/// The key of a machine's writable layer: another image gets another layer.
pub fn root_key(machine: &WorkloadId, image: &OciReference) -> VolumeKey {
    VolumeKey::Root {
        machine: machine.clone(),
        image: image.digest(),
    }
}

impl Workloads {
    pub fn none(version: Version) -> Self {
        Self {
            version,
            machines: BTreeMap::new(),
            volumes: BTreeMap::new(),
            networks: BTreeMap::new(),
        }
    }

    /// Whether the volume of their contract is one of theirs.
    pub fn names(&self, key: &VolumeKey) -> bool {
        match key {
            VolumeKey::Data(id) => self.volumes.contains_key(&id.name),
            VolumeKey::Root { machine, image } => {
                let asked = self.machines.get(&machine.name);
                asked.is_some_and(|asked| *image == asked.image.digest())
            }
        }
    }
}

impl Contract {
    /// What it says it wants, with whether its machines shall run.
    pub fn stated(&self) -> Option<(&Workloads, bool)> {
        match self {
            Self::Run(stated) => Some((&stated.workloads, true)),
            Self::Halted(stated, _) => Some((&stated.workloads, false)),
            Self::Keep(_) => None,
        }
    }
}

impl Desired {
    /// `machine`, `volume` or `network`; empty for what is none of the contract's.
    pub fn kind(&self, contract: ContractId, name: &Name) -> &'static str {
        match self.contracts.get(&contract).and_then(Contract::stated) {
            Some((w, _)) if w.machines.contains_key(name) => "machine",
            Some((w, _)) if w.volumes.contains_key(name) => "volume",
            Some((w, _)) if w.networks.contains_key(name) => "network",
            _ => "",
        }
    }

    /// Whether it is known that its contract wants the volume.
    pub fn names(&self, key: &VolumeKey) -> bool {
        match self.of(key.contract()) {
            Fate::Stated(stated, _) => stated.workloads.names(key),
            Fate::Kept(_) | Fate::Cancelled => false,
        }
    }

    /// What is done about a contract, if it is known what it wants; else what is kept.
    pub fn of(&self, contract: ContractId) -> Fate<'_> {
        match self.contracts.get(&contract) {
            _ if self.cancelled.contains(&contract) => Fate::Cancelled,
            Some(Contract::Run(stated)) => Fate::Stated(stated, None),
            Some(Contract::Halted(stated, halt)) => Fate::Stated(stated, Some(*halt)),
            Some(Contract::Keep(kept)) => Fate::Kept(*kept),
            None => Fate::Kept(Kept::default()),
        }
    }
}

/// What is to become of a contract's things.
#[derive(Clone, Copy, Debug)]
pub enum Fate<'a> {
    Stated(&'a Rc<Stated>, Option<Halt>),
    Kept(Kept),
    Cancelled,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_name_is_of_what_the_contract_has_by_it() {
        let workloads = fixture::workloads(&["web"], &["net"], &["data"]);
        let stated = Rc::new(Stated::from(workloads));
        let (run, halted, kept) = (ContractId(1), ContractId(2), ContractId(3));
        let desired = Desired {
            contracts: [
                (run, Contract::Run(stated.clone())),
                (halted, Contract::Halted(stated, Halt::Suspended)),
                (kept, Contract::Keep(Kept::default())),
            ]
            .into(),
            ..Desired::default()
        };
        let kind = |contract, name: &str| desired.kind(contract, &name.parse().unwrap());
        for contract in [run, halted] {
            assert_eq!(kind(contract, "web"), "machine");
            assert_eq!(kind(contract, "data"), "volume");
            assert_eq!(kind(contract, "net"), "network");
            assert_eq!(kind(contract, "other"), "");
        }
        assert_eq!(kind(kept, "web"), "");
        assert_eq!(kind(ContractId(4), "web"), "");
    }
}
