//! One DHCP server on the link: all that a lease may hold, and its renewal.

use std::net::{IpAddr, Ipv4Addr};

use loam_deployment::FarmId;

use crate::{
    dhcp_server::{OTHER, SERVER},
    host::Host,
    world::World,
};

use super::{
    daemon::{Daemon, Files},
    lan::Lan,
    wire::{DISCOVER, NAK, REQUEST},
};

const DNS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 54)),
];

/// What a server is to give beside an address, two name servers, an MTU of 1400 bytes and a farm,
/// renewed after five seconds.
#[derive(Clone, Copy)]
enum Ways {
    /// The world by [`SERVER`] and `198.51.100.0/24` by [`OTHER`] (option 121), and a router.
    Routes,
    /// [`OTHER`] and [`SERVER`].
    Routers,
}

#[test]
fn dhcpd_gives_all_and_renews() {
    gives_all_and_renews(|files, host, ways| {
        let ways = match ways {
            Ways::Routes => {
                "option classless 0, 192,0,2,1, 24, 198,51,100, 192,0,2,2; option routers 192.0.2.9;"
            }
            Ways::Routers => "option routers 192.0.2.2, 192.0.2.1;",
        };
        let configuration = format!(
            "authoritative; default-lease-time 10; max-lease-time 10;
            option classless code 121 = array of integer 8;
            option farm code 224 = text;
            subnet 192.0.2.0 netmask 255.255.255.0 {{
                range 192.0.2.100 192.0.2.199;
                option domain-name-servers 192.0.2.53, 192.0.2.54;
                option domain-name \"home.example\";
                option interface-mtu 1400;
                option farm \"7\";
                {ways}
            }}"
        );
        files.dhcpd(host, "-4", &configuration)
    });
}

#[test]
#[ignore = "slow: waits for a lease to be renewed, as dhcpd's fast one does"]
fn kea_gives_all_and_renews() {
    gives_all_and_renews(|files, host, ways| {
        let ways = match ways {
            // 0 by 192.0.2.1, 24 bits of 198.51.100 by 192.0.2.2.
            Ways::Routes => {
                r#"{"code": 121, "csv-format": false, "data": "00c000020118c63364c0000202"},
                {"name": "routers", "data": "192.0.2.9"}"#
            }
            Ways::Routers => r#"{"name": "routers", "data": "192.0.2.2, 192.0.2.1"}"#,
        };
        let configuration = format!(
            r#""authoritative": true, "valid-lifetime": 10, "subnet4": [{{
                "id": 1, "subnet": "192.0.2.0/24",
                "pools": [{{"pool": "192.0.2.100 - 192.0.2.199"}}],
                "option-data": [
                    {{"name": "domain-name-servers", "data": "192.0.2.53, 192.0.2.54"}},
                    {{"name": "domain-name", "data": "home.example"}},
                    {{"name": "interface-mtu", "data": "1400"}},
                    {{"code": 224, "csv-format": false, "data": "37"}},
                    {ways}
                ]
            }}]"#
        );
        files.kea(host, "kea-dhcp4", &configuration)
    });
}

fn gives_all_and_renews(serve: impl Fn(&Files, &Host, Ways) -> Daemon + Send + 'static) {
    World::enter(move |world| {
        let lan = Lan::new(world);
        let host = lan.host(&["192.0.2.1/24"]);
        let files = Files::new();
        let daemon = serve(&files, &host, Ways::Routes);
        let mut netd = world.netd();
        let client = netd.client(world);
        let first = client.uplink(world);
        let [leased] = first.addresses[..] else {
            panic!("{first:?}")
        };
        let IpAddr::V4(address) = leased.addr() else {
            panic!("{first:?}")
        };
        assert!((100..=199).contains(&address.octets()[3]), "{first:?}");
        assert_eq!(leased.prefix_len(), 24);
        assert_eq!(first.gateway, Some(SERVER));
        assert_eq!(first.dns, DNS);
        assert_eq!(first.mtu, Some(1400));
        assert_eq!(first.farm, Some(FarmId(7)));
        let routes = world.node.ip("-4 route show dev up0 proto dhcp");
        assert!(
            routes.contains("198.51.100.0/24 via 192.0.2.2 "),
            "{routes}"
        );
        assert!(!routes.contains("192.0.2.9"), "{routes}");
        // Another hand has changed what it gives; it still knows the lease.
        daemon.kill();
        let _daemon = serve(&files, &host, Ways::Routers);
        netd.wait_for_log("leased");
        let second = client.uplink(world);
        assert_eq!(second.addresses, first.addresses);
        assert_eq!(second.gateway, Some(OTHER));
        let routes = world.node.ip("-4 route show dev up0 proto dhcp");
        assert_eq!(routes.lines().count(), 1, "{routes}");
        // It was renewed, not found anew.
        let said = lan.wire.said();
        let last_discover = said.iter().rposition(|kind| *kind == DISCOVER);
        let first_request = said.iter().position(|kind| *kind == REQUEST);
        assert!(last_discover < first_request, "{said:?}");
        assert!(!lan.wire.heard().contains(&NAK));
        lan.wire.was_peaceful();
    });
}
