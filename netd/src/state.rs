//! What netd has been asked for, and what of it is in force: pure, so that every rule about it is
//! tested here.
//!
//! What was asked for changes at once; the kernel follows. Each change has a number (its
//! [`Generation`]), and whoever makes the kernel follow tells up to which change it has. A
//! specification is in force once both did: its network's lane, and the node's own rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    ops::Bound,
};

use ipnet::IpNet;
use loam_deployment::payload::{Protocol, Publish};
use loam_node_api::{
    WorkloadId,
    network::{InterfaceId, InterfaceSpec, NetworkError, NetworkSpec},
    path::TENANT_PORT,
};
use serde::{Deserialize, Serialize};

use crate::{
    firewall::node::Published,
    gateway, name,
    transit::{RANGE_V4, RANGE_V6, Transit},
};

/// Where the uplink's DHCP client listens.
const DHCP_CLIENT_PORT: u16 = 68;

/// Counts the changes of what is asked for, since netd started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(u64);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    pub id: WorkloadId,
    pub spec: NetworkSpec,
    pub transit: Transit,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceRecord {
    pub id: InterfaceId,
    pub spec: InterfaceSpec,
}

impl InterfaceRecord {
    pub fn first_ipv4(&self) -> Option<Ipv4Addr> {
        first_ipv4(&self.spec)
    }
}

fn first_ipv4(spec: &InterfaceSpec) -> Option<Ipv4Addr> {
    spec.addresses.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    })
}

/// A network as its lane shall make it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub network: NetworkRecord,
    pub interfaces: Vec<InterfaceRecord>,
}

#[derive(Debug)]
struct Held<R> {
    record: R,
    /// The change that asked for it.
    since: Generation,
    /// Whether the network's lane has it in the kernel; never believed of a predecessor.
    made: bool,
    /// Whether it was made once, perhaps with other values: its tap is there.
    present: bool,
}

#[derive(Debug, Default)]
struct Members {
    interfaces: BTreeSet<InterfaceId>,
    addresses: BTreeMap<IpAddr, InterfaceId>,
}

#[derive(Debug, Default)]
pub struct State {
    generation: Generation,
    networks: BTreeMap<WorkloadId, Held<NetworkRecord>>,
    interfaces: BTreeMap<InterfaceId, Held<InterfaceRecord>>,
    /// Which machines publish, and up to which change the node's rules say so.
    ports: BTreeMap<(Protocol, u16), InterfaceId>,
    node_rules: Generation,
    members: BTreeMap<WorkloadId, Members>,
    /// By the name of the network's namespace, which alone is known of what no record names.
    named: BTreeMap<String, WorkloadId>,
    /// Links that exist, also those of networks that the kernel still has after their deletion.
    transits: BTreeSet<Transit>,
    leaving: BTreeMap<String, Transit>,
}

impl State {
    pub fn generation(&self) -> Generation {
        self.generation
    }

    pub fn network(&self, id: &WorkloadId) -> Option<&NetworkRecord> {
        self.networks.get(id).map(|held| &held.record)
    }

    pub fn interface(&self, id: &InterfaceId) -> Option<&InterfaceRecord> {
        self.interfaces.get(id).map(|held| &held.record)
    }

    /// Networks that the kernel has as they were asked for, behind `after`.
    pub fn networks_in_force(
        &self,
        after: Option<WorkloadId>,
    ) -> impl Iterator<Item = &NetworkRecord> {
        let held = self.networks.range(behind(after)).map(|(_, held)| held);
        held.filter(|held| held.made).map(|held| &held.record)
    }

    /// Interfaces whose taps are there, behind `after`, and whether they are in force in full: rules,
    /// addresses, published ports.
    pub fn interfaces_present(
        &self,
        after: Option<InterfaceId>,
    ) -> impl Iterator<Item = (&InterfaceRecord, bool)> {
        let held = self.interfaces.range(behind(after)).map(|(_, held)| held);
        held.filter(|held| held.present)
            .map(|held| (&held.record, self.follows(held)))
    }

