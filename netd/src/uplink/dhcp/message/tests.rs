//! Bytes of servers, right and wrong.

use std::time::Duration;

use dhcproto::{Decodable, v4::Message};
use ipnet::Ipv4Net;
use loam_deployment::FarmId;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::uplink::{
    dhcp::terms::Oddity,
    lease::{Lease, Mtu, Route},
};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 50);

fn option(code: u8, data: &[u8]) -> Vec<u8> {
    [&[code, data.len() as u8], data].concat()
}

/// An offer of [`ADDRESS`] with these options behind its kind and its server.
fn offer(options: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![2, 1, 6, 0, 0, 0, 0, 7];
    bytes.extend([0; 8]);
    bytes.extend(ADDRESS.octets());
    bytes.extend([0; 8]);
    bytes.extend(MAC);
    bytes.resize(OPTIONS - 4, 0);
    bytes.extend(v4::MAGIC);
    bytes.extend(option(53, &[2]));
    bytes.extend(option(54, &SERVER.octets()));
    bytes.extend(options.concat());
    bytes.push(255);
    bytes
}

fn terms(options: &[Vec<u8>]) -> Terms {
    match read(&offer(options), MAC).unwrap().kind {
        Kind::Offer(terms) => terms,
        other => panic!("{other:?}"),
    }
}

fn lease(options: &[Vec<u8>]) -> Lease {
    let mut all = vec![option(1, &[255, 255, 255, 0])];
    all.extend_from_slice(options);
    terms(&all).lease
}

fn route(to: &str, gateway: Option<Ipv4Addr>) -> Route {
    Route {
        to: to.parse().unwrap(),
        gateway,
    }
}

const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const DNS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);

#[test]
fn an_offer_is_read_whole() {
    let reply = read(
        &offer(&[
            option(1, &[255, 255, 255, 0]),
            option(3, &[SERVER.octets(), OTHER.octets()].concat()),
            option(6, &DNS.octets()),
            option(26, &1400u16.to_be_bytes()),
            option(51, &3600u32.to_be_bytes()),
        ]),
        MAC,
    );
    let Reply { xid, server, kind } = reply.unwrap();
    assert_eq!((xid, server), (7, SERVER));
    let Kind::Offer(terms) = kind else {
        panic!("{kind:?}")
    };
    assert_eq!(terms.lease.address, "192.0.2.50/24".parse().unwrap());
    assert_eq!(terms.lease.routers, [SERVER, OTHER]);
    assert_eq!(terms.lease.routes(), [Route::default_by(SERVER)]);
    assert_eq!(terms.lease.dns, [DNS]);
    assert_eq!(terms.lease.mtu.map(Mtu::get), Some(1400));
    assert_eq!(terms.times.lease(), Duration::from_secs(3600));
    assert_eq!(terms.oddities, []);
}

#[test]
fn what_is_not_for_this_client_is_ignored() {
    let changed = |at: usize, to: u8| {
        let mut bytes = offer(&[]);
        bytes[at] = to;
        read(&bytes, MAC)
    };
    assert_eq!(changed(0, 1), Err(Ignored::NoReply), "a request");
    assert_eq!(changed(1, 6), Err(Ignored::NotOurs), "not Ethernet");
    for length in [0, 5, 16, 17, 255] {
        assert_eq!(changed(2, length), Err(Ignored::NotOurs));
    }
    assert_eq!(changed(33, 9), Err(Ignored::NotOurs));
    assert_eq!(changed(236, 0), Err(Ignored::NoReply), "no cookie");
    assert_eq!(changed(242, 1), Err(Ignored::NoAnswer), "a discovery");
    assert_eq!(
        changed(241, 0),
        Err(Ignored::NoServer),
        "options out of step"
    );
    assert_eq!(changed(245, 0), Err(Ignored::NoServer), "0.0.2.1");
    assert_eq!(read(&offer(&[])[..239], MAC), Err(Ignored::NoReply));
    assert_eq!(read(&[], MAC), Err(Ignored::NoReply));
}

