//! What RFC 8415 says, one by one.

use dhcproto::v6::Status;

use super::*;
use crate::uplink::dhcpv6::message::{Given, Ia, Kind, Reply};

const ADDRESS: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x50);
const OTHER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x51);
const DNS: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x53);

/// A client, and what it did when.
struct Client {
    machine: Machine,
    now: Moment,
    sent: Vec<(Moment, Request)>,
    notes: Vec<Note>,
}

fn server() -> ServerId {
    ServerId::numbered(1)
}

fn ia(addresses: &[(Ipv6Addr, u32, u32)]) -> Ia {
    let given = |(address, preferred, valid): &(Ipv6Addr, u32, u32)| Given {
        address: *address,
        preferred: *preferred,
        valid: *valid,
    };
    Ia {
        status: Status::Success,
        t1: 0,
        t2: 0,
        addresses: addresses.iter().map(given).collect(),
    }
}

impl Client {
    fn new(want: Want) -> Self {
        let mut client = Self {
            machine: Machine::new(Moment::default()),
            now: Moment::default(),
            sent: vec![],
            notes: vec![],
        };
        client.event(Event::Want(want));
        client
    }

    fn event(&mut self, event: Event) {
        // Half a second before the first message, and another number for each.
        let dice = Dice(self.sent.len() as u64 + (500 << 32));
        for action in self.machine.on(self.now, dice, event) {
            match action {
                Action::Send(request) => self.sent.push((self.now, request)),
                Action::Note(note) => self.notes.push(note),
            }
        }
    }

    fn kinds(&self) -> Vec<RequestKind> {
        self.sent.iter().map(|(_, request)| request.kind).collect()
    }

    /// To the next message.
    fn until_sent(&mut self) -> Request {
        let sent = self.sent.len();
        while self.sent.len() == sent {
            self.due();
        }
        self.sent[sent].1.clone()
    }

    /// To the next of this kind.
    fn until(&mut self, kind: RequestKind) -> Request {
        for _ in 0..100 {
            let request = self.until_sent();
            if request.kind == kind {
                return request;
            }
        }
        panic!("no {kind:?}: {:?}", self.kinds())
    }

    fn due(&mut self) {
        self.now = self.now.max(self.machine.deadline());
        self.event(Event::Time);
    }

    /// The answer to the last message.
    fn answer(&mut self, kind: Kind, ia: Option<Ia>) {
        self.answer_of(server(), kind, ia, |_| {});
    }

    fn answer_of(
        &mut self,
        server: ServerId,
        kind: Kind,
        ia: Option<Ia>,
        change: impl FnOnce(&mut Reply),
    ) {
        let mut reply = Reply {
            kind,
            xid: self.sent.last().unwrap().1.xid,
            server,
            preference: 0,
            status: Status::Success,
            ia,
            name_servers: vec![DNS],
            solicit_longest: None,
            inform_longest: None,
            refresh: None,
        };
        change(&mut reply);
        self.event(Event::Reply(reply));
    }

    fn addresses(&self) -> Vec<Ipv6Addr> {
        let held = self.machine.addresses().iter();
        held.map(|held| held.address).collect()
    }

    /// With a lease of an hour, two hours valid.
    fn bound() -> Self {
        let mut client = Self::new(Want::Addresses);
        client.until_sent();
        client.answer(Kind::Advertise, Some(ia(&[(ADDRESS, 3600, 7200)])));
        client.until_sent();
        client.answer(Kind::Reply, Some(ia(&[(ADDRESS, 3600, 7200)])));
        assert_eq!(client.addresses(), [ADDRESS]);
        client
    }

    fn seconds_since(&self, at: Moment) -> u64 {
        self.now.since(at).as_secs()
    }
}

#[test]
fn nothing_is_said_as_long_as_no_router_says_so() {
    let client = Client::new(Want::Nothing);
    assert_eq!(client.machine.deadline(), Moment::NEVER);
    assert!(client.sent.is_empty());
}

