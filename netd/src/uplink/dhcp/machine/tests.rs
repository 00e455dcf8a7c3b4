//! What RFC 2131 and RFC 5227 say, one by one.

use super::*;
use crate::uplink::{
    dhcp::{terms::Terms, timing::Times},
    lease::{Lease, Route},
};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 50);

/// Of an hour.
fn terms(address: Ipv4Addr) -> Terms {
    Terms {
        lease: Lease {
            address: ipnet::Ipv4Net::new_assert(address, 24),
            routers: vec![SERVER],
            classless: None,
            dns: vec![],
            mtu: None,
            farm: None,
        },
        times: Times::new(Some(3600), None, None),
        oddities: vec![],
    }
}

/// A client, and what it did when.
struct Bench {
    machine: Machine,
    now: Moment,
    done: Vec<(Duration, Action)>,
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self {
            machine: Machine::new(MAC, Moment::default()),
            now: Moment::default(),
            done: vec![],
        };
        bench.on(Event::Time);
        bench
    }

    /// In a lease of an hour by [`SERVER`].
    fn leased() -> Self {
        let mut bench = Self::new();
        bench.reply(SERVER, Kind::Offer(terms(ADDRESS)));
        bench.due();
        bench.reply(SERVER, Kind::Acknowledge(terms(ADDRESS)));
        while !bench.machine.has_lease() {
            bench.due();
        }
        bench
    }

    fn on(&mut self, event: Event) {
        // Without jitter; each transaction has another number.
        let dice = Dice((1000 << 32) | (0x1000 + self.done.len() as u64));
        for action in self.machine.on(self.now, dice, event) {
            self.done.push((self.now.0, action));
        }
        assert!(self.machine.deadline() > self.now, "{:?}", self.machine);
    }

    /// Lets the time pass to what is due next.
    fn due(&mut self) {
        self.now = self.machine.deadline();
        self.on(Event::Time);
    }

    fn after(&mut self, span: Duration) {
        self.now = self.now + span;
        self.on(Event::Time);
    }

    /// To the last message.
    fn reply(&mut self, server: Ipv4Addr, kind: Kind) {
        let (_, request, _) = self.sent().pop().unwrap();
        self.on(Event::Reply(Reply {
            xid: request.xid,
            server,
            kind,
        }));
    }

    fn arp(&mut self, sender_mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) {
        self.on(Event::Arp(Arp {
            sender_mac,
            sender,
            target,
        }));
    }

    fn sent(&self) -> Vec<(Duration, Request, Destination)> {
        let sent = self.done.iter().filter_map(|(at, action)| match action {
            Action::Send(request, to) => Some((*at, request.clone(), *to)),
            _ => None,
        });
        sent.collect()
    }

    /// Kinds of what was sent, and the second of each.
    fn messages(&self) -> Vec<(RequestKind, u64)> {
        let sent = self.sent();
        sent.iter()
            .map(|(at, r, _)| (r.kind, at.as_secs()))
            .collect()
    }

    fn count(&self, wanted: &Action) -> usize {
        self.done
            .iter()
            .filter(|(_, action)| action == wanted)
            .count()
    }

    fn leases(&self) -> Vec<(Lease, u32)> {
        let leases = self.done.iter().filter_map(|(_, action)| match action {
            Action::Leased { lease, seconds } => Some((lease.clone(), *seconds)),
            _ => None,
        });
        leases.collect()
    }

    fn last(&self) -> &Action {
        &self.done.last().unwrap().1
    }
}

use RequestKind::{Decline, Discover, Request as Ask};

#[test]
fn a_lease_is_told_once_it_is_acknowledged_and_nobody_has_the_address() {
    let mut bench = Bench::leased();
    assert_eq!(bench.messages(), [(Discover, 0), (Ask, 1)]);
    let (_, request, to) = bench.sent().pop().unwrap();
    assert_eq!(
        (request.requested, request.server),
        (Some(ADDRESS), Some(SERVER))
    );
    assert_eq!((request.client, to), (None, Destination::Broadcast));
    assert_eq!(bench.count(&Action::Probe(ADDRESS)), 3);
    // The lease counts from the request on: 0.9 s of probing are gone.
    assert_eq!(bench.leases(), [(terms(ADDRESS).lease, 3600)]);
    assert_eq!(bench.now.0, Duration::from_millis(1900));
    bench.due();
    assert_eq!(bench.count(&Action::Announce(ADDRESS)), 2);
}

