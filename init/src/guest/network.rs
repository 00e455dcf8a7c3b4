//! The machine's interfaces, as the node handed them out.

use std::{fs, net::IpAddr, path::Path};

use anyhow::{Context, Result};
use loam_node_api::{guest::GuestInterface, network::Mac};

use crate::{
    netlink::{LinkIndex, Netlink, Request},
    patience,
};

const CLASS: &str = "/sys/class/net";

pub fn set_up(interfaces: &[GuestInterface]) -> Result<()> {
    let mut netlink = Netlink::open().context("talking to the kernel about interfaces")?;
    let loopback = index(&Path::new(CLASS).join("lo")).context("there is no loopback interface")?;
    netlink
        .ask(&Request::link_up(loopback))
        .context("bringing the loopback interface up")?;
    for (rank, interface) in (0..).zip(interfaces) {
        set_up_one(&mut netlink, interface, rank)
            .with_context(|| format!("the interface {}", interface.mac))?;
    }
    Ok(())
}

/// `rank`: the default routes of earlier interfaces go first.
fn set_up_one(netlink: &mut Netlink, interface: &GuestInterface, rank: u32) -> Result<()> {
    let link = patience::until(patience::DEVICE_LIMIT, || {
        with_mac(Path::new(CLASS), interface.mac)
    })
    .context("it did not appear")?;
    if let Some(mtu) = interface.mtu {
        // Before the addresses: with less than 1280 bytes, which the node never says, IPv6 would go.
        netlink
            .ask(&Request::link_mtu(link, mtu))
            .with_context(|| format!("giving it the MTU {mtu}"))?;
    }
    netlink
        .ask(&Request::link_up(link))
        .context("bringing it up")?;
    for address in &interface.addresses {
        netlink
            .ask(&Request::address(link, *address))
            .with_context(|| format!("giving it the address {address}"))?;
    }
    for gateway in &interface.gateways {
        let request =
            Request::default_route(link, *gateway, 100 + rank, !reaches(interface, *gateway));
        netlink
            .ask(&request)
            .with_context(|| format!("setting the gateway {gateway}"))?;
    }
    Ok(())
}

/// Whether the address is in one of the interface's own subnets.
fn reaches(interface: &GuestInterface, address: IpAddr) -> bool {
    interface
        .addresses
        .iter()
        .any(|subnet| subnet.contains(&address))
}

fn with_mac(class: &Path, mac: Mac) -> Option<LinkIndex> {
    fs::read_dir(class).ok()?.flatten().find_map(|entry| {
        let found = fs::read_to_string(entry.path().join("address")).ok()?;
        let found = Mac::try_from(found.trim_end().to_owned()).ok()?;
        (found == mac).then(|| index(&entry.path())).flatten()
    })
}

fn index(link: &Path) -> Option<LinkIndex> {
    fs::read_to_string(link.join("ifindex"))
        .ok()?
        .trim_end()
        .parse()
        .ok()
        .map(LinkIndex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_found_by_mac() {
        let class = tempfile::tempdir().unwrap();
        for (name, mac, number) in [
            ("lo", "00:00:00:00:00:00", "1"),
            ("eth0", "02:00:00:00:00:0A", "2"),
        ] {
            let link = class.path().join(name);
            fs::create_dir(&link).unwrap();
            fs::write(link.join("address"), format!("{mac}\n")).unwrap();
            fs::write(link.join("ifindex"), format!("{number}\n")).unwrap();
        }
        assert_eq!(
            with_mac(class.path(), Mac([2, 0, 0, 0, 0, 10])),
            Some(LinkIndex(2))
        );
        assert_eq!(with_mac(class.path(), Mac([2, 0, 0, 0, 0, 11])), None);
    }

    #[test]
    fn a_gateway_outside_the_subnets_is_noticed() {
        let interface = GuestInterface {
            mac: Mac([0; 6]),
            addresses: vec![
                "10.20.0.2/24".parse().unwrap(),
                "fd00::2/128".parse().unwrap(),
            ],
            gateways: Vec::new(),
            mtu: None,
        };
        assert!(reaches(&interface, "10.20.0.1".parse().unwrap()));
        assert!(!reaches(&interface, "10.20.1.1".parse().unwrap()));
        assert!(!reaches(&interface, "fd00::1".parse().unwrap()));
    }
}
