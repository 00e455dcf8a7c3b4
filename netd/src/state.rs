//! What netd has been asked for and holds: pure, so that every rule about it is tested here.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use loam_deployment::payload::Protocol;
use loam_node_api::{
    WorkloadId,
    network::{InterfaceId, InterfaceSpec, NetworkError, NetworkSpec},
    path::TENANT_PORT,
};
use serde::{Deserialize, Serialize};

use crate::{
    firewall::node::Published,
    gateway,
    transit::{RANGE_V4, RANGE_V6, Transit},
};

/// Where the uplink's DHCP client listens.
const DHCP_CLIENT_PORT: u16 = 68;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    pub id: WorkloadId,
    pub spec: NetworkSpec,
    pub transit: Transit,
    /// Whether the kernel has all of it; never believed of a predecessor.
    #[serde(skip)]
    pub made: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceRecord {
    pub id: InterfaceId,
    pub spec: InterfaceSpec,
    #[serde(skip)]
    pub made: bool,
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

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub networks: BTreeMap<WorkloadId, NetworkRecord>,
    pub interfaces: BTreeMap<InterfaceId, InterfaceRecord>,
}

impl State {
    /// The record that a network with this specification gets. `uplink` are the subnets and name
    /// servers that its machines must be able to reach outside.
    pub fn admit_network(
        &self,
        id: &WorkloadId,
        spec: NetworkSpec,
        uplink: &[IpNet],
    ) -> Result<NetworkRecord, NetworkError> {
        let before = self.networks.get(id);
        // What runs already is not ended because the uplink changed.
        if before.is_none_or(|record| record.spec != spec) {
            refuse_overlap(&spec, uplink)?;
        }
        let transit = match before {
            Some(record) => record.transit,
            None => Transit::free(self.networks.values().map(|record| record.transit))
                .ok_or(NetworkError::Full)?,
        };
        let made = before.is_some_and(|record| record.made && record.spec == spec);
        Ok(NetworkRecord {
            id: id.clone(),
            spec,
            transit,
            made,
        })
    }

    /// The record that an interface with this specification gets.
    pub fn admit_interface(
        &self,
        id: &InterfaceId,
        spec: InterfaceSpec,
    ) -> Result<InterfaceRecord, NetworkError> {
        let network = self
            .networks
            .get(&id.network)
            .ok_or_else(|| NetworkError::NoNetwork(id.network.clone()))?;
        self.refuse_addresses(id, &spec, &network.spec)?;
        self.refuse_ports(id, &spec)?;
        let made = self
            .interfaces
            .get(id)
            .is_some_and(|r| r.made && r.spec == spec);
        Ok(InterfaceRecord {
            id: id.clone(),
            spec,
            made,
        })
    }

    fn refuse_addresses(
        &self,
        id: &InterfaceId,
        spec: &InterfaceSpec,
        network: &NetworkSpec,
    ) -> Result<(), NetworkError> {
        let refuse = |address: &IpAddr, why: String| {
            Err(NetworkError::AddressRefused {
                address: *address,
                why,
            })
        };
        for address in &spec.addresses {
            let inside = match address {
                IpAddr::V4(address) => network.ipv4.contains(address),
                IpAddr::V6(address) => network.ipv6.is_some_and(|net| net.contains(address)),
            };
            if !inside {
                return refuse(address, format!("it is not in {}", id.network));
            }
            if gateway::addresses(network)
                .iter()
                .any(|net| net.addr() == *address)
            {
                return refuse(address, "it is the gateway's".to_owned());
            }
            let holder = self
                .interfaces_of(&id.network)
                .into_iter()
                .find(|other| other.id != *id && other.spec.addresses.contains(address));
            if let Some(holder) = holder {
                return refuse(address, format!("{} has it", holder.id.machine));
            }
        }
        Ok(())
    }