    pub fn is_in_force(&self, network: &WorkloadId) -> bool {
        self.networks.get(network).is_some_and(|held| held.made)
    }

    pub fn is_interface_in_force(&self, id: &InterfaceId, spec: &InterfaceSpec) -> bool {
        let held = self.interfaces.get(id);
        held.is_some_and(|held| self.follows(held) && held.record.spec == *spec)
    }

    /// Whether the kernel follows the interface's record in full.
    fn follows(&self, held: &Held<InterfaceRecord>) -> bool {
        held.made && held.since <= self.node_rules
    }

    /// The names of the networks' namespaces.
    pub fn namespaces(&self) -> Vec<String> {
        self.named.keys().cloned().collect()
    }

    /// What the network's lane shall make; none when nothing shall be left.
    pub fn wanted(&self, namespace: &str) -> Option<Wanted> {
        let id = self.named.get(namespace)?;
        let members = self.members.get(id).into_iter();
        let interfaces = members.flat_map(|members| &members.interfaces);
        Some(Wanted {
            network: self.network(id)?.clone(),
            interfaces: interfaces
                .filter_map(|id| self.interface(id))
                .cloned()
                .collect(),
        })
    }

    pub fn networks(&self) -> Vec<WorkloadId> {
        self.networks.keys().cloned().collect()
    }

    pub fn interfaces_of(&self, network: &WorkloadId) -> Vec<InterfaceId> {
        let members = self.members.get(network).into_iter();
        members
            .flat_map(|members| members.interfaces.iter().cloned())
            .collect()
    }

    /// Every published port, with the network that it leads to.
    pub fn published(&self) -> Vec<Published> {
        let interfaces = self.interfaces.values().map(|held| &held.record);
        interfaces
            .filter_map(|record| Some((record, self.network(&record.id.network)?.transit)))
            .flat_map(|(record, transit)| {
                let publish = record.spec.publish.iter();
                publish.map(move |&publish| Published { publish, transit })
            })
            .collect()
    }

    /// The record that a network with this specification gets. `uplink` are the subnets and name
    /// servers that its machines must be able to reach outside.
    pub fn admit_network(
        &self,
        id: &WorkloadId,
        spec: NetworkSpec,
        uplink: &[IpNet],
    ) -> Result<NetworkRecord, NetworkError> {
        let before = self.network(id);
        // What runs already is not ended because the uplink changed.
        if before.is_none_or(|record| record.spec != spec) {
            refuse_overlap(&spec, uplink)?;
        }
        let transit = before.map(|record| record.transit);
        // What is not all gone yet comes back as it was.
        let transit = transit.or_else(|| self.leaving.get(&name::namespace(id)).copied());
        let transit = transit
            .or_else(|| Transit::free(&self.transits))
            .ok_or(NetworkError::Full)?;
        Ok(NetworkRecord {
            id: id.clone(),
            spec,
            transit,
        })
    }

    /// The record that an interface with this specification gets.
    pub fn admit_interface(
        &self,
        id: &InterfaceId,
        spec: InterfaceSpec,
    ) -> Result<InterfaceRecord, NetworkError> {
        let network = self
            .network(&id.network)
            .ok_or_else(|| NetworkError::NoNetwork(id.network.clone()))?;
        refuse_foreign_addresses(&spec, network)?;
        refuse_reserved_ports(&spec)?;
        let record = InterfaceRecord {
            id: id.clone(),
            spec,
        };
        self.refuse_held(&record)?;
        Ok(record)
    }

