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