    fn refuse_ports(&self, id: &InterfaceId, spec: &InterfaceSpec) -> Result<(), NetworkError> {
        if !spec.publish.is_empty() && first_ipv4(spec).is_none() {
            return Err(NetworkError::NothingToPublish);
        }
        for (n, publish) in spec.publish.iter().enumerate() {
            let port = publish.node_port;
            let of_node = match publish.protocol {
                Protocol::Tcp => TENANT_PORT,
                Protocol::Udp => DHCP_CLIENT_PORT,
            };
            if port == of_node || port == 0 {
                return Err(NetworkError::PortReserved(port));
            }
            let same = |other: &loam_deployment::payload::Publish| {
                (other.protocol, other.node_port) == (publish.protocol, port)
            };
            let holder = if spec.publish[..n].iter().any(same) {
                Some(&id.machine)
            } else {
                self.interfaces
                    .values()
                    .find(|other| other.id != *id && other.spec.publish.iter().any(same))
                    .map(|other| &other.id.machine)
            };
            if let Some(holder) = holder {
                return Err(NetworkError::PortTaken {
                    port,
                    holder: holder.clone(),
                });
            }
        }
        Ok(())
    }

    pub fn interfaces_of(&self, network: &WorkloadId) -> Vec<&InterfaceRecord> {
        self.interfaces
            .values()
            .filter(|record| record.id.network == *network)
            .collect()
    }

    /// Every published port, with the network that it leads to.
    pub fn published(&self) -> Vec<Published> {
        self.interfaces
            .values()
            .filter_map(|record| Some((record, self.networks.get(&record.id.network)?.transit)))
            .flat_map(|(record, transit)| {
                record
                    .spec
                    .publish
                    .iter()
                    .map(move |&publish| Published { publish, transit })
            })
            .collect()
    }
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
mod tests {
    use loam_deployment::payload::Publish;
    use loam_node_api::network::Mac;
    use proptest::prelude::*;

    use super::*;

    fn network(ipv4: &str, nat: bool) -> NetworkSpec {
        let ipv6 = Some("fd00:20::/64".parse().unwrap());
        NetworkSpec {
            ipv4: ipv4.parse().unwrap(),
            ipv6,
            nat,
        }
    }

    fn id(machine: &str, network: &str) -> InterfaceId {
        InterfaceId {
            machine: machine.parse().unwrap(),
            network: network.parse().unwrap(),
        }
    }

    fn spec(addresses: &[&str], ports: &[(Protocol, u16)]) -> InterfaceSpec {
        let publish = |&(protocol, node_port)| Publish {
            protocol,
            node_port,
            machine_port: 80,
        };
        InterfaceSpec {
            mac: Mac([2; 6]),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            publish: ports.iter().map(publish).collect(),
        }
    }

    /// Two tenants with the same subnet, one machine each.
    fn two_tenants() -> State {
        let mut state = State::default();
        for (tenant, port) in [("1", 8001), ("2", 8002)] {
            let net: WorkloadId = format!("{tenant}.net").parse().unwrap();
            let record = state
                .admit_network(&net, network("10.20.0.0/24", true), &[])
                .unwrap();
            state.networks.insert(net, record);
            let id = id(&format!("{tenant}.web"), &format!("{tenant}.net"));
            let spec = spec(&["10.20.0.2"], &[(Protocol::Tcp, port)]);
            let record = state.admit_interface(&id, spec).unwrap();
            state.interfaces.insert(id, record);
        }
        state
    }

    #[test]
    fn two_tenants_may_have_the_same_subnet_and_address() {
        let state = two_tenants();
        let transits: Vec<_> = state
            .networks
            .values()
            .map(|record| record.transit)
            .collect();
        assert_ne!(transits[0], transits[1]);
        let published = state.published();
        assert_eq!(published.len(), 2);
        assert_ne!(published[0].transit, published[1].transit);
    }

    #[test]
    fn a_port_leads_to_one_machine() {
        let state = two_tenants();
        let ask = |machine: &str, ports: &[(Protocol, u16)]| {
            state.admit_interface(&id(machine, "1.net"), spec(&["10.20.0.9"], ports))
        };
        let holder = "2.web".parse().unwrap();
        assert_eq!(
            ask("1.new", &[(Protocol::Tcp, 8002)]),
            Err(NetworkError::PortTaken { port: 8002, holder })
        );
        assert!(
            ask("1.new", &[(Protocol::Udp, 8002)]).is_ok(),
            "another protocol"
        );
        // Its own port it keeps, but not twice.
        assert!(ask("1.web", &[(Protocol::Tcp, 8001)]).is_ok());
        assert!(ask("1.web", &[(Protocol::Tcp, 9), (Protocol::Tcp, 9)]).is_err());
        // Ports of the node.
        let reserved = Err(NetworkError::PortReserved(TENANT_PORT));
        assert_eq!(ask("1.new", &[(Protocol::Tcp, TENANT_PORT)]), reserved);
        assert_eq!(
            ask("1.new", &[(Protocol::Udp, 68)]),
            Err(NetworkError::PortReserved(68))
        );
        assert_eq!(
            ask("1.new", &[(Protocol::Tcp, 0)]),
            Err(NetworkError::PortReserved(0))
        );
    }