#[test]
fn an_address_that_no_host_can_have_is_no_offer() {
    for wrong in [
        [0; 4],
        [127, 0, 0, 1],
        [224, 0, 0, 1],
        [255; 4],
        [0, 1, 2, 3],
    ] {
        let mut bytes = offer(&[]);
        bytes[16..20].copy_from_slice(&wrong);
        let refusal = Refusal::NoHost(wrong.into());
        assert_eq!(read(&bytes, MAC), Err(Ignored::Terms(refusal)));
    }
    for (mask, own) in [
        ([255, 255, 255, 0], 0),
        ([255, 255, 255, 0], 255),
        ([255, 255, 255, 252], 51),
    ] {
        let mut bytes = offer(&[option(1, &mask)]);
        bytes[19] = own;
        let read = read(&bytes, MAC);
        assert!(
            matches!(read, Err(Ignored::Terms(Refusal::SubnetsOwn(_)))),
            "{read:?}"
        );
    }
    let mut bytes = offer(&[option(1, &[255, 255, 255, 254])]);
    bytes[19] = 51;
    assert!(read(&bytes, MAC).is_ok(), "of two, both are hosts");
}

#[test]
fn without_a_mask_the_class_says_how_large_the_subnet_is() {
    let of = |address: [u8; 4]| {
        let mut bytes = offer(&[]);
        bytes[16..20].copy_from_slice(&address);
        match read(&bytes, MAC).unwrap().kind {
            Kind::Offer(terms) => (terms.lease.address.to_string(), terms.oddities),
            other => panic!("{other:?}"),
        }
    };
    for expected in [
        "10.1.2.3/8",
        "172.16.1.1/16",
        "192.0.2.50/24",
        "240.0.0.9/24",
    ] {
        let net: Ipv4Net = expected.parse().unwrap();
        assert_eq!(
            of(net.addr().octets()),
            (expected.into(), vec![Oddity::NoMask(net)])
        );
    }
    for mask in [[0, 0, 0, 0], [255, 0, 255, 0]] {
        let terms = terms(&[option(1, &mask)]);
        assert_eq!(terms.lease.address.prefix_len(), 24);
        assert_eq!(terms.oddities, [Oddity::BadMask(mask.into())]);
    }
}

#[test]
fn lists_hold_hosts_each_once_and_not_without_end() {
    let odd = option(6, &[&DNS.octets()[..], &[1, 2]].concat());
    assert_eq!(lease(&[odd]).dns, [DNS]);
    let routers = [
        [0; 4],
        [127, 0, 0, 1],
        ADDRESS.octets(),
        SERVER.octets(),
        SERVER.octets(),
    ];
    assert_eq!(lease(&[option(3, &routers.concat())]).routers, [SERVER]);
    let many: Vec<u8> = (1..=60).flat_map(|last| [192, 0, 2, last]).collect();
    assert_eq!(lease(&[option(6, &many)]).dns.len(), 8);
    // In parts, as RFC 3396 has it.
    let parts = [
        option(6, &DNS.octets()[..3]),
        option(6, &[53]),
        option(6, &OTHER.octets()),
    ];
    assert_eq!(lease(&parts).dns, [DNS, OTHER]);
}

#[test]
fn a_farm_is_digits_and_nothing_else() {
    let of = |data: &[u8]| {
        let terms = terms(&[option(1, &[255, 255, 255, 0]), option(224, data)]);
        (terms.lease.farm, terms.oddities)
    };
    assert_eq!(lease(&[]).farm, None);
    assert_eq!(of(b"7"), (Some(FarmId(7)), vec![]));
    assert_eq!(of(b"18446744073709551615").0, Some(FarmId(u64::MAX)));
    // As a program in C has it.
    assert_eq!(of(b"12\0\0"), (Some(FarmId(12)), vec![]));
    for wrong in [&b""[..], b"\0", b"0", b"\x07", b"7\n", b"1\x002", b"farm 7"] {
        let oddity = Oddity::NoFarm(wrong.to_vec());
        assert_eq!(of(wrong), (None, vec![oddity]), "{wrong:?}");
    }
    let (farm, oddities) = of(&[b'9'; 255]);
    assert_eq!(
        (farm, oddities),
        (None, vec![Oddity::NoFarm(vec![b'9'; 8])])
    );
}