    /// Refuses what another has, or the same twice. It is free as soon as the other's interface is
    /// deleted or has been given something else.
    pub fn refuse_held(&self, record: &InterfaceRecord) -> Result<(), NetworkError> {
        let addresses = self.members.get(&record.id.network).map(|m| &m.addresses);
        for address in &record.spec.addresses {
            let holder = addresses.and_then(|addresses| addresses.get(address));
            if let Some(holder) = holder.filter(|holder| **holder != record.id) {
                return Err(NetworkError::AddressRefused {
                    address: *address,
                    why: format!("{} has it", holder.machine),
                });
            }
        }
        let mut own = BTreeSet::new();
        for publish in &record.spec.publish {
            let port = port_of(publish);
            let holder = self.ports.get(&port);
            let taken = match holder.filter(|holder| **holder != record.id) {
                Some(holder) => Some(holder.machine.clone()),
                None => (!own.insert(port)).then(|| record.id.machine.clone()),
            };
            if let Some(holder) = taken {
                let port = publish.node_port;
                return Err(NetworkError::PortTaken { port, holder });
            }
        }
        Ok(())
    }

    /// Takes over a record of a predecessor. No two networks share a link, whatever records say.
    pub fn restore_network(&mut self, mut record: NetworkRecord) {
        if self.transits.contains(&record.transit) {
            let Some(free) = Transit::free(&self.transits) else {
                return;
            };
            record.transit = free;
        }
        self.put_network(record);
    }

    /// Takes over an admitted record.
    pub fn put_network(&mut self, record: NetworkRecord) {
        let name = name::namespace(&record.id);
        self.leaving.remove(&name);
        self.named.insert(name, record.id.clone());
        self.transits.insert(record.transit);
        if self.network(&record.id) == Some(&record) {
            return;
        }
        let since = self.next();
        let held = Held {
            record,
            since,
            made: false,
            present: false,
        };
        self.networks.insert(held.record.id.clone(), held);
    }

    /// Takes over an admitted record.
    pub fn put_interface(&mut self, record: InterfaceRecord) {
        if self.interface(&record.id) == Some(&record) {
            return;
        }
        let before = self.interfaces.get(&record.id);
        let present = before.is_some_and(|held| held.present);
        self.remove_interface(&record.id);
        let id = &record.id;
        let members = self.members.entry(id.network.clone()).or_default();
        members.interfaces.insert(id.clone());
        let addresses = record.spec.addresses.iter();
        members
            .addresses
            .extend(addresses.map(|a| (*a, id.clone())));
        let ports = record.spec.publish.iter().map(port_of);
        self.ports.extend(ports.map(|port| (port, id.clone())));
        let since = self.next();
        let held = Held {
            record,
            since,
            made: false,
            present,
        };
        self.interfaces.insert(held.record.id.clone(), held);
    }

    /// Its addresses and ports are free from now on: every rule set is made from the whole state,
    /// so none ever names two holders.
    pub fn remove_interface(&mut self, id: &InterfaceId) {
        let Some(held) = self.interfaces.remove(id) else {
            return;
        };
        if let Some(members) = self.members.get_mut(&id.network) {
            members.interfaces.remove(id);
            for address in &held.record.spec.addresses {
                members.addresses.remove(address);
            }
            if members.interfaces.is_empty() {
                self.members.remove(&id.network);
            }
        }
        for publish in &held.record.spec.publish {
            self.ports.remove(&port_of(publish));
        }
        self.next();
    }

    /// With its interfaces. Its link's addresses stay taken until the kernel is [rid of
    /// it](Self::gone).
    pub fn remove_network(&mut self, id: &WorkloadId) {
        for interface in self.interfaces_of(id) {
            self.remove_interface(&interface);
        }
        if let Some(held) = self.networks.remove(id) {
            let name = name::namespace(id);
            self.named.remove(&name);
            self.leaving.insert(name, held.record.transit);
            self.next();
        }
    }

    /// The kernel has something of this namespace's network, of which there is no record.
    pub fn found(&mut self, namespace: &str, transit: Option<Transit>) {
        if let Some(transit) = transit.filter(|transit| self.transits.insert(*transit)) {
            self.leaving.insert(namespace.to_owned(), transit);
        }
    }

