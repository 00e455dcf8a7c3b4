//! Which addresses of a network's subnet are whose by rule.
//!
//! The node takes the first host address, as the machines' gateway. The validator that refuses a
//! fixed address, the node agent that numbers machines and the network daemon that numbers the
//! node's end of the bridge must agree on it, so it is said here alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The node's own address in the subnet.
pub fn gateway4(subnet: Ipv4Net) -> Ipv4Addr {
    // A /31 and a /32 have no network address to step over (RFC 3021).
    let skip = u32::from(subnet.prefix_len() < 31);
    Ipv4Addr::from_bits(subnet.network().to_bits() | skip)
}

/// The node's own address in the subnet.
pub fn gateway6(subnet: Ipv6Net) -> Ipv6Addr {
    // Nor has a /127 (RFC 6164).
    let skip = u128::from(subnet.prefix_len() < 127);
    Ipv6Addr::from_bits(subnet.network().to_bits() | skip)
}

/// Whether a machine may have the address: it is inside, and nobody else's by rule. The first
/// address of an IPv4 subnet is the network's name, that of an IPv6 one the routers' anycast address
/// (RFC 4291 section 2.6.1); an IPv4 subnet's last is its broadcast address.
pub fn is_for_machines(subnet: IpNet, address: IpAddr) -> bool {
    match (subnet, address) {
        (IpNet::V4(net), IpAddr::V4(v4)) => {
            net.contains(&v4) && ![net.network(), net.broadcast(), gateway4(net)].contains(&v4)
        }
        (IpNet::V6(net), IpAddr::V6(v6)) => {
            net.contains(&v6) && ![net.network(), gateway6(net)].contains(&v6)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_host_is_the_gateway() {
        for (subnet, gateway) in [
            ("10.20.0.0/24", "10.20.0.1"),
            ("10.20.0.128/25", "10.20.0.129"),
            // Also when the subnet is written with host bits.
            ("10.20.0.77/24", "10.20.0.1"),
            ("10.20.0.6/31", "10.20.0.6"),
        ] {
            let subnet: Ipv4Net = subnet.parse().unwrap();
            assert_eq!(gateway4(subnet).to_string(), gateway, "{subnet}");
        }
        for (subnet, gateway) in [
            ("fd00:1:2:3::/64", "fd00:1:2:3::1"),
            ("fd00::6/127", "fd00::6"),
        ] {
            let subnet: Ipv6Net = subnet.parse().unwrap();
            assert_eq!(gateway6(subnet).to_string(), gateway, "{subnet}");
        }
    }

    #[test]
    fn what_is_somebody_s_by_rule_is_not_for_machines() {
        let may = |subnet: &str, address: &str| {
            is_for_machines(subnet.parse().unwrap(), address.parse().unwrap())
        };
        assert!(may("10.20.0.0/24", "10.20.0.2"));
        assert!(may("10.20.0.0/24", "10.20.0.254"));
        for address in [
            "10.20.0.0",
            "10.20.0.1",
            "10.20.0.255",
            "10.21.0.2",
            "fd00::2",
        ] {
            assert!(!may("10.20.0.0/24", address), "{address}");
        }
        assert!(may("fd00::/112", "fd00::2"));
        assert!(may("fd00::/112", "fd00::ffff"));
        for address in ["fd00::", "fd00::1", "fd00::1:2", "10.20.0.2"] {
            assert!(!may("fd00::/112", address), "{address}");
        }
    }
}
