//! A machine for tests.

use loam_node_api::{
    guest::{GuestConfig, GuestInterface},
    network::Mac,
};

pub fn config() -> GuestConfig {
    GuestConfig {
        interfaces: vec![GuestInterface {
            mac: Mac([2, 0, 0, 0, 0, 1]),
            addresses: vec!["10.20.0.2/24".parse().unwrap()],
            gateways: Vec::new(),
            mtu: None,
        }],
        dns: vec!["10.20.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        ssh_keys: vec!["ssh-ed25519 AAAA a@b".into()],
        ..GuestConfig::bare("web", "", "", &["/x"])
    }
}