#[test]
fn an_address_comes_in_four_messages() {
    let client = Client::bound();
    assert_eq!(client.kinds(), [RequestKind::Solicit, RequestKind::Request]);
    let request = &client.sent[1].1;
    assert_eq!(request.server, Some(server()));
    assert_eq!(request.addresses, [ADDRESS]);
    assert_ne!(client.sent[0].1.xid, client.sent[1].1.xid);
    assert_eq!(client.machine.name_servers(), [DNS]);
    let addresses = vec![ADDRESS];
    assert_eq!(client.notes, [Note::Leased { addresses }]);
    assert_eq!(
        client.machine.addresses()[0].seconds(client.now),
        (3600, 7200)
    );
}

#[test]
fn solicitations_go_on_ever_more_seldom_and_silence_is_told_once() {
    let mut client = Client::new(Want::Addresses);
    for _ in 0..4 {
        client.until_sent();
    }
    assert_eq!(client.notes, [Note::NoServer]);
    assert_eq!(client.machine.missing(), Some(Missing::Dhcpv6Server));
    while client.now < Moment(Duration::from_secs(86400)) {
        client.until_sent();
    }
    assert_eq!(client.notes, [Note::NoServer]);
    // Eleven that double to an hour, and one each hour then.
    let all = client.sent.iter().map(|(_, request)| request);
    let solicits: Vec<_> = all
        .filter(|request| request.kind == RequestKind::Solicit)
        .collect();
    assert!((30..40).contains(&solicits.len()), "{}", solicits.len());
    assert!(
        solicits
            .iter()
            .all(|solicit| solicit.xid == solicits[0].xid)
    );
    client.until(RequestKind::Solicit);
    client.answer(Kind::Advertise, Some(ia(&[(ADDRESS, 60, 60)])));
    client.until_sent();
    client.answer(Kind::Reply, Some(ia(&[(ADDRESS, 60, 60)])));
    assert_eq!(client.machine.missing(), None);
}

#[test]
fn the_preferred_server_is_asked_and_not_one_that_did_not_keep_its_word() {
    let mut client = Client::new(Want::Addresses);
    client.until_sent();
    let given = || Some(ia(&[(ADDRESS, 60, 60)]));
    client.answer_of(ServerId::numbered(1), Kind::Advertise, given(), |_| {});
    let prefer = |reply: &mut Reply| reply.preference = 255;
    client.answer_of(ServerId::numbered(2), Kind::Advertise, given(), prefer);
    client.answer_of(ServerId::numbered(3), Kind::Advertise, given(), |_| {});
    assert_eq!(client.until_sent().server, Some(ServerId::numbered(2)));
    // It answers nothing more.
    for _ in 1..REQUESTS {
        assert_eq!(client.until_sent().kind, RequestKind::Request);
    }
    assert_eq!(client.until_sent().kind, RequestKind::Solicit);
    client.answer_of(ServerId::numbered(2), Kind::Advertise, given(), prefer);
    client.answer_of(ServerId::numbered(3), Kind::Advertise, given(), |_| {});
    assert_eq!(client.until_sent().server, Some(ServerId::numbered(3)));
}

#[test]
fn a_server_without_addresses_is_told_once_and_asked_ever_more_seldom() {
    let mut client = Client::new(Want::Addresses);
    for _ in 0..6 {
        client.until(RequestKind::Solicit);
        let none = Ia {
            status: Status::NoAddrsAvail,
            ..ia(&[])
        };
        client.answer(Kind::Advertise, Some(none));
    }
    assert_eq!(client.notes, [Note::NoAddresses { server: server() }]);
    assert_eq!(client.machine.missing(), Some(Missing::Dhcpv6Addresses));
    assert!(client.seconds_since(client.sent[0].0) >= 25);
}

#[test]
fn a_lease_is_renewed_by_its_server_then_by_any() {
    let mut client = Client::bound();
    let bound = client.now;
    let renew = client.until_sent();
    assert_eq!(
        (renew.kind, renew.server),
        (RequestKind::Renew, Some(server()))
    );
    assert_eq!(client.seconds_since(bound), 1800);
    // Another server is not asked.
    client.answer_of(
        ServerId::numbered(9),
        Kind::Reply,
        Some(ia(&[(ADDRESS, 9, 9)])),
        |_| {},
    );
    assert_eq!(client.until_sent().kind, RequestKind::Renew);
    while client.until_sent().kind == RequestKind::Renew {}
    assert_eq!(client.seconds_since(bound), 2880);
    let rebind = &client.sent.last().unwrap().1;
    assert_eq!(
        (rebind.kind, rebind.server.as_ref()),
        (RequestKind::Rebind, None)
    );
    client.answer_of(
        ServerId::numbered(9),
        Kind::Reply,
        Some(ia(&[(ADDRESS, 600, 900)])),
        |_| {},
    );
    assert_eq!(
        client.machine.addresses()[0].seconds(client.now),
        (600, 900)
    );
    assert_eq!(client.notes.len(), 1, "nothing is new");
    assert_eq!(client.until_sent().server, Some(ServerId::numbered(9)));
}

