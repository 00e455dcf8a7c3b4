//! A lease, and how it looks in the kernel: an address that ends by itself, routes, an MTU, a record.

use std::{fmt, io, net::Ipv4Addr};

use futures::TryStreamExt;
use ipnet::{IpNet, Ipv4Net};
use loam_deployment::FarmId;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressMessage, AddressProtocol, CacheInfo},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope},
};
use rtnetlink::{AddressMessageBuilder, RouteMessageBuilder};
use serde::{Deserialize, Serialize};

use crate::link::{Links, address, io_error};

/// What a server gave, for a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub address: Ipv4Net,
    /// The server's first choice first; the others are for the person who reads the log.
    pub routers: Vec<Ipv4Addr>,
    /// When the server gives routes, its routers are none (RFC 3442).
    pub classless: Option<Vec<Route>>,
    pub dns: Vec<Ipv4Addr>,
    pub mtu: Option<Mtu>,
    /// Which farm the server names: for noded to judge, by what it knows beside.
    pub farm: Option<FarmId>,
}

/// To a network, by a gateway or on the link itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub to: Ipv4Net,
    pub gateway: Option<Ipv4Addr>,
}

/// What a link carries in one packet, in bytes: at least 1280, which IPv6 needs (RFC 8200 5); Linux
/// takes IPv6 off a link that carries less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u16")]
pub struct Mtu(u16);

/// RFC 8200 5.
const LEAST_MTU: u16 = 1280;
/// RFC 791 3.1: what every host takes. Less than that is no link.
const SENSELESS_MTU: u16 = 576;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is less than IPv6 needs")]
pub struct TooSmall(u16);

impl TryFrom<u16> for Mtu {
    type Error = TooSmall;

    fn try_from(bytes: u16) -> Result<Self, TooSmall> {
        (bytes >= LEAST_MTU)
            .then_some(Self(bytes))
            .ok_or(TooSmall(bytes))
    }
}

impl Mtu {
    /// Ethernet's.
    pub const ETHERNET: Self = Self(1500);

    /// What a server says, or the least that we run on: a link of 576 to 1279 bytes is, where it is
    /// said, a modem's factory setting and not true. None if it makes no sense at all.
    pub fn said(bytes: u16) -> Option<Self> {
        (bytes >= SENSELESS_MTU).then_some(Self(bytes.max(LEAST_MTU)))
    }

    pub fn get(self) -> u16 {
        self.0
    }
}

impl Lease {
    pub fn routes(&self) -> Vec<Route> {
        match &self.classless {
            Some(routes) => routes.clone(),
            None => self
                .routers
                .iter()
                .take(1)
                .copied()
                .map(Route::default_by)
                .collect(),
        }
    }

    /// Where what is for the world goes.
    pub fn router(&self) -> Option<Ipv4Addr> {
        self.default_route()?.gateway
    }

    /// Whether what is for the world goes anywhere, if only onto the link itself.
    pub fn leads_out(&self) -> bool {
        self.default_route().is_some()
    }

    fn default_route(&self) -> Option<Route> {
        let mut routes = self.routes().into_iter();
        routes.find(|route| route.to.prefix_len() == 0)
    }
}

impl Route {
    pub fn default_by(router: Ipv4Addr) -> Self {
        Self {
            to: Ipv4Net::default(),
            gateway: Some(router),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.gateway {
            Some(gateway) => write!(f, "{} by {gateway}", self.to),
            None => write!(f, "{} on the link", self.to),
        }
    }
}

/// What a restarted netd cannot read from the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    pub link: String,
    pub lease: Lease,
}

/// Marks our addresses (`IFA_PROTO`), with the number that routes by DHCP have (`RTPROT_DHCP`).
pub const BY_DHCP: AddressProtocol = AddressProtocol::Other(16);

