//! Names of what we make in the kernel, derived from ids so that a restarted netd finds them again.
//!
//! An interface's name holds at most 15 bytes; an id is longer. So a name is two letters that say
//! the kind and 48 bits of a hash: with 65536 networks the chance that two share a name is one in
//! 100000. The id itself is kept beside the object, as its alias.

use loam_node_api::{WorkloadId, network::InterfaceId};
use sha2::{Digest, Sha256};

/// Links of a network in the node's own namespace begin so; no driver names its links like that.
pub const TRANSIT_PREFIX: &str = "lv";
/// Namespaces of networks begin so.
pub const NAMESPACE_PREFIX: &str = "ln";
/// Taps begin so.
pub const TAP_PREFIX: &str = "lt";

/// The other end of the transit link, the same in every network's namespace.
pub const UPLINK: &str = "uplink";

/// File name of a network's namespace.
pub fn namespace(network: &WorkloadId) -> String {
    derive(NAMESPACE_PREFIX, &network.to_string())
}

pub fn bridge(network: &WorkloadId) -> String {
    derive("lb", &network.to_string())
}

/// The node's end of the link to a network's namespace.
pub fn transit(network: &WorkloadId) -> String {
    derive(TRANSIT_PREFIX, &network.to_string())
}

/// The same of a network of which only the namespace's name is known.
pub fn transit_of(namespace: &str) -> String {
    let hash = namespace.strip_prefix(NAMESPACE_PREFIX);
    format!("{TRANSIT_PREFIX}{}", hash.unwrap_or(namespace))
}

/// And the other way round.
pub fn namespace_of(transit: &str) -> String {
    let hash = transit.strip_prefix(TRANSIT_PREFIX);
    format!("{NAMESPACE_PREFIX}{}", hash.unwrap_or(transit))
}

pub fn tap(id: &InterfaceId) -> String {
    // No id holds a slash, so no two pairs read the same.
    derive(TAP_PREFIX, &format!("{}/{}", id.machine, id.network))
}

/// A locally administered address for a network's bridge, stable over restarts.
pub fn bridge_mac(network: &WorkloadId) -> [u8; 6] {
    let [a, b, c, d, e, ..] = digest(&network.to_string());
    [0x02, a, b, c, d, e]
}

fn derive(prefix: &str, id: &str) -> String {
    let mut name = prefix.to_owned();
    for byte in &digest(id)[..6] {
        name.push_str(&format!("{byte:02x}"));
    }
    name
}

fn digest(id: &str) -> [u8; 32] {
    Sha256::digest(id.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> WorkloadId {
        text.parse().unwrap()
    }

    #[test]
    fn names_fit_the_kernel_and_differ_by_kind_and_id() {
        let one = id("18446744073709551615.a-name-as-long-as-the-format-allows");
        let two = id("1.a");
        let interface = InterfaceId {
            machine: one.clone(),
            network: two.clone(),
        };
        let swapped = InterfaceId {
            machine: two.clone(),
            network: one.clone(),
        };
        let names = [
            bridge(&one),
            bridge(&two),
            transit(&one),
            transit(&two),
            namespace(&one),
            namespace(&two),
            tap(&interface),
            tap(&swapped),
        ];
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
        assert!(names.iter().all(|n| n.len() < libc::IFNAMSIZ));
    }

    #[test]
    fn names_do_not_change_between_versions() {
        // A netd that derived other names would not find what its predecessor made.
        assert_eq!(bridge(&id("12.net")), "lb88cbd05270fc");
        assert_eq!(namespace(&id("12.net")), "ln88cbd05270fc");
    }

    #[test]
    fn a_networks_names_tell_each_other() {
        let id = id("12.net");
        assert_eq!(transit_of(&namespace(&id)), transit(&id));
        assert_eq!(namespace_of(&transit(&id)), namespace(&id));
    }

    #[test]
    fn a_bridge_has_a_local_unicast_mac() {
        let mac = bridge_mac(&id("12.net"));
        assert_eq!(mac[0] & 0b11, 0b10);
    }
}
