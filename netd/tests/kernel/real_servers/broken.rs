//! DHCP servers that lose their memory, give what is another's, or have nothing to give.

use std::thread;

use dhcproto::v4::MessageType;

use crate::{host::LIMIT, world::World};

use super::{
    daemon::Files,
    lan::Lan,
    wire::{DISCOVER, Kind, NAK, REQUEST},
};

#[test]
#[ignore = "slow: waits for half of two minutes"]
fn dnsmasq_that_has_lost_its_leases_refuses_and_gives_anew() {
    World::enter(|world| {
        let lan = Lan::new(world);
        let host = lan.host(&["192.0.2.1/24"]);
        let files = Files::new();
        // It gives no shorter ones.
        let arguments = ["--no-ping", "--dhcp-range=192.0.2.100,192.0.2.199,2m"];
        let dnsmasq = files.dnsmasq(&host, &arguments);
        let mut netd = world.netd();
        let client = netd.client(world);
        let before = client.uplink(world);
        dnsmasq.kill();
        files.forget_leases();
        let _dnsmasq = files.dnsmasq(&host, &arguments);
        // Renewed after a minute, which is as long as the log is waited for.
        thread::sleep(LIMIT / 2);
        netd.wait_for_log("lease lost");
        netd.wait_for_log("leased");
        assert!(lan.wire.heard().contains(&NAK));
        // dnsmasq chooses by the Ethernet address.
        assert_eq!(client.uplink(world), before);
        lan.wire.was_peaceful();
    });
}

#[test]
#[ignore = "slow: waits for leases to end"]
fn dhcpd_that_has_lost_its_leases_and_has_other_addresses_gives_one_of_these() {
    World::enter(|world| {
        let lan = Lan::new(world);
        let host = lan.host(&["192.0.2.1/24"]);
        let files = Files::new();
        let dhcpd = files.dhcpd(&host, "-4", &dhcpd("range 192.0.2.100 192.0.2.109;"));
        let mut netd = world.netd();
        dhcpd.kill();
        files.forget_leases();
        // It is away while the first renewal is due, too.
        lan.wire.wait_for(REQUEST, 2);
        let text = self::dhcpd("range 192.0.2.200 192.0.2.209;");
        let _dhcpd = files.dhcpd(&host, "-4", &text);
        let leased = netd.wait_for_log("leased");
        assert!(leased.contains(r#""address":"192.0.2.20"#), "{leased}");
        let there = world.node.ip("-4 -o addr show up0");
        assert_eq!(there.lines().count(), 1, "{there}");
        lan.wire.was_peaceful();
    });
}

#[test]
#[ignore = "slow: ten seconds and more pass after each conflict"]
fn the_only_address_of_a_pool_is_taken_when_its_other_user_has_gone() {
    World::enter(|world| {
        let lan = Lan::new(world);
        let host = lan.host(&["192.0.2.1/24"]);
        let user = lan.host(&["192.0.2.100/24"]);
        let files = Files::new();
        let _dhcpd = files.dhcpd(&host, "-4", &dhcpd("range 192.0.2.100 192.0.2.100;"));
        let mut netd = world.netd_without_lease();
        netd.wait_for_log("is in use by");
        lan.wire.wait_for(Kind::V4(MessageType::Decline), 2);
        let client = netd.client(world);
        assert!(client.uplink(world).addresses.is_empty());
        user.ip("link set eth0 down");
        let leased = netd.wait_for_log("leased");
        assert!(leased.contains(r#""address":"192.0.2.100/24"#), "{leased}");
        lan.wire.was_peaceful();
    });
}

#[test]
#[ignore = "slow: asks ever more seldom"]
fn a_server_with_nothing_to_give_is_asked_until_it_has() {
    World::enter(|world| {
        let lan = Lan::new(world);
        let host = lan.host(&["192.0.2.1/24"]);
        let files = Files::new();
        let empty = files.dhcpd(&host, "-4", &dhcpd(""));
        let mut netd = world.netd_without_lease();
        lan.wire.wait_for(DISCOVER, 3);
        assert_eq!(lan.wire.heard(), []);
        assert_eq!(lan.wire.said(), [DISCOVER; 3]);
        empty.kill();
        let _dhcpd = files.dhcpd(&host, "-4", &dhcpd("range 192.0.2.100 192.0.2.109;"));
        netd.wait_for_log("leased");
        lan.wire.was_peaceful();
    });
}

/// A configuration for leases that are renewed after five seconds. It does not ask whether an address
/// is in use, as it does by default.
fn dhcpd(pool: &str) -> String {
    format!(
        "authoritative; default-lease-time 10; max-lease-time 10; ping-check false;
        subnet 192.0.2.0 netmask 255.255.255.0 {{
            {pool}
            option routers 192.0.2.1;
            option domain-name-servers 192.0.2.53;
        }}"
    )
}
