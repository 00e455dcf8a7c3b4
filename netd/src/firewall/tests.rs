//! Rules from state, and their encoding, without a kernel.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use loam_deployment::payload::{Protocol, Publish};
use loam_node_api::network::{InterfaceId, InterfaceSpec, Mac, NetworkSpec};

use super::{
    conntrack::Through,
    encode::Batch,
    expression::{Comparison, Expression, Rule, Verdict},
    machine, netfilter, network,
    node::{self, Published},
    table::{Chain, Family, Policy, Table},
};
use crate::{name, state::InterfaceRecord, transit::Transit};

fn interface(addresses: &[&str], publish: &[Publish]) -> InterfaceRecord {
    InterfaceRecord {
        id: InterfaceId {
            machine: "1.web".parse().unwrap(),
            network: "1.net".parse().unwrap(),
        },
        spec: InterfaceSpec {
            mac: Mac([2, 0, 0, 0, 0, 1]),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            publish: publish.to_vec(),
        },
    }
}

fn transit() -> Transit {
    Transit::try_from(1).unwrap()
}

fn chain<'a>(table: &'a Table, name: &str) -> &'a Chain {
    table
        .chains
        .iter()
        .find(|chain| chain.name == name)
        .unwrap()
}

fn ends_with(rule: &Rule, verdict: &Verdict) -> bool {
    matches!(rule.0.last(), Some(Expression::Verdict(last)) if last == verdict)
}

fn loads(rule: &Rule, bytes: &[u8]) -> bool {
    rule.0
        .iter()
        .any(|e| matches!(e, Expression::Load(_, value) if value == bytes))
}

fn compares(rule: &Rule, bytes: &[u8]) -> bool {
    rule.0
        .iter()
        .any(|e| matches!(e, Expression::Compare(_, value) if value == bytes))
}

const WEB: Publish = Publish {
    protocol: Protocol::Tcp,
    node_port: 8080,
    machine_port: 80,
};

/// A table as text: its chains, and each rule's instructions.
fn text(table: &Table) -> String {
    let mut text = format!("{:?}\n", table.family);
    for chain in &table.chains {
        text += &match chain.entry {
            Some(entry) => format!(
                "{}: {:?} at {:?} {}, else {:?}\n",
                chain.name, entry.kind, entry.hook, entry.priority, entry.policy
            ),
            None => format!("{}:\n", chain.name),
        };
        for rule in &chain.rules {
            let words: Vec<_> = rule.0.iter().map(word).collect();
            text += &format!("    {}\n", words.join(" "));
        }
    }
    text
}

fn word(expression: &Expression) -> String {
    // Names of links are told as they are, all else in hexadecimal digits.
    let value = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(name) if bytes.iter().all(|b| *b == 0 || b.is_ascii_alphanumeric()) && bytes[0] != 0 => {
            name.trim_end_matches('\0').to_owned()
        }
        _ => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    match expression {
        Expression::Payload {
            base,
            offset,
            length,
        } => format!("{base:?}[{offset}+{length}]"),
        Expression::Meta(key) => format!("{key:?}"),
        Expression::Conntrack(key) => format!("Conntrack{key:?}"),
        Expression::DestinationType => "DestinationType".to_owned(),
        Expression::Mask(mask) => format!("& {}", value(mask)),
        Expression::Compare(Comparison::Equal, bytes) => format!("== {}", value(bytes)),
        Expression::Compare(Comparison::NotEqual, bytes) => format!("!= {}", value(bytes)),
        Expression::Load(register, bytes) => format!("{register:?} := {}", value(bytes)),
        Expression::DestinationNat { port: true } => "DNAT with port".to_owned(),
        Expression::DestinationNat { port: false } => "DNAT".to_owned(),
        Expression::Masquerade => "MASQUERADE".to_owned(),
        Expression::RouteSegmentSize => "RouteSegmentSize".to_owned(),
        Expression::ToNetworkOrder => "ToNetworkOrder".to_owned(),
        Expression::SetSegmentSize => "SetSegmentSize".to_owned(),
        Expression::Verdict(Verdict::Accept) => "ACCEPT".to_owned(),
        Expression::Verdict(Verdict::Drop) => "DROP".to_owned(),
        Expression::Verdict(Verdict::Jump(chain)) => format!("JUMP {chain}"),
    }
}

