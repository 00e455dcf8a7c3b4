//! What `netd` offers: the uplink, tenants' networks, their machines' interfaces, published ports.
//!
//! Every call is idempotent. What is asked twice is made once; what is asked with other values is
//! changed in place, without interrupting what did not change.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use loam_deployment::{FarmId, payload::Publish};
use serde::{Deserialize, Serialize};

use crate::{
    WorkloadId,
    page::{Page, Revision},
};

#[tarpc::service]
pub trait NetworkService {
    /// Returns once something that this trait shows differs from revision `seen`, at the latest after
    /// [`crate::page::LONGEST_WAIT`]; with the revision of now.
    async fn changes(seen: Revision) -> Revision;

    async fn uplink() -> Uplink;

    /// Whether [`network_ensure`](Self::network_ensure) would take this on: an `Err` is its refusal,
    /// known before anything is stopped for a change that cannot be. Changes nothing.
    async fn network_check(id: WorkloadId, spec: NetworkSpec) -> Result<(), NetworkError>;
    async fn network_ensure(id: WorkloadId, spec: NetworkSpec) -> Result<(), NetworkError>;
    /// In the order of their ids, from the first one behind `after` on.
    async fn networks(after: Option<WorkloadId>) -> Page<Network>;
    /// Removes the bridge and all that hangs on it. Absent is success.
    async fn network_delete(id: WorkloadId) -> Result<(), NetworkError>;

    /// Makes the tap of a machine on a network, its anti-spoofing rules and published ports.
    async fn interface_ensure(
        id: InterfaceId,
        spec: InterfaceSpec,
    ) -> Result<Interface, NetworkError>;
    /// In the order of their ids, from the first one behind `after` on.
    async fn interfaces(after: Option<InterfaceId>) -> Page<Interface>;
    async fn interface_delete(id: InterfaceId) -> Result<(), NetworkError>;
}

/// The node's way to the world.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplink {
    /// `enp1s0`; none before any link is up.
    pub link: Option<String>,
    pub addresses: Vec<IpNet>,
    pub gateway: Option<Ipv4Addr>,
    /// At most three, the best first.
    pub dns: Vec<IpAddr>,
    /// What the link carries in one packet, in bytes, if it is less than Ethernet's 1500: 1280 or more.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// Which farm the network's DHCP names ([`crate::farm::DHCP_OPTION`]). Whoever answers on the LAN may
    /// have said so.
    #[serde(default)]
    pub farm: Option<FarmId>,
    /// What keeps the node from the world as far as its network is concerned.
    #[serde(default)]
    pub missing: Option<Missing>,
}

/// What a network lacks that its routers promise, or that every node needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Missing {
    #[error("the router says that addresses come by DHCPv6, and no server answers")]
    Dhcpv6Server,
    #[error("the router says that addresses come by DHCPv6, and the server has none for this node")]
    Dhcpv6Addresses,
    #[error("the router says that name servers come by DHCPv6, and no server answers")]
    Dhcpv6Settings,
    #[error("the network names no name server of use: neither DHCP nor the router does")]
    NameServer,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// The node itself takes the first host address of the subnet, as the machines' gateway.
    pub ipv4: Ipv4Net,
    pub ipv6: Option<Ipv6Net>,
    /// Whether machines reach the world by the node's address.
    pub nat: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub id: WorkloadId,
    pub spec: NetworkSpec,
    /// Name of the kernel's bridge.
    pub bridge: String,
}

/// A machine's interface: which machine, on which network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InterfaceId {
    pub machine: WorkloadId,
    pub network: WorkloadId,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceSpec {
    pub mac: Mac,
    /// The only source addresses that packets from the machine may have.
    pub addresses: Vec<IpAddr>,
    /// Ports of the node that lead to the first IPv4 address.
    pub publish: Vec<Publish>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    pub id: InterfaceId,
    pub spec: InterfaceSpec,
    /// Name of the persistent tap that the launcher opens.
    pub tap: String,
    /// Path of the network namespace that holds the tap; the node's own when absent. The tap is
    /// found only by a thread that was inside (`setns`) when it opened `/dev/net/tun`.
    #[serde(default)]
    pub namespace: Option<PathBuf>,
    /// Whether all of `spec` is in the kernel: addresses, rules, published ports. While a change is
    /// under way, or fails, it is not; the tap is there all the same, and the machine on it goes on.
    pub in_force: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a MAC address; expected six pairs of hexadecimal digits with colons")]
pub struct MacError(String);

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::fmt::Debug for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mac({self})")
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;

    fn try_from(text: String) -> Result<Self, MacError> {
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            *byte = parts
                .next()
                .filter(|part| part.len() == 2)
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or_else(|| MacError(text.clone()))?;
        }
        if parts.next().is_some() {
            return Err(MacError(text));
        }
        Ok(Self(mac))
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum NetworkError {
    #[error("network {0} does not exist")]
    NoNetwork(WorkloadId),
    #[error("port {port} of the node already leads to {holder}")]
    PortTaken { port: u16, holder: WorkloadId },
    #[error("the subnet {0} is in use by the node's own uplink")]
    SubnetTaken(IpNet),
    #[error("port {0} belongs to the node itself")]
    PortReserved(u16),
    #[error("a machine without an IPv4 address cannot publish ports")]
    NothingToPublish,
    #[error("the machine cannot have the address {address}: {why}")]
    AddressRefused { address: IpAddr, why: String },
    #[error("the node has no room for another network")]
    Full,
    #[error("the kernel refused: {0}")]
    Kernel(String),
}
