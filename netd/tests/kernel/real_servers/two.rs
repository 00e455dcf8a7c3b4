//! Two DHCP servers on one link that do not know of each other: an old router and a new one.

use crate::world::World;

use super::{
    daemon::Files,
    lan::Lan,
    wire::{DISCOVER, NAK, REQUEST},
};

/// dhcpd for `192.0.2.100` to `192.0.2.199`, which is renewed after five seconds.
const DHCPD: &str = "default-lease-time 10; max-lease-time 10; ping-check false;
    subnet 192.0.2.0 netmask 255.255.255.0 {
        range 192.0.2.100 192.0.2.199;
        option routers 192.0.2.1;
        option domain-name-servers 192.0.2.53;
    }";

#[test]
fn a_server_that_refuses_whatever_another_gives_takes_no_lease_away() {
    World::enter(|world| {
        let lan = Lan::new(world);
        let (one, other) = (lan.host(&["192.0.2.1/24"]), lan.host(&["192.0.2.2/24"]));
        let (files, others) = (Files::new(), Files::new());
        let _dhcpd = files.dhcpd(&one, "-4", DHCPD);
        // No router: the other's offer is better, and this one says no to it.
        let _dnsmasq = others.dnsmasq(
            &other,
            &[
                "--dhcp-authoritative",
                "--no-ping",
                "--dhcp-range=192.0.2.200,192.0.2.250,10m",
                "--dhcp-option=3",
            ],
        );
        let mut netd = world.netd();
        let client = netd.client(world);
        let before = client.uplink(world);
        // What this is about has happened.
        assert!(lan.wire.heard().contains(&NAK), "{:?}", lan.wire.heard());
        let asked = lan.wire.said();
        assert!(asked.contains(&REQUEST));
        // Renewed with the one that gave it.
        lan.wire.wait_for(REQUEST, 1 + count(&asked, REQUEST));
        lan.wire.was_peaceful();
        assert_eq!(count(&lan.wire.said(), DISCOVER), count(&asked, DISCOVER));
        let uplink = client.uplink(world);
        assert_eq!(uplink, before);
        let there = world.node.ip("-4 -o addr show up0");
        assert_eq!(there.lines().count(), 1, "{there}");
        netd.did_not_say("lease lost");
    });
}

#[test]
#[ignore = "slow: waits for the end of a lease"]
fn of_two_servers_with_different_subnets_one_is_kept_and_the_other_there_when_it_dies() {
    World::enter(|world| {
        let lan = Lan::new(world);
        let subnets = ["192.0.2", "198.51.100"];
        let files = subnets.map(|_| Files::new());
        let mut servers = vec![];
        for (subnet, files) in subnets.iter().zip(&files) {
            let host = lan.host(&[&format!("{subnet}.1/24")]);
            // Each sure that the link is its own.
            let configuration = format!(
                "authoritative; default-lease-time 10; max-lease-time 10;
                subnet {subnet}.0 netmask 255.255.255.0 {{
                    range {subnet}.100 {subnet}.199;
                    option routers {subnet}.1;
                    option domain-name-servers {subnet}.53;
                }}"
            );
            servers.push((*subnet, files.dhcpd(&host, "-4", &configuration), host));
        }
        let mut netd = world.netd();
        let client = netd.client(world);
        let before = client.uplink(world);
        // Renewed twice.
        lan.wire.wait_for(REQUEST, 3);
        assert_eq!(client.uplink(world), before);
        netd.did_not_say("lease lost");
        let address = before.addresses[0].addr().to_string();
        let chosen = subnets
            .iter()
            .position(|subnet| address.starts_with(subnet));
        let (_, dead, _) = servers.remove(chosen.unwrap());
        dead.kill();
        let leased = netd.wait_for_log("leased");
        let left = servers[0].0;
        assert!(
            leased.contains(&format!(r#""address":"{left}."#)),
            "{leased}"
        );
        let there = world.node.ip("-4 -o addr show up0");
        assert_eq!(there.lines().count(), 1, "{there}");
        lan.wire.was_peaceful();
    });
}

fn count(said: &[super::wire::Kind], kind: super::wire::Kind) -> usize {
    said.iter().filter(|one| **one == kind).count()
}