/// Every rule of the node, to be read when one is changed.
#[test]
fn the_nodes_rules_are_these_and_no_others() {
    let udp = Publish {
        protocol: Protocol::Udp,
        node_port: 5300,
        machine_port: 53,
    };
    let published = [WEB, udp].map(|publish| Published {
        publish,
        transit: transit(),
    });
    let text = text(&node::table(&published));
    assert_eq!(text, include_str!("tests/node.txt"), "now:\n{text}");
}

/// And those of a network with two machines, one of which has no IPv6, by all that it is reached by.
#[test]
fn a_networks_rules_are_these_and_no_others() {
    let spec = NetworkSpec {
        ipv4: "10.20.0.0/24".parse().unwrap(),
        ipv6: Some("fd00:20::/64".parse().unwrap()),
        nat: true,
    };
    let udp = Publish {
        protocol: Protocol::Udp,
        node_port: 5300,
        machine_port: 53,
    };
    let machines = [
        interface(&["10.20.0.2", "fd00:20::2"], &[WEB]),
        interface(&["10.20.0.3"], &[udp]),
    ];
    let inside = text(&network::table("lb0", &spec, transit(), &machines));
    assert_eq!(inside, include_str!("tests/network.txt"), "now:\n{inside}");
    let bridge = text(&machine::table(&machines[..1]));
    assert_eq!(bridge, include_str!("tests/machine.txt"), "now:\n{bridge}");
}

#[test]
fn connections_are_led_where_the_rules_lead_them() {
    let leads = node::leads(&[Published {
        publish: WEB,
        transit: transit(),
    }]);
    let far = transit().far().v4;
    let expected = [((Protocol::Tcp, 8080), SocketAddrV4::new(far, 8080))];
    assert_eq!(leads.ports, expected.into());
    let record = interface(&["fd00::2", "10.20.0.2"], &[WEB]);
    let leads = network::leads(transit(), &[record]);
    let machine = SocketAddrV4::new(Ipv4Addr::new(10, 20, 0, 2), 80);
    assert_eq!(leads.ports, [((Protocol::Tcp, 8080), machine)].into());
    assert!(matches!(leads.through, Through::Namespace(address) if address == far));
}

#[test]
fn everything_not_named_is_dropped() {
    let spec = NetworkSpec {
        ipv4: "10.20.0.0/24".parse().unwrap(),
        ipv6: None,
        nat: true,
    };
    let transit = transit();
    let tables = [
        node::table(&[]),
        network::table("lb0", &spec, transit, &[]),
        machine::table(&[interface(&["10.20.0.2"], &[])]),
    ];
    let filters = tables
        .iter()
        .flat_map(|t| &t.chains)
        .filter_map(|chain| chain.entry);
    let filters: Vec<_> = filters
        .filter(|e| e.kind == super::table::Kind::Filter)
        .collect();
    assert_eq!(filters.len(), 5);
    assert!(filters.iter().all(|entry| entry.policy == Policy::Drop));
}

#[test]
fn a_published_port_is_translated_twice() {
    let transit = transit();
    let node = node::table(&[Published {
        publish: WEB,
        transit,
    }]);
    let rule = chain(&node, "publish").rules.last().unwrap();
    assert!(compares(rule, &8080u16.to_be_bytes()));
    assert!(loads(rule, &transit.far().v4.octets()));
    assert_eq!(
        rule.0.last(),
        Some(&Expression::DestinationNat { port: false })
    );

    let spec = NetworkSpec {
        ipv4: "10.20.0.0/24".parse().unwrap(),
        ipv6: None,
        nat: false,
    };
    let record = interface(&["fd00::2", "10.20.0.2"], &[WEB]);
    let inside = network::table("lb0", &spec, transit, &[record]);
    let rule = chain(&inside, "publish").rules.last().unwrap();
    assert!(compares(rule, &8080u16.to_be_bytes()));
    assert!(
        loads(rule, &Ipv4Addr::new(10, 20, 0, 2).octets()),
        "its first IPv4 address"
    );
    assert!(loads(rule, &80u16.to_be_bytes()));
    assert_eq!(
        rule.0.last(),
        Some(&Expression::DestinationNat { port: true })
    );
}

#[test]
fn without_nat_nothing_is_translated_or_let_out() {
    let transit = transit();
    let count = |nat| {
        let ipv6 = Some("fd00:20::/64".parse().unwrap());
        let spec = NetworkSpec {
            ipv4: "10.20.0.0/24".parse().unwrap(),
            ipv6,
            nat,
        };
        let table = network::table("lb0", &spec, transit, &[]);
        (
            chain(&table, "forward").rules.len(),
            chain(&table, "masquerade").rules.len(),
        )
    };
    assert_eq!(count(false), (3, 0));
    assert_eq!(count(true), (5, 1));
}

