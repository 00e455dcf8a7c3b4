//! What hangs, is refused or is torn: it is one tenant's trouble, told, and mended by itself.

use std::fs;

use loam_deployment::payload::Protocol::{Tcp, Udp};
use loam_node_api::network::NetworkError;

use crate::{
    host::receive,
    machine::Machine,
    netd::{Client, interface_id, machine, patient, subnet, workload},
    nft::Owner,
    world::{NODE, World},
};

/// The file of a network's namespace.
fn namespace(client: &Client, world: &World, id: &str) -> String {
    let networks = client.networks(world);
    let network = networks.iter().find(|n| n.id == workload(id)).unwrap();
    format!("/run/loam/netns/ln{}", &network.bridge[2..])
}

#[test]
fn a_network_that_hangs_holds_up_no_other() {
    World::enter(|world| {
        let netd = world.netd();
        let client = netd.client(world);
        client.network(world, "1.net", subnet(true)).unwrap();
        client.network(world, "2.net", subnet(true)).unwrap();
        let file = namespace(&client, world, "2.net");
        client.delete_network(world, "2.net");
        // Who opens this waits until somebody opens its other end.
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &file,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();

        let hangs = client
            .0
            .network_ensure(patient(), workload("2.net"), subnet(true));
        let others = async {
            let netd = &client.0;
            let spec = machine(&["10.20.0.2"], &[(Tcp, 8001, 80)]);
            let web = interface_id("1.web", "1.net");
            netd.uplink(patient()).await.unwrap();
            netd.interface_ensure(patient(), web.clone(), spec)
                .await
                .unwrap()
                .unwrap();
            netd.network_ensure(patient(), workload("3.net"), subnet(true))
                .await
                .unwrap()
                .unwrap();
            let networks = netd.networks(patient(), None).await.unwrap().items;
            let interfaces = netd.interfaces(patient(), None).await.unwrap().items;
            netd.interface_delete(patient(), web)
                .await
                .unwrap()
                .unwrap();
            netd.network_delete(patient(), workload("3.net"))
                .await
                .unwrap()
                .unwrap();
            (networks, interfaces)
        };
        let (hung, (networks, interfaces)) = world.wait(async { futures::join!(hangs, others) });
        // Who asks for it is told, and not kept waiting for ever.
        let hung = hung.unwrap();
        assert!(matches!(hung, Err(NetworkError::Kernel(_))), "{hung:?}");
        let ids: Vec<_> = networks
            .iter()
            .map(|network| network.id.to_string())
            .collect();
        assert_eq!(ids, ["1.net", "3.net"]);
        assert_eq!(interfaces.len(), 1);

        // Once it goes on, it is made, though nobody asks again.
        let seen = client.changes(world);
        fs::File::open(&file).unwrap();
        client.wait_for(world, seen, |client| client.networks(world).len() == 2);
    });
}

#[test]
fn rules_that_are_refused_once_are_made_and_not_shown_before() {
    World::enter(|world| {
        let netd = world.netd();
        let client = netd.client(world);
        client.network(world, "1.net", subnet(true)).unwrap();
        let bare = machine(&["10.20.0.2"], &[]);
        let inside = Machine::start(&client.interface(world, "1.web", "1.net", bare).unwrap());
        inside.host.greet("0.0.0.0:80", "inside");

        let owner = Owner::take();
        let published = machine(&["10.20.0.2"], &[(Tcp, 8001, 80)]);
        let refused = client.interface(world, "1.web", "1.net", published.clone());
        assert!(
            matches!(refused, Err(NetworkError::Kernel(_))),
            "{refused:?}"
        );
        // The tap is there and its machine goes on, but the port does not lead to it yet.
        assert!(client.interfaces(world).iter().all(|i| !i.in_force));
        // Networks without ports need nothing of the node's rules.
        client.network(world, "2.net", subnet(true)).unwrap();
        let seen = client.changes(world);
        drop(owner);
        client.wait_for(world, seen, |client| {
            let shown = client.interfaces(world);
            shown
                .iter()
                .any(|interface| interface.spec == published && interface.in_force)
        });
        assert_eq!(world.outside.ask(&format!("{NODE}:8001")).0, "inside");
    });
}

#[test]
fn a_netd_that_starts_while_its_rules_are_refused_answers() {
    World::enter(|world| {
        let netd = world.netd();
        let client = netd.client(world);
        client.network(world, "1.net", subnet(true)).unwrap();
        let spec = machine(&["10.20.0.2"], &[(Tcp, 8001, 80)]);
        let interface = client.interface(world, "1.web", "1.net", spec).unwrap();
        netd.kill();
        let owner = Owner::take();
        let netd = world.netd_without_lease();
        let client = netd.client(world);
        assert_eq!(client.networks(world).len(), 1);
        assert!(client.interfaces(world).iter().all(|i| !i.in_force));
        let seen = client.changes(world);
        drop(owner);
        client.wait_for(world, seen, |client| {
            client.interfaces(world) == [interface.clone()]
        });
    });
}

