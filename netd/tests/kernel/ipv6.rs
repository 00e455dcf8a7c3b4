//! Networks with IPv6: name servers by routers, addresses and name servers by DHCPv6.

use std::{
    fs,
    net::{IpAddr, Ipv6Addr},
    thread,
    time::Duration,
};

use dhcproto::v6::MessageType;
use loam_node_api::network::{Missing, Uplink};

use crate::{
    dhcp_server::{self, Mood},
    dhcpv6_server::{self, Dhcpv6Server},
    frame,
    netd::Client,
    uplink::router_says,
    world::World,
};

const MANAGED: u8 = 0x80;
const OTHER: u8 = 0x40;

const ADDRESS: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 0x50);
const DNS: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 0x53);
const FORGED: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 0x666);

/// For `2001:db8:9::/64`, from which hosts make addresses themselves if no flag is set.
fn advertisement(flags: u8, options: &[Vec<u8>]) -> Vec<u8> {
    let mut message = frame::router_advertisement("2001:db8:9::".parse().unwrap());
    message[5] = flags;
    if flags & MANAGED != 0 {
        // On the link, and not for addresses.
        message[19] = 0x80;
    }
    message.extend(options.concat());
    message
}

/// Has the router speak until the uplink is as it should be.
fn until(
    world: &World,
    client: &Client,
    message: &[u8],
    is_right: impl Fn(&Uplink) -> bool,
) -> Uplink {
    for _ in 0..600 {
        let uplink = client.uplink(world);
        if is_right(&uplink) {
            return uplink;
        }
        router_says(world, message, 255);
        thread::sleep(Duration::from_millis(100));
    }
    panic!("the uplink stays {:?}", client.uplink(world));
}

fn resolv_conf() -> String {
    fs::read_to_string("/run/loam/netd/resolv.conf").unwrap_or_default()
}

fn without_dhcpv4(world: &World) {
    world.dhcp.set(|offer| offer.mood = Mood::Silent);
}

#[test]
fn a_router_gives_name_servers_and_takes_them_back() {
    World::enter(|world| {
        without_dhcpv4(world);
        let netd = world.netd_without_lease();
        let client = netd.client(world);
        let named = advertisement(0, &[frame::name_servers(3600, &[DNS])]);
        let uplink = until(world, &client, &named, |uplink| {
            uplink.dns == [IpAddr::V6(DNS)] && !uplink.addresses.is_empty()
        });
        assert_eq!((uplink.missing, uplink.mtu), (None, None));
        assert_eq!(resolv_conf(), format!("nameserver {DNS}\n"));
        // A netd that starts later has not heard the router, and knows them all the same.
        netd.kill();
        let netd = world.netd_without_lease();
        let client = netd.client(world);
        assert_eq!(client.uplink(world).dns, [IpAddr::V6(DNS)]);
        let none = advertisement(0, &[frame::name_servers(0, &[DNS])]);
        let uplink = until(world, &client, &none, |uplink| uplink.dns.is_empty());
        assert_eq!(uplink.missing, Some(Missing::NameServer));
        assert_eq!(resolv_conf(), "");
    });
}

/// Linux gives them a scope of their own.
#[test]
fn addresses_of_a_site_count_like_others() {
    World::enter(|world| {
        without_dhcpv4(world);
        let netd = world.netd_without_lease();
        let client = netd.client(world);
        let message = frame::router_advertisement("fec0::".parse().unwrap());
        let uplink = until(world, &client, &message, |uplink| {
            !uplink.addresses.is_empty()
        });
        let address = uplink.addresses[0].addr().to_string();
        assert!(address.starts_with("fec0:"), "{address}");
    });
}

#[test]
fn name_servers_of_dhcp_come_before_those_of_routers() {
    World::enter(|world| {
        let netd = world.netd();
        let client = netd.client(world);
        let two = [DNS, "2001:db8:9::54".parse().unwrap()];
        let named = advertisement(0, &[frame::name_servers(3600, &two)]);
        let uplink = until(world, &client, &named, |uplink| uplink.dns.len() == 3);
        let first = IpAddr::V4(dhcp_server::DNS);
        assert_eq!(uplink.dns[..2], [first, IpAddr::V6(DNS)]);
        assert!(resolv_conf().starts_with(&format!("nameserver {first}\nnameserver {DNS}\n")));
    });
}

