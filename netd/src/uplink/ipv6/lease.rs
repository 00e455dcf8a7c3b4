//! Addresses by DHCPv6 in the kernel, which end by themselves.

use std::{io, net::Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressMessage, CacheInfo},
};
use rtnetlink::AddressMessageBuilder;

use crate::{
    link::{self, Links},
    uplink::{
        dhcpv6::Address,
        lease::{BY_DHCP, is_by_dhcp},
        moment::Moment,
    },
};

/// What the kernel makes of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It still looks for another host that has it (RFC 4862 5.4).
    Tentative,
    Usable,
    /// Another host has it, or somebody removed it.
    Gone,
}

/// Makes these the link's only addresses by DHCPv6, or sets their new ends. DHCPv6 says nothing of a
/// subnet (RFC 5942 5): which other addresses are on the link, routers say.
pub async fn apply(
    links: &Links,
    link: u32,
    addresses: &[Address],
    now: Moment,
) -> anyhow::Result<()> {
    for address in addresses.iter().filter(|address| address.valid_until > now) {
        let (preferred, valid) = address.seconds(now);
        let mut message = AddressMessageBuilder::<Ipv6Addr>::new()
            .index(link)
            .address(address.address, 128)
            .build();
        let mut life = CacheInfo::default();
        life.ifa_preferred = preferred;
        life.ifa_valid = valid;
        message.attributes.push(AddressAttribute::CacheInfo(life));
        message.attributes.push(AddressAttribute::Protocol(BY_DHCP));
        links.lease_address(message).await?;
    }
    let wanted: Vec<_> = addresses.iter().map(|address| address.address).collect();
    for other in ours(links, link).await? {
        if host(&other).is_some_and(|host| !wanted.contains(&host)) {
            match links.delete_address(other).await {
                // Its lifetime ended meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

/// Of an address that was put in place.
pub async fn condition(links: &Links, link: u32, address: Ipv6Addr) -> io::Result<Condition> {
    let found = ours(links, link).await?;
    let found = found.iter().find(|message| host(message) == Some(address));
    Ok(match found {
        None => Condition::Gone,
        Some(message) if link::is_duplicate(message) => Condition::Gone,
        Some(message) if link::is_usable(message) => Condition::Usable,
        Some(_) => Condition::Tentative,
    })
}

async fn ours(links: &Links, link: u32) -> io::Result<Vec<AddressMessage>> {
    let mut addresses = links.addresses(link).await?;
    addresses
        .retain(|message| is_by_dhcp(message) && message.header.family == AddressFamily::Inet6);
    Ok(addresses)
}

fn host(message: &AddressMessage) -> Option<Ipv6Addr> {
    match link::address(message) {
        Some(IpNet::V6(net)) => Some(net.addr()),
        _ => None,
    }
}