#[test]
fn a_door_names_every_address_and_no_other() {
    let record = interface(&["10.20.0.2", "fd00:20::2"], &[]);
    let table = machine::table(std::slice::from_ref(&record));
    let tap = name::tap(&record.id);
    assert_eq!(chain(&table, "machines").rules.len(), 1);
    assert!(ends_with(
        &chain(&table, "machines").rules[0],
        &Verdict::Jump(tap.clone())
    ));
    // First of all the MAC.
    let door = &chain(&table, &tap).rules;
    assert!(compares(&door[0], &[2, 0, 0, 0, 0, 1]) && ends_with(&door[0], &Verdict::Drop));
    // Accepted by IPv4: ARP and packets, both from the one address.
    let own = Ipv4Addr::new(10, 20, 0, 2).octets();
    let accepted = door.iter().filter(|rule| ends_with(rule, &Verdict::Accept));
    let (v4, v6): (Vec<_>, Vec<_>) = accepted.partition(|rule| compares(rule, &own));
    assert_eq!(
        (v4.len(), v6.len()),
        (2, 1),
        "and one rule for duplicate address detection"
    );
    // By IPv6: the address and the MAC's link-local one.
    let sources = &chain(&table, &format!("{tap}-v6")).rules;
    let expected: [IpAddr; 2] = [
        "fd00:20::2".parse().unwrap(),
        "fe80::ff:fe00:1".parse().unwrap(),
    ];
    let expected = expected.map(|address| Rule::new().source(address).accept());
    assert_eq!(sources[..], expected);
}

#[test]
fn a_machine_without_addresses_is_mute() {
    let record = interface(&[], &[]);
    let table = machine::table(std::slice::from_ref(&record));
    let rules = table
        .chains
        .iter()
        .filter(|c| c.entry.is_none())
        .flat_map(|c| &c.rules);
    assert!(
        rules
            .into_iter()
            .all(|rule| ends_with(rule, &Verdict::Drop))
    );
}

#[test]
fn a_batch_is_one_transaction_of_whole_messages() {
    let transit = transit();
    let table = node::table(&[Published {
        publish: WEB,
        transit,
    }]);
    let rules: usize = table.chains.iter().map(|chain| chain.rules.len()).sum();
    let chains = table.chains.len();
    let batch = Batch::replacing(&[table]);
    let messages: Vec<_> = netfilter::messages(batch.bytes()).collect();
    let kinds: Vec<u16> = messages.iter().map(|message| message.kind).collect();
    // Begin, make, delete, make, chains, rules, end.
    let nftables = |message: u16| (10 << 8) | message;
    let mut expected = vec![0x10, nftables(0), nftables(2), nftables(0)];
    expected.extend(vec![nftables(3); chains]);
    expected.extend(vec![nftables(6); rules]);
    expected.push(0x11);
    assert_eq!(kinds, expected);
    assert!(messages.iter().all(|message| message.body.len() % 4 == 0));
    // The last rule is acknowledged, after which nothing but the end comes.
    let sequences: Vec<u32> = messages.iter().map(|message| message.sequence).collect();
    assert_eq!(sequences, (1..=messages.len() as u32).collect::<Vec<_>>());
    assert_eq!(batch.acknowledged_sequence(), messages.len() as u32 - 1);
}

/// What the kernel gets, to be read beside `nfnetlink.h` and `nf_tables.h`: of each message its type,
/// flags, family and resource, then its attributes, numbers as they stand there.
#[test]
fn a_batch_is_encoded_so() {
    let rule = Rule::new()
        .input("eth0")
        .established()
        .destination_is_local()
        .masquerade();
    let translated = Rule::new()
        .source_port(53)
        .translate_destination(Ipv4Addr::new(10, 0, 0, 2), Some(80));
    let other = Rule::new().output_not("lv").jump("other");
    let tables = [
        Table {
            family: Family::Inet,
            chains: vec![
                Chain::input().rules([other]),
                Chain::named("other").rules([rule]),
                Chain::destination_nat().rules([translated]),
            ],
        },
        Table {
            family: Family::Bridge,
            chains: vec![Chain::bridge_prerouting()],
        },
    ];
    let batch = dump(Batch::replacing(&tables).bytes());
    assert_eq!(batch, include_str!("tests/batch.txt"), "now:\n{batch}");
}

