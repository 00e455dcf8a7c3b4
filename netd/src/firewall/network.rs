//! The rules of a network's namespace: what is routed between its machines and the node.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use ipnet::IpNet;
use loam_deployment::{
    payload::Publish,
    subnet::{gateway4, gateway6},
};
use loam_node_api::network::NetworkSpec;

use super::{
    conntrack::{Leads, Through},
    expression::Rule,
    icmp,
    table::{Chain, Family, Table},
};
use crate::{name, state::InterfaceRecord, transit::Transit};

/// `bridge` is the network's own; `interfaces` are all that hang on it.
pub fn table(
    bridge: &str,
    spec: &NetworkSpec,
    transit: Transit,
    interfaces: &[InterfaceRecord],
) -> Table {
    Table {
        family: Family::Inet,
        chains: vec![
            Chain::input().rules(input(bridge, spec)),
            Chain::forward().rules(forward(bridge, spec)),
            Chain::destination_nat().rules(publish(transit.far().v4, interfaces)),
            Chain::source_nat().rules(
                spec.nat
                    .then(|| Rule::new().output(name::UPLINK).masquerade()),
            ),
        ],
    }
}

fn input(bridge: &str, spec: &NetworkSpec) -> Vec<Rule> {
    let gateway = IpAddr::V4(gateway4(spec.ipv4));
    let mut rules = vec![
        Rule::new().established().accept(),
        icmp::v4(Rule::new().input(bridge), icmp::ECHO_REQUEST)
            .destination(gateway)
            .accept(),
        icmp::v6(
            Rule::new().input(name::UPLINK),
            icmp::NEIGHBOUR_SOLICITATION,
        )
        .accept(),
        icmp::v6(
            Rule::new().input(name::UPLINK),
            icmp::NEIGHBOUR_ADVERTISEMENT,
        )
        .accept(),
    ];
    if let Some(subnet) = spec.ipv6 {
        let gateway = IpAddr::V6(gateway6(subnet));
        rules.extend([
            icmp::v6(Rule::new().input(bridge), icmp::NEIGHBOUR_SOLICITATION).accept(),
            icmp::v6(Rule::new().input(bridge), icmp::NEIGHBOUR_ADVERTISEMENT).accept(),
            icmp::v6(Rule::new().input(bridge), icmp::ECHO_REQUEST_V6)
                .destination(gateway)
                .accept(),
        ]);
    }
    rules
}

fn forward(bridge: &str, spec: &NetworkSpec) -> Vec<Rule> {
    let mut rules = vec![
        Rule::new().invalid().drop(),
        Rule::new().established().accept(),
        Rule::new()
            .input(name::UPLINK)
            .output(bridge)
            .destination_was_translated()
            .accept(),
    ];
    if spec.nat {
        let outwards = || Rule::new().input(bridge).output(name::UPLINK);
        rules.push(outwards().ipv4().source_in(IpNet::V4(spec.ipv4)).accept());
        if let Some(subnet) = spec.ipv6 {
            rules.push(outwards().ipv6().source_in(IpNet::V6(subnet)).accept());
        }
    }
    rules
}

fn publish(far: Ipv4Addr, interfaces: &[InterfaceRecord]) -> Vec<Rule> {
    let published = published(interfaces);
    let rules = published.map(|(publish, machine)| {
        Rule::new()
            .input(name::UPLINK)
            .ipv4()
            .destination(IpAddr::V4(far))
            .protocol(publish.protocol)
            .destination_port(publish.node_port)
            .translate_destination(machine, Some(publish.machine_port))
    });
    rules.collect()
}

/// Where connections to the network's end of its link lead.
pub fn leads(transit: Transit, interfaces: &[InterfaceRecord]) -> Leads {
    let published = published(interfaces);
    let ports = published.map(|(publish, machine)| {
        let port = (publish.protocol, publish.node_port);
        (port, SocketAddrV4::new(machine, publish.machine_port))
    });
    Leads {
        ports: ports.collect(),
        through: Through::Namespace(transit.far().v4),
    }
}

/// The published ports, and the machines' addresses that they lead to.
fn published(interfaces: &[InterfaceRecord]) -> impl Iterator<Item = (Publish, Ipv4Addr)> {
    let reachable = interfaces.iter().filter_map(|i| Some((i, i.first_ipv4()?)));
    reachable.flat_map(|(interface, machine)| {
        let publish = interface.spec.publish.iter();
        publish.map(move |publish| (*publish, machine))
    })
}
