//! The rules of the node's own namespace.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use loam_deployment::payload::{Protocol, Publish};
use loam_node_api::path::TENANT_PORT;

use super::{
    conntrack::{Leads, Through},
    expression::Rule,
    icmp,
    table::{Chain, Family, Table},
};
use crate::{
    name::TRANSIT_PREFIX,
    transit::{RANGE_V4, RANGE_V6, Transit},
};

/// TCP and UDP port of DNS.
const NAME_SERVICE: u16 = 53;
/// UDP port of DHCP clients.
const DHCP_CLIENT: u16 = 68;
/// UDP port of DHCPv6 clients.
const DHCPV6_CLIENT: u16 = 546;
/// RFC 4291 2.5.6.
const LINK_LOCAL_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);

/// Addresses that mean something in somebody's own network only (RFC 1918, RFC 6598, RFC 3927).
const PRIVATE_V4: [Ipv4Net; 5] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
];
/// The same of IPv6 (RFC 4193, RFC 3879, RFC 4291).
const PRIVATE_V6: [Ipv6Net; 3] = [
    Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
    Ipv6Net::new_assert(Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10),
    LINK_LOCAL_V6,
];
/// A translator between the families makes an IPv4 address of what follows (RFC 6052, section 2.1): a router at
/// home leads to its own network that way, too.
const TRANSLATED: u128 = 0x0064_ff9b << 96;

fn translated(net: Ipv4Net) -> Ipv6Net {
    let address = Ipv6Addr::from_bits(TRANSLATED | u128::from(net.network().to_bits()));
    Ipv6Net::new_assert(address, 96 + net.prefix_len())
}

/// A published port of the node, and the network whose machine answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Published {
    pub publish: Publish,
    pub transit: Transit,
}

/// Links that are no transit are uplinks: netd makes no others here.
pub fn table(published: &[Published]) -> Table {
    let tenants = format!("{TRANSIT_PREFIX}*");
    Table {
        family: Family::Inet,
        chains: vec![
            Chain::input().rules(input(&tenants)),
            Chain::forward().rules(forward(&tenants)),
            Chain::destination_nat().rules(publish(published)),
            Chain::source_nat().rules([
                // Also what one network asks of another's published port, so that a network
                // that asks its own sees the node as source and answers through it.
                Rule::new()
                    .ipv4()
                    .source_in(IpNet::V4(RANGE_V4))
                    .masquerade(),
                Rule::new()
                    .ipv6()
                    .source_in(IpNet::V6(RANGE_V6))
                    .masquerade(),
            ]),
        ],
    }
}

fn input(tenants: &str) -> Vec<Rule> {
    let v6 = |kind| {
        Rule::new()
            .ipv6()
            .transport(libc::IPPROTO_ICMPV6)
            .icmp_type(kind)
            .accept()
    };
    vec![
        Rule::new().input("lo").accept(),
        // The DHCP client reads its frames before these rules. The kernel, which has no socket for
        // them, would tell the server that nobody is there.
        Rule::new()
            .transport(libc::IPPROTO_UDP)
            .destination_port(DHCP_CLIENT)
            .drop(),
        Rule::new().established().accept(),
        Rule::new().invalid().drop(),
        // Tenants reach the world through the node, never the node itself; only the links
        // need each other's neighbour discovery.
        icmp::v6(Rule::new().input(tenants), icmp::NEIGHBOUR_SOLICITATION).accept(),
        icmp::v6(Rule::new().input(tenants), icmp::NEIGHBOUR_ADVERTISEMENT).accept(),
        Rule::new().input(tenants).drop(),
        // From here on: from the uplink.
        icmp::v4(Rule::new(), icmp::ECHO_REQUEST).accept(),
        v6(icmp::ECHO_REQUEST_V6),
        v6(icmp::ROUTER_ADVERTISEMENT),
        v6(icmp::NEIGHBOUR_SOLICITATION),
        v6(icmp::NEIGHBOUR_ADVERTISEMENT),
        v6(icmp::LISTENER_QUERY),
        // A client asks all servers at once, so that no connection is known for their answers.
        Rule::new()
            .ipv6()
            .destination_in(IpNet::V6(LINK_LOCAL_V6))
            .transport(libc::IPPROTO_UDP)
            .destination_port(DHCPV6_CLIENT)
            .accept(),
        Rule::new()
            .transport(libc::IPPROTO_TCP)
            .destination_port(TENANT_PORT)
            .accept(),
    ]
}

fn forward(tenants: &str) -> Vec<Rule> {
    let outward = || Rule::new().input(tenants).output_not(tenants);
    let mut rules = vec![
        // Before what is established: the answer to who opens a connection names a size as well.
        // Machines' links carry 1500 bytes, whatever the uplink does, and many networks lose the
        // messages by which a sender would learn of that.
        Rule::new().clamp_segments(),
        Rule::new().invalid().drop(),
        Rule::new().established().accept(),
        // By a published port only, from wherever: the world or another network.
        Rule::new()
            .output(tenants)
            .destination_was_translated()
            .accept(),
    ];
    // The world is not what stands beside the node: the farmer's own machines are left alone, but
    // for a name server, which is most often his router.
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        rules.push(
            outward()
                .protocol(protocol)
                .destination_port(NAME_SERVICE)
                .accept(),
        );
    }
    rules.extend(PRIVATE_V4.map(|net| outward().ipv4().destination_in(IpNet::V4(net)).drop()));
    let private = PRIVATE_V6.into_iter().chain(PRIVATE_V4.map(translated));
    rules.extend(private.map(|net| outward().ipv6().destination_in(IpNet::V6(net)).drop()));
    // Whether a network may reach the world at all is decided in its own namespace.
    rules.push(outward().accept());
    rules
}

fn publish(published: &[Published]) -> Vec<Rule> {
    let mut rules = Vec::with_capacity(published.len() + 1);
    if !published.is_empty() {
        // The node's transit addresses are its own too, but no way in.
        rules.push(
            Rule::new()
                .ipv4()
                .destination_in(IpNet::V4(RANGE_V4))
                .accept(),
        );
    }
    rules.extend(published.iter().map(|Published { publish, transit }| {
        Rule::new()
            .ipv4()
            .protocol(publish.protocol)
            .destination_port(publish.node_port)
            .destination_is_local()
            // The port stays; the network's namespace knows which machine it leads to.
            .translate_destination(transit.far().v4, None)
    }));
    rules
}

/// Where connections to the node's ports lead.
pub fn leads(published: &[Published]) -> Leads {
    let ports = published.iter().map(|Published { publish, transit }| {
        let port = (publish.protocol, publish.node_port);
        (port, SocketAddrV4::new(transit.far().v4, publish.node_port))
    });
    Leads {
        ports: ports.collect(),
        through: Through::Node,
    }
}