#[test]
fn offers_that_nobody_makes_are_asked_for_ever_more_seldom() {
    let mut bench = Bench::new();
    for _ in 0..7 {
        bench.due();
    }
    let seconds: Vec<_> = bench.messages().iter().map(|(_, at)| *at).collect();
    assert_eq!(seconds, [0, 2, 6, 14, 30, 62, 126, 190]);
    // An answer to an earlier one counts.
    bench.reply(SERVER, Kind::Offer(terms(ADDRESS)));
    bench.due();
    assert_eq!(bench.messages().last(), Some(&(Ask, 191)));
}

/// RFC 2131, 4.4.1.
#[test]
fn a_request_says_of_the_time_what_its_discovery_said() {
    let mut bench = Bench::new();
    let waited = |bench: &Bench| bench.sent().pop().unwrap().1.waited;
    assert_eq!(waited(&bench), Duration::ZERO);
    bench.due();
    let said = waited(&bench);
    assert!(said > Duration::ZERO);
    bench.after(Duration::from_millis(1500));
    bench.reply(SERVER, Kind::Offer(terms(ADDRESS)));
    bench.due();
    for _ in 0..2 {
        assert_eq!(bench.sent().pop().unwrap().1.kind, Ask);
        assert_eq!(waited(&bench), said);
        bench.due();
    }
}

#[test]
fn a_refusal_counts_from_the_chosen_server_alone() {
    let mut bench = Bench::new();
    bench.reply(SERVER, Kind::Offer(terms(ADDRESS)));
    bench.due();
    bench.reply(OTHER, Kind::Refuse);
    bench.reply(OTHER, Kind::Acknowledge(terms(ADDRESS)));
    assert!(matches!(bench.machine.state, State::Requesting { .. }));
    bench.reply(SERVER, Kind::Refuse);
    assert_eq!(
        *bench.last(),
        Action::Note(Note::Refused { server: SERVER })
    );
    bench.due();
    assert_eq!(bench.messages(), [(Discover, 0), (Ask, 1), (Discover, 2)]);
}

#[test]
fn a_server_that_always_refuses_hears_of_us_ever_more_seldom() {
    let mut bench = Bench::new();
    while bench.messages().len() < 15 {
        match bench.messages().last() {
            Some((Discover, _)) => bench.reply(SERVER, Kind::Offer(terms(ADDRESS))),
            _ => bench.reply(SERVER, Kind::Refuse),
        }
        bench.due();
    }
    let discoveries = bench
        .messages()
        .into_iter()
        .filter(|(kind, _)| *kind == Discover);
    let seconds: Vec<_> = discoveries.map(|(_, at)| at).collect();
    assert_eq!(seconds, [0, 2, 6, 14, 30, 62, 126, 190]);
}

#[test]
fn a_server_that_offers_and_vanishes_gives_way_to_another() {
    let mut bench = Bench::new();
    bench.reply(SERVER, Kind::Offer(terms(ADDRESS)));
    for _ in 0..4 {
        bench.due();
    }
    assert_eq!(
        bench.messages(),
        [(Discover, 0), (Ask, 1), (Ask, 3), (Ask, 7), (Discover, 15)]
    );
    // The one that failed is faster, and is passed over.
    bench.reply(SERVER, Kind::Offer(terms(ADDRESS)));
    bench.reply(OTHER, Kind::Offer(terms(ADDRESS)));
    bench.due();
    let (_, request, _) = bench.sent().pop().unwrap();
    assert_eq!((request.kind, request.server), (Ask, Some(OTHER)));
}

#[test]
fn an_offer_that_leads_out_is_better_than_one_that_does_not() {
    let mut bench = Bench::new();
    let mut inner = terms(ADDRESS);
    inner.lease.routers.clear();
    bench.reply(OTHER, Kind::Offer(inner));
    let mut outer = terms(ADDRESS);
    outer.lease.classless = Some(vec![Route::default_by(SERVER)]);
    bench.reply(SERVER, Kind::Offer(outer));
    bench.due();
    assert_eq!(bench.sent()[1].1.server, Some(SERVER));
}

