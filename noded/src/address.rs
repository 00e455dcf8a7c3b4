//! Which addresses machines get on their networks.
//!
//! A fixed address is what its owner wrote. Any other is kept for as long as it fits, so that an
//! update which adds a machine renumbers none; a new one is the lowest that is free.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{Ipv4Net, Ipv6Net};
use loam_deployment::ContractId;
use loam_node_api::{
    WorkloadId,
    network::{Interface, InterfaceId, NetworkSpec},
};

use crate::desired::Workloads;

/// The node's own address on a network, and the machines' gateway: the first host address.
pub fn gateway(subnet: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()).wrapping_add(1))
}

/// Addresses of every interface that the contract's machines need; an interface without an entry
/// found its subnet full.
pub fn assign(
    contract: ContractId,
    workloads: &Workloads,
    present: &BTreeMap<InterfaceId, Interface>,
) -> BTreeMap<InterfaceId, Vec<IpAddr>> {
    let mut assigned = BTreeMap::new();
    for (network_name, network) in &workloads.networks {
        let network_id = WorkloadId::new(contract, network_name.clone());
        let mut fixed = BTreeMap::new();
        let mut free = Vec::new();
        for (machine_name, machine) in &workloads.machines {
            let id = InterfaceId {
                machine: WorkloadId::new(contract, machine_name.clone()),
                network: network_id.clone(),
            };
            match machine.networks.iter().find(|a| &a.network == network_name) {
                Some(attachment) => match attachment.address {
                    Some(IpAddr::V4(address)) => {
                        fixed.insert(id, address);
                    }
                    _ => free.push(id),
                },
                None => continue,
            }
        }
        let mut taken: BTreeSet<Ipv4Addr> = fixed.values().copied().collect();
        let mut chosen = fixed;
        // First those that have one, then the new ones, so that no new one takes an old one's.
        free.retain(|id| {
            let kept = present
                .get(id)
                .and_then(|interface| first_v4(&interface.spec.addresses))
                .filter(|address| is_host(network.ipv4, *address) && taken.insert(*address));
            if let Some(address) = kept {
                chosen.insert(id.clone(), address);
            }
            kept.is_none()
        });
        for id in free {
            if let Some(address) = lowest_free(network.ipv4, &taken) {
                taken.insert(address);
                chosen.insert(id, address);
            }
        }
        for (id, address) in chosen {
            assigned.insert(id, with_v6(network, address));
        }
    }
    assigned
}

fn first_v4(addresses: &[IpAddr]) -> Option<Ipv4Addr> {
    addresses.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    })
}

/// Inside the subnet, and neither its network, its broadcast nor the gateway's address.
fn is_host(subnet: Ipv4Net, address: Ipv4Addr) -> bool {
    subnet.contains(&address)
        && address != subnet.network()
        && address != subnet.broadcast()
        && address != gateway(subnet)
}

fn lowest_free(subnet: Ipv4Net, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    // At most `taken` addresses and the gateway are passed over, so this ends early even in a /8.
    subnet
        .hosts()
        .find(|address| is_host(subnet, *address) && !taken.contains(address))
}

/// With an IPv6 subnet, the host part of the IPv4 address is the host part of the IPv6 one too.
fn with_v6(network: &NetworkSpec, address: Ipv4Addr) -> Vec<IpAddr> {
    let mut addresses = vec![IpAddr::V4(address)];
    if let Some(subnet) = network.ipv6 {
        let host = u32::from(address) & u32::from(network.ipv4.hostmask());
        addresses.push(IpAddr::V6(nth_host(subnet, host)));
    }
    addresses
}

fn nth_host(subnet: Ipv6Net, host: u32) -> Ipv6Addr {
    let mask = u128::from(subnet.hostmask());
    Ipv6Addr::from(u128::from(subnet.network()) | (u128::from(host) & mask))
}

#[cfg(test)]
mod tests {
    use loam_node_api::network::{InterfaceSpec, Mac};

    use super::*;
    use crate::fixture;

    #[test]
    fn a_new_machine_renumbers_none() {
        let contract = ContractId(7);
        let mut workloads = fixture::workloads(&["web"], &["net"], &[]);
        let before = assign(contract, &workloads, &BTreeMap::new());
        let (id, addresses) = before.first_key_value().unwrap();
        assert_eq!(addresses, &["10.20.0.2".parse::<IpAddr>().unwrap()]);

        let present = BTreeMap::from([(
            id.clone(),
            Interface {
                id: id.clone(),
                spec: InterfaceSpec {
                    mac: Mac([2; 6]),
                    addresses: addresses.clone(),
                    publish: vec![],
                },
                tap: "t".into(),
                namespace: None,
                in_force: true,
            },
        )]);
        // `api` sorts before `web`, but `web` was here first.
        workloads.machines.insert(
            "api".parse().unwrap(),
            workloads.machines.values().next().unwrap().clone(),
        );
        let after = assign(contract, &workloads, &present);
        assert_eq!(after[id], *addresses);
        assert_eq!(after.len(), 2);
        let distinct: BTreeSet<_> = after.values().collect();
        assert_eq!(distinct.len(), 2);
    }

    #[test]
    fn a_full_subnet_leaves_the_rest_without() {
        let mut workloads = fixture::workloads(&[], &["net"], &[]);
        for name in ["a", "b", "c", "d", "e", "f"] {
            workloads.machines.insert(
                name.parse().unwrap(),
                fixture::workloads(&["x"], &["net"], &[]).machines["x".parse().as_ref().unwrap()]
                    .clone(),
            );
        }
        for network in workloads.networks.values_mut() {
            network.ipv4 = "10.20.0.0/29".parse().unwrap();
        }
        // Eight addresses less network, broadcast and gateway.
        assert_eq!(assign(ContractId(1), &workloads, &BTreeMap::new()).len(), 5);
    }
}