#[test]
fn a_lease_that_nobody_renews_ends_and_is_looked_for_anew() {
    let mut client = Client::bound();
    let bound = client.now;
    while client.until_sent().kind != RequestKind::Solicit {
        assert_eq!(client.addresses(), [ADDRESS]);
    }
    assert!(client.addresses().is_empty());
    assert!(client.notes.contains(&Note::Ended));
    assert!((7200..7203).contains(&client.seconds_since(bound)));
}

#[test]
fn a_server_that_forgot_is_asked_for_the_same_again() {
    let mut client = Client::bound();
    client.until_sent();
    let forgot = Ia {
        status: Status::NoBinding,
        ..ia(&[])
    };
    client.answer(Kind::Reply, Some(forgot));
    assert_eq!(client.addresses(), [ADDRESS], "it is valid still");
    let request = client.until_sent();
    assert_eq!(request.kind, RequestKind::Request);
    assert_eq!(request.addresses, [ADDRESS]);
    client.answer(Kind::Reply, Some(ia(&[(ADDRESS, 60, 60)])));
    assert_eq!(client.addresses(), [ADDRESS]);
    assert_eq!(client.notes.len(), 1);
}

#[test]
fn an_address_that_is_taken_back_goes() {
    let mut client = Client::bound();
    client.until_sent();
    client.answer(Kind::Reply, Some(ia(&[(ADDRESS, 0, 0), (OTHER, 60, 60)])));
    assert_eq!(client.addresses(), [OTHER]);
    client.until_sent();
    client.answer(Kind::Reply, Some(ia(&[(OTHER, 0, 0)])));
    assert!(client.addresses().is_empty());
    assert_eq!(
        client.notes.last(),
        Some(&Note::Withdrawn { server: server() })
    );
    assert_eq!(client.until_sent().kind, RequestKind::Solicit);
}

#[test]
fn an_address_of_another_host_is_declined_and_another_asked_for() {
    let mut client = Client::bound();
    client.event(Event::Duplicate(OTHER));
    assert_eq!(client.addresses(), [ADDRESS], "not ours");
    client.event(Event::Duplicate(ADDRESS));
    assert!(client.addresses().is_empty());
    let began = client.now;
    // Lost four times.
    for _ in 0..DECLINES {
        let decline = client.until_sent();
        assert_eq!(decline.kind, RequestKind::Decline);
        assert_eq!(decline.addresses, [ADDRESS]);
        assert_eq!(decline.server, Some(server()));
    }
    assert_eq!(client.until_sent().kind, RequestKind::Solicit);
    assert!(client.seconds_since(began) >= 10);
}

#[test]
fn settings_alone_are_asked_for_where_only_they_are_there() {
    let mut client = Client::new(Want::Settings);
    for _ in 0..4 {
        assert_eq!(client.until_sent().kind, RequestKind::Inform);
    }
    assert_eq!(client.notes, [Note::NoSettings]);
    assert_eq!(client.machine.missing(), Some(Missing::Dhcpv6Settings));
    client.answer_of(server(), Kind::Reply, None, |reply| reply.refresh = Some(1));
    let informed = client.now;
    assert_eq!(client.machine.name_servers(), [DNS]);
    assert_eq!(client.machine.missing(), None);
    client.until_sent();
    assert_eq!(client.seconds_since(informed), 600, "and no sooner");
    assert_eq!(
        client.machine.name_servers(),
        [DNS],
        "until the next answer"
    );
    client.answer_of(server(), Kind::Reply, None, |reply| {
        reply.refresh = Some(u32::MAX)
    });
    assert_eq!(client.machine.deadline(), Moment::NEVER);
    client.event(Event::Want(Want::Addresses));
    assert_eq!(client.until_sent().kind, RequestKind::Solicit);
    client.event(Event::Want(Want::Nothing));
    assert_eq!(client.machine.name_servers(), [] as [Ipv6Addr; 0]);
    assert_eq!(client.machine.deadline(), Moment::NEVER);
}

