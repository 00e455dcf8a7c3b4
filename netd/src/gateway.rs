//! The addresses that the node takes in a network, as what links and rules need them.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use loam_deployment::subnet::{gateway4, gateway6};
use loam_node_api::network::NetworkSpec;

/// The gateway's addresses with the lengths of their subnets.
pub fn addresses(spec: &NetworkSpec) -> Vec<IpNet> {
    // `new_assert` cannot fail: the lengths come from subnets of the same families.
    let ipv4 = IpNet::V4(Ipv4Net::new_assert(
        gateway4(spec.ipv4),
        spec.ipv4.prefix_len(),
    ));
    let ipv6 = spec
        .ipv6
        .map(|net| IpNet::V6(Ipv6Net::new_assert(gateway6(net), net.prefix_len())));
    std::iter::once(ipv4).chain(ipv6).collect()
}