/// Cases `without-end-option` and `giant-options`.
#[test]
fn an_offer_is_taken_without_an_end_and_with_all_that_a_link_carries() {
    let whole = [
        option(1, &[255, 255, 255, 0]),
        option(3, &SERVER.octets()),
        option(51, &3600u32.to_be_bytes()),
    ];
    let expected = read(&offer(&whole), MAC);
    assert!(expected.is_ok());
    let mut endless = offer(&whole);
    assert_eq!(endless.pop(), Some(255));
    assert_eq!(read(&endless, MAC), expected);
    // Pads are no end.
    endless.resize(300, 0);
    assert_eq!(read(&endless, MAC), expected);
    // An end that is cut off in the middle of an option nobody needs.
    endless.extend([225, 4, 1]);
    assert_eq!(read(&endless, MAC), expected);

    let giants: Vec<_> = (225..229).map(|code| option(code, &[b'A'; 240])).collect();
    let before = offer(&[&giants[..], &whole].concat());
    assert!(before.len() > usize::from(LARGEST_REPLY) - 28);
    assert_eq!(read(&before, MAC), expected);
    assert_eq!(read(&offer(&[&whole[..], &giants].concat()), MAC), expected);
}

#[test]
fn an_option_that_comes_again_with_the_same_value_is_one() {
    let once = [
        option(1, &[255, 255, 255, 0]),
        option(3, &SERVER.octets()),
        option(6, &DNS.octets()),
        option(26, &1400u16.to_be_bytes()),
        option(51, &3600u32.to_be_bytes()),
        option(58, &600u32.to_be_bytes()),
        option(59, &3000u32.to_be_bytes()),
        option(121, &[0, 192, 0, 2, 2]),
    ];
    let again = [option(53, &[2]), option(54, &SERVER.octets())];
    let twice = [&once[..], &again, &once].concat();
    let read = |options: &[Vec<u8>]| read(&offer(options), MAC);
    assert_eq!(read(&twice), read(&once));
    assert_eq!(read(&[&twice[..], &again].concat()), read(&once), "thrice");
    // Of two that differ nobody knows which is meant.
    let other = [option(54, &OTHER.octets())];
    assert_eq!(read(&other), Err(Ignored::NoServer));
    let (less, more) = (option(51, &[0, 0, 14, 16]), option(51, &[0, 0, 28, 32]));
    assert_eq!(terms(&[less, more]).times.lease().as_secs(), 120);
    // Nor is one and a half of it two.
    let half = [option(54, &SERVER.octets()[..2])];
    assert_eq!(read(&half), Err(Ignored::NoServer));
}

