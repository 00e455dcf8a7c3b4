//! Routers and DHCPv6 servers: what a router says by itself, what it leaves to the server, and what
//! comes of routers that go.

use std::{
    fs,
    net::{IpAddr, Ipv6Addr},
};

use dhcproto::v6::MessageType;
use loam_node_api::network::Uplink;

use crate::{netd::Client, world::World};

use super::{daemon::Files, lan::Lan, wire::Kind};

const ROUTER: &str = "2001:db8:9::1/64";
const DNS_OF_ROUTER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 0x53);
const DNS_OF_SERVER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 0x546);

#[test]
fn radvd_leads_to_kea_for_addresses() {
    World::enter(|world| {
        let lan = Lan::new(world);
        let (router, server) = (lan.router(&[ROUTER]), lan.host(&["2001:db8:9::2/64"]));
        let (files, others) = (Files::new(), Files::new());
        // T1 by the lifetimes: after five seconds.
        let kea = r#""preferred-lifetime": 10, "valid-lifetime": 10, "renew-timer": 5, "rebind-timer": 8,
            "subnet6": [{
                "id": 1, "subnet": "2001:db8:9::/64", "interface": "eth0",
                "pools": [{"pool": "2001:db8:9::100 - 2001:db8:9::1ff"}],
                "option-data": [{"name": "dns-servers", "data": "2001:db8:9::546"}]
            }]"#;
        let _kea = others.kea(&server, "kea-dhcp6", kea);
        let managed = radvd(
            "AdvManagedFlag on;",
            "AdvAutonomous off;",
            "RDNSS 2001:db8:9::53 { AdvRDNSSLifetime 600; };",
        );
        let _radvd = files.radvd(&router, &managed);
        let netd = world.netd_without_lease();
        let client = netd.client(world);
        let both = [IpAddr::V6(DNS_OF_SERVER), IpAddr::V6(DNS_OF_ROUTER)];
        let uplink = until(world, &client, |uplink| {
            uplink.dns == both && uplink.addresses.iter().any(|net| is_of_server(net.addr()))
        });
        assert_eq!(uplink.addresses.len(), 1, "{uplink:?}");
        assert_eq!(uplink.missing, None);
        assert!(world.node.ip("-6 route show default").contains("proto ra"));
        lan.wire.wait_for(Kind::V6(MessageType::Renew), 1);
        assert_eq!(client.uplink(world).addresses, uplink.addresses);
        lan.wire.was_peaceful();
    });
}

#[test]
#[ignore = "slow: waits for routers and their timers"]
fn radvd_leads_to_dhcpd_for_name_servers() {
    World::enter(|world| {
        let lan = Lan::new(world);
        let (router, server) = (lan.router(&[ROUTER]), lan.host(&["2001:db8:9::2/64"]));
        let (files, others) = (Files::new(), Files::new());
        let dhcpd = "subnet6 2001:db8:9::/64 {
            range6 2001:db8:9::100 2001:db8:9::1ff;
            option dhcp6.name-servers 2001:db8:9::546;
        }";
        let _dhcpd = others.dhcpd(&server, "-6", dhcpd);
        let _radvd = files.radvd(&router, &radvd("AdvOtherConfigFlag on;", "", ""));
        let netd = world.netd_without_lease();
        let client = netd.client(world);
        let uplink = until(world, &client, |uplink| {
            uplink.dns == [IpAddr::V6(DNS_OF_SERVER)] && !uplink.addresses.is_empty()
        });
        // By the router's prefix, and of the server's nothing.
        assert!(
            !uplink.addresses.iter().any(|net| is_of_server(net.addr())),
            "{uplink:?}"
        );
        let said = lan.wire.said();
        let asked = Kind::V6(MessageType::InformationRequest);
        let v6: Vec<_> = said
            .iter()
            .filter(|kind| matches!(kind, Kind::V6(_)))
            .collect();
        assert!(v6.iter().all(|kind| **kind == asked), "{said:?}");
        lan.wire.was_peaceful();
    });
}

#[test]
#[ignore = "slow: waits for leases to be renewed"]
fn dhcpd_gives_addresses_by_dhcpv6_and_renews() {
    World::enter(|world| {
        let lan = Lan::new(world);
        let (router, server) = (lan.router(&[ROUTER]), lan.host(&["2001:db8:9::2/64"]));
        let (files, others) = (Files::new(), Files::new());
        let dhcpd = "default-lease-time 12; preferred-lifetime 11;
            subnet6 2001:db8:9::/64 {
                range6 2001:db8:9::100 2001:db8:9::1ff;
                option dhcp6.name-servers 2001:db8:9::546;
            }";
        let _dhcpd = others.dhcpd(&server, "-6", dhcpd);
        let managed = radvd("AdvManagedFlag on;", "AdvAutonomous off;", "");
        let _radvd = files.radvd(&router, &managed);
        let mut netd = world.netd_without_lease();
        let client = netd.client(world);
        let uplink = until(world, &client, |uplink| {
            uplink.addresses.iter().any(|net| is_of_server(net.addr()))
        });
        lan.wire.wait_for(Kind::V6(MessageType::Renew), 2);
        assert_eq!(client.uplink(world).addresses, uplink.addresses);
        assert_eq!(uplink.dns, [IpAddr::V6(DNS_OF_SERVER)]);
        netd.did_not_say("lost");
        lan.wire.was_peaceful();
    });
}

