//! A machine that lies about who it is is not heard.

use std::net::{Ipv4Addr, Ipv6Addr};

use loam_deployment::payload::Protocol::Udp;

use crate::{
    frame,
    host::receive,
    machine::Machine,
    netd::{machine, subnet},
    world::World,
};

const OWN: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 3);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);

/// A network with a liar at 10.20.0.2 and a victim at 10.20.0.3, both with IPv6.
fn liar_and_victim(world: &World, test: impl FnOnce(&Machine, &Machine)) {
    let netd = world.netd();
    let client = netd.client(world);
    let mut spec = subnet(true);
    spec.ipv6 = Some("fd00:20::/64".parse().unwrap());
    client.network(world, "1.net", spec).unwrap();
    let start = |id, addresses: [&str; 2], port| {
        let spec = machine(&addresses, &[(Udp, port, 53)]);
        Machine::start(&client.interface(world, id, "1.net", spec).unwrap())
    };
    let liar = start("1.liar", ["10.20.0.2", "fd00:20::2"], 8001);
    let victim = start("1.victim", ["10.20.0.3", "fd00:20::3"], 8002);
    test(&liar, &victim);
}

#[test]
fn only_datagrams_with_the_machines_own_addresses_arrive() {
    World::enter(|world| {
        liar_and_victim(world, |liar, victim| {
            let socket = victim.host.udp("0.0.0.0:53");
            let (own_mac, to) = (liar.host.mac("eth0"), victim.host.mac("eth0"));
            let send = |mac, ethertype, from, ports, text: &str| {
                let packet = frame::udp_v4(from, OTHER, ports, text);
                liar.send_frame(&frame::ethernet(to, mac, ethertype, &packet));
            };
            let ports = (5000, 53);
            send(own_mac, 0x0800, GATEWAY, ports, "as the gateway");
            send(
                own_mac,
                0x0800,
                Ipv4Addr::new(192, 0, 2, 1),
                ports,
                "as the world",
            );
            send(to, 0x0800, OWN, ports, "with the victim's MAC");
            send(
                [2, 0, 0, 0, 0, 9],
                0x0800,
                OWN,
                ports,
                "with a MAC of no one",
            );
            send(own_mac, 0x0800, OWN, (67, 53), "as a DHCP server");
            let tagged = [
                &[0, 7, 8, 0][..],
                &frame::udp_v4(OWN, OTHER, ports, "tagged"),
            ]
            .concat();
            liar.send_frame(&frame::ethernet(to, own_mac, 0x8100, &tagged));
            send(own_mac, 0x0800, OWN, ports, "true");
            assert_eq!(receive(&socket).0, "true");
        });
    });
}

#[test]
fn the_world_hears_no_lie_either() {
    World::enter(|world| {
        liar_and_victim(world, |liar, _| {
            let socket = world.outside.udp("192.0.2.1:7000");
            // Makes the machine learn the gateway's MAC.
            let truth = liar.host.udp("0.0.0.0:0");
            truth.send_to(b"first", "192.0.2.1:7000").unwrap();
            assert_eq!(receive(&socket).0, "first");
            // Another's address, without its knowledge: an address on the machine's own link.
            liar.host.ip("addr add 10.20.0.9/24 dev eth0");
            let lie = liar.host.udp("10.20.0.9:0");
            lie.send_to(b"lie", "192.0.2.1:7000").unwrap();
            truth.send_to(b"second", "192.0.2.1:7000").unwrap();
            assert_eq!(receive(&socket).0, "second");
        });
    });
}

#[test]
fn nobody_takes_anothers_place_in_the_neighbour_tables() {
    World::enter(|world| {
        liar_and_victim(world, |liar, victim| {
            // The victim knows the gateway by IPv4 and IPv6.
            let own_mac = liar.host.mac("eth0");
            let to = victim.host.mac("eth0");
            world.outside.greet("192.0.2.1:7000", "world");
            assert_eq!(victim.host.ask("192.0.2.1:7000").0, "world");
            let gateway = neighbour(victim, "10.20.0.1");
            // A victim that believes every reply at once.
            victim.host.run(|| {
                for (setting, value) in
                    [("conf/eth0/arp_accept", "1"), ("neigh/eth0/locktime", "0")]
                {
                    std::fs::write(format!("/proc/sys/net/ipv4/{setting}"), value).unwrap();
                }
            });

            liar.send_frame(&frame::arp_reply(own_mac, GATEWAY));
            let lie = |kind: u8, message: Vec<u8>| {
                let from: Ipv6Addr = liar_link_local(own_mac);
                let packet = frame::icmp_v6(from, "ff02::1".parse().unwrap(), &message);
                assert_eq!(message[0], kind);
                liar.send_frame(&frame::ethernet(
                    [0x33, 0x33, 0, 0, 0, 1],
                    own_mac,
                    0x86dd,
                    &packet,
                ));
            };
            // "fd00:20::1 is at my MAC", overriding, and "I am your router".
            let mut advertisement = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
            advertisement.extend("fd00:20::1".parse::<Ipv6Addr>().unwrap().octets());
            advertisement.extend([2, 1]);
            advertisement.extend(own_mac);
            lie(136, advertisement);
            lie(
                134,
                frame::router_advertisement("fd00:bad::".parse().unwrap()),
            );

            // What comes after on the same way did arrive.
            let socket = victim.host.udp("0.0.0.0:53");
            let packet = frame::udp_v4(OWN, OTHER, (5000, 53), "after");
            liar.send_frame(&frame::ethernet(to, own_mac, 0x0800, &packet));
            assert_eq!(receive(&socket).0, "after");
            assert_eq!(neighbour(victim, "10.20.0.1"), gateway);
            assert!(!victim.host.ip("-6 route").contains("fd00:bad"));
            assert!(!victim.host.ip("-6 addr").contains("fd00:bad"));
            let six = victim.host.ip("-6 neigh show fd00:20::1");
            assert!(!six.contains(&colons(own_mac)), "{six}");

            // And true advertisements pass: the machines find each other by IPv6.
            victim.host.greet("[::]:80", "victim");
            assert_eq!(liar.host.ask("[fd00:20::3]:80").0, "victim");
        });
    });
}

fn neighbour(machine: &Machine, address: &str) -> String {
    let line = machine.host.ip(&format!("neigh show {address}"));
    line.split("lladdr ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .to_owned()
}

fn colons(mac: [u8; 6]) -> String {
    loam_node_api::network::Mac(mac).to_string()
}

fn liar_link_local([a, b, c, d, e, f]: [u8; 6]) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets[..2].copy_from_slice(&[0xfe, 0x80]);
    octets[8..].copy_from_slice(&[a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    Ipv6Addr::from(octets)
}
