//! What is admitted, what is refused, what is shown.

use loam_deployment::payload::Publish;
use loam_node_api::network::Mac;
use proptest::prelude::*;

use super::*;

fn network(ipv4: &str, nat: bool) -> NetworkSpec {
    let ipv6 = Some("fd00:20::/64".parse().unwrap());
    NetworkSpec {
        ipv4: ipv4.parse().unwrap(),
        ipv6,
        nat,
    }
}

fn id(machine: &str, network: &str) -> InterfaceId {
    InterfaceId {
        machine: machine.parse().unwrap(),
        network: network.parse().unwrap(),
    }
}

fn spec(addresses: &[&str], ports: &[(Protocol, u16)]) -> InterfaceSpec {
    let publish = |&(protocol, node_port)| Publish {
        protocol,
        node_port,
        machine_port: 80,
    };
    InterfaceSpec {
        mac: Mac([2; 6]),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        publish: ports.iter().map(publish).collect(),
    }
}

/// Two tenants with the same subnet, one machine each.
fn two_tenants() -> State {
    let mut state = State::default();
    for (tenant, port) in [("1", 8001), ("2", 8002)] {
        let net: WorkloadId = format!("{tenant}.net").parse().unwrap();
        let record = state
            .admit_network(&net, network("10.20.0.0/24", true), &[])
            .unwrap();
        state.put_network(record);
        let id = id(&format!("{tenant}.web"), &format!("{tenant}.net"));
        let spec = spec(&["10.20.0.2"], &[(Protocol::Tcp, port)]);
        let record = state.admit_interface(&id, spec).unwrap();
        state.put_interface(record);
    }
    state
}

#[test]
fn two_tenants_may_have_the_same_subnet_and_address() {
    let state = two_tenants();
    let transits = transits(&state);
    assert_ne!(transits[0], transits[1]);
    let published = state.published();
    assert_eq!(published.len(), 2);
    assert_ne!(published[0].transit, published[1].transit);
}

#[test]
fn a_port_leads_to_one_machine() {
    let state = two_tenants();
    let ask = |machine: &str, ports: &[(Protocol, u16)]| {
        state.admit_interface(&id(machine, "1.net"), spec(&["10.20.0.9"], ports))
    };
    let holder = "2.web".parse().unwrap();
    assert_eq!(
        ask("1.new", &[(Protocol::Tcp, 8002)]),
        Err(NetworkError::PortTaken { port: 8002, holder })
    );
    assert!(
        ask("1.new", &[(Protocol::Udp, 8002)]).is_ok(),
        "another protocol"
    );
    // Its own port it keeps, but not twice.
    assert!(ask("1.web", &[(Protocol::Tcp, 8001)]).is_ok());
    assert!(ask("1.web", &[(Protocol::Tcp, 9), (Protocol::Tcp, 9)]).is_err());
    // Ports of the node.
    let reserved = Err(NetworkError::PortReserved(TENANT_PORT));
    assert_eq!(ask("1.new", &[(Protocol::Tcp, TENANT_PORT)]), reserved);
    assert_eq!(
        ask("1.new", &[(Protocol::Udp, 68)]),
        Err(NetworkError::PortReserved(68))
    );
    assert_eq!(
        ask("1.new", &[(Protocol::Tcp, 0)]),
        Err(NetworkError::PortReserved(0))
    );
}

#[test]
fn addresses_are_of_the_network_and_of_one_machine() {
    let state = two_tenants();
    let ask =
        |addresses: &[&str]| state.admit_interface(&id("1.new", "1.net"), spec(addresses, &[]));
    assert!(ask(&["10.20.0.3", "fd00:20::3"]).is_ok());
    for refused in [
        "10.20.0.1",
        "10.20.0.2",
        "10.21.0.3",
        "fd00:20::1",
        "fd00:21::3",
    ] {
        let address: IpAddr = refused.parse().unwrap();
        let error = ask(&[refused]).unwrap_err();
        assert!(
            matches!(error, NetworkError::AddressRefused { address: a, .. } if a == address),
            "{refused}: {error}"
        );
    }
    let unknown = state.admit_interface(&id("1.new", "1.other"), spec(&[], &[]));
    assert_eq!(
        unknown,
        Err(NetworkError::NoNetwork("1.other".parse().unwrap()))
    );
    let mute = spec(&["fd00:20::3"], &[(Protocol::Tcp, 80)]);
    let mute = state.admit_interface(&id("1.new", "1.net"), mute);
    assert_eq!(mute, Err(NetworkError::NothingToPublish));
}

