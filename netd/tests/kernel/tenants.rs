//! Two tenants with the same subnet, even the same address: they do not notice each other.

use std::net::IpAddr;

use loam_deployment::payload::Protocol::{Tcp, Udp};
use loam_node_api::{network::NetworkError, path::TENANT_PORT};

use crate::{
    host::receive,
    machine::Machine,
    netd::{Client, machine, subnet, workload},
    world::{NODE, World},
};

/// Tenant 1 and tenant 2, each with a network and a machine at 10.20.0.2 that greets on port 80,
/// published as 8001 and 8002.
fn two_tenants(world: &World, client: &Client) -> (Machine, Machine) {
    let one = |tenant: &str, port, name| {
        client
            .network(world, &format!("{tenant}.net"), subnet(true))
            .unwrap();
        let spec = machine(&["10.20.0.2"], &[(Tcp, port, 80), (Udp, port, 53)]);
        let (id, network) = (format!("{tenant}.web"), format!("{tenant}.net"));
        let interface = client.interface(world, &id, &network, spec).unwrap();
        let machine = Machine::start(&interface);
        machine.host.greet("0.0.0.0:80", name);
        machine
    };
    (one("1", 8001, "first"), one("2", 8002, "second"))
}

#[test]
fn published_ports_lead_to_the_right_machine_with_the_clients_address() {
    World::enter(|world| {
        let netd = world.netd();
        let _machines = two_tenants(world, &netd.client(world));
        let client: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!(
            world.outside.ask(&format!("{NODE}:8001")),
            ("first".into(), client)
        );
        assert_eq!(
            world.outside.ask(&format!("{NODE}:8002")),
            ("second".into(), client)
        );
    });
}

#[test]
fn machines_reach_the_world_by_the_nodes_address() {
    World::enter(|world| {
        let netd = world.netd();
        let (first, second) = two_tenants(world, &netd.client(world));
        world.outside.greet("192.0.2.1:7000", "world");
        let node: IpAddr = NODE.parse().unwrap();
        assert_eq!(first.host.ask("192.0.2.1:7000"), ("world".into(), node));
        assert_eq!(second.host.ask("192.0.2.1:7000"), ("world".into(), node));
    });
}

#[test]
fn a_published_port_answers_machines_of_the_same_node_too() {
    World::enter(|world| {
        let netd = world.netd();
        let (first, second) = two_tenants(world, &netd.client(world));
        assert_eq!(first.host.ask(&format!("{NODE}:8002")).0, "second");
        assert_eq!(second.host.ask(&format!("{NODE}:8001")).0, "first");
        assert_eq!(
            first.host.ask(&format!("{NODE}:8001")).0,
            "first",
            "its own"
        );
    });
}

#[test]
fn no_network_reaches_another_by_inner_addresses() {
    World::enter(|world| {
        let netd = world.netd();
        let (first, second) = two_tenants(world, &netd.client(world));
        let victim = second.host.udp("0.0.0.0:53");
        let attacker = first.host.udp("0.0.0.0:0");
        // The second network's link: its far end has the port, its near end is the node.
        for inner in ["198.18.0.5", "198.18.0.4"] {
            attacker.send_to(b"inner", (inner, 8002)).unwrap();
            attacker.send_to(b"inner", (inner, 53)).unwrap();
        }
        // On the same way, one after the other.
        attacker.send_to(b"published", (NODE, 8002)).unwrap();
        assert_eq!(receive(&victim).0, "published");
    });
}

#[test]
fn tenants_reach_the_world_and_not_the_farmers_own_machines() {
    World::enter(|world| {
        let netd = world.netd();
        let (first, _second) = two_tenants(world, &netd.client(world));
        world.outside.ip("addr add 192.168.7.1/24 dev out0");
        world.node.ip("route add 192.168.7.0/24 dev up0");
        world.outside.greet("0.0.0.0:80", "outside");
        let router = world.outside.udp("0.0.0.0:53");
        // The node itself reaches both.
        assert_eq!(world.node.ask("192.0.2.1:80").0, "outside");
        assert_eq!(world.node.ask("192.168.7.1:80").0, "outside");
        assert_eq!(first.host.ask("192.0.2.1:80").0, "outside");
        assert!(
            first.host.is_not_answered("192.168.7.1:80"),
            "a tenant reached the farmer's own machine"
        );
        // Names are asked of the router.
        first
            .host
            .udp("0.0.0.0:0")
            .send_to(b"name", ("192.168.7.1", 53))
            .unwrap();
        assert_eq!(receive(&router).0, "name");
    });
}