#[test]
fn an_address_in_use_is_declined_and_another_asked_for_ten_seconds_later() {
    // By a reply, or by another host's own probe.
    for (sender, target) in [(ADDRESS, SERVER), (Ipv4Addr::UNSPECIFIED, ADDRESS)] {
        let mut bench = Bench::new();
        bench.reply(SERVER, Kind::Offer(terms(ADDRESS)));
        bench.due();
        bench.reply(SERVER, Kind::Acknowledge(terms(ADDRESS)));
        // Our own frames, and what others say of others, are no conflict.
        bench.arp(MAC, ADDRESS, ADDRESS);
        bench.arp(OTHER_MAC, OTHER, ADDRESS);
        bench.arp(OTHER_MAC, Ipv4Addr::UNSPECIFIED, OTHER);
        assert!(matches!(bench.machine.state, State::Probing { .. }));
        bench.arp(OTHER_MAC, sender, target);
        bench.due();
        let (_, decline, to) = bench.sent().pop().unwrap();
        assert_eq!(
            (decline.requested, decline.server),
            (Some(ADDRESS), Some(SERVER))
        );
        assert_eq!((decline.client, to), (None, Destination::Broadcast));
        bench.due();
        assert_eq!(
            bench.messages(),
            [(Discover, 0), (Ask, 1), (Decline, 2), (Discover, 12)]
        );
        assert!(bench.leases().is_empty());
    }
}

#[test]
fn after_ten_conflicts_a_minute_passes_between_two() {
    let mut bench = Bench::new();
    bench.machine.conflicts = Conflicts(9);
    bench.reply(SERVER, Kind::Offer(terms(ADDRESS)));
    bench.due();
    bench.reply(SERVER, Kind::Acknowledge(terms(ADDRESS)));
    bench.arp(OTHER_MAC, ADDRESS, ADDRESS);
    bench.due();
    bench.due();
    assert_eq!(bench.messages()[2..], [(Decline, 2), (Discover, 62)]);
}

#[test]
fn a_lease_is_renewed_at_half_of_it_by_its_own_server() {
    let mut bench = Bench::leased();
    bench.due();
    bench.due();
    let (at, request, to) = bench.sent().pop().unwrap();
    // An hour from the request at 1 s on.
    assert_eq!((request.kind, at.as_secs()), (Ask, 1801));
    let unicast = Destination::Unicast {
        from: ADDRESS,
        to: SERVER,
    };
    assert_eq!(to, unicast);
    assert_eq!(request.client, Some(ADDRESS));
    assert_eq!((request.requested, request.server), (None, None));
    // Neither another server nor another address counts.
    bench.reply(OTHER, Kind::Refuse);
    bench.reply(OTHER, Kind::Acknowledge(terms(ADDRESS)));
    bench.reply(SERVER, Kind::Acknowledge(terms(OTHER)));
    assert_eq!(bench.leases().len(), 1);
    bench.reply(SERVER, Kind::Acknowledge(terms(ADDRESS)));
    assert_eq!(bench.leases().len(), 2);
    assert_eq!(bench.leases()[1].1, 3600);
    assert_eq!(bench.count(&Action::Probe(ADDRESS)), 3, "no further probe");
}

#[test]
fn a_lease_that_its_server_does_not_renew_is_asked_of_all_and_then_ends() {
    let mut bench = Bench::leased();
    while bench.machine.has_lease() {
        bench.due();
    }
    assert_eq!(bench.now.0.as_secs(), 3601);
    assert_eq!(
        *bench.last(),
        Action::Send(bench.sent().pop().unwrap().1, Destination::Broadcast)
    );
    assert_eq!(bench.count(&Action::Lost), 1);
    let all = Destination::BroadcastFrom(ADDRESS);
    let rebinding: Vec<_> = bench
        .sent()
        .into_iter()
        .filter(|sent| sent.2 == all)
        .collect();
    assert_eq!(rebinding[0].0.as_secs(), 3151);
    let renewing = bench.sent().len() - rebinding.len() - 3;
    assert!(
        renewing < 8 && rebinding.len() < 8,
        "{:?}",
        bench.messages()
    );
}

#[test]
fn whoever_is_asked_may_answer() {
    let mut bench = Bench::leased();
    while !matches!(bench.machine.state, State::Rebinding { .. }) {
        bench.due();
    }
    bench.reply(OTHER, Kind::Acknowledge(terms(ADDRESS)));
    assert_eq!(bench.leases().len(), 2);
    // From now on it is the one that renews.
    while bench.sent().len() < 2 || !matches!(bench.machine.state, State::Renewing { .. }) {
        bench.due();
    }
    let to = bench.sent().pop().unwrap().2;
    assert!(
        matches!(to, Destination::Unicast { to: OTHER, .. }),
        "{to:?}"
    );
    while !matches!(bench.machine.state, State::Rebinding { .. }) {
        bench.due();
    }
    bench.reply(SERVER, Kind::Refuse);
    assert_eq!(bench.count(&Action::Lost), 1);
}

