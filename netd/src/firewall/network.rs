//! The rules of a network's namespace: what is routed between its machines and the node.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use loam_node_api::network::NetworkSpec;

use super::{
    expression::Rule,
    icmp,
    table::{Chain, Family, Table},
};
use crate::{gateway, name, state::InterfaceRecord, transit::Transit};

/// `bridge` is the network's own; `interfaces` are all that hang on it.
pub fn table(
    bridge: &str,
    spec: &NetworkSpec,
    transit: Transit,
    interfaces: &[&InterfaceRecord],
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
    let gateway = IpAddr::V4(gateway::v4(spec.ipv4));
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
        let gateway = IpAddr::V6(gateway::v6(subnet));
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

fn publish(far: Ipv4Addr, interfaces: &[&InterfaceRecord]) -> Vec<Rule> {
    interfaces
        .iter()
        .filter_map(|interface| Some((interface, interface.first_ipv4()?)))
        .flat_map(|(interface, machine)| {
            interface.spec.publish.iter().map(move |publish| {
                Rule::new()
                    .input(name::UPLINK)
                    .ipv4()
                    .destination(IpAddr::V4(far))
                    .protocol(publish.protocol)
                    .destination_port(publish.node_port)
                    .translate_destination(machine, Some(publish.machine_port))
            })
        })
        .collect()
}
