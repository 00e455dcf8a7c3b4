//! The address that the node takes in a network: the first host's.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use loam_node_api::network::NetworkSpec;

pub fn v4(subnet: Ipv4Net) -> Ipv4Addr {
    // A /31 and a /32 have no network address to step over.
    let skip = u32::from(subnet.prefix_len() < 31);
    Ipv4Addr::from_bits(subnet.network().to_bits() | skip)
}

pub fn v6(subnet: Ipv6Net) -> Ipv6Addr {
    let skip = u128::from(subnet.prefix_len() < 127);
    Ipv6Addr::from_bits(subnet.network().to_bits() | skip)
}

/// The gateway's addresses with the lengths of their subnets.
pub fn addresses(spec: &NetworkSpec) -> Vec<IpNet> {
    // `new_assert` cannot fail: the lengths come from subnets of the same families.
    let ipv4 = IpNet::V4(Ipv4Net::new_assert(v4(spec.ipv4), spec.ipv4.prefix_len()));
    let ipv6 = spec
        .ipv6
        .map(|net| IpNet::V6(Ipv6Net::new_assert(v6(net), net.prefix_len())));
    std::iter::once(ipv4).chain(ipv6).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_host_is_the_gateway() {
        assert_eq!(
            v4("10.20.0.0/24".parse().unwrap()),
            Ipv4Addr::new(10, 20, 0, 1)
        );
        assert_eq!(
            v4("10.20.0.128/25".parse().unwrap()),
            Ipv4Addr::new(10, 20, 0, 129)
        );
        // Also when the subnet is written with host bits.
        assert_eq!(
            v4("10.20.0.77/24".parse().unwrap()),
            Ipv4Addr::new(10, 20, 0, 1)
        );
        assert_eq!(
            v4("10.20.0.6/31".parse().unwrap()),
            Ipv4Addr::new(10, 20, 0, 6)
        );
        assert_eq!(
            v6("fd00:1:2:3::/64".parse().unwrap()),
            "fd00:1:2:3::1".parse::<Ipv6Addr>().unwrap()
        );
    }
}
