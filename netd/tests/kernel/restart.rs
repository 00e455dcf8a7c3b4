//! netd is killed and started again; nobody notices.

use std::{
    io::{Read, Write},
    sync::mpsc::channel,
    thread,
};

use loam_deployment::payload::Protocol::Tcp;

use crate::{
    machine::Machine,
    netd::{interface_id, machine, subnet},
    world::{NODE, World},
};

/// What a machine sends: a byte for each position, so that a lost or doubled part shows.
fn pattern(position: usize) -> u8 {
    (position % 251) as u8
}

const PART: usize = 64 << 10;
const PARTS: usize = 64;

#[test]
fn a_download_loses_no_byte() {
    World::enter(|world| {
        let netd = world.netd();
        let client = netd.client(world);
        client.network(world, "1.net", subnet(true)).unwrap();
        let spec = machine(&["10.20.0.2"], &[(Tcp, 8001, 80)]);
        let inside = Machine::start(&client.interface(world, "1.web", "1.net", spec).unwrap());
        let (networks, interfaces) = (client.networks(world), client.interfaces(world));

        // The machine sends a part whenever it is told to, so that parts fall between restarts.
        let listener = inside.host.tcp_listener("0.0.0.0:80");
        let (more, wanted) = channel::<()>();
        let sender = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for part in 0..PARTS {
                wanted.recv().unwrap();
                let bytes: Vec<u8> = (part * PART..(part + 1) * PART).map(pattern).collect();
                stream.write_all(&bytes).unwrap();
            }
        });
        let mut download = world.outside.connect(&format!("{NODE}:8001")).unwrap();
        let mut part = vec![0; PART];
        let mut read = |n: usize, more: &std::sync::mpsc::Sender<()>| {
            more.send(()).unwrap();
            download.read_exact(&mut part).unwrap();
            assert!(
                part.iter()
                    .enumerate()
                    .all(|(i, b)| *b == pattern(n * PART + i)),
                "{n}"
            );
        };

        let mut netd = Some(netd);
        for n in 0..PARTS {
            read(n, &more);
            match n % 16 {
                // Dead for some parts, then starting while others pass.
                4 => netd.take().unwrap().kill(),
                8 => netd = Some(world.netd_without_lease()),
                _ => {}
            }
        }
        sender.join().unwrap();

        let client = netd.as_ref().unwrap().client(world);
        assert_eq!(client.networks(world), networks);
        assert_eq!(client.interfaces(world), interfaces);
        // And what it took over it can change and remove.
        let spec = machine(&["10.20.0.2"], &[(Tcp, 8009, 80)]);
        client.interface(world, "1.web", "1.net", spec).unwrap();
        inside.host.greet("0.0.0.0:80", "inside");
        assert_eq!(world.outside.ask(&format!("{NODE}:8009")).0, "inside");
        client.delete_network(world, "1.net");
        assert!(
            !world
                .node
                .link_names()
                .iter()
                .any(|name| name.starts_with("lv"))
        );
    });
}

#[test]
fn a_change_interrupts_nothing_that_did_not_change() {
    World::enter(|world| {
        let netd = world.netd();
        let client = netd.client(world);
        client.network(world, "1.net", subnet(true)).unwrap();
        let spec = machine(&["10.20.0.2"], &[(Tcp, 8001, 80)]);
        let inside = Machine::start(&client.interface(world, "1.web", "1.net", spec).unwrap());
        let listener = inside.host.tcp_listener("0.0.0.0:80");
        let mut outer = world.outside.connect(&format!("{NODE}:8001")).unwrap();
        let (mut inner, _) = listener.accept().unwrap();

        // The same again, another port beside it, another network, another IPv6 subnet.
        client.network(world, "1.net", subnet(true)).unwrap();
        let more = machine(&["10.20.0.2"], &[(Tcp, 8001, 80), (Tcp, 8005, 81)]);
        client
            .interface(world, "1.web", "1.net", more.clone())
            .unwrap();
        client.network(world, "2.net", subnet(true)).unwrap();
        let mut spec = subnet(true);
        spec.ipv6 = Some("fd00:20::/64".parse().unwrap());
        client.network(world, "1.net", spec).unwrap();

        outer.write_all(b"ping").unwrap();
        let mut four = [0; 4];
        inner.read_exact(&mut four).unwrap();
        inner.write_all(b"pong").unwrap();
        outer.read_exact(&mut four).unwrap();
        assert_eq!(&four, b"pong");
        let listed = client.interfaces(world);
        assert_eq!(listed.len(), 1);
        assert_eq!(
            (&listed[0].id, &listed[0].spec),
            (&interface_id("1.web", "1.net"), &more)
        );
    });
}

#[test]
fn what_no_record_knows_is_removed() {
    World::enter(|world| {
        let netd = world.netd();
        let client = netd.client(world);
        client.network(world, "1.net", subnet(true)).unwrap();
        client.network(world, "2.net", subnet(true)).unwrap();
        let interface = client
            .interface(world, "2.web", "2.net", machine(&["10.20.0.2"], &[]))
            .unwrap();
        let bridge = client.networks(world)[0].bridge.clone();
        netd.kill();
        std::fs::remove_file(format!("/run/loam/netd/networks/{bridge}.json")).unwrap();
        std::fs::remove_file(format!("/run/loam/netd/interfaces/{}.json", interface.tap)).unwrap();

        let client = world.netd_without_lease().client(world);
        let _ = client;
        let netns = std::fs::read_dir("/run/loam/netns").unwrap().count();
        assert_eq!(netns, 1);
        let transits = world.node.link_names();
        assert_eq!(
            transits
                .iter()
                .filter(|name| name.starts_with("lv"))
                .count(),
            1
        );
        let namespace = std::fs::File::open(interface.namespace.unwrap()).unwrap();
        let inside = crate::host::Host::at(namespace).link_names();
        assert!(!inside.contains(&interface.tap), "{inside:?}");
    });
}