#[test]
fn a_subnet_does_not_hide_what_machines_need_outside() {
    let state = two_tenants();
    let uplink = [
        "192.168.1.7/24".parse().unwrap(),
        "9.9.9.9/32".parse().unwrap(),
    ];
    let new: WorkloadId = "3.net".parse().unwrap();
    let ask = |ipv4, nat| state.admit_network(&new, network(ipv4, nat), &uplink);
    assert!(ask("10.20.0.0/24", true).is_ok());
    assert!(ask("192.168.0.0/16", true).is_err());
    assert!(ask("192.168.1.128/25", true).is_err());
    assert!(ask("9.0.0.0/8", true).is_err(), "the name server");
    assert!(ask("192.168.0.0/16", false).is_ok());
    assert!(ask("198.18.7.0/24", false).is_err(), "the node's own links");
    // What runs is not refused when the uplink moves to the same subnet.
    let uplink = ["10.20.0.200/24".parse().unwrap()];
    let running: WorkloadId = "1.net".parse().unwrap();
    let before = state.network(&running).unwrap().clone();
    let same = state.admit_network(&running, before.spec.clone(), &uplink);
    assert_eq!(same, Ok(before));
}

/// Of all networks, in the order of their ids.
fn transits(state: &State) -> Vec<Transit> {
    let networks = state.networks();
    networks
        .iter()
        .map(|id| state.network(id).unwrap().transit)
        .collect()
}

/// Everything that was asked for is in the kernel.
fn follow(state: &mut State) {
    let generation = state.generation();
    state.node_rules_made(generation);
    for network in state.networks() {
        state.network_made(&network, generation, |_| false);
    }
}

fn shown(state: &State) -> Vec<String> {
    let interfaces = state.interfaces_present(None);
    interfaces
        .filter(|(_, in_force)| *in_force)
        .map(|(record, _)| record.id.machine.to_string())
        .collect()
}

fn present(state: &State) -> usize {
    state.interfaces_present(None).count()
}

#[test]
fn what_is_shown_is_in_force_in_full() {
    let mut state = two_tenants();
    let (one, two): (WorkloadId, WorkloadId) = ("1.net".parse().unwrap(), "2.net".parse().unwrap());
    let asked = state.generation();
    assert_eq!(state.networks_in_force(None).count(), 0);
    assert_eq!(shown(&state), [""; 0]);
    // The network alone is not enough, and the node's rules alone are not.
    assert!(state.network_made(&one, asked, |_| false));
    assert!(state.is_in_force(&one) && !state.is_in_force(&two));
    assert_eq!(state.networks_in_force(None).count(), 1);
    assert_eq!(shown(&state), [""; 0]);
    state.node_rules_made(asked);
    assert_eq!(shown(&state), ["1.web"]);
    assert!(state.network_made(&two, asked, |_| false));
    assert!(!state.network_made(&two, asked, |_| false), "nothing new");
    assert_eq!(shown(&state), ["1.web", "2.web"]);
    assert_eq!(state.networks_in_force(Some(one.clone())).count(), 1);
    let first = state.interfaces_present(None).next().unwrap().0.id.clone();
    assert_eq!(state.interfaces_present(Some(first)).count(), 1);
    // A network that nobody is on yet.
    let empty: WorkloadId = "3.net".parse().unwrap();
    let record = state.admit_network(&empty, network("10.30.0.0/24", true), &[]);
    state.put_network(record.unwrap());
    let now = state.generation();
    assert!(state.network_made(&empty, now, |_| false));
    assert!(!state.network_made(&empty, now, |_| false), "nothing new");

    // Asked for the same: stays shown. For something else: once both have followed it.
    let web = id("1.web", "1.net");
    let same = state.interface(&web).unwrap().clone();
    state.put_interface(same.clone());
    assert!(state.is_interface_in_force(&web, &same.spec));
    let other = spec(&["10.20.0.2"], &[(Protocol::Tcp, 8009)]);
    let record = state.admit_interface(&web, other.clone()).unwrap();
    state.put_interface(record);
    assert_eq!(shown(&state), ["2.web"]);
    // The tap is there meanwhile: nobody stops a machine for a change of its ports.
    assert_eq!(present(&state), 2);
    // Work that began before does not count.
    state.node_rules_made(asked);
    state.network_made(&one, asked, |_| false);
    assert_eq!(shown(&state), ["2.web"]);
    let now = state.generation();
    state.network_made(&one, now, |_| false);
    assert_eq!(shown(&state), ["2.web"]);
    state.node_rules_made(now);
    assert!(state.is_interface_in_force(&web, &other));
    assert!(!state.is_interface_in_force(&web, &same.spec));
    // Rules that were made later are not undone by an answer that comes late.
    state.node_rules_made(asked);
    assert_eq!(shown(&state), ["1.web", "2.web"]);
}

