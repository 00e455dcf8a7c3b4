//! Private networks.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Result, at_most, ensure, invalid};
use crate::{
    Name, limits,
    payload::{Network, Peer, Workload},
    subnet,
};

/// RFC 1918.
const PRIVATE4: [Ipv4Net; 3] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
];

/// RFC 4193.
const PRIVATE6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7);

pub(super) fn check(network: &Network, path: &str) -> Result {
    ipv4(network.ipv4, &format!("{path}.ipv4"))?;
    if let Some(net) = network.ipv6 {
        ipv6(net, &format!("{path}.ipv6"))?;
    }
    peers(&network.peers, &format!("{path}.peers"))
}

/// Networks of one deployment may meet in one machine, which could not tell them apart.
pub(super) fn shared(workloads: &BTreeMap<Name, Workload>) -> Result {
    let networks: Vec<_> = workloads
        .iter()
        .filter_map(|(name, workload)| match workload {
            Workload::Network(network) => Some((name, network)),
            _ => None,
        })
        .collect();
    for (index, (name, network)) in networks.iter().enumerate() {
        for (other_name, other) in &networks[..index] {
            let why = || format!("overlaps the subnet of network {other_name}");
            let (a, b) = (network.ipv4, other.ipv4);
            if a.contains(&b) || b.contains(&a) {
                return Err(invalid(&format!("workloads.{name}.ipv4"), why()));
            }
            if let (Some(a), Some(b)) = (network.ipv6, other.ipv6)
                && (a.contains(&b) || b.contains(&a))
            {
                return Err(invalid(&format!("workloads.{name}.ipv6"), why()));
            }
        }
    }
    Ok(())
}

/// An address that a machine may ask for: one of the subnet's that nobody else has by rule.
pub(super) fn fixed_address(network: &Network, address: IpAddr, path: &str) -> Result {
    let net = match (address, network.ipv6) {
        (IpAddr::V4(_), _) => IpNet::V4(network.ipv4),
        (IpAddr::V6(_), Some(net)) => IpNet::V6(net),
        (IpAddr::V6(_), None) => {
            return Err(invalid(
                path,
                "is an IPv6 address, but the network has no `ipv6` subnet",
            ));
        }
    };
    ensure(
        path,
        net.contains(&address),
        "is outside the network's subnet",
    )?;
    ensure(
        path,
        subnet::is_for_machines(net, address),
        "is reserved: a subnet's first address, its second (the gateway) and an IPv4 subnet's \
         last (broadcast) are not for machines",
    )
}

fn ipv4(net: Ipv4Net, path: &str) -> Result {
    let (min, max) = (limits::SUBNET4_PREFIX_MIN, limits::SUBNET4_PREFIX_MAX);
    if !(min..=max).contains(&net.prefix_len()) {
        return Err(invalid(
            path,
            format!("{net} must have a prefix length of {min} to {max}"),
        ));
    }
    if net != net.trunc() {
        return Err(invalid(
            path,
            format!("{net} has bits behind its prefix; write {}", net.trunc()),
        ));
    }
    if !PRIVATE4.iter().any(|private| private.contains(&net)) {
        let ranges = "10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16";
        return Err(invalid(
            path,
            format!("{net} is not private; choose a subnet of {ranges}"),
        ));
    }
    Ok(())
}

fn ipv6(net: Ipv6Net, path: &str) -> Result {
    let (min, max) = (limits::SUBNET6_PREFIX_MIN, limits::SUBNET6_PREFIX_MAX);
    if !(min..=max).contains(&net.prefix_len()) {
        return Err(invalid(
            path,
            format!("{net} must have a prefix length of {min} to {max}"),
        ));
    }
    if net != net.trunc() {
        return Err(invalid(
            path,
            format!("{net} has bits behind its prefix; write {}", net.trunc()),
        ));
    }
    if !PRIVATE6.contains(&net) {
        return Err(invalid(
            path,
            format!("{net} is not private; choose a subnet of {PRIVATE6}"),
        ));
    }
    Ok(())
}

fn peers(peers: &[Peer], path: &str) -> Result {
    at_most(path, peers.len(), limits::PEERS, "entries")?;
    let mut keys = BTreeSet::new();
    for (index, peer) in peers.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let Peer {
            public_key,
            allowed,
            endpoint,
        } = peer;
        let key = format!("{path}.public_key");
        ensure(&key, *public_key != [0; 32], "is not a WireGuard key")?;
        ensure(&key, keys.insert(public_key), "is that of another peer too")?;
        let subnets = format!("{path}.allowed");
        ensure(
            &subnets,
            !allowed.is_empty(),
            "must name at least one subnet",
        )?;
        at_most(&subnets, allowed.len(), limits::PEER_SUBNETS, "entries")?;
        for (index, net) in allowed.iter().enumerate() {
            if *net != net.trunc() {
                let why = format!("{net} has bits behind its prefix; write {}", net.trunc());
                return Err(invalid(&format!("{subnets}[{index}]"), why));
            }
        }
        if let Some(endpoint) = endpoint {
            self::endpoint(*endpoint, &format!("{path}.endpoint"))?;
        }
    }
    Ok(())
}

fn endpoint(endpoint: SocketAddr, path: &str) -> Result {
    let ip = endpoint.ip();
    let usable = endpoint.port() > 0 && !ip.is_unspecified() && !ip.is_multicast();
    ensure(
        path,
        usable,
        "is not an address and port that can be sent to",
    )
}