/// Messages and their attributes as text.
fn dump(mut bytes: &[u8]) -> String {
    let mut text = String::new();
    while !bytes.is_empty() {
        let length = u32::from_ne_bytes(bytes[..4].try_into().unwrap()) as usize;
        let (message, rest) = bytes.split_at(length);
        let kind = u16::from_ne_bytes([message[4], message[5]]);
        let flags = u16::from_ne_bytes([message[6], message[7]]);
        let sequence = u32::from_ne_bytes(message[8..12].try_into().unwrap());
        text += &format!(
            "{sequence}: type {kind:#06x} flags {flags:#06x} family {} resource {:?}\n",
            message[16],
            &message[18..20]
        );
        attributes(&message[20..], 1, &mut text);
        bytes = rest;
    }
    text
}

fn attributes(mut bytes: &[u8], depth: usize, text: &mut String) {
    while !bytes.is_empty() {
        let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        let kind = u16::from_ne_bytes([bytes[2], bytes[3]]);
        let value = &bytes[4..length];
        *text += &format!("{:1$}{2}", "", 4 * depth, kind & 0x7fff);
        if kind & 0x8000 != 0 {
            text.push('\n');
            attributes(value, depth + 1, text);
        } else if let [name @ .., 0] = value
            && !name.is_empty()
            && name.iter().all(u8::is_ascii_graphic)
        {
            *text += &format!(" {}\n", String::from_utf8_lossy(name));
        } else {
            let digits: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
            *text += &format!(" {digits}\n");
        }
        bytes = &bytes[length.next_multiple_of(4)..];
    }
}

#[test]
fn a_rule_is_encoded_as_nft_would() {
    // Copied from `nft --debug=mnl add rule inet loam c tcp dport 80 accept` (nftables 1.0.6), but
    // for the order of the two attributes of `meta`.
    let rule = Rule::new()
        .protocol(Protocol::Tcp)
        .destination_port(80)
        .accept();
    let chain = Chain::named("c").rules([rule]);
    let batch = Batch::replacing(&[Table {
        family: Family::Inet,
        chains: vec![chain],
    }]);
    let message = netfilter::messages(batch.bytes())
        .find(|m| m.kind == (10 << 8) | 6)
        .unwrap();
    #[rustfmt::skip]
    let expected: [u8; 252] = [
        1, 0, 0, 0,                                             // NFPROTO_INET
        9, 0, 1, 0, b'l', b'o', b'a', b'm', 0, 0, 0, 0,         // table
        6, 0, 2, 0, b'c', 0, 0, 0,                              // chain
        228, 0, 4, 128,                                         // expressions
        36, 0, 1, 128, 9, 0, 1, 0, b'm', b'e', b't', b'a', 0, 0, 0, 0,
            20, 0, 2, 128, 8, 0, 1, 0, 0, 0, 0, 1, 8, 0, 2, 0, 0, 0, 0, 16,
        44, 0, 1, 128, 8, 0, 1, 0, b'c', b'm', b'p', 0,
            32, 0, 2, 128, 8, 0, 1, 0, 0, 0, 0, 1, 8, 0, 2, 0, 0, 0, 0, 0,
            12, 0, 3, 128, 5, 0, 1, 0, 6, 0, 0, 0,
        52, 0, 1, 128, 12, 0, 1, 0, b'p', b'a', b'y', b'l', b'o', b'a', b'd', 0,
            36, 0, 2, 128, 8, 0, 1, 0, 0, 0, 0, 1, 8, 0, 2, 0, 0, 0, 0, 2,
            8, 0, 3, 0, 0, 0, 0, 2, 8, 0, 4, 0, 0, 0, 0, 2,
        44, 0, 1, 128, 8, 0, 1, 0, b'c', b'm', b'p', 0,
            32, 0, 2, 128, 8, 0, 1, 0, 0, 0, 0, 1, 8, 0, 2, 0, 0, 0, 0, 0,
            12, 0, 3, 128, 6, 0, 1, 0, 0, 80, 0, 0,
        48, 0, 1, 128, 14, 0, 1, 0,
            b'i', b'm', b'm', b'e', b'd', b'i', b'a', b't', b'e', 0, 0, 0,
            28, 0, 2, 128, 8, 0, 1, 0, 0, 0, 0, 0, 16, 0, 2, 128,
            12, 0, 2, 128, 8, 0, 1, 0, 0, 0, 0, 1,
    ];
    assert_eq!(message.body, expected);
}