    /// Nothing of the namespace's network is left in the kernel.
    pub fn gone(&mut self, namespace: &str) {
        if let Some(transit) = self.leaving.remove(namespace) {
            self.transits.remove(&transit);
        }
    }

    pub fn is_gone(&self, namespace: &str) -> bool {
        !self.named.contains_key(namespace) && !self.leaving.contains_key(namespace)
    }

    /// The network's lane failed as a whole. Its interfaces that were made before are still there.
    pub fn network_failed(&mut self, id: &WorkloadId) -> bool {
        let held = self.networks.get_mut(id);
        held.is_some_and(|held| std::mem::replace(&mut held.made, false))
    }

    /// The network's lane made what was wanted at `generation`, but for what `failed` says. Returns
    /// whether more, or less, is made than before.
    pub fn network_made(
        &mut self,
        id: &WorkloadId,
        generation: Generation,
        failed: impl Fn(&InterfaceId) -> bool,
    ) -> bool {
        let mut changed = false;
        if let Some(held) = self.networks.get_mut(id)
            && held.since <= generation
        {
            changed = !std::mem::replace(&mut held.made, true);
        }
        for id in self.interfaces_of(id) {
            if let Some(held) = self.interfaces.get_mut(&id)
                && held.since <= generation
            {
                let made = !failed(&id);
                changed |= std::mem::replace(&mut held.made, made) != made;
                held.present |= made;
            }
        }
        changed
    }

    /// The node's rules are those of `generation`.
    pub fn node_rules_made(&mut self, generation: Generation) {
        self.node_rules = self.node_rules.max(generation);
    }

    fn next(&mut self) -> Generation {
        self.generation.0 += 1;
        self.generation
    }
}

/// The keys behind `after`; all when none is named.
fn behind<K>(after: Option<K>) -> (Bound<K>, Bound<K>) {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    (from, Bound::Unbounded)
}

fn port_of(publish: &Publish) -> (Protocol, u16) {
    (publish.protocol, publish.node_port)
}

fn refuse_foreign_addresses(
    spec: &InterfaceSpec,
    network: &NetworkRecord,
) -> Result<(), NetworkError> {
    let gateways = gateway::addresses(&network.spec);
    for address in &spec.addresses {
        let inside = match address {
            IpAddr::V4(address) => network.spec.ipv4.contains(address),
            IpAddr::V6(address) => network.spec.ipv6.is_some_and(|net| net.contains(address)),
        };
        let why = if !inside {
            format!("it is not in {}", network.id)
        } else if gateways.iter().any(|net| net.addr() == *address) {
            "it is the gateway's".to_owned()
        } else {
            continue;
        };
        return Err(NetworkError::AddressRefused {
            address: *address,
            why,
        });
    }
    Ok(())
}

fn refuse_reserved_ports(spec: &InterfaceSpec) -> Result<(), NetworkError> {
    if !spec.publish.is_empty() && first_ipv4(spec).is_none() {
        return Err(NetworkError::NothingToPublish);
    }
    for publish in &spec.publish {
        let of_node = match publish.protocol {
            Protocol::Tcp => TENANT_PORT,
            Protocol::Udp => DHCP_CLIENT_PORT,
        };
        if publish.node_port == of_node || publish.node_port == 0 {
            return Err(NetworkError::PortReserved(publish.node_port));
        }
    }
    Ok(())
}

/// Machines of a network with NAT could not reach what lies outside at their own addresses.
fn refuse_overlap(spec: &NetworkSpec, uplink: &[IpNet]) -> Result<(), NetworkError> {
    let subnets = std::iter::once(IpNet::V4(spec.ipv4)).chain(spec.ipv6.map(IpNet::V6));
    let ranges = [IpNet::V4(RANGE_V4), IpNet::V6(RANGE_V6)];
    for subnet in subnets {
        let meets = |other: &IpNet| subnet.contains(other) || other.contains(&subnet);
        if ranges.iter().any(meets) || (spec.nat && uplink.iter().any(meets)) {
            return Err(NetworkError::SubnetTaken(subnet));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