#[test]
fn a_machine_that_runs_gets_other_addresses_and_ports() {
    World::enter(|world| {
        let netd = world.netd();
        let client = netd.client(world);
        client.network(world, "1.net", subnet(true)).unwrap();
        let before = machine(&["10.20.0.2"], &[(Tcp, 8001, 80), (Udp, 8001, 53)]);
        let interface = client
            .interface(world, "1.web", "1.net", before.clone())
            .unwrap();
        let inside = Machine::start(&interface);
        inside.host.greet("0.0.0.0:80", "inside");
        let socket = inside.host.udp("0.0.0.0:53");
        let peer = world.outside.udp("192.0.2.1:0");
        peer.send_to(b"before", (NODE, 8001)).unwrap();
        assert_eq!(receive(&socket).0, "before");

        let mut after = machine(&["10.20.0.77"], &[(Tcp, 8005, 80), (Udp, 8001, 53)]);
        after.mac = before.mac;
        let changed = client.interface(world, "1.web", "1.net", after).unwrap();
        assert_eq!(
            (&changed.tap, &changed.namespace),
            (&interface.tap, &interface.namespace)
        );
        inside.host.ip("addr add 10.20.0.77/24 dev eth0");
        assert_eq!(world.outside.ask(&format!("{NODE}:8005")).0, "inside");
        // The same peer on the same port: led to the new address.
        peer.send_to(b"after", (NODE, 8001)).unwrap();
        assert_eq!(receive(&socket).0, "after");
        assert!(world.outside.is_not_answered(&format!("{NODE}:8001")));
        // The address that it had is not its own any more.
        let heard = world.outside.udp("192.0.2.1:7000");
        let say = |from: &str, text: &[u8]| {
            let socket = inside.host.udp(&format!("{from}:0"));
            socket.send_to(text, "192.0.2.1:7000").unwrap();
        };
        say("10.20.0.2", b"lie");
        say("10.20.0.77", b"truth");
        assert_eq!(receive(&heard).0, "truth");
    });
}

#[test]
fn what_another_holds_is_named_and_free_once_it_is_deleted() {
    World::enter(|world| {
        let netd = world.netd();
        let client = netd.client(world);
        client.network(world, "1.net", subnet(true)).unwrap();
        let held = machine(&["10.20.0.2"], &[(Tcp, 8001, 80)]);
        client
            .interface(world, "1.old", "1.net", held.clone())
            .unwrap();
        let ask = |spec| client.interface(world, "1.new", "1.net", spec);
        let address = ask(machine(&["10.20.0.2"], &[])).unwrap_err();
        assert!(address.to_string().contains("1.old has it"), "{address}");
        let port = ask(machine(&["10.20.0.3"], &[(Tcp, 8001, 80)])).unwrap_err();
        assert!(
            port.to_string().contains("already leads to 1.old"),
            "{port}"
        );
        client.delete_interface(world, "1.old", "1.net");
        let inside = Machine::start(&ask(held).unwrap());
        inside.host.greet("0.0.0.0:80", "new");
        assert_eq!(world.outside.ask(&format!("{NODE}:8001")).0, "new");
    });
}

#[test]
fn records_that_are_torn_cut_nobody_off() {
    World::enter(|world| {
        let netd = world.netd();
        let client = netd.client(world);
        let start = |tenant: &str, port| {
            let net = format!("{tenant}.net");
            let mut spec = subnet(true);
            spec.ipv6 = Some("fd00:20::/64".parse().unwrap());
            client.network(world, &net, spec).unwrap();
            let spec = machine(&["10.20.0.2"], &[(Udp, port, 53)]);
            let interface = client
                .interface(world, &format!("{tenant}.web"), &net, spec)
                .unwrap();
            let machine = Machine::start(&interface);
            let socket = machine.host.udp("0.0.0.0:53");
            (interface, machine, socket)
        };
        let (torn, _first, first) = start("1", 8001);
        let (_, _second, second) = start("2", 8002);
        let (network_lost, _third, third) = start("3", 8003);
        let peer = world.outside.udp("192.0.2.1:0");
        let heard = |socket, port| {
            peer.send_to(b"hello", (NODE, port)).unwrap();
            receive(socket).0 == "hello"
        };
        assert!(heard(&first, 8001) && heard(&second, 8002) && heard(&third, 8003));
        let networks = client.networks(world);
        netd.kill();

        // A torn interface; a torn network, and one of another version; things of no meaning.
        let record = |kind: &str, name: &str| format!("/run/loam/netd/{kind}/{name}.json");
        fs::write(record("interfaces", &torn.tap), b"{\"id\":{\"mach").unwrap();
        let bridge = |n: usize| networks[n].bridge.as_str();
        fs::write(record("networks", bridge(0)), b"").unwrap();
        fs::write(record("networks", bridge(2)), b"{\"version\": 9}").unwrap();
        fs::write(record("networks", "lbffffffffffff"), [0xff; 64]).unwrap();
        fs::create_dir(record("interfaces", "lt000000000000")).unwrap();
        fs::write("/run/loam/netd/lease.json", b"[").unwrap();

        let netd = world.netd_without_lease();
        let client = netd.client(world);
        assert_eq!(client.networks(world), networks, "as the kernel has them");
        let shown = client.interfaces(world);
        assert_eq!(shown.len(), 3);
        assert!(heard(&second, 8002));
        // Its network was told by the kernel, its interface by its record.
        assert!(shown.contains(&network_lost));
        assert!(heard(&third, 8003));
        // Of a torn interface only the addresses are not known: it is asked for again, and the
        // machine that held its tap all the while is back.
        assert_eq!(shown[0].id, torn.id);
        assert_ne!(shown[0].spec, torn.spec);
        let again = client.interface(world, "1.web", "1.net", torn.spec.clone());
        assert_eq!(again, Ok(torn));
        assert!(heard(&first, 8001));
        for folder in ["networks", "interfaces"] {
            let left = fs::read_dir(format!("/run/loam/netd/{folder}")).unwrap();
            assert_eq!(left.count(), 3, "in {folder}");
        }
    });
}
