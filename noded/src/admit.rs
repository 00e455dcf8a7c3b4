//! From the bytes of a deployment to what this node shall do: verified, offered here, and allowed
//! as an update of what is there.

use std::collections::BTreeMap;

use loam_deployment::{
    Bytes, ChainContext, ContractId, Name, Rejection, Version,
    payload::{
        self, Body, ImageSource, Media, NodePolicy, OciReference, Payload, Sealed, Workload,
    },
    seal::{self, SealContext, SealError, SealedField},
};
use loam_node_api::{
    WorkloadId,
    image::ImageLogin,
    network::NetworkSpec,
    path::TENANT_PORT,
    storage::{Volume, VolumeKey, VolumeSpec},
};
use thiserror::Error;

use crate::{
    desired::{Machine, Workloads, root_key},
    identity::Identity,
    owned,
};

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
        has: Bytes,
        wanted: Bytes,
    },
    #[error(
        "workloads.{volume}.filesystem: the volume was made with another one, which cannot change"
    )]
    Filesystem { volume: Name },
    #[error("workloads.{volume}.media: the volume was made with {has:?}, which cannot change")]
    Media { volume: Name, has: Media },
    #[error(
        "workloads.{machine}.root: the layer over this image has {has} and may grow but never shrink \
         to {wanted}"
    )]
    RootShrink {
        machine: Name,
        has: Bytes,
        wanted: Bytes,
    },
    #[error("policy.{0}: this node does not follow it yet")]
    PolicyNotOffered(&'static str),
}

impl Refusal {
    /// A short name that stays the same when the sentence is reworded.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Rejection(rejection) => rejection.code(),
            Self::Seal(_) => "sealed",
            Self::SecretText(..) => "secret-text",
            Self::NotOffered { .. } => "not-offered",
            Self::Port { .. } => "port",
            Self::Shrink { .. } => "shrink",
            Self::Filesystem { .. } => "filesystem",
            Self::Media { .. } => "media",
            Self::RootShrink { .. } => "root-shrink",
            Self::PolicyNotOffered(_) => "policy-not-offered",
        }
    }
}

/// The first and the last port that may be published.
pub type PortRange = (u16, u16);

/// What admission is judged by, besides the deployment.
#[derive(Debug)]
pub struct Judge<'a> {
    pub identity: &'a Identity,
    pub chain: ChainContext,
    pub volumes: &'a BTreeMap<VolumeKey, Volume>,
}

/// Below are ports that the farmer's own services may want.
const DEFAULT_PORTS: PortRange = (1024, 65535);

impl Judge<'_> {
    /// What a verified deployment asks of this node. `ports` is the farmer's word about published
    /// ones; by default any above the privileged ones.
    pub fn admit(&self, payload: &Payload, ports: Option<PortRange>) -> Result<Workloads, Refusal> {
        match &payload.body {
            Body::Workload(asked) => self.workloads(payload, asked, ports),
            Body::Node(_) => Ok(Workloads::none(payload.version)),
        }
    }

    /// What there is of a contract's volumes, as far as admission looks at it.
    pub fn volumes_of(&self, contract: ContractId) -> Vec<(VolumeKey, VolumeSpec)> {
        owned::volumes(self.volumes, contract)
            .map(|(key, volume)| (key.clone(), volume.spec.clone()))
            .collect()
    }

    /// The newest version that named any of the contract's volumes here. Every machine has one.
    pub fn last_named(&self, contract: ContractId) -> Option<Version> {
        let volumes = owned::volumes(self.volumes, contract);
        volumes.map(|(_, volume)| volume.version).max()
    }

    fn workloads(
        &self,
        payload: &Payload,
        asked: &BTreeMap<Name, Workload>,
        ports: Option<PortRange>,
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
                    check_ports(name, machine, ports)?;
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
        self.update_of_root(payload, name, machine.root, &image)?;
        Ok(Machine {
            image,
            image_login: self.image_login(payload, name, machine)?,
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

    fn environment(
        &self,
        payload: &Payload,
        name: &Name,
        machine: &payload::Machine,
    ) -> Result<BTreeMap<String, String>, Refusal> {
        let mut env = machine.env.clone();
        for (variable, sealed) in &machine.sealed_env {
            let field = SealedField::Env(variable);
            let text = self.open(payload.contract, name, field, sealed)?;
            env.insert(variable.clone(), text);
        }
        Ok(env)
    }

    /// Whose registry it is for, verification has seen to.
    fn image_login(
        &self,
        payload: &Payload,
        name: &Name,
        machine: &payload::Machine,
    ) -> Result<Option<ImageLogin>, Refusal> {
        let Some(login) = &machine.image_login else {
            return Ok(None);
        };
        let open = |field, sealed| self.open(payload.contract, name, field, sealed);
        Ok(Some(ImageLogin {
            contract: payload.contract,
            user: open(SealedField::ImageUser, &login.sealed_user)?,
            password: open(SealedField::ImagePassword, &login.sealed_password)?,
        }))
    }

    fn open(
        &self,
        contract: ContractId,
        workload: &Name,
        field: SealedField<'_>,
        sealed: &Sealed,
    ) -> Result<String, Refusal> {
        let context = SealContext {
            chain: self.chain,
            node: self.identity.node,
            contract,
            workload,
            field,
        };
        let opened = seal::open(sealed, &self.identity.hpke.private, &context)?;
        let text = std::str::from_utf8(&opened).ok();
        let text = text.filter(|text| !text.contains('\0'));
        text.map(str::to_owned)
            .ok_or_else(|| Refusal::SecretText(workload.clone(), what(field).to_owned()))
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
        if wanted.media != there.spec.media {
            return Err(Refusal::Media {
                volume: name.clone(),
                has: there.spec.media,
            });
        }
        Ok(())
    }

    fn update_of_root(
        &self,
        payload: &Payload,
        name: &Name,
        wanted: Bytes,
        image: &OciReference,
    ) -> Result<(), Refusal> {
        let key = root_key(&WorkloadId::new(payload.contract, name.clone()), image);
        match self.volumes.get(&key) {
            Some(there) if wanted < there.spec.size => Err(Refusal::RootShrink {
                machine: name.clone(),
                has: there.spec.size,
                wanted,
            }),
            _ => Ok(()),
        }
    }
}

fn check_ports(
    name: &Name,
    machine: &payload::Machine,
    ports: Option<PortRange>,
) -> Result<(), Refusal> {
    let (first, last) = ports.unwrap_or(DEFAULT_PORTS);
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

/// Of a secret that a machine has, in its own words.
fn what(field: SealedField<'_>) -> &str {
    match field {
        SealedField::Env(variable) => variable,
        SealedField::ImageUser => "image_login.sealed_user",
        SealedField::ImagePassword => "image_login.sealed_password",
        SealedField::Password => "sealed_password",
    }
}

/// Only what is followed is admitted, so that no farmer believes in a policy that does nothing.
pub fn followed(policy: &NodePolicy) -> Result<NodePolicy, Refusal> {
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
