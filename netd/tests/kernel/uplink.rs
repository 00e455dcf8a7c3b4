//! The uplink: DHCP with a server that gives, renews, changes its mind, refuses, falls silent.

use std::net::{IpAddr, Ipv4Addr};

use dhcproto::v4::MessageType;
use ipnet::IpNet;

use crate::{
    dhcp_server::{DNS, Mood},
    frame,
    netd::{Client, Netd, subnet},
    world::{NODE, World},
};

fn address(text: &str) -> IpNet {
    format!("{text}/24").parse().unwrap()
}

#[test]
fn a_lease_becomes_address_route_and_name_server() {
    World::enter(|world| {
        let mut netd = world.netd_without_lease();
        netd.wait_for_log("leased");
        let client = netd.client(world);
        let uplink = client.uplink(world);
        assert_eq!(uplink.link.as_deref(), Some("up0"));
        assert_eq!(uplink.addresses, [address(NODE)]);
        assert_eq!(uplink.gateway, Some(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(uplink.dns, [IpAddr::V4(DNS)]);
        assert!(
            world
                .node
                .ip("route show default")
                .contains("via 192.0.2.1 dev up0 proto dhcp")
        );
        // The address ends by itself when nobody renews it.
        assert!(
            !world
                .node
                .ip("addr show up0")
                .contains("valid_lft forever preferred_lft forever\n    inet6")
        );
        // A subnet that would hide the name server is refused; without NAT it hides nothing.
        let mut spec = subnet(true);
        spec.ipv4 = "192.0.2.0/25".parse().unwrap();
        let refused = client.network(world, "1.net", spec.clone()).unwrap_err();
        // The same is said beforehand, and nothing made by asking.
        let checked = client.check_network(world, "1.net", spec.clone());
        assert_eq!(checked, Err(refused));
        spec.nat = false;
        client.check_network(world, "1.net", spec.clone()).unwrap();
        assert!(client.networks(world).is_empty());
        client.network(world, "1.net", spec).unwrap();
    });
}

#[test]
fn a_lease_is_renewed_in_time_and_follows_the_server() {
    World::enter(|world| {
        // The shortest that is: renewed after five seconds.
        world.dhcp.set(|offer| offer.seconds = 10);
        let mut netd = world.netd();
        let client = netd.client(world);
        world.dhcp.forget();
        // Renewed: a request without a discovery before it.
        world.dhcp.wait_for(MessageType::Request);
        assert_eq!(client.uplink(world).addresses, [address(NODE)]);
        // The server wants it back: NAK, then a discovery, then the new address alone.
        world
            .dhcp
            .set(|offer| offer.address = Ipv4Addr::new(192, 0, 2, 77));
        netd.wait_for_log("lease lost");
        netd.wait_for_log("192.0.2.77");
        assert_eq!(client.uplink(world).addresses, [address("192.0.2.77")]);
        let addresses = world.node.ip("-4 -o addr show up0");
        assert!(!addresses.contains(NODE), "{addresses}");
    });
}

#[test]
fn a_lease_that_nobody_renews_ends() {
    World::enter(|world| {
        world.dhcp.set(|offer| offer.seconds = 10);
        let mut netd = world.netd();
        let client = netd.client(world);
        world.dhcp.set(|offer| offer.mood = Mood::Silent);
        netd.wait_for_log("lease lost");
        let uplink = client.uplink(world);
        assert_eq!((uplink.addresses, uplink.gateway), (vec![], None));
        assert_eq!(world.node.ip("route show default"), "");
        // It never stops asking.
        world.dhcp.set(|offer| offer.mood = Mood::Gives);
        netd.wait_for_log("leased");
        assert_eq!(client.uplink(world).addresses, [address(NODE)]);
    });
}

#[test]
fn a_server_that_refuses_is_asked_again() {
    World::enter(|world| {
        world.dhcp.set(|offer| offer.mood = Mood::Refuses);
        let mut netd = world.netd_without_lease();
        world.dhcp.wait_for(MessageType::Request);
        world.dhcp.wait_for(MessageType::Discover);
        world.dhcp.set(|offer| offer.mood = Mood::Gives);
        netd.wait_for_log("leased");
    });
}

#[test]
fn a_restarted_netd_adopts_the_lease_of_a_silent_server() {
    World::enter(|world| {
        let netd = world.netd();
        let before = netd.client(world).uplink(world);
        netd.kill();
        world.dhcp.set(|offer| offer.mood = Mood::Silent);
        world.dhcp.forget();

        let mut netd = world.netd_without_lease();
        let client = netd.client(world);
        // It asks behind the scenes, and what it asked changes nothing.
        world.dhcp.wait_for(MessageType::Discover);
        assert_eq!(client.uplink(world), before);
        world.dhcp.set(|offer| offer.mood = Mood::Gives);
        world.dhcp.wait_for(MessageType::Request);
        assert_eq!(client.uplink(world), before);
        let _ = &mut netd;
    });
}

#[test]
fn an_address_that_someone_removed_comes_back() {
    World::enter(|world| {
        let mut netd = world.netd();
        world.node.ip(&format!("addr del {NODE}/24 dev up0"));
        netd.wait_for_log("lease lost");
        netd.wait_for_log("leased");
        assert_eq!(netd.client(world).uplink(world).addresses, [address(NODE)]);
    });
}

#[test]
fn a_pulled_cable_keeps_the_address_and_a_replugged_one_renews_it() {
    World::enter(|world| {
        let mut netd = world.netd();
        let client = netd.client(world);
        world.outside.ip("link set out0 down");
        netd.wait_for_log("no carrier");
        assert_eq!(client.uplink(world).addresses, [address(NODE)]);
        world.dhcp.forget();
        world.outside.ip("link set out0 up");
        netd.wait_for_log("looking for a DHCP server");
        world.dhcp.wait_for(MessageType::Request);
        assert_eq!(client.uplink(world).addresses, [address(NODE)]);
    });
}

#[test]
fn of_two_cables_the_one_whose_lease_leads_out_is_the_uplink() {
    World::enter(|world| {
        // A LAN without a router, and one with, whose server is late.
        world.dhcp.leave_out(3);
        let (beyond, dhcp) = world.second_cable();
        dhcp.set(|offer| offer.mood = Mood::Silent);
        let mut netd = Netd::start(&["--uplink", "up0", "--uplink", "up1"]);
        netd.wait_for_log("leased");
        let client = netd.client(world);
        let uplink = client.uplink(world);
        assert_eq!(
            (uplink.link.as_deref(), uplink.gateway),
            (Some("up0"), None)
        );
        // The other goes on looking.
        dhcp.forget();
        dhcp.wait_for(MessageType::Discover);
        dhcp.set(|offer| offer.mood = Mood::Gives);
        netd.wait_for_log("leased");
        let uplink = client.uplink(world);
        assert_eq!(uplink.link.as_deref(), Some("up1"));
        assert_eq!(uplink.addresses, [address("198.51.100.10")]);
        assert_eq!(uplink.gateway, Some(Ipv4Addr::new(198, 51, 100, 1)));
        assert_eq!(world.node.ip("-4 addr show up0"), "");
        // And the first one not any more, also when netd starts anew.
        netd.kill();
        world.dhcp.forget();
        dhcp.forget();
        let netd = Netd::start(&["--uplink", "up0", "--uplink", "up1"]);
        dhcp.wait_for(MessageType::Request);
        assert_eq!(netd.client(world).uplink(world), uplink);
        assert_eq!(world.dhcp.forget(), []);
        drop(beyond);
    });
}

/// Sends one router advertisement for `2001:db8:9::/64` onto the uplink.
pub fn advertise(world: &World) {
    router_says(
        world,
        &frame::router_advertisement("2001:db8:9::".parse().unwrap()),
        255,
    );
}

/// Sends a message of ICMPv6 to all hosts, with so many hops to go.
pub fn router_says(world: &World, message: &[u8], hops: u32) {
    use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sockopt};
    world.outside.run(|| {
        let (family, kind) = (AddressFamily::INET6, SocketType::RAW);
        let socket = rustix::net::socket(family, kind, Some(ipproto::ICMPV6)).unwrap();
        sockopt::set_ipv6_multicast_hops(&socket, hops).unwrap();
        let index = rustix::net::netdevice::name_to_index(&socket, "out0").unwrap();
        let to = std::net::SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, index);
        // Refused as long as the outside has no link-local address yet.
        let _ = rustix::net::sendto(&socket, message, SendFlags::empty(), &to);
    });
}

/// Waits until the node has an IPv6 address that is not tentative any more.
pub fn wait_for_v6(world: &World, client: &Client) -> IpAddr {
    loop {
        let addresses = client.uplink(world).addresses;
        if let Some(v6) = addresses.iter().find(|net| net.addr().is_ipv6()) {
            return v6.addr();
        }
        advertise(world);
        // Duplicate address detection takes its second.
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}