#[test]
fn tenants_reach_nothing_of_the_node_but_the_gateways_echo() {
    World::enter(|world| {
        let netd = world.netd();
        let (first, _second) = two_tenants(world, &netd.client(world));
        // Services of the node: of its TCP port the world learns, tenants' machines do not.
        world.node.greet(&format!("0.0.0.0:{TENANT_PORT}"), "node");
        let service = world.node.udp("0.0.0.0:7777");
        let published = first.host.udp("0.0.0.0:53");
        assert_eq!(
            world.outside.ask(&format!("{NODE}:{TENANT_PORT}")).0,
            "node"
        );

        for node in [NODE, "10.20.0.1", "198.18.0.2", "198.18.0.3"] {
            first
                .host
                .udp("0.0.0.0:0")
                .send_to(b"hello", (node, 7777))
                .unwrap();
            let address = format!("{node}:{TENANT_PORT}");
            assert!(
                first.host.is_not_answered(&address),
                "{address} answers a tenant"
            );
        }
        // What was sent before this arrived, or did not.
        first
            .host
            .udp("0.0.0.0:0")
            .send_to(b"after", (NODE, 8001))
            .unwrap();
        assert_eq!(receive(&published).0, "after");
        service.set_nonblocking(true).unwrap();
        assert!(
            service.recv(&mut [0; 16]).is_err(),
            "a tenant's datagram reached the node"
        );

        assert!(ping(&first, "10.20.0.1"), "the gateway does not answer");
    });
}

/// One ICMP echo, by a raw socket.
fn ping(machine: &Machine, address: &str) -> bool {
    let address: std::net::Ipv4Addr = address.parse().unwrap();
    machine.host.run(|| {
        use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, sockopt};
        let kind = SocketType::RAW;
        let socket = rustix::net::socket(AddressFamily::INET, kind, Some(ipproto::ICMP)).unwrap();
        let limit = Some(crate::host::LIMIT);
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, limit).unwrap();
        // Type 8, checksum of nothing else.
        let echo = [8, 0, 0xf7, 0xff, 0, 0, 0, 0];
        let to = std::net::SocketAddrV4::new(address, 0);
        rustix::net::sendto(&socket, &echo, SendFlags::empty(), &to).unwrap();
        let mut answer = [0; 128];
        loop {
            let received = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty());
            let Ok((_, length)) = received else {
                return false;
            };
            // Behind the IPv4 header; 0 is an echo reply.
            if length >= 28 && answer[12..16] == address.octets() && answer[20] == 0 {
                return true;
            }
        }
    })
}

#[test]
fn without_nat_there_is_no_way_out_but_published_ports_answer() {
    World::enter(|world| {
        let netd = world.netd();
        let client = netd.client(world);
        client.network(world, "1.net", subnet(false)).unwrap();
        let spec = machine(&["10.20.0.2"], &[(Tcp, 8001, 80), (Udp, 8001, 53)]);
        let inside = Machine::start(&client.interface(world, "1.web", "1.net", spec).unwrap());
        inside.host.greet("0.0.0.0:80", "inside");

        let world_socket = world.outside.udp("192.0.2.1:7000");
        inside
            .host
            .udp("0.0.0.0:0")
            .send_to(b"out", "192.0.2.1:7000")
            .unwrap();
        // An answer may leave; it comes after, on the same way.
        let socket = inside.host.udp("0.0.0.0:53");
        world_socket.send_to(b"question", (NODE, 8001)).unwrap();
        let (question, asker) = receive(&socket);
        assert_eq!(question, "question");
        socket.send_to(b"answer", asker).unwrap();
        assert_eq!(receive(&world_socket).0, "answer");
        assert_eq!(world.outside.ask(&format!("{NODE}:8001")).0, "inside");
    });
}