/// Puts the lease in place on the link for so many seconds, or sets its new end, and removes what an
/// earlier one brought.
pub async fn apply(links: &Links, link: u32, lease: &Lease, seconds: u32) -> anyhow::Result<()> {
    let net = lease.address;
    let mut message = AddressMessageBuilder::<Ipv4Addr>::new()
        .index(link)
        .address(net.addr(), net.prefix_len())
        .build();
    let mut life = CacheInfo::default();
    life.ifa_preferred = seconds;
    life.ifa_valid = seconds;
    message.attributes.push(AddressAttribute::CacheInfo(life));
    message.attributes.push(AddressAttribute::Protocol(BY_DHCP));
    links.lease_address(message).await?;
    set_routes(links, link, lease).await?;
    for other in ours(links, link).await? {
        if address(&other) != Some(IpNet::V4(net)) {
            links.delete_address(other).await?;
        }
    }
    Ok(())
}

/// Removes the address and the routes of any lease on the link.
pub async fn withdraw(links: &Links, link: u32) -> anyhow::Result<()> {
    delete_other_routes(links, link, &[]).await?;
    for message in ours(links, link).await? {
        match links.delete_address(message).await {
            // Its lifetime ended meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Whether the link has the lease's address.
pub async fn is_present(links: &Links, link: u32, lease: &Lease) -> io::Result<bool> {
    let present = ours(links, link).await?;
    Ok(present
        .iter()
        .any(|message| address(message) == Some(IpNet::V4(lease.address))))
}

async fn ours(links: &Links, link: u32) -> io::Result<Vec<AddressMessage>> {
    let mut addresses = links.addresses(link).await?;
    addresses.retain(|message| is_by_dhcp(message) && message.header.family == AddressFamily::Inet);
    Ok(addresses)
}

pub fn is_by_dhcp(message: &AddressMessage) -> bool {
    let by_dhcp = AddressAttribute::Protocol(BY_DHCP);
    message.attributes.contains(&by_dhcp)
}

async fn set_routes(links: &Links, link: u32, lease: &Lease) -> anyhow::Result<()> {
    let routes = lease.routes();
    for route in &routes {
        let message = message(link, lease.address, route);
        let request = links.handle().route().add(message).replace();
        // A route that the kernel refuses is no reason to be without the others.
        if let Err(error) = request.execute().await.map_err(io_error) {
            tracing::error!(link, "the route {route} cannot be made: {error}");
        }
    }
    delete_other_routes(links, link, &routes).await
}

fn message(link: u32, net: Ipv4Net, route: &Route) -> RouteMessage {
    let message = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(route.to.network(), route.to.prefix_len())
        .output_interface(link)
        // With its source gone, the kernel removes the route as well.
        .pref_source(net.addr())
        .protocol(RouteProtocol::Dhcp);
    let message = match route.gateway {
        // Some providers give a /32 and a router outside it.
        Some(gateway) if !net.contains(&gateway) => message.gateway(gateway).onlink(),
        Some(gateway) => message.gateway(gateway),
        None => message.scope(RouteScope::Link),
    };
    message.build()
}

async fn delete_other_routes(links: &Links, link: u32, keep: &[Route]) -> anyhow::Result<()> {
    let routes = links.handle().route();
    // Nothing but the family, as all else would be a filter.
    let mut ipv4 = RouteMessage::default();
    ipv4.header.address_family = AddressFamily::Inet;
    let all = routes.get(ipv4);
    let all: Vec<_> = all.execute().try_collect().await.map_err(io_error)?;
    for message in all {
        let ours = message.header.protocol == RouteProtocol::Dhcp
            && message.attributes.contains(&RouteAttribute::Oif(link));
        if !ours || route(&message).is_some_and(|route| keep.contains(&route)) {
            continue;
        }
        match routes.del(message).execute().await.map_err(io_error) {
            // It went with its address meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            other => other?,
        }
    }
    Ok(())
}

fn route(message: &RouteMessage) -> Option<Route> {
    let (mut to, mut gateway) = (Ipv4Addr::UNSPECIFIED, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(network)) => to = *network,
            RouteAttribute::Gateway(RouteAddress::Inet(router)) => gateway = Some(*router),
            _ => {}
        }
    }
    let to = Ipv4Net::new(to, message.header.destination_prefix_length).ok()?;
    Some(Route { to, gateway })
}

/// Whether an address can be a host's at all.
pub fn is_host(address: Ipv4Addr) -> bool {
    // RFC 1122 3.2.1.3: "this network", which begins with 0.
    let nobody = address.octets()[0] == 0 || address.is_broadcast();
    !nobody && !address.is_loopback() && !address.is_multicast()
}
