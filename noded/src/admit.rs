//! From the bytes of a deployment to what this node shall do: verified, offered here, and allowed
//! as an update of what is there.

use std::collections::BTreeMap;

use loam_deployment::{
    ChainContext, Name, Rejection, Version,
    envelope::{self, Expected},
    payload::{self, Body, ImageSource, NodePolicy, Payload, Workload},
    seal::{self, SealContext, SealError, SealedField},
};
use loam_node_api::{
    WorkloadId,
    network::NetworkSpec,
    path::TENANT_PORT,
    storage::{Volume, VolumeKey},
};
use thiserror::Error;

use crate::{
    desired::{Machine, Workloads},
    identity::Identity,
};

/// A deployment that may be acted on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    pub version: Version,
    pub body: AdmittedBody,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdmittedBody {
    Workloads(Workloads),
    Policy(NodePolicy),
}

/// Why a deployment is refused, whole.
#[derive(Debug, Error)]
pub enum Refusal {
    #[error(transparent)]
    Rejection(#[from] Rejection),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("workloads.{0}: the secret of {1} is not UTF-8 text without NUL")]
    SecretText(Name, String),
    #[error("workloads.{path}: this node does not offer {what} yet")]
    NotOffered { path: String, what: &'static str },
    #[error("workloads.{machine}.publish: port {port} of the node may not be published; {allowed}")]
    Port {
        machine: Name,
        port: u16,
        allowed: String,
    },
    #[error(
        "workloads.{volume}.size: the volume has {has} and may grow but never shrink to {wanted}"
    )]
    Shrink {
        volume: Name,
        has: loam_deployment::Bytes,
        wanted: loam_deployment::Bytes,
    },
    #[error(
        "workloads.{volume}.filesystem: the volume was made with another one, which cannot change"
    )]
    Filesystem { volume: Name },
    #[error("policy.{0}: this node does not follow it yet")]
    PolicyNotOffered(&'static str),
}

/// What admission is judged by, besides the deployment.
#[derive(Debug)]
pub struct Judge<'a> {
    pub identity: &'a Identity,
    pub chain: ChainContext,
    /// The farmer's word about ports; by default any above the privileged ones.
    pub publish_ports: Option<(u16, u16)>,
    pub volumes: &'a BTreeMap<VolumeKey, Volume>,
}

/// Below are ports that the farmer's own services may want.
const DEFAULT_PORTS: (u16, u16) = (1024, 65535);

