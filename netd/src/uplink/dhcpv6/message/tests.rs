use dhcproto::{Decodable, v6::Message};
use proptest::{collection::vec, option, prelude::*};

use super::*;

const US: Identity = Identity {
    mac: [2, 0, 0, 0, 0, 1],
};
const ADDRESS: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x50);
const DNS: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x53);

fn option(code: u16, data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u16).to_be_bytes();
    [&code.to_be_bytes()[..], &length, data].concat()
}

fn address(address: Ipv6Addr, preferred: u32, valid: u32, more: &[u8]) -> Vec<u8> {
    let lives = [preferred.to_be_bytes(), valid.to_be_bytes()].concat();
    option(5, &[&address.octets()[..], &lives, more].concat())
}

fn ia(iaid: u32, options: &[u8]) -> Vec<u8> {
    let head = [iaid, 1000, 2000].map(u32::to_be_bytes).concat();
    option(3, &[&head[..], options].concat())
}

/// Client, server, and what follows.
fn message(kind: u8, options: &[u8]) -> Vec<u8> {
    let ends = [option(1, &US.duid()), option(2, &[0, 3, 0, 1, 9])].concat();
    [&[kind, 1, 2, 3][..], &ends, options].concat()
}

#[test]
fn a_reply_is_read_with_all_that_counts() {
    let given = address(ADDRESS, 100, 200, &[]);
    let refused = address(DNS, 100, 200, &option(13, &[0, 2]));
    let other = ia(7, &address(DNS, 1, 1, &[]));
    let dns = [&DNS.octets()[..], &[0xff; 16], &DNS.octets(), &[1]].concat();
    let options = [
        other,
        ia(US.iaid(), &[given, refused].concat()),
        option(7, &[200]),
        option(13, b"\0\0fine"),
        option(23, &dns),
        option(32, &900u32.to_be_bytes()),
        option(82, &100_000u32.to_be_bytes()),
        option(83, &7200u32.to_be_bytes()),
        option(999, b"whatever"),
    ];
    let expected = Reply {
        kind: Kind::Reply,
        xid: 0x01_02_03,
        server: ServerId(vec![0, 3, 0, 1, 9]),
        preference: 200,
        status: Status::Success,
        ia: Some(Ia {
            status: Status::Success,
            t1: 1000,
            t2: 2000,
            addresses: vec![Given {
                address: ADDRESS,
                preferred: 100,
                valid: 200,
            }],
        }),
        name_servers: vec![DNS],
        solicit_longest: None,
        inform_longest: Some(Duration::from_secs(3600)),
        refresh: Some(900),
    };
    assert_eq!(read(&message(7, &options.concat()), US), Ok(expected));
}

#[test]
fn statuses_are_those_of_the_message_and_of_the_addresses() {
    let none = ia(US.iaid(), &option(13, &[0, 2, b'n', b'o']));
    let reply = read(&message(2, &none), US).unwrap();
    assert_eq!(reply.kind, Kind::Advertise);
    assert_eq!(reply.status, Status::Success);
    assert_eq!(reply.ia.map(|ia| ia.status), Some(Status::NoAddrsAvail));
    let reply = read(&message(7, &option(13, &[0, 4])), US).unwrap();
    assert_eq!(reply.status, Status::NotOnLink);
}

#[test]
fn what_is_not_for_this_client_is_ignored() {
    let good = message(7, &[]);
    let other = Identity {
        mac: [2, 0, 0, 0, 0, 2],
    };
    assert!(read(&good, US).is_ok());
    assert_eq!(read(&good, other), Err(Ignored::NotOurs));
    assert_eq!(read(&good[..3], US), Err(Ignored::NoAnswer));
    assert_eq!(read(&message(1, &[]), US), Err(Ignored::NoAnswer));
    assert_eq!(read(&good[..good.len() - 1], US), Err(Ignored::Short));
    assert_eq!(read(&message(7, &[0]), US), Err(Ignored::Short));
    assert_eq!(read(&[7, 0, 0, 0], US), Err(Ignored::NotOurs));
    let nobody = [&[7, 0, 0, 0][..], &option(1, &US.duid())].concat();
    assert_eq!(read(&nobody, US), Err(Ignored::NoServer));
    let long = [&nobody[..], &option(2, &[0; 131])].concat();
    assert_eq!(read(&long, US), Err(Ignored::NoServer));
}

