//! Small desired states for tests.

use loam_deployment::{
    Bytes, ContractId, Name, Version,
    payload::{
        Filesystem, Media, NetworkAttachment, OciReference, Protocol, Publish, Restart, Volume,
    },
};
use loam_node_api::{
    WorkloadId,
    healthcheck::Healthcheck,
    image::ImageLogin,
    machine::{Machine as ActualMachine, MachineState},
    network::{Interface, InterfaceId, InterfaceSpec, NetworkSpec},
    storage::{Volume as VolumeThere, VolumeKey, VolumeSpec},
};

use crate::desired::{Machine, Workloads};

pub fn healthcheck() -> Healthcheck {
    Healthcheck::new(vec!["/check".into()])
}

pub fn image(n: u8) -> OciReference {
    format!("registry.example/hello@sha256:{}", hex::encode([n; 32]))
        .parse()
        .unwrap()
}

pub fn login(contract: u64, password: &str) -> ImageLogin {
    ImageLogin {
        contract: ContractId(contract),
        user: "alice".into(),
        password: password.into(),
    }
}

pub fn machine(networks: &[&str], volumes: &[&str]) -> Machine {
    Machine {
        image: image(1),
        image_login: None,
        cpus: 1,
        memory: Bytes::mib(256),
        root: Bytes::mib(64),
        command: vec![],
        env: [("A".into(), "b".into())].into(),
        ssh_keys: vec![],
        volumes: volumes
            .iter()
            .map(|v| (v.parse().unwrap(), format!("/{v}")))
            .collect(),
        networks: networks
            .iter()
            .map(|n| NetworkAttachment {
                network: n.parse().unwrap(),
                address: None,
            })
            .collect(),
        publish: vec![Publish {
            protocol: Protocol::Tcp,
            node_port: 8080,
            machine_port: 80,
        }],
        restart: Restart::Always,
    }
}

pub fn volume(size: Bytes) -> Volume {
    Volume {
        size,
        media: Media::Any,
        filesystem: Filesystem::Ext4,
        encrypted: false,
    }
}

pub fn network() -> NetworkSpec {
    NetworkSpec {
        ipv4: "10.20.0.0/24".parse().unwrap(),
        ipv6: None,
        nat: true,
    }
}

/// Every machine on every network and, the first one only, with every volume.
pub fn workloads(machines: &[&str], networks: &[&str], volumes: &[&str]) -> Workloads {
    let name = |text: &&str| text.parse::<Name>().unwrap();
    Workloads {
        version: Version(1),
        machines: machines
            .iter()
            .enumerate()
            .map(|(i, m)| {
                (
                    name(m),
                    machine(networks, if i == 0 { volumes } else { &[] }),
                )
            })
            .collect(),
        volumes: volumes
            .iter()
            .map(|v| (name(v), volume(Bytes::gib(1))))
            .collect(),
        networks: networks.iter().map(|n| (name(n), network())).collect(),
    }
}

pub fn interface(id: &InterfaceId, spec: InterfaceSpec) -> Interface {
    Interface {
        id: id.clone(),
        spec,
        tap: "t".into(),
        namespace: None,
        in_force: true,
    }
}

pub fn running(id: &WorkloadId, fingerprint: &str, state: MachineState) -> ActualMachine {
    ActualMachine {
        id: id.clone(),
        fingerprint: fingerprint.into(),
        state,
        age_seconds: 0,
        health: None,
        resets: 0,
        ends: None,
        console_position: 0,
    }
}

pub fn volume_there(key: &VolumeKey, spec: VolumeSpec, version: Version) -> VolumeThere {
    VolumeThere {
        key: key.clone(),
        spec,
        path: Some("/v".into()),
        used: Bytes(0),
        version,
    }
}
