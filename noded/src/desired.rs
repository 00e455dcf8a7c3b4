//! The desired state: what verified and admitted deployments ask of this node.
//!
//! Secrets are open here and only here; nothing of this is ever written to a disk.

use std::collections::{BTreeMap, BTreeSet};

use loam_deployment::{
    Bytes, ContractId, Name, Version,
    payload::{NetworkAttachment, OciReference, Publish, Restart, Volume},
};
use loam_node_api::network::NetworkSpec;

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
    Run(Workloads),
    /// Suspended on the chain: data and networks stay, machines do not run.
    Suspended(Workloads),
    /// Its deployment was refused or could not be read: whatever runs stays as it is.
    Keep,
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

impl Workloads {
    pub fn none(version: Version) -> Self {
        Self {
            version,
            machines: BTreeMap::new(),
            volumes: BTreeMap::new(),
            networks: BTreeMap::new(),
        }
    }
}

impl Desired {
    /// Contracts whose things on this node must not be touched.
    pub fn kept(&self) -> BTreeSet<ContractId> {
        self.contracts
            .iter()
            .filter(|(_, contract)| matches!(contract, Contract::Keep))
            .map(|(id, _)| *id)
            .collect()
    }

    /// `machine`, `volume` or `network`; empty for what is none of the contract's.
    pub fn kind(&self, contract: ContractId, name: &Name) -> &'static str {
        match self.contracts.get(&contract) {
            Some(Contract::Run(w) | Contract::Suspended(w)) => {
                if w.machines.contains_key(name) {
                    "machine"
                } else if w.volumes.contains_key(name) {
                    "volume"
                } else if w.networks.contains_key(name) {
                    "network"
                } else {
                    ""
                }
            }
            Some(Contract::Keep) | None => "",
        }
    }

    /// Every contract that says what it wants, with whether its machines shall run.
    pub fn stated(&self) -> impl Iterator<Item = (ContractId, &Workloads, bool)> {
        self.contracts
            .iter()
            .filter_map(|(id, contract)| match contract {
                Contract::Run(workloads) => Some((*id, workloads, true)),
                Contract::Suspended(workloads) => Some((*id, workloads, false)),
                Contract::Keep => None,
            })
    }
}