#[test]
fn a_lease_that_is_refused_is_lost_at_once_and_looked_for_anew() {
    let mut bench = Bench::leased();
    while !matches!(bench.machine.state, State::Renewing { .. }) {
        bench.due();
    }
    bench.reply(SERVER, Kind::Refuse);
    assert_eq!(bench.count(&Action::Lost), 1);
    assert_eq!(bench.count(&Action::Watch(None)), 1);
    bench.due();
    assert_eq!(bench.messages().last(), Some(&(Discover, 1802)));
    bench.due();
    assert_eq!(
        bench.messages().last(),
        Some(&(Discover, 1804)),
        "from the start"
    );
}

#[test]
fn an_address_that_another_takes_is_defended_and_not_too_often() {
    let mut bench = Bench::leased();
    bench.after(Duration::from_secs(60));
    let before = bench.count(&Action::Announce(ADDRESS));
    bench.arp(MAC, ADDRESS, SERVER);
    bench.arp(OTHER_MAC, Ipv4Addr::UNSPECIFIED, ADDRESS);
    assert_eq!(bench.count(&Action::Announce(ADDRESS)), before);
    for _ in 0..5 {
        bench.arp(OTHER_MAC, ADDRESS, ADDRESS);
    }
    assert_eq!(bench.count(&Action::Announce(ADDRESS)), before + 1);
    bench.after(Duration::from_secs(10));
    bench.arp(OTHER_MAC, ADDRESS, ADDRESS);
    assert_eq!(bench.count(&Action::Announce(ADDRESS)), before + 2);
    assert!(bench.machine.has_lease());
}

#[test]
fn a_time_that_leaps_ends_a_lease_once() {
    let mut bench = Bench::leased();
    bench.after(Duration::from_secs(1 << 30));
    assert_eq!(bench.count(&Action::Lost), 1);
    assert!(!bench.machine.has_lease());
    // What was said in the meantime is too late.
    bench.reply(SERVER, Kind::Acknowledge(terms(ADDRESS)));
    assert_eq!(bench.leases().len(), 1);
}

#[test]
fn a_lease_for_ever_is_told_as_one() {
    let mut bench = Bench::new();
    let mut endless = terms(ADDRESS);
    endless.times = Times::new(Some(FOR_EVER), None, None);
    bench.reply(SERVER, Kind::Offer(endless.clone()));
    bench.due();
    bench.reply(SERVER, Kind::Acknowledge(endless));
    bench.after(Duration::from_secs(1));
    while bench.leases().is_empty() {
        bench.due();
    }
    assert_eq!(bench.leases()[0].1, FOR_EVER);
}

#[test]
fn what_is_strange_is_told_once_and_again_when_it_changes() {
    let odd = |oddities: &[Oddity]| {
        Kind::Acknowledge(Terms {
            oddities: oddities.to_vec(),
            ..terms(ADDRESS)
        })
    };
    let mut bench = Bench::new();
    bench.reply(SERVER, Kind::Offer(terms(ADDRESS)));
    bench.due();
    bench.reply(SERVER, odd(&[Oddity::MalformedRoutes]));
    let told = |bench: &Bench, what| {
        bench.count(&Action::Note(Note::Odd {
            server: SERVER,
            what,
        }))
    };
    assert_eq!(told(&bench, Oddity::MalformedRoutes), 0);
    for _ in 0..2 {
        while !matches!(bench.machine.state, State::Renewing { .. }) {
            bench.due();
        }
        bench.reply(SERVER, odd(&[Oddity::MalformedRoutes]));
    }
    assert_eq!(told(&bench, Oddity::MalformedRoutes), 1);
    while !matches!(bench.machine.state, State::Renewing { .. }) {
        bench.due();
    }
    bench.reply(SERVER, odd(&[Oddity::ManyRoutes]));
    assert_eq!(told(&bench, Oddity::ManyRoutes), 1);
}

#[test]
fn a_client_that_follows_another_on_its_link_waits_for_its_turn() {
    let quiet = Moment(Duration::from_millis(700));
    let machine = Machine::new(MAC, quiet);
    assert_eq!(machine.deadline(), quiet);
}