#[test]
fn requests_are_as_the_rfc_has_them() {
    let request = |kind, server, addresses| Request {
        kind,
        xid: 0xab_cd_ef,
        waited: Duration::from_millis(1234),
        server,
        addresses,
    };
    let solicit = request(RequestKind::Solicit, None, vec![]);
    let bytes = write(&solicit, US).unwrap();
    let expected = [
        vec![1, 0xab, 0xcd, 0xef],
        option(1, &[0, 3, 0, 1, 2, 0, 0, 0, 0, 1]),
        option(3, &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
        option(6, &[0, 23, 0, 82]),
        option(8, &[0, 123]),
    ];
    assert_eq!(bytes, expected.concat());
    let server = ServerId(vec![0, 3, 0, 1, 9]);
    let decline = request(RequestKind::Decline, Some(server), vec![ADDRESS]);
    let expected = [
        vec![9, 0xab, 0xcd, 0xef],
        option(1, &US.duid()),
        option(2, &[0, 3, 0, 1, 9]),
        option(
            3,
            &[
                &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0][..],
                &address(ADDRESS, 0, 0, &[]),
            ]
            .concat(),
        ),
        option(8, &[0, 123]),
    ];
    assert_eq!(write(&decline, US).unwrap(), expected.concat());
    let mut inform = request(RequestKind::Inform, None, vec![]);
    inform.waited = Duration::from_secs(7000);
    let bytes = write(&inform, US).unwrap();
    assert!(
        Message::from_bytes(&bytes)
            .unwrap()
            .opts()
            .get(OptionCode::IANA)
            .is_none()
    );
    assert!(
        bytes.ends_with(&option(8, &[0xff, 0xff])),
        "at most what fits"
    );
}

/// An option that may be cut, empty, doubled or nested, mostly of the kinds that are read.
fn odd_option() -> impl Strategy<Value = Vec<u8>> {
    let code = prop_oneof![
        8 => prop::sample::select(vec![1u16, 2, 3, 5, 7, 13, 23, 32, 82, 83]),
        1 => any::<u16>(),
    ];
    let inner = vec(any::<u8>(), 0..80);
    let nested = (vec(any::<u8>(), 12..24), inner)
        .prop_map(|(head, rest)| [head, option(5, &rest)].concat());
    let data = prop_oneof![vec(any::<u8>(), 0..60), nested];
    (code, data, option::weighted(0.1, any::<u16>())).prop_map(|(code, data, length)| {
        let mut bytes = option(code, &data);
        if let Some(length) = length {
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
        }
        bytes
    })
}

/// Messages that could be, with bytes changed, and bytes that could not.
fn odd_message() -> impl Strategy<Value = Vec<u8>> {
    let change = option::weighted(0.5, (any::<prop::sample::Index>(), any::<u8>()));
    let likely = (
        prop::sample::select(vec![2u8, 7]),
        vec(odd_option(), 0..8),
        change,
    );
    let likely = likely.prop_map(|(kind, options, change)| {
        let mut bytes = message(kind, &options.concat());
        if let Some((at, to)) = change {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        bytes
    });
    prop_oneof![4 => likely, 1 => vec(any::<u8>(), 0..300)]
}

fn is_sane(bytes: &[u8]) {
    let Ok(reply) = read(bytes, US) else { return };
    assert!(reply.name_servers.len() <= LISTED);
    assert!(reply.name_servers.iter().all(|server| is_routable(*server)));
    assert!(reply.ia.is_none_or(|ia| ia.addresses.len() <= LISTED));
    let waits = [reply.solicit_longest, reply.inform_longest];
    assert!(
        waits
            .into_iter()
            .flatten()
            .all(|wait| (60..=3600).contains(&wait.as_secs()))
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_read_or_ignored(bytes in odd_message()) {
        is_sane(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100_000))]

    #[test]
    #[ignore = "slow: a hundred thousand messages"]
    fn any_of_very_many_messages_is_read_or_ignored(bytes in odd_message()) {
        is_sane(&bytes);
    }
}