#[test]
fn machines_of_one_network_talk_and_ipv6_leaves_translated_and_for_the_world_alone() {
    World::enter(|world| {
        world.outside.ip("addr add 2001:db8:9::1/64 dev out0 nodad");
        let mut netd = world.netd();
        let client = netd.client(world);
        let mut spec = subnet(true);
        spec.ipv6 = Some("fd00:20::/64".parse().unwrap());
        client.network(world, "1.net", spec).unwrap();
        let start = |id, v4, v6| {
            let spec = machine(&[v4, v6], &[]);
            Machine::start(&client.interface(world, id, "1.net", spec).unwrap())
        };
        let first = start("1.a", "10.20.0.2", "fd00:20::2");
        let second = start("1.b", "10.20.0.3", "fd00:20::3");
        second.host.greet("[::]:80", "second");
        assert_eq!(first.host.ask("10.20.0.3:80").0, "second");
        let (greeting, peer) = first.host.ask("[fd00:20::3]:80");
        assert_eq!(
            (greeting.as_str(), peer),
            ("second", "fd00:20::2".parse().unwrap())
        );

        // The node learns its IPv6 from a router's advertisement, though it forwards.
        let node = crate::uplink::wait_for_v6(world, &client);
        world.outside.greet("[2001:db8:9::1]:7000", "world");
        assert_eq!(
            first.host.ask("[2001:db8:9::1]:7000"),
            ("world".into(), node)
        );
        // What stands beside the node is not the world, whichever way leads to it.
        world.outside.greet("[::]:7001", "farmer");
        for own in ["fd00:9::1", "fec0:9::1", "64:ff9b::192.168.7.1"] {
            let add = format!("addr add {own}/128 dev out0 nodad");
            world.outside.ip(&add);
            world.node.ip(&format!("route add {own}/128 dev up0"));
            let address = format!("[{own}]:7001");
            assert_eq!(world.node.ask(&address).0, "farmer");
            assert!(
                first.host.is_not_answered(&address),
                "{address} answers a tenant"
            );
        }
        // Nothing leads to another network,
        let mut spec = subnet(true);
        spec.ipv6 = Some("fd00:30::/64".parse().unwrap());
        client.network(world, "2.net", spec).unwrap();
        let spec = machine(&["10.20.0.2", "fd00:30::2"], &[]);
        let other = Machine::start(&client.interface(world, "2.a", "2.net", spec).unwrap());
        other.host.greet("[::]:80", "other");
        assert_eq!(other.host.ask("[fd00:30::2]:80").0, "other");
        assert!(first.host.is_not_answered("[fd00:30::2]:80"));
        // nor to the node, by any address of its own, of the gateway or of their link's ends.
        world.node.greet(&format!("[::]:{TENANT_PORT}"), "node");
        let asked = format!("[{node}]:{TENANT_PORT}");
        assert_eq!(world.outside.ask(&asked).0, "node");
        let node = node.to_string();
        for own in [
            &*node,
            "fd00:20::1",
            "fd6c:6f61:6d00::2",
            "fd6c:6f61:6d00::3",
        ] {
            let address = format!("[{own}]:{TENANT_PORT}");
            assert!(
                first.host.is_not_answered(&address),
                "{address} answers a tenant"
            );
        }
        let _ = &mut netd;
    });
}

#[test]
fn thousands_of_ports_are_one_transaction() {
    World::enter(|world| {
        let netd = world.netd();
        let client = netd.client(world);
        client.network(world, "1.net", subnet(true)).unwrap();
        let ports: Vec<_> = (20_000..24_000).map(|port| (Tcp, port, 80)).collect();
        let spec = machine(&["10.20.0.2"], &ports);
        let inside = Machine::start(&client.interface(world, "1.web", "1.net", spec).unwrap());
        inside.host.greet("0.0.0.0:80", "inside");
        assert_eq!(world.outside.ask(&format!("{NODE}:23999")).0, "inside");
    });
}

#[test]
fn a_port_that_moves_takes_its_peers_along() {
    World::enter(|world| {
        let netd = world.netd();
        let client = netd.client(world);
        let (first, second) = two_tenants(world, &client);
        let (at_first, at_second) = (first.host.udp("0.0.0.0:53"), second.host.udp("0.0.0.0:53"));
        let peer = world.outside.udp("192.0.2.1:0");
        peer.send_to(b"one", (NODE, 8001)).unwrap();
        assert_eq!(receive(&at_first).0, "one");

        let taken = machine(&["10.20.0.2"], &[(Udp, 8001, 53)]);
        let refused = client.interface(world, "2.web", "2.net", taken.clone());
        let holder = workload("1.web");
        assert_eq!(refused, Err(NetworkError::PortTaken { port: 8001, holder }));
        client
            .interface(world, "1.web", "1.net", machine(&["10.20.0.2"], &[]))
            .unwrap();
        client.interface(world, "2.web", "2.net", taken).unwrap();
        // The same peer's socket: the kernel's memory of its connection must be gone.
        peer.send_to(b"two", (NODE, 8001)).unwrap();
        assert_eq!(receive(&at_second).0, "two");
    });
}

#[test]
fn what_was_made_goes_and_all_else_stays() {
    World::enter(|world| {
        world.node.ip("link add keep0 type veth peer name keep1");
        let netd = world.netd();
        let client = netd.client(world);
        let before = world.node.link_names();
        let machines = two_tenants(world, &client);
        assert_eq!(client.networks(world).len(), 2);
        assert_eq!(client.interfaces(world).len(), 2);

        client.delete_interface(world, "1.web", "1.net");
        assert_eq!(client.interfaces(world).len(), 1);
        assert_eq!(
            world.outside.ask(&format!("{NODE}:8002")).0,
            "second",
            "not disturbed"
        );
        client.delete_network(world, "1.net");
        // With its interface still there, and held by a machine.
        client.delete_network(world, "2.net");
        client.delete_network(world, "2.net");
        drop(machines);

        assert_eq!(client.networks(world), []);
        assert_eq!(client.interfaces(world), []);
        assert_eq!(world.node.link_names(), before);
        for folder in ["netns", "netd/networks", "netd/interfaces"] {
            let left = std::fs::read_dir(format!("/run/loam/{folder}"))
                .unwrap()
                .count();
            assert_eq!(left, 0, "in /run/loam/{folder}");
        }
        // The port is free again, and nothing of the old answers.
        assert!(world.outside.is_not_answered(&format!("{NODE}:8002")));
    });
}