#[test]
fn what_does_not_come_from_the_link_is_no_advertisement() {
    World::enter(|world| {
        without_dhcpv4(world);
        let netd = world.netd_without_lease();
        let client = netd.client(world);
        let forged = advertisement(0, &[frame::name_servers(3600, &[FORGED])]);
        let named = advertisement(0, &[frame::name_servers(3600, &[DNS])]);
        until(world, &client, &named, |uplink| !uplink.dns.is_empty());
        // From beyond a router, and from no link-local address.
        router_says(world, &forged, 254);
        let group: Ipv6Addr = "ff02::1".parse().unwrap();
        let packet = frame::icmp_v6("2001:db8:9::1".parse().unwrap(), group, &forged);
        let multicast = [0x33, 0x33, 0, 0, 0, 1];
        let frame = frame::ethernet(multicast, world.outside.mac("out0"), 0x86dd, &packet);
        world.outside.send_frame("out0", &frame);
        let mut torn = forged.clone();
        torn.truncate(forged.len() - 8);
        router_says(world, &torn, 255);
        // What comes after it arrives.
        let two = [DNS, "2001:db8:9::54".parse().unwrap()];
        let named = advertisement(0, &[frame::name_servers(3600, &two)]);
        let uplink = until(world, &client, &named, |uplink| uplink.dns.len() > 1);
        assert_eq!(uplink.dns, two.map(IpAddr::V6));
    });
}

#[test]
fn a_router_that_says_so_has_addresses_asked_for_by_dhcpv6() {
    World::enter(|world| {
        without_dhcpv4(world);
        let server = Dhcpv6Server::start(&world.outside, "out0", ADDRESS);
        // Renewed after five seconds.
        server.set(|offer| offer.seconds = (10, 10));
        let netd = world.netd_without_lease();
        let client = netd.client(world);
        let managed = advertisement(MANAGED, &[]);
        let uplink = until(world, &client, &managed, |uplink| {
            !uplink.addresses.is_empty()
        });
        assert_eq!(
            uplink.addresses,
            [format!("{ADDRESS}/128").parse().unwrap()]
        );
        assert_eq!(uplink.dns, [IpAddr::V6(dhcpv6_server::DNS)]);
        assert_eq!(uplink.missing, None);
        let there = world.node.ip("-6 addr show up0");
        assert!(
            !there.contains("valid_lft forever preferred_lft forever\n    inet6 2001"),
            "{there}"
        );
        server.forget();
        server.wait_for(MessageType::Renew);
        // The server has another one now; what it does not name is valid as long as was said.
        let other = "2001:db8:9::51".parse().unwrap();
        server.set(|offer| {
            offer.address = Some(other);
            offer.seconds = (600, 1200);
        });
        let both = |uplink: &Uplink| uplink.addresses.iter().any(|net| net.addr() == other);
        until(world, &client, &managed, both);
    });
}

#[test]
fn an_address_of_another_host_is_declined() {
    World::enter(|world| {
        without_dhcpv4(world);
        world
            .outside
            .ip(&format!("addr add {ADDRESS}/64 dev out0 nodad"));
        let server = Dhcpv6Server::start(&world.outside, "out0", ADDRESS);
        let mut netd = world.netd_without_lease();
        let client = netd.client(world);
        let managed = advertisement(MANAGED, &[]);
        until(world, &client, &managed, |_| {
            server.forget().contains(&MessageType::Decline)
        });
        let said = netd.wait_for_log("is in use by another host");
        assert!(said.contains(&ADDRESS.to_string()), "{said}");
        assert!(client.uplink(world).addresses.is_empty());
    });
}

#[test]
fn settings_alone_come_by_dhcpv6_where_a_router_says_so() {
    World::enter(|world| {
        without_dhcpv4(world);
        let server = Dhcpv6Server::start(&world.outside, "out0", ADDRESS);
        let netd = world.netd_without_lease();
        let client = netd.client(world);
        let other = advertisement(OTHER, &[]);
        let uplink = until(world, &client, &other, |uplink| !uplink.dns.is_empty());
        assert_eq!(uplink.dns, [IpAddr::V6(dhcpv6_server::DNS)]);
        let said = server.forget();
        assert!(!said.is_empty());
        assert!(
            said.iter()
                .all(|kind| *kind == MessageType::InformationRequest),
            "{said:?}"
        );
    });
}

#[test]
fn a_server_that_does_not_answer_is_told_of() {
    World::enter(|world| {
        without_dhcpv4(world);
        let mut netd = world.netd_without_lease();
        let client = netd.client(world);
        let managed = advertisement(MANAGED, &[frame::name_servers(3600, &[DNS])]);
        let uplink = until(world, &client, &managed, |uplink| uplink.missing.is_some());
        assert_eq!(uplink.missing, Some(Missing::Dhcpv6Server));
        netd.wait_for_log("addresses come by DHCPv6, and no server answers");
    });
}

#[test]
fn the_uplinks_mtu_is_that_of_dhcp_or_of_the_router() {
    World::enter(|world| {
        world.dhcp.set_option((26, 1450u16.to_be_bytes().to_vec()));
        let netd = world.netd();
        let client = netd.client(world);
        assert_eq!(client.uplink(world).mtu, Some(1450));
        let mtu = [&[5, 1, 0, 0][..], &1400u32.to_be_bytes()].concat();
        until(world, &client, &advertisement(0, &[mtu]), |uplink| {
            uplink.mtu == Some(1400)
        });
        // The kernel keeps to it for IPv6 alone.
        assert!(world.node.ip("-o link show up0").contains(" mtu 1450 "));
    });
}