#[test]
#[ignore = "slow: waits for what a router has said to end"]
fn a_router_that_goes_takes_route_and_name_server_with_it_and_brings_them_back() {
    World::enter(|world| {
        let lan = Lan::new(world);
        let router = lan.router(&[ROUTER]);
        let files = Files::new();
        // It speaks every four seconds, and is believed for eight.
        let configuration = radvd(
            "AdvDefaultLifetime 8;",
            "",
            "RDNSS 2001:db8:9::53 { AdvRDNSSLifetime 8; };",
        );
        let daemon = files.radvd(&router, &configuration);
        let netd = world.netd_without_lease();
        let client = netd.client(world);
        let has_all = |uplink: &Uplink| {
            uplink.dns == [IpAddr::V6(DNS_OF_ROUTER)] && !uplink.addresses.is_empty()
        };
        let addresses = until(world, &client, has_all).addresses;
        assert_ne!(default_route(world), "");
        // It says goodbye: lifetimes of zero.
        daemon.stop();
        let uplink = until(world, &client, |uplink| uplink.dns.is_empty());
        assert_eq!(uplink.addresses, addresses);
        assert_eq!(default_route(world), "");
        assert_eq!(
            fs::read_to_string("/run/loam/netd/resolv.conf").unwrap(),
            ""
        );
        let daemon = files.radvd(&router, &configuration);
        until(world, &client, has_all);
        assert_ne!(default_route(world), "");
        // It says nothing any more.
        daemon.kill();
        until(world, &client, |uplink| uplink.dns.is_empty());
        until(world, &client, |_| default_route(world).is_empty());
        let _daemon = files.radvd(&router, &configuration);
        until(world, &client, has_all);
        assert_ne!(default_route(world), "");
    });
}

#[test]
#[ignore = "slow: waits for routers and their timers"]
fn a_router_that_is_none_gives_prefix_and_name_server_and_no_route() {
    World::enter(|world| {
        let lan = Lan::new(world);
        let router = lan.router(&[ROUTER]);
        let files = Files::new();
        let rdnss = "RDNSS 2001:db8:9::53 { AdvRDNSSLifetime 600; };";
        let daemon = files.radvd(&router, &radvd("AdvDefaultLifetime 600;", "", rdnss));
        let netd = world.netd_without_lease();
        let client = netd.client(world);
        until(world, &client, |uplink| {
            uplink.dns == [IpAddr::V6(DNS_OF_ROUTER)] && !uplink.addresses.is_empty()
        });
        assert_ne!(default_route(world), "");
        // It has another way of telling it than by ending: it is no default router any more.
        daemon.kill();
        let _daemon = files.radvd(&router, &radvd("AdvDefaultLifetime 0;", "", rdnss));
        let uplink = until(world, &client, |_| default_route(world).is_empty());
        assert_eq!(uplink.dns, [IpAddr::V6(DNS_OF_ROUTER)]);
        assert!(!uplink.addresses.is_empty());
    });
}

#[test]
fn dnsmasq_gives_address_name_server_and_mtu() {
    World::enter(|world| {
        let lan = Lan::new(world);
        let router = lan.router(&[ROUTER]);
        let files = Files::new();
        let _dnsmasq = files.dnsmasq(
            &router,
            &[
                "--enable-ra",
                "--ra-param=eth0,mtu:1400,4,1200",
                "--dhcp-range=2001:db8:9::100,2001:db8:9::1ff,64,10m",
                "--dhcp-option=option6:dns-server,[2001:db8:9::53]",
            ],
        );
        let netd = world.netd_without_lease();
        let client = netd.client(world);
        let uplink = until(world, &client, |uplink| {
            let first = uplink.addresses.first();
            first.is_some_and(|net| is_of_server(net.addr())) && uplink.mtu == Some(1400)
        });
        assert_eq!(uplink.dns, [IpAddr::V6(DNS_OF_ROUTER)]);
        assert!(world.node.ip("-6 route show default").contains("proto ra"));
        // Known again, a netd that starts anew is given the same address.
        let before = uplink.addresses;
        netd.kill();
        let mut netd = world.netd_without_lease();
        netd.wait_for_log("leased by DHCPv6");
        let client = netd.client(world);
        until(world, &client, |uplink| uplink.addresses == before);
        lan.wire.was_peaceful();
    });
}

/// A router of `2001:db8:9::/64` that speaks every four seconds.
fn radvd(flags: &str, of_prefix: &str, more: &str) -> String {
    format!(
        "interface eth0 {{
            AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; MinDelayBetweenRAs 3;
            {flags}
            prefix 2001:db8:9::/64 {{ AdvOnLink on; {of_prefix} }};
            {more}
        }};"
    )
}

fn is_of_server(address: IpAddr) -> bool {
    let IpAddr::V6(address) = address else {
        return false;
    };
    let [.., interface, last] = address.segments();
    interface == 0 && (0x100..=0x1ff).contains(&last)
}

fn default_route(world: &World) -> String {
    world.node.ip("-6 route show default")
}

/// Looks until the uplink is as it should be: not all that counts is a change of netd's.
fn until(world: &World, client: &Client, is_right: impl Fn(&Uplink) -> bool) -> Uplink {
    for _ in 0..600 {
        let uplink = client.uplink(world);
        if is_right(&uplink) {
            return uplink;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("the uplink stays {:?}", client.uplink(world));
}