/// RFC 8415 18.2.6, beside the solicitations.
#[test]
fn where_nobody_gives_addresses_settings_are_asked_for_alone() {
    let none = || Ia {
        status: Status::NoAddrsAvail,
        ..ia(&[])
    };
    let mut client = Client::new(Want::Addresses);
    client.until_sent();
    client.answer(Kind::Advertise, Some(none()));
    client.until(RequestKind::Inform);
    // What a solicitation brings is no answer to it.
    client.answer(Kind::Advertise, Some(none()));
    assert_eq!(client.machine.name_servers(), [] as [Ipv6Addr; 0]);
    client.answer(Kind::Reply, None);
    assert_eq!(client.machine.name_servers(), [DNS]);
    assert_eq!(client.machine.missing(), Some(Missing::Dhcpv6Addresses));
    assert_eq!(
        client.notes.last(),
        Some(&Note::Informed { servers: vec![DNS] })
    );
    let informed = client.now;
    // They are asked for anew after a day, addresses all the while.
    let sent = client.sent.len();
    client.until(RequestKind::Inform);
    assert_eq!(client.seconds_since(informed), 86400);
    assert!(client.sent.len() - sent > 24);
    assert_eq!(client.machine.name_servers(), [DNS]);
    client.until(RequestKind::Solicit);
    client.answer_of(
        server(),
        Kind::Advertise,
        Some(ia(&[(ADDRESS, 3600, 7200)])),
        |_| {},
    );
    client.until(RequestKind::Request);
    client.answer_of(
        server(),
        Kind::Reply,
        Some(ia(&[(ADDRESS, 3600, 7200)])),
        |reply| {
            reply.name_servers = vec![];
        },
    );
    // What comes with addresses counts from now on, which is nothing here.
    assert_eq!(client.addresses(), [ADDRESS]);
    assert_eq!(client.machine.name_servers(), [] as [Ipv6Addr; 0]);
    assert_eq!(client.machine.missing(), None);
    assert_eq!(client.until_sent().kind, RequestKind::Renew);
}

#[test]
fn a_silent_server_is_asked_for_settings_too_and_no_two_messages_are_near() {
    let mut client = Client::new(Want::Addresses);
    while client.now < Moment(Duration::from_secs(86400)) {
        client.until_sent();
    }
    let first = client
        .kinds()
        .iter()
        .position(|kind| *kind == RequestKind::Inform);
    assert_eq!(first, Some(4), "{:?}", client.kinds());
    // Ever more seldom, as solicitations are.
    assert!(
        (60..80).contains(&client.sent.len()),
        "{}",
        client.sent.len()
    );
    let times: Vec<_> = client.sent.iter().map(|(at, _)| *at).collect();
    assert!(times.windows(2).all(|two| two[1].since(two[0]) >= PAUSE));
    assert_eq!(client.notes, [Note::NoServer]);
    // A router that says that there are none any more has them asked for alone.
    client.event(Event::Want(Want::Settings));
    assert_eq!(client.machine.missing(), None);
    assert_eq!(client.until_sent().kind, RequestKind::Inform);
    client.answer(Kind::Reply, None);
    assert_eq!(client.machine.name_servers(), [DNS]);
    client.event(Event::Want(Want::Nothing));
    assert_eq!(client.machine.name_servers(), [] as [Ipv6Addr; 0]);
    assert_eq!(client.machine.deadline(), Moment::NEVER);
}

#[test]
fn a_server_says_how_long_the_longest_wait_is() {
    let mut client = Client::new(Want::Addresses);
    client.until_sent();
    client.answer_of(server(), Kind::Advertise, None, |reply| {
        reply.solicit_longest = Some(Duration::from_secs(60));
    });
    for _ in 0..20 {
        client.until_sent();
    }
    let before = client.now;
    client.until_sent();
    assert!(client.seconds_since(before) <= 66);
}
