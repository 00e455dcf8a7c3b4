//! What the uplink is now, from the kernel and from what was said on its links.

use std::net::IpAddr;

use ipnet::IpNet;
use loam_node_api::network::{Missing, Uplink};
use tokio::sync::watch;

use super::{
    ipv6::Ipv6Links,
    lease::{Lease, LeaseRecord, Mtu},
    name_servers,
    physical::Physical,
};
use crate::link::{self, Link, Links};

/// What the uplink was when last looked at: after each notice of the kernel.
#[derive(Clone, Debug)]
pub struct UplinkView(watch::Receiver<Uplink>);

impl UplinkView {
    pub fn new(shown: watch::Receiver<Uplink>) -> Self {
        Self(shown)
    }

    /// Asks nobody, so that no caller waits for the kernel or a DHCP server.
    pub fn read(&self) -> Uplink {
        self.0.borrow().clone()
    }
}

/// Asks the kernel.
#[derive(Debug)]
pub struct Kernel {
    pub links: Links,
    pub physical: Physical,
}

/// What others say beside the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    pub lease: Option<&'a LeaseRecord>,
    pub ipv6: &'a Ipv6Links,
}

impl Kernel {
    pub async fn uplink(&self, sources: Sources<'_>) -> anyhow::Result<Uplink> {
        let mut first = Uplink::default();
        for link in self.links.all().await? {
            let leased = sources.lease.filter(|record| record.link == link.name);
            if !self.physical.is(&link) || !(link.up && link.carrier || leased.is_some()) {
                continue;
            }
            let uplink = self.describe(&link, leased, sources.ipv6).await?;
            if leased.is_some() {
                return Ok(uplink);
            }
            // Without any lease: a link with addresses (by router advertisements) before others.
            let better = first.addresses.is_empty() && !uplink.addresses.is_empty();
            if first.link.is_none() || better {
                first = uplink;
            }
        }
        Ok(first)
    }

    async fn describe(
        &self,
        link: &Link,
        leased: Option<&LeaseRecord>,
        ipv6: &Ipv6Links,
    ) -> anyhow::Result<Uplink> {
        let addresses: Vec<IpNet> = self
            .links
            .addresses(link.index)
            .await?
            .iter()
            .filter(|m| link::is_beyond_link(m) && link::is_usable(m))
            .filter_map(link::address)
            .collect();
        // An address whose lease ended is gone, and its gateway with it.
        let lease = leased.map(|record| &record.lease);
        let lease = lease.filter(|lease| addresses.contains(&IpNet::V4(lease.address)));
        let dns = name_servers::merged(
            lease.map(|lease| lease.dns.as_slice()).unwrap_or_default(),
            &ipv6.name_servers(Some(link.index)),
        );
        Ok(Uplink {
            link: Some(link.name.clone()),
            gateway: lease.and_then(Lease::router),
            farm: lease.and_then(|lease| lease.farm),
            missing: missing(ipv6.missing(link.index), &addresses, &dns),
            mtu: mtu(link, ipv6.mtu(link.index)),
            addresses,
            dns,
        })
    }
}

/// Of what keeps the node from the world, the first thing to look at.
fn missing(by_dhcpv6: Option<Missing>, addresses: &[IpNet], dns: &[IpAddr]) -> Option<Missing> {
    let needed = |missing: &Missing| match missing {
        // With an address of another kind, a router that promises more than there is does no harm.
        Missing::Dhcpv6Server | Missing::Dhcpv6Addresses => addresses.is_empty(),
        Missing::Dhcpv6Settings | Missing::NameServer => dns.is_empty(),
    };
    let nobody = (!addresses.is_empty()).then_some(Missing::NameServer);
    by_dhcpv6.filter(needed).or(nobody.filter(needed))
}

/// If it is less than Ethernet's: by DHCP on the link itself, by routers for IPv6 alone, which
/// machines' packets may be as well.
fn mtu(link: &Link, by_routers: Option<Mtu>) -> Option<u16> {
    let link = u16::try_from(link.mtu).unwrap_or(u16::MAX);
    let least = by_routers.map_or(link, |mtu| mtu.get().min(link));
    (least < Mtu::ETHERNET.get()).then_some(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_what_keeps_the_node_from_the_world() {
        let address: IpNet = "192.0.2.10/24".parse().unwrap();
        let dns: IpAddr = "192.0.2.53".parse().unwrap();
        let by = |missing| Some(missing);
        let server = by(Missing::Dhcpv6Server);
        assert_eq!(missing(None, &[], &[]), None, "the cable, says the screen");
        assert_eq!(missing(server, &[], &[dns]), server);
        assert_eq!(missing(server, &[address], &[dns]), None);
        assert_eq!(missing(server, &[address], &[]), by(Missing::NameServer));
        let settings = by(Missing::Dhcpv6Settings);
        assert_eq!(missing(settings, &[address], &[]), settings);
        assert_eq!(missing(settings, &[address], &[dns]), None);
        assert_eq!(missing(None, &[address], &[dns]), None);
    }
}