#[test]
fn one_interface_that_fails_hides_no_other() {
    let mut state = two_tenants();
    let one: WorkloadId = "1.net".parse().unwrap();
    let new = id("1.new", "1.net");
    let record = state
        .admit_interface(&new, spec(&["10.20.0.9"], &[]))
        .unwrap();
    state.put_interface(record);
    let now = state.generation();
    state.node_rules_made(now);
    assert!(state.network_made(&one, now, |id| *id == new));
    assert_eq!(shown(&state), ["1.web"]);
    // Its second try goes well.
    assert!(state.network_made(&one, now, |_| false));
    assert_eq!(shown(&state), ["1.new", "1.web"]);
    // The network as a whole fails to be made again: what runs in it is still shown.
    assert!(state.network_failed(&one));
    assert!(!state.network_failed(&one));
    assert!(!state.is_in_force(&one));
    assert_eq!(shown(&state), ["1.new", "1.web"]);
}

#[test]
fn what_is_given_up_is_free_at_once() {
    let mut state = two_tenants();
    follow(&mut state);
    let wanted = spec(&["10.20.0.2"], &[(Protocol::Tcp, 8001)]);
    let new = id("1.new", "1.net");
    let refused = state.admit_interface(&new, wanted.clone()).unwrap_err();
    assert!(refused.to_string().contains("1.web has it"), "{refused}");
    state.remove_interface(&id("1.web", "1.net"));
    let record = state.admit_interface(&new, wanted).unwrap();
    state.put_interface(record);
    // By a change in place, too; and the port is not the other protocol's.
    let moved = state.admit_interface(&new, spec(&["10.20.0.7"], &[(Protocol::Udp, 8001)]));
    state.put_interface(moved.unwrap());
    let web = id("1.web", "1.net");
    let back = spec(&["10.20.0.2"], &[(Protocol::Tcp, 8001)]);
    assert!(state.admit_interface(&web, back).is_ok());
    let held = spec(&["10.20.0.3"], &[(Protocol::Udp, 8001)]);
    assert!(state.admit_interface(&web, held).is_err());
    // With the network, everything.
    state.remove_network(&"1.net".parse().unwrap());
    assert_eq!(state.interface(&new), None);
    assert_eq!(state.published().len(), 1);
}

#[test]
fn a_link_is_free_once_the_kernel_is_rid_of_it() {
    let mut state = two_tenants();
    let one: WorkloadId = "1.net".parse().unwrap();
    let name = name::namespace(&one);
    let transit = state.network(&one).unwrap().transit;
    assert!(!state.is_gone(&name));
    state.remove_network(&one);
    assert!(!state.is_gone(&name));
    assert_eq!(state.wanted(&name), None);
    // Another network does not get it, the same network does.
    let new: WorkloadId = "3.net".parse().unwrap();
    let other = state
        .admit_network(&new, network("10.20.0.0/24", true), &[])
        .unwrap();
    assert!(!transits(&state).contains(&other.transit) && other.transit != transit);
    let again = state
        .admit_network(&one, network("10.20.0.0/24", true), &[])
        .unwrap();
    assert_eq!(again.transit, transit);
    state.put_network(again);
    // The kernel is rid of what was before: the link is still the network's.
    state.gone(&name);
    assert!(!state.is_gone(&name));
    state.put_network(other);
    let links: BTreeSet<_> = transits(&state).into_iter().collect();
    assert_eq!(links.len(), 3);
    state.remove_network(&one);
    state.gone(&name);
    assert!(state.is_gone(&name));
    // What a predecessor left in the kernel is not given to another either.
    let mut state = State::default();
    state.found("lnsomething", Some(Transit::try_from(1).unwrap()));
    state.found("lnother", None);
    assert!(!state.is_gone("lnsomething"));
    let record = state
        .admit_network(&one, network("10.20.0.0/24", true), &[])
        .unwrap();
    assert_eq!(record.transit, Transit::try_from(2).unwrap());
    state.gone("lnsomething");
    let record = state
        .admit_network(&one, network("10.20.0.0/24", true), &[])
        .unwrap();
    assert_eq!(record.transit, Transit::try_from(1).unwrap());
}