#[test]
fn options_go_on_in_the_fields_that_option_52_names() {
    let overloaded = |which: u8| {
        let mut bytes = offer(&[option(1, &[255, 255, 255, 0]), option(52, &[which])]);
        let file = [option(3, &SERVER.octets()), vec![255]].concat();
        bytes[FILE.start..FILE.start + file.len()].copy_from_slice(&file);
        // Zeroes before it are pads.
        let sname = [vec![0, 0], option(6, &DNS.octets()), vec![255]].concat();
        bytes[SNAME.start..SNAME.start + sname.len()].copy_from_slice(&sname);
        match read(&bytes, MAC).unwrap().kind {
            Kind::Offer(terms) => (terms.lease.routers, terms.lease.dns),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(overloaded(0), (vec![], vec![]));
    assert_eq!(overloaded(1), (vec![SERVER], vec![]));
    assert_eq!(overloaded(2), (vec![], vec![DNS]));
    assert_eq!(overloaded(3), (vec![SERVER], vec![DNS]));
}

#[test]
fn an_mtu_is_one_at_which_ipv6_goes_on() {
    let of = |bytes: &[u8]| {
        let terms = terms(&[option(1, &[255, 255, 255, 0]), option(26, bytes)]);
        (terms.lease.mtu.map(Mtu::get), terms.oddities)
    };
    let at = |mtu: u16| of(&mtu.to_be_bytes());
    assert_eq!(at(1280), (Some(1280), vec![]));
    assert_eq!(at(9000), (Some(9000), vec![]));
    let least = Mtu::try_from(1280).unwrap();
    assert_eq!(at(1279), (Some(1280), vec![Oddity::SmallMtu(1279, least)]));
    assert_eq!(at(576), (Some(1280), vec![Oddity::SmallMtu(576, least)]));
    for nonsense in [&[2, 63][..], &[0, 0], &[5], &[0, 0, 5, 120], &[]] {
        assert_eq!(
            of(nonsense),
            (None, vec![Oddity::NonsenseMtu(nonsense.to_vec())])
        );
    }
}

#[test]
fn a_lease_too_short_to_be_renewed_is_held_longer_and_told() {
    let of = |seconds: u32| {
        let options = [
            option(1, &[255, 255, 255, 0]),
            option(51, &seconds.to_be_bytes()),
        ];
        let terms = terms(&options);
        (terms.times.lease().as_secs(), terms.oddities)
    };
    assert_eq!(of(10), (10, vec![]));
    assert_eq!(of(9), (10, vec![Oddity::ShortLease(9)]));
}

#[test]
fn routes_win_over_routers() {
    let list = [
        &[0][..],
        &SERVER.octets(),
        &[24, 198, 51, 100],
        &OTHER.octets(),
        // Bits behind the mask, and on the link itself.
        &[12, 10, 0xff],
        &[0, 0, 0, 0],
        &[32, 203, 0, 113, 1],
        &SERVER.octets(),
    ];
    let lease = lease(&[option(3, &OTHER.octets()), option(121, &list.concat())]);
    let expected = [
        Route::default_by(SERVER),
        route("198.51.100.0/24", Some(OTHER)),
        route("10.240.0.0/12", None),
        route("203.0.113.1/32", Some(SERVER)),
    ];
    assert_eq!(lease.routes(), expected);
    assert_eq!(lease.router(), Some(SERVER));
}

#[test]
fn a_default_route_leads_out_by_a_router_or_onto_the_link() {
    let leads = |options: &[Vec<u8>]| {
        let lease = lease(options);
        (lease.leads_out(), lease.router())
    };
    assert_eq!(leads(&[]), (false, None));
    let router = option(3, &SERVER.octets());
    assert_eq!(leads(std::slice::from_ref(&router)), (true, Some(SERVER)));
    assert_eq!(leads(&[option(121, &[0, 0, 0, 0, 0])]), (true, None));
    // RFC 3442: with routes, its routers are none.
    let inside = [&[24, 198, 51, 100][..], &OTHER.octets()];
    let inside = option(121, &inside.concat());
    assert_eq!(leads(&[router, inside]), (false, None));
}

#[test]
fn a_malformed_list_of_routes_is_none() {
    let server = SERVER.octets();
    for list in [
        vec![],
        vec![0],
        [&[0][..], &server[..3]].concat(),
        [&[33, 1, 2, 3, 4, 5][..], &server].concat(),
        [&[255][..], &[1; 40]].concat(),
        [&[0][..], &server, &[24, 198, 51]].concat(),
    ] {
        let terms = terms(&[
            option(1, &[255, 255, 255, 0]),
            option(3, &OTHER.octets()),
            option(121, &list),
        ]);
        assert_eq!(terms.oddities, [Oddity::MalformedRoutes], "{list:?}");
        assert_eq!(terms.lease.routes(), [Route::default_by(OTHER)]);
    }
}

#[test]
fn no_server_routes_into_the_node_or_its_tenants_networks() {
    let list = [
        &[0][..],
        &SERVER.octets(),
        &[32, 198, 18, 0, 3],
        &SERVER.octets(),
        &[8, 127],
        &SERVER.octets(),
        &[4, 224],
        &SERVER.octets(),
        &[8, 10, 224, 0, 0, 1],
        &[8, 11],
        &ADDRESS.octets(),
    ];
    let terms = terms(&[option(1, &[255, 255, 255, 0]), option(121, &list.concat())]);
    assert_eq!(terms.lease.routes(), [Route::default_by(SERVER)]);
    // Which is told once.
    let first = route("198.18.0.3/32", Some(SERVER));
    assert_eq!(terms.oddities, [Oddity::BadRoute(first)]);
}

#[test]
fn of_very_many_routes_the_first_are_taken() {
    let list: Vec<_> = (0..80u8).flat_map(|n| [16, 10, n, 192, 0, 2, 1]).collect();
    let parts: Vec<_> = list.chunks(255).map(|part| option(121, part)).collect();
    let terms = terms(&[vec![option(1, &[255, 255, 255, 0])], parts].concat());
    assert_eq!(terms.lease.routes().len(), 64);
    assert_eq!(terms.oddities, [Oddity::ManyRoutes]);
}

fn request(kind: RequestKind) -> Request {
    Request {
        kind,
        xid: 0x0102_0304,
        waited: Duration::from_secs(70_000),
        client: None,
        requested: Some(ADDRESS),
        server: Some(SERVER),
    }
}

#[test]
fn a_request_says_who_asks_and_for_what() {
    let bytes = write(&request(RequestKind::Request), MAC).unwrap();
    assert_eq!(bytes.len(), 300, "RFC 1542 2.1");
    let message = Message::from_bytes(&bytes).unwrap();
    assert_eq!(
        (message.opcode(), message.chaddr()),
        (Opcode::BootRequest, &MAC[..])
    );
    assert_eq!((message.xid(), message.secs()), (0x0102_0304, u16::MAX));
    assert!(!message.flags().broadcast());
    let options = message.opts();
    let client = vec![1, 2, 0, 0, 0, 0, 1];
    for expected in [
        DhcpOption::MessageType(MessageType::Request),
        DhcpOption::RequestedIpAddress(ADDRESS),
        DhcpOption::ServerIdentifier(SERVER),
        DhcpOption::ClientIdentifier(client),
        DhcpOption::ParameterRequestList(WANTED.to_vec()),
    ] {
        assert_eq!(options.get((&expected).into()), Some(&expected));
    }
    let wanted = WANTED.map(u8::from);
    assert!(wanted.starts_with(&[1, 121, 3, 6, 26]), "{wanted:?}");
}

#[test]
fn who_declines_asks_for_nothing() {
    let bytes = write(&request(RequestKind::Decline), MAC).unwrap();
    let message = Message::from_bytes(&bytes).unwrap();
    let options = message.opts();
    assert!(options.has_msg_type(MessageType::Decline));
    assert!(options.contains(OptionCode::RequestedIpAddress));
    assert!(options.contains(OptionCode::ServerIdentifier));
    assert!(!options.contains(OptionCode::ParameterRequestList));
}

fn is_sane(reply: &Reply) -> bool {
    let terms = match &reply.kind {
        Kind::Offer(terms) | Kind::Acknowledge(terms) => terms,
        Kind::Refuse => return is_host(reply.server),
    };
    let lease = &terms.lease;
    let gateways = lease.routes().into_iter().filter_map(|route| route.gateway);
    let hosts = [reply.server, lease.address.addr()]
        .into_iter()
        .chain(gateways);
    hosts.chain(lease.dns.iter().copied()).all(is_host)
        && lease.address.prefix_len() > 0
        && lease.routes().len() <= 64
        && lease.dns.len() <= 8
        && lease.mtu.is_none_or(|mtu| mtu.get() >= 1280)
        && terms.oddities.len() <= 5
        && terms.oddities.iter().all(|odd| odd.to_string().len() < 200)
}

/// Options of the kinds that are read with anything in them, in `file` and `sname` too.
fn odd_offer() -> impl Strategy<Value = Vec<u8>> {
    let code = prop::sample::select(vec![1u8, 3, 6, 26, 51, 52, 58, 59, 121]);
    let options = vec((code, vec(any::<u8>(), 0..40)), 0..12);
    (options, vec(any::<u8>(), 192)).prop_map(|(options, fields)| {
        let options: Vec<_> = options
            .iter()
            .map(|(code, data)| option(*code, data))
            .collect();
        let mut bytes = offer(&options);
        bytes[SNAME.start..FILE.end].copy_from_slice(&fields);
        bytes
    })
}

fn makes_sense(message: &[u8]) -> bool {
    read(message, MAC).map_or(true, |reply| is_sane(&reply))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100_000))]

    #[test]
    #[ignore = "slow: a hundred thousand messages"]
    fn any_of_very_many_offers_makes_a_sane_lease_or_none(message in odd_offer()) {
        prop_assert!(makes_sense(&message));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_ignored(bytes in vec(any::<u8>(), 0..1500)) {
        let _ = read(&bytes, MAC);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_options_make_a_sane_lease_or_none(message in odd_offer()) {
        prop_assert!(makes_sense(&message));
    }

    #[test]
    fn a_damaged_offer_is_read_or_ignored(at in 0usize..330, to: u8, cut in 0usize..330) {
        let mut bytes = offer(&[
            option(1, &[255, 255, 255, 0]),
            option(3, &SERVER.octets()),
            option(121, &[0, 192, 0, 2, 1, 24, 10, 0, 0, 192, 0, 2, 1]),
            option(52, &[3]),
        ]);
        if let Some(byte) = bytes.get_mut(at) {
            *byte = to;
        }
        bytes.truncate(cut);
        if let Ok(reply) = read(&bytes, MAC) {
            prop_assert!(is_sane(&reply), "{reply:?}");
        }
    }
}
