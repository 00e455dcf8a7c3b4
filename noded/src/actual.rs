//! The actual state: what the daemons say is there.

use std::collections::BTreeMap;

use loam_deployment::payload::OciReference;
use loam_node_api::{
    WorkloadId,
    machine::Machine,
    network::{Interface, InterfaceId, Network},
    storage::{ImageState, Volume, VolumeKey},
};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    pub images: BTreeMap<OciReference, ImageState>,
    pub volumes: BTreeMap<VolumeKey, Volume>,
    pub networks: BTreeMap<WorkloadId, Network>,
    pub interfaces: BTreeMap<InterfaceId, Interface>,
    pub machines: BTreeMap<WorkloadId, Machine>,
}
