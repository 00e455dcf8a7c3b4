//! Which addresses machines get on their networks.
//!
//! A fixed address is what its owner wrote. Any other is kept for as long as it fits, so that an
//! update which adds a machine renumbers none. A new one is the lowest that is free; with an IPv6
//! subnet, a machine whose IPv6 address is not fixed gets the one with its IPv4 address's host part,
//! as long as that is a free one too.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use loam_deployment::{ContractId, subnet::is_for_machines};
use loam_node_api::{
    WorkloadId,
    network::{Interface, InterfaceId},
};

use crate::desired::Workloads;

/// Addresses of every interface that the contract's machines need, IPv4 first; an interface without
/// an entry found a subnet full.
pub fn assign(
    contract: ContractId,
    workloads: &Workloads,
    present: &BTreeMap<InterfaceId, Interface>,
) -> BTreeMap<InterfaceId, Vec<IpAddr>> {
    let mut assigned = BTreeMap::new();
    for (network_name, network) in &workloads.networks {
        let network_id = WorkloadId::new(contract, network_name.clone());
        let mut members = Vec::new();
        for (machine_name, machine) in &workloads.machines {
            if let Some(attachment) = machine.networks.iter().find(|a| &a.network == network_name) {
                let id = InterfaceId {
                    machine: WorkloadId::new(contract, machine_name.clone()),
                    network: network_id.clone(),
                };
                let has = present
                    .get(&id)
                    .map_or(&[][..], |interface| &interface.spec.addresses);
                members.push(Member {
                    id,
                    fixed: attachment.address,
                    has,
                });
            }
        }
        let ipv4 = number(IpNet::V4(network.ipv4), &members, |_| None);
        let ipv6 = network.ipv6.map(|subnet| {
            number(IpNet::V6(subnet), &members, |member| {
                same_host(network.ipv4, ipv4[member]?, subnet)
            })
        });
        for (index, Member { id, .. }) in members.into_iter().enumerate() {
            let of_each = [Some(&ipv4), ipv6.as_ref()].into_iter().flatten();
            let addresses: Option<Vec<_>> = of_each.map(|chosen| chosen[index]).collect();
            assigned.extend(addresses.map(|addresses| (id, addresses)));
        }
    }
    assigned
}

/// A machine's interface on the network that is numbered.
struct Member<'a> {
    id: InterfaceId,
    fixed: Option<IpAddr>,
    /// What the interface has now.
    has: &'a [IpAddr],
}

