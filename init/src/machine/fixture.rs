//! A specification for tests.

use loam_deployment::Bytes;
use loam_node_api::{
    guest::GuestConfig,
    machine::{Boot, MachineDisk, MachineInterface, MachineSpec, OnReset},
    network::Mac,
};

pub fn spec(id: &str) -> MachineSpec {
    MachineSpec {
        id: id.parse().unwrap(),
        fingerprint: "f".into(),
        cpus: 1,
        memory: Bytes::mib(128),
        boot: Boot::Guest(Box::new(GuestConfig::bare(
            "web",
            "image",
            "root",
            &["/bin/true"],
        ))),
        on_reset: OnReset::Restart,
        disks: vec![MachineDisk {
            path: "/pools/a/image".into(),
            read_only: true,
            serial: "image".into(),
        }],
        interfaces: vec![MachineInterface {
            tap: "t1".into(),
            namespace: None,
            mac: Mac([2, 0, 0, 0, 0, 1]),
        }],
    }
}
