//! A machine for tests.

use loam_node_api::{
    guest::{GuestConfig, GuestInterface},
    network::Mac,
};

pub fn config() -> GuestConfig {
    GuestConfig {
        hostname: "web".into(),
        image_disk: String::new(),
        root_disk: String::new(),
        mounts: Vec::new(),
        interfaces: vec![GuestInterface {
            mac: Mac([2, 0, 0, 0, 0, 1]),
            addresses: vec!["10.20.0.2/24".parse().unwrap()],
            gateways: Vec::new(),
            mtu: None,
        }],
        dns: vec!["10.20.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        command: vec!["/x".into()],
        env: Vec::new(),
        working_dir: String::new(),
        user: String::new(),
        stop_signal: None,
        healthcheck: None,
        volumes: Vec::new(),
        ssh_keys: vec!["ssh-ed25519 AAAA a@b".into()],
    }
}