/// An address of the subnet for each member, as far as there are enough. `preferred` is what a new
/// one gets if it is free, by its place among the members.
fn number(
    subnet: IpNet,
    members: &[Member<'_>],
    preferred: impl Fn(usize) -> Option<IpAddr>,
) -> Vec<Option<IpAddr>> {
    let of_subnet = |address: &IpAddr| address.is_ipv4() == subnet.addr().is_ipv4();
    let fixed = members.iter().map(|member| member.fixed.filter(of_subnet));
    let mut chosen: Vec<_> = fixed.collect();
    let mut taken: BTreeSet<IpAddr> = chosen.iter().copied().flatten().collect();
    let mut free = |address: &IpAddr| is_for_machines(subnet, *address) && taken.insert(*address);
    // First those that have one, then the new ones, so that no new one takes an old one's.
    for (chosen, member) in chosen.iter_mut().zip(members) {
        *chosen = chosen.or_else(|| member.has.iter().copied().find(&mut free));
    }
    for (index, chosen) in chosen.iter_mut().enumerate() {
        *chosen = chosen
            .or_else(|| preferred(index).filter(&mut free))
            // At most the taken ones and the gateway are passed over, so this ends early even in a
            // subnet with more addresses than could ever be counted.
            .or_else(|| hosts(subnet).find(&mut free));
    }
    chosen
}

fn hosts(subnet: IpNet) -> Box<dyn Iterator<Item = IpAddr>> {
    match subnet {
        IpNet::V4(net) => Box::new(net.hosts().map(IpAddr::V4)),
        IpNet::V6(net) => Box::new(net.hosts().map(IpAddr::V6)),
    }
}

/// The address of the IPv6 subnet whose host part is that of `address` in `ipv4`, if it has room for
/// it.
fn same_host(ipv4: Ipv4Net, address: IpAddr, ipv6: Ipv6Net) -> Option<IpAddr> {
    let IpAddr::V4(address) = address else {
        return None;
    };
    let host = u128::from(u32::from(address) & u32::from(ipv4.hostmask()));
    let room = u128::from(ipv6.hostmask());
    (host <= room).then(|| IpAddr::V6(Ipv6Addr::from(u128::from(ipv6.network()) | host)))
}

#[cfg(test)]
mod tests {
    use loam_node_api::network::{InterfaceSpec, Mac};
    use std::net::Ipv4Addr;

    use proptest::{collection::vec, option, prelude::*};

    use super::*;
    use crate::fixture;

    const CONTRACT: ContractId = ContractId(7);

    fn present(addresses: &BTreeMap<InterfaceId, Vec<IpAddr>>) -> BTreeMap<InterfaceId, Interface> {
        let interface = |(id, addresses): (&InterfaceId, &Vec<IpAddr>)| {
            let spec = InterfaceSpec {
                mac: Mac([2; 6]),
                addresses: addresses.clone(),
                publish: vec![],
            };
            (id.clone(), fixture::interface(id, spec))
        };
        addresses.iter().map(interface).collect()
    }

    /// Machines `a`, `b`, ... on one network, with the fixed addresses of those that have one.
    fn workloads(ipv4: &str, ipv6: Option<&str>, fixed: &[Option<&str>]) -> Workloads {
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let mut workloads = fixture::workloads(&names[..fixed.len()], &["net"], &[]);
        for (machine, fixed) in workloads.machines.values_mut().zip(fixed) {
            machine.networks[0].address = fixed.map(|address| address.parse().unwrap());
        }
        for network in workloads.networks.values_mut() {
            network.ipv4 = ipv4.parse().unwrap();
            network.ipv6 = ipv6.map(|net| net.parse().unwrap());
        }
        workloads
    }

    fn texts(assigned: &BTreeMap<InterfaceId, Vec<IpAddr>>) -> Vec<Vec<String>> {
        let text = |addresses: &Vec<IpAddr>| addresses.iter().map(IpAddr::to_string).collect();
        assigned.values().map(text).collect()
    }

    #[test]
    fn a_new_machine_renumbers_none() {
        let mut workloads = fixture::workloads(&["web"], &["net"], &[]);
        let before = assign(CONTRACT, &workloads, &BTreeMap::new());
        assert_eq!(texts(&before), [["10.20.0.2"]]);

        // `api` sorts before `web`, but `web` was here first.
        workloads.machines.insert(
            "api".parse().unwrap(),
            workloads.machines.values().next().unwrap().clone(),
        );
        let after = assign(CONTRACT, &workloads, &present(&before));
        assert_eq!(texts(&after), [["10.20.0.3"], ["10.20.0.2"]]);
    }

    #[test]
    fn an_address_that_no_longer_fits_is_given_up() {
        let before = assign(
            CONTRACT,
            &workloads("10.20.0.0/24", None, &[None]),
            &BTreeMap::new(),
        );
        let present = present(&before);
        let moved = assign(
            CONTRACT,
            &workloads("10.30.0.0/24", None, &[None]),
            &present,
        );
        assert_eq!(texts(&moved), [["10.30.0.2"]]);
        // Another machine's owner wrote it.
        let wanted = workloads("10.20.0.0/24", None, &[None, Some("10.20.0.2")]);
        let yielded = assign(CONTRACT, &wanted, &present);
        assert_eq!(texts(&yielded), [["10.20.0.3"], ["10.20.0.2"]]);
    }

    #[test]
    fn a_full_subnet_leaves_the_rest_without() {
        // Eight addresses less network, broadcast and gateway.
        let full = workloads("10.20.0.0/29", None, &[None; 6]);
        assert_eq!(assign(CONTRACT, &full, &BTreeMap::new()).len(), 5);
    }

    #[test]
    fn a_fixed_ipv6_address_is_the_machine_s() {
        let wanted = workloads("10.20.0.0/24", Some("fd00::/64"), &[Some("fd00::77"), None]);
        assert_eq!(
            texts(&assign(CONTRACT, &wanted, &BTreeMap::new())),
            [["10.20.0.2", "fd00::77"], ["10.20.0.3", "fd00::3"]]
        );
    }

    #[test]
    fn host_parts_that_do_not_fit_or_are_taken_make_way() {
        // 10.1.0.1 has the host part of the gateway in 16 bits, 10.1.0.2 that of 10.0.0.2.
        let fixed = [
            Some("10.0.0.2"),
            Some("10.1.0.1"),
            Some("10.1.0.2"),
            Some("fd00::3"),
        ];
        let wanted = workloads("10.0.0.0/8", Some("fd00::/112"), &fixed);
        assert_eq!(
            texts(&assign(CONTRACT, &wanted, &BTreeMap::new())),
            [
                ["10.0.0.2", "fd00::2"],
                ["10.1.0.1", "fd00::4"],
                ["10.1.0.2", "fd00::5"],
                ["10.0.0.3", "fd00::3"],
            ]
        );
    }

    proptest! {
        /// Whatever is fixed and whatever was there before: nobody's address is another's or is
        /// reserved, what is fixed is had, and numbering again changes nothing.
        #[test]
        fn addresses_are_distinct_usable_and_stable(
            subnets in prop::sample::select(vec![
                ("10.0.0.0/8", "fd00::/112"),
                ("10.0.0.0/28", "fd00::/64"),
                ("192.168.0.0/16", "fd00::/112"),
            ]),
            before in vec(option::of(0u32..0x30000), 1..8),
            after in vec(option::of((0u32..0x30000, any::<bool>())), 1..8),
        ) {
            let (ipv4, ipv6): (Ipv4Net, Ipv6Net) =
                (subnets.0.parse().unwrap(), subnets.1.parse().unwrap());
            let host4 = |n: u32| Ipv4Addr::from(u32::from(ipv4.network()) + n);
            let mut wanted = workloads(subnets.0, Some(subnets.1), &vec![None; after.len()]);
            let mut seen = BTreeSet::new();
            for (machine, fixed) in wanted.machines.values_mut().zip(&after) {
                machine.networks[0].address = fixed.map(|(n, v4)| match v4 {
                    true => IpAddr::V4(host4(n)),
                    false => IpAddr::V6((u128::from(ipv6.network()) + u128::from(n)).into()),
                });
                // What verification guarantees.
                machine.networks[0].address = machine.networks[0].address.filter(|a| {
                    let usable = is_for_machines(IpNet::V4(ipv4), *a)
                        || is_for_machines(IpNet::V6(ipv6), *a);
                    usable && seen.insert(*a)
                });
            }
            let there: BTreeMap<_, _> = wanted
                .machines
                .keys()
                .zip(&before)
                .filter_map(|(name, n)| {
                    let id = InterfaceId {
                        machine: WorkloadId::new(CONTRACT, name.clone()),
                        network: WorkloadId::new(CONTRACT, "net".parse().unwrap()),
                    };
                    Some((id, vec![IpAddr::V4(host4((*n)?))]))
                })
                .collect();
            let assigned = assign(CONTRACT, &wanted, &present(&there));
            prop_assert_eq!(assigned.len(), wanted.machines.len());
            let mut all = BTreeSet::new();
            for (id, addresses) in &assigned {
                let [first, second] = addresses[..] else { panic!("{addresses:?}") };
                prop_assert!(is_for_machines(IpNet::V4(ipv4), first), "{}", first);
                prop_assert!(is_for_machines(IpNet::V6(ipv6), second), "{}", second);
                prop_assert!(all.insert(first) && all.insert(second), "{:?} twice", addresses);
                if let Some(fixed) = wanted.machines[&id.machine.name].networks[0].address {
                    prop_assert!(addresses.contains(&fixed));
                }
            }
            prop_assert_eq!(assign(CONTRACT, &wanted, &present(&assigned)), assigned);
        }
    }
}
