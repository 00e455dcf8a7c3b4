//! A lease, and how it looks in the kernel: an address that ends by itself, a route, a record.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
};

use futures::TryStreamExt;
use ipnet::{IpNet, Ipv4Net};
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressMessage, AddressProtocol, CacheInfo},
    route::{RouteAttribute, RouteMessage, RouteProtocol},
};
use rtnetlink::{AddressMessageBuilder, RouteMessageBuilder};
use serde::{Deserialize, Serialize};

use crate::link::{Links, address, io_error};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub address: Ipv4Net,
    pub router: Option<Ipv4Addr>,
    pub dns: Vec<Ipv4Addr>,
    /// From when it was given; `u32::MAX` is for ever (RFC 2131 3.3).
    pub seconds: u32,
}

/// What a restarted netd cannot read from the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    pub link: String,
    pub lease: Lease,
}

/// Marks our addresses (`IFA_PROTO`), with the number that routes by DHCP have (`RTPROT_DHCP`).
const BY_DHCP: AddressProtocol = AddressProtocol::Other(16);

/// Puts the lease in place on the link, or sets its new end, and removes an earlier address.
pub async fn apply(links: &Links, link: u32, lease: &Lease) -> anyhow::Result<()> {
    let net = lease.address;
    let mut message = AddressMessageBuilder::<Ipv4Addr>::new()
        .index(link)
        .address(net.addr(), net.prefix_len())
        .build();
    let mut life = CacheInfo::default();
    life.ifa_preferred = lease.seconds;
    life.ifa_valid = lease.seconds;
    message.attributes.push(AddressAttribute::CacheInfo(life));
    message.attributes.push(AddressAttribute::Protocol(BY_DHCP));
    links.lease_address(message).await?;
    if let Some(router) = lease.router {
        set_default_route(links, link, net, router).await?;
    } else {
        delete_default_routes(links, link).await?;
    }
    for other in ours(links, link).await? {
        if address(&other) != Some(IpNet::V4(net)) {
            links.delete_address(other).await?;
        }
    }
    Ok(())
}

/// Removes the address and the route of any lease on the link.
pub async fn withdraw(links: &Links, link: u32) -> anyhow::Result<()> {
    delete_default_routes(links, link).await?;
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
    addresses.retain(|m| m.attributes.contains(&AddressAttribute::Protocol(BY_DHCP)));
    Ok(addresses)
}

async fn set_default_route(
    links: &Links,
    link: u32,
    net: Ipv4Net,
    router: Ipv4Addr,
) -> io::Result<()> {
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .output_interface(link)
        .gateway(router)
        // With its source gone, the kernel removes the route as well.
        .pref_source(net.addr())
        .protocol(RouteProtocol::Dhcp);
    // Some providers give a /32 and a router outside it.
    let route = if net.contains(&router) {
        route
    } else {
        route.onlink()
    };
    links
        .handle()
        .route()
        .add(route.build())
        .replace()
        .execute()
        .await
        .map_err(io_error)
}

async fn delete_default_routes(links: &Links, link: u32) -> anyhow::Result<()> {
    let routes = links.handle().route();
    // Nothing but the family, as all else would be a filter.
    let mut ipv4 = RouteMessage::default();
    ipv4.header.address_family = AddressFamily::Inet;
    let all = routes.get(ipv4);
    let all: Vec<_> = all.execute().try_collect().await.map_err(io_error)?;
    for route in all {
        let ours = route.header.protocol == RouteProtocol::Dhcp
            && route.header.destination_prefix_length == 0
            && route.attributes.contains(&RouteAttribute::Oif(link));
        if ours {
            routes.del(route).execute().await.map_err(io_error)?;
        }
    }
    Ok(())
}

/// Whether an address can be a router's or a name server's at all.
pub fn is_host(address: Ipv4Addr) -> bool {
    let address = IpAddr::V4(address);
    !address.is_unspecified() && !address.is_loopback() && !address.is_multicast()
}