    #[test]
    fn addresses_are_of_the_network_and_of_one_machine() {
        let state = two_tenants();
        let ask =
            |addresses: &[&str]| state.admit_interface(&id("1.new", "1.net"), spec(addresses, &[]));
        assert!(ask(&["10.20.0.3", "fd00:20::3"]).is_ok());
        for refused in [
            "10.20.0.1",
            "10.20.0.2",
            "10.21.0.3",
            "fd00:20::1",
            "fd00:21::3",
        ] {
            let address: IpAddr = refused.parse().unwrap();
            let error = ask(&[refused]).unwrap_err();
            assert!(
                matches!(error, NetworkError::AddressRefused { address: a, .. } if a == address),
                "{refused}: {error}"
            );
        }
        let unknown = state.admit_interface(&id("1.new", "1.other"), spec(&[], &[]));
        assert_eq!(
            unknown,
            Err(NetworkError::NoNetwork("1.other".parse().unwrap()))
        );
        let mute = spec(&["fd00:20::3"], &[(Protocol::Tcp, 80)]);
        let mute = state.admit_interface(&id("1.new", "1.net"), mute);
        assert_eq!(mute, Err(NetworkError::NothingToPublish));
    }

    #[test]
    fn a_subnet_does_not_hide_what_machines_need_outside() {
        let state = two_tenants();
        let uplink = [
            "192.168.1.7/24".parse().unwrap(),
            "9.9.9.9/32".parse().unwrap(),
        ];
        let new: WorkloadId = "3.net".parse().unwrap();
        let ask = |ipv4, nat| state.admit_network(&new, network(ipv4, nat), &uplink);
        assert!(ask("10.20.0.0/24", true).is_ok());
        assert!(ask("192.168.0.0/16", true).is_err());
        assert!(ask("192.168.1.128/25", true).is_err());
        assert!(ask("9.0.0.0/8", true).is_err(), "the name server");
        assert!(ask("192.168.0.0/16", false).is_ok());
        assert!(ask("198.18.7.0/24", false).is_err(), "the node's own links");
        // What runs is not refused when the uplink moves to the same subnet.
        let uplink = ["10.20.0.200/24".parse().unwrap()];
        let running: WorkloadId = "1.net".parse().unwrap();
        let before = state.networks[&running].clone();
        let same = state.admit_network(&running, before.spec.clone(), &uplink);
        assert_eq!(same, Ok(before));
    }

    proptest! {
        /// Whatever is admitted in whatever order, no port leads to two machines, no two
        /// networks share a link, and no two machines of a network share an address.
        #[test]
        fn what_is_admitted_never_collides(
            requests in prop::collection::vec((0..3u8, 0..4u8, 2..5u8, 80..84u16, any::<bool>()), 0..40)
        ) {
            let mut state = State::default();
            for (net, machine, host, port, tcp) in requests {
                let network_id: WorkloadId = format!("{net}.net").parse().unwrap();
                let record =
                    state.admit_network(&network_id, network("10.20.0.0/24", true), &[]).unwrap();
                state.networks.insert(network_id, record);
                let id = id(&format!("{net}.m{machine}"), &format!("{net}.net"));
                let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
                let spec = spec(&[&format!("10.20.0.{host}")], &[(protocol, port)]);
                if let Ok(record) = state.admit_interface(&id, spec) {
                    state.interfaces.insert(id, record);
                }
            }
            let mut ports: Vec<_> =
                state.published().iter().map(|p| (p.publish.protocol, p.publish.node_port)).collect();
            let mut transits: Vec<_> = state.networks.values().map(|r| r.transit).collect();
            let mut addresses: Vec<_> =
                state.interfaces.values().map(|r| (&r.id.network, &r.spec.addresses)).collect();
            ports.sort();
            transits.sort();
            addresses.sort();
            prop_assert!(ports.windows(2).all(|pair| pair[0] != pair[1]));
            prop_assert!(transits.windows(2).all(|pair| pair[0] != pair[1]));
            prop_assert!(addresses.windows(2).all(|pair| pair[0] != pair[1]));
        }
    }
}
