//! The rules at the door of each machine: only frames that say truly whom they come from.
//!
//! They stand where frames enter the bridge, before the bridge learns from them, so a machine can
//! neither take another's address nor its place in the bridge's table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use loam_node_api::network::Mac;

use super::{
    expression::{Base, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Rule},
    icmp,
    table::{Chain, Family, Table},
};
use crate::{name, state::InterfaceRecord};

const DHCP_SERVER_PORT: u16 = 67;
const DHCPV6_SERVER_PORT: u16 = 547;

pub fn table(interfaces: &[InterfaceRecord]) -> Table {
    let doors = interfaces.iter().map(|interface| {
        let tap = name::tap(&interface.id);
        Rule::new().input(&tap).jump(&tap)
    });
    let mut chains = vec![Chain::bridge_prerouting().rules(doors)];
    chains.extend(interfaces.iter().flat_map(door));
    Table {
        family: Family::Bridge,
        chains,
    }
}

/// What falls out of a machine's chains reaches the end of the first chain and is dropped.
fn door(interface: &InterfaceRecord) -> [Chain; 2] {
    let tap = name::tap(&interface.id);
    let mac = interface.spec.mac;
    let mut rules = vec![Rule::new().payload_is_not(Base::Link, 6, &mac.0).drop()];
    let mut v6 = Vec::new();
    for address in &interface.spec.addresses {
        match address {
            IpAddr::V4(address) => rules.extend(v4(mac, *address)),
            IpAddr::V6(address) => v6.push(*address),
        }
    }
    let v6_sources = format!("{tap}-v6");
    let mut sources = Chain::named(&v6_sources);
    if !v6.is_empty() {
        v6.push(link_local(mac));
        rules.extend(v6_messages(&v6, &v6_sources));
        sources = sources.rules(
            v6.iter()
                .map(|a| Rule::new().source(IpAddr::V6(*a)).accept()),
        );
    }
    [Chain::named(&tap).rules(rules), sources]
}

fn v4(mac: Mac, sender: Ipv4Addr) -> [Rule; 3] {
    // RFC 826: Ethernet, IPv4, lengths 6 and 4; then operation, sender's MAC and address.
    let ethernet_ipv4 = [0, 1, 8, 0, 6, 4];
    [
        Rule::new()
            .ethertype(ETHERTYPE_ARP)
            .payload_is(Base::Network, 0, &ethernet_ipv4)
            .payload_is(Base::Network, 8, &mac.0)
            .payload_is(Base::Network, 14, &sender.octets())
            .accept(),
        Rule::new()
            .ethertype(ETHERTYPE_IPV4)
            .transport(libc::IPPROTO_UDP)
            .source_port(DHCP_SERVER_PORT)
            .drop(),
        Rule::new()
            .ethertype(ETHERTYPE_IPV4)
            .source(IpAddr::V4(sender))
            .accept(),
    ]
}

fn v6_messages(own: &[Ipv6Addr], sources: &str) -> Vec<Rule> {
    let v6 = || Rule::new().ethertype(ETHERTYPE_IPV6);
    let message = |kind| v6().transport(libc::IPPROTO_ICMPV6).icmp_type(kind);
    let mut rules = vec![
        // The protocol is the last header's, so extension headers do not hide these (RFC 7113).
        message(icmp::ROUTER_ADVERTISEMENT).drop(),
        message(icmp::REDIRECT_V6).drop(),
        v6().transport(libc::IPPROTO_UDP)
            .source_port(DHCPV6_SERVER_PORT)
            .drop(),
        // Duplicate address detection has no source yet (RFC 4862).
        message(icmp::NEIGHBOUR_SOLICITATION)
            .source(IpAddr::V6(Ipv6Addr::UNSPECIFIED))
            .accept(),
    ];
    // RFC 4861 4.4: the target, whose MAC is told, follows eight bytes of header.
    rules.extend(own.iter().map(|target| {
        message(icmp::NEIGHBOUR_ADVERTISEMENT)
            .payload_is(Base::Transport, 8, &target.octets())
            .jump(sources)
    }));
    rules.push(message(icmp::NEIGHBOUR_ADVERTISEMENT).drop());
    rules.push(v6().jump(sources));
    rules
}

/// The link-local address that a MAC leads to (RFC 4291, modified EUI-64).
fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let a = a ^ 0b10;
    let pair = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        pair(a, b),
        pair(c, 0xff),
        pair(0xfe, d),
        pair(e, f),
    )
}