#[test]
fn two_records_with_one_link_become_two_links() {
    let mut state = State::default();
    let transit = Transit::try_from(7).unwrap();
    for id in ["1.net", "2.net"] {
        state.restore_network(NetworkRecord {
            id: id.parse().unwrap(),
            spec: network("10.20.0.0/24", true),
            transit,
        });
    }
    let links = transits(&state);
    assert_eq!(links[0], transit);
    assert_ne!(links[1], transit);
    let names = ["1.net", "2.net"].map(|id| name::namespace(&id.parse().unwrap()));
    assert_eq!(
        state.namespaces().into_iter().collect::<BTreeSet<_>>(),
        names.into()
    );
}

#[test]
fn a_lane_is_told_the_network_with_its_own_interfaces() {
    let mut state = two_tenants();
    let record = state.admit_interface(&id("1.new", "1.net"), spec(&["10.20.0.9"], &[]));
    state.put_interface(record.unwrap());
    let wanted = state
        .wanted(&name::namespace(&"1.net".parse().unwrap()))
        .unwrap();
    assert_eq!(wanted.network.id, "1.net".parse().unwrap());
    let machines: Vec<_> = wanted
        .interfaces
        .iter()
        .map(|i| i.id.machine.to_string())
        .collect();
    assert_eq!(machines, ["1.new", "1.web"]);
    assert_eq!(state.wanted("lnunknown"), None);
}

proptest! {
    /// Whatever is admitted, changed and removed in whatever order, no port leads to two machines,
    /// no two networks share a link, no two machines of a network share an address, and what nobody
    /// holds is free.
    #[test]
    fn what_is_admitted_never_collides(
        requests in prop::collection::vec(
            (0..3u8, 0..4u8, 2..5u8, 80..84u16, any::<bool>(), 0..8u8), 0..60)
    ) {
        let mut state = State::default();
        for (net, machine, host, port, tcp, kind) in requests {
            let network_id: WorkloadId = format!("{net}.net").parse().unwrap();
            let id = id(&format!("{net}.m{machine}"), &format!("{net}.net"));
            match kind {
                0 => state.remove_network(&network_id),
                1 => state.gone(&name::namespace(&network_id)),
                2 => state.remove_interface(&id),
                _ => {
                    let subnet = network("10.20.0.0/24", true);
                    let record = state.admit_network(&network_id, subnet, &[]).unwrap();
                    state.put_network(record);
                    let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
                    let spec = spec(&[&format!("10.20.0.{host}")], &[(protocol, port)]);
                    if let Ok(record) = state.admit_interface(&id, spec) {
                        state.put_interface(record);
                    }
                }
            }
        }
        let mut transits = transits(&state);
        follow(&mut state);
        let held: Vec<_> = state.interfaces_present(None).map(|(record, _)| record.clone()).collect();
        let mut ports: Vec<_> = held.iter().flat_map(|r| &r.spec.publish).map(port_of).collect();
        let mut addresses: Vec<_> =
            held.iter().map(|r| (&r.id.network, r.spec.addresses[0])).collect();
        prop_assert_eq!(state.published().len(), ports.len());
        for network in state.networks() {
            let new = InterfaceId { machine: "9.new".parse().unwrap(), network };
            for port in 80..84 {
                let ask = spec(&["10.20.0.200"], &[(Protocol::Tcp, port)]);
                let free = !ports.contains(&(Protocol::Tcp, port));
                prop_assert_eq!(state.admit_interface(&new, ask).is_ok(), free);
            }
            for host in 2..5 {
                let ask = spec(&[&format!("10.20.0.{host}")], &[]);
                let free = !addresses.contains(&(&new.network, ask.addresses[0]));
                prop_assert_eq!(state.admit_interface(&new, ask).is_ok(), free);
            }
        }
        ports.sort();
        transits.sort();
        addresses.sort();
        prop_assert!(ports.windows(2).all(|pair| pair[0] != pair[1]));
        prop_assert!(transits.windows(2).all(|pair| pair[0] != pair[1]));
        prop_assert!(addresses.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