impl Judge<'_> {
    pub fn admit(&self, bytes: &[u8], expected: &Expected<'_>) -> Result<Admitted, Refusal> {
        let payload = envelope::verify(bytes, expected)?;
        let version = payload.version;
        let body = match &payload.body {
            Body::Workload(workloads) => {
                AdmittedBody::Workloads(self.workloads(&payload, workloads)?)
            }
            Body::Node(policy) => AdmittedBody::Policy(followed(policy)?),
        };
        Ok(Admitted { version, body })
    }

    fn workloads(
        &self,
        payload: &Payload,
        asked: &BTreeMap<Name, Workload>,
    ) -> Result<Workloads, Refusal> {
        let mut workloads = Workloads::none(payload.version);
        for (name, workload) in asked {
            let not_offered = |field: &str, what| Refusal::NotOffered {
                path: if field.is_empty() {
                    name.to_string()
                } else {
                    format!("{name}.{field}")
                },
                what,
            };
            match workload {
                Workload::Machine(machine) => {
                    let machine = self.machine(payload, name, machine)?;
                    workloads.machines.insert(name.clone(), machine);
                }
                Workload::Volume(volume) => {
                    if volume.encrypted {
                        return Err(not_offered("encrypted", "encrypted volumes"));
                    }
                    self.update_of_volume(payload, name, volume)?;
                    workloads.volumes.insert(name.clone(), volume.clone());
                }
                Workload::Network(network) => {
                    if !network.peers.is_empty() {
                        return Err(not_offered("peers", "WireGuard"));
                    }
                    workloads.networks.insert(
                        name.clone(),
                        NetworkSpec {
                            ipv4: network.ipv4,
                            ipv6: network.ipv6,
                            nat: network.nat,
                        },
                    );
                }
                Workload::Gateway(_) => return Err(not_offered("", "gateways")),
                Workload::PublicIp(_) => return Err(not_offered("", "public addresses")),
                Workload::ObjectStore(_) => return Err(not_offered("", "object stores")),
            }
        }
        Ok(workloads)
    }

    fn machine(
        &self,
        payload: &Payload,
        name: &Name,
        machine: &payload::Machine,
    ) -> Result<Machine, Refusal> {
        let not_offered = |field: &str, what| Refusal::NotOffered {
            path: format!("{name}.{field}"),
            what,
        };
        let image = match &machine.image {
            ImageSource::Oci(image) => image.clone(),
            ImageSource::Disk(_) => return Err(not_offered("image", "whole-disk images")),
        };
        if machine.mesh {
            return Err(not_offered("mesh", "the mesh"));
        }
        if !machine.devices.is_empty() {
            return Err(not_offered("devices", "devices"));
        }
        self.ports(name, machine)?;
        Ok(Machine {
            image,
            cpus: machine.cpus,
            memory: machine.memory,
            root: machine.root,
            command: machine.command.clone(),
            env: self.environment(payload, name, machine)?,
            ssh_keys: machine.ssh_keys.clone(),
            volumes: machine.volumes.clone(),
            networks: machine.networks.clone(),
            publish: machine.publish.clone(),
            restart: machine.restart,
        })
    }

    fn ports(&self, name: &Name, machine: &payload::Machine) -> Result<(), Refusal> {
        let (first, last) = self.publish_ports.unwrap_or(DEFAULT_PORTS);
        for publish in &machine.publish {
            let port = publish.node_port;
            if !(first..=last).contains(&port) || port == TENANT_PORT {
                return Err(Refusal::Port {
                    machine: name.clone(),
                    port,
                    allowed: format!("allowed are {first} to {last} without {TENANT_PORT}"),
                });
            }
        }
        Ok(())
    }

    fn environment(
        &self,
        payload: &Payload,
        name: &Name,
        machine: &payload::Machine,
    ) -> Result<BTreeMap<String, String>, Refusal> {
        let mut env = machine.env.clone();
        for (variable, sealed) in &machine.sealed_env {
            let context = SealContext {
                chain: self.chain,
                node: self.identity.node,
                contract: payload.contract,
                workload: name,
                field: SealedField::Env(variable),
            };
            let opened = seal::open(sealed, &self.identity.hpke.private, &context)?;
            let text = std::str::from_utf8(&opened)
                .ok()
                .filter(|text| !text.contains('\0'))
                .ok_or_else(|| Refusal::SecretText(name.clone(), variable.clone()))?;
            env.insert(variable.clone(), text.to_owned());
        }
        Ok(env)
    }

    fn update_of_volume(
        &self,
        payload: &Payload,
        name: &Name,
        wanted: &payload::Volume,
    ) -> Result<(), Refusal> {
        let key = VolumeKey::Data(WorkloadId::new(payload.contract, name.clone()));
        let Some(there) = self.volumes.get(&key) else {
            return Ok(());
        };
        if wanted.size < there.spec.size {
            return Err(Refusal::Shrink {
                volume: name.clone(),
                has: there.spec.size,
                wanted: wanted.size,
            });
        }
        if wanted.filesystem != there.spec.filesystem {
            return Err(Refusal::Filesystem {
                volume: name.clone(),
            });
        }
        Ok(())
    }
}

/// Only what is followed is admitted, so that no farmer believes in a policy that does nothing.
fn followed(policy: &NodePolicy) -> Result<NodePolicy, Refusal> {
    let unfollowed = [
        ("wipe_disks", policy.wipe_disks.is_empty()),
        ("public_addresses", policy.public_addresses.is_empty()),
        ("gateway", !policy.gateway),
        ("power", policy.power == payload::PowerPolicy::default()),
        ("update_window", policy.update_window.is_none()),
    ];
    match unfollowed.into_iter().find(|(_, absent)| !absent) {
        Some((field, _)) => Err(Refusal::PolicyNotOffered(field)),
        None => Ok(policy.clone()),
    }
}

#[cfg(test)]
mod tests;
