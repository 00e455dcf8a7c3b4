//! The machine against servers, routers and neighbours that do whatever harms most.
//!
//! A model that knows less than the machine keeps account of what was sent and given, and says what
//! must never be. In the end a good server comes, and gives a lease.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::uplink::dhcpv6::message::{Given, Ia, Kind, Reply};

#[derive(Clone, Debug)]
enum Step {
    /// To the machine's deadline.
    Due,
    /// Some milliseconds.
    Pass(u64),
    /// Hours.
    Leap(u64),
    /// A clock that goes back by seconds.
    Back(u64),
    Want(Want),
    Reply(Answer),
    Duplicate(u16),
}

#[derive(Clone, Debug)]
struct Answer {
    kind: Kind,
    server: u8,
    /// To which of the messages sent, from the last on.
    back: usize,
    status: u16,
    ia_status: u16,
    has_ia: bool,
    marks: (u32, u32),
    addresses: Vec<(u16, u32, u32)>,
    longest: Option<u64>,
}

fn step() -> impl Strategy<Value = Step> {
    let seconds = || prop_oneof![4 => 0u32..300, 1 => Just(u32::MAX), 1 => any::<u32>()];
    let status = || prop_oneof![6 => Just(0u16), 1 => 1u16..8];
    let address = (0u16..4, seconds(), seconds());
    let answer = (
        (
            prop_oneof![Just(Kind::Advertise), Just(Kind::Reply)],
            prop_oneof![4 => Just(0u8), 1 => 1u8..4],
            prop_oneof![8 => Just(0usize), 1 => 1usize..5],
        ),
        (status(), status(), prop::bool::weighted(0.9)),
        (seconds(), seconds()),
        vec(address, 0..4),
        prop::option::weighted(0.1, 60u64..3600),
    );
    let answer = answer.prop_map(
        |((kind, server, back), (status, ia_status, has_ia), marks, addresses, longest)| Answer {
            kind,
            server,
            back,
            status,
            ia_status,
            has_ia,
            marks,
            addresses,
            longest,
        },
    );
    let want = prop_oneof![
        4 => Just(Want::Addresses),
        1 => Just(Want::Settings),
        1 => Just(Want::Nothing),
    ];
    prop_oneof![
        6 => Just(Step::Due),
        2 => (0u64..3000).prop_map(Step::Pass),
        1 => (1u64..1000).prop_map(Step::Leap),
        1 => (1u64..100).prop_map(Step::Back),
        1 => want.prop_map(Step::Want),
        10 => answer.prop_map(Step::Reply),
        1 => (0u16..4).prop_map(Step::Duplicate),
    ]
}

fn address(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, number)
}

#[derive(Debug)]
struct Model {
    machine: Machine,
    clock: Moment,
    latest: Moment,
    dice: u64,
    sent: Vec<(Moment, Request)>,
    /// Until when each address was given at most, by whoever was asked.
    given: BTreeMap<Ipv6Addr, Moment>,
    notes: usize,
    leases: usize,
}

impl Model {
    fn new() -> Self {
        let mut model = Self {
            machine: Machine::new(Moment::default()),
            clock: Moment::default(),
            latest: Moment::default(),
            dice: 0,
            sent: vec![],
            given: BTreeMap::new(),
            notes: 0,
            leases: 0,
        };
        model.event(Event::Want(Want::Addresses));
        model
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Due => {
                // Never is far away.
                let never = self.latest + Duration::from_secs(1 << 36);
                self.clock = self.clock.max(self.machine.deadline().min(never));
                self.event(Event::Time);
            }
            Step::Pass(milliseconds) => {
                self.clock = self.clock + Duration::from_millis(*milliseconds);
                self.event(Event::Time);
            }
            Step::Leap(hours) => {
                self.clock = self.clock + Duration::from_secs(hours * 3600);
                self.event(Event::Time);
            }
            Step::Back(seconds) => {
                self.clock = Moment(self.clock.0.saturating_sub(Duration::from_secs(*seconds)));
                self.event(Event::Time);
            }
            Step::Want(want) => self.event(Event::Want(*want)),
            Step::Reply(answer) => self.reply(answer),
            Step::Duplicate(number) => {
                self.event(Event::Time);
                self.event(Event::Duplicate(address(*number)));
                let held = self.machine.addresses();
                assert!(held.iter().all(|held| held.address != address(*number)));
            }
        }
    }

    fn reply(&mut self, answer: &Answer) {
        self.event(Event::Time);
        let of = self.sent.len().checked_sub(answer.back + 1);
        let request = of.map(|of| self.sent[of].1.clone());
        let given = |(number, preferred, valid): &(u16, u32, u32)| Given {
            address: address(*number),
            preferred: *preferred,
            valid: *valid,
        };
        let ia = answer.has_ia.then(|| Ia {
            status: answer.ia_status.into(),
            t1: answer.marks.0,
            t2: answer.marks.1,
            addresses: answer.addresses.iter().map(given).collect(),
        });
        let server = ServerId::numbered(answer.server);
        let asked = |request: &Request| request.server.as_ref().is_none_or(|of| *of == server);
        if let Some(ia) = &ia
            && answer.kind == Kind::Reply
            && request.as_ref().is_some_and(asked)
        {
            for given in &ia.addresses {
                let end = match given.valid {
                    u32::MAX => Moment::NEVER,
                    valid => self.latest + Duration::from_secs(valid.max(10).into()),
                };
                let known = self.given.entry(given.address).or_default();
                *known = end.max(*known);
            }
        }
        self.event(Event::Reply(Reply {
            kind: answer.kind,
            xid: request.map_or(0xdead, |request| request.xid),
            server,
            preference: answer.server,
            status: answer.status.into(),
            ia,
            name_servers: vec![],
            solicit_longest: answer.longest.map(Duration::from_secs),
            inform_longest: None,
            refresh: None,
        }));
    }

    fn event(&mut self, event: Event) {
        self.latest = self.latest.max(self.clock);
        self.dice = self
            .dice
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(99991);
        let had = !self.machine.addresses().is_empty();
        for action in self.machine.on(self.clock, Dice(self.dice), event) {
            match action {
                Action::Note(_) => self.notes += 1,
                Action::Send(request) => self.judge(request),
            }
        }
        self.leases += usize::from(!had && !self.machine.addresses().is_empty());
        let deadline = self.machine.deadline();
        assert!(deadline > self.latest, "stuck, or busy: {:?}", self.machine);
        let held = self.machine.addresses();
        for held in held {
            let given = self.given.get(&held.address).copied();
            assert!(Some(held.valid_until) <= given, "{held:?} of {given:?}");
            assert!(held.preferred_until <= held.valid_until);
        }
        let lasts = held.iter().any(|held| held.valid_until > self.latest);
        assert!(held.is_empty() || lasts, "it ended and nobody said so");
        // One for each message, and for each lease or end of one.
        let most = self.sent.len() * 3 + self.leases * 2 + 2;
        assert!(self.notes <= most, "{} notes", self.notes);
    }

    fn judge(&mut self, request: Request) {
        if let Some((before, _)) = self.sent.last() {
            let pause = self.latest.since(*before);
            assert!(pause >= Duration::from_secs(1), "two in a second");
        }
        let held = self.machine.addresses();
        match request.kind {
            RequestKind::Renew | RequestKind::Rebind => assert!(!held.is_empty()),
            RequestKind::Solicit | RequestKind::Inform => assert_eq!(request.server, None),
            RequestKind::Request | RequestKind::Decline => assert!(request.server.is_some()),
        }
        assert!(request.xid < 1 << 24);
        self.sent.push((self.latest, request));
    }

    /// From now on one server answers everything, and nobody else says anything.
    fn good_server_comes(&mut self) {
        self.clock = self.latest;
        self.event(Event::Want(Want::Addresses));
        // The longest pause between two solicitations, and all before it.
        let until = self.latest + Duration::from_secs(2 * 3600 + 600);
        while self.latest < until && self.machine.addresses().is_empty() {
            let seen = self.sent.len();
            self.step(&Step::Due);
            if self.sent.len() > seen {
                let kind = match self.sent.last().map(|(_, request)| request.kind) {
                    Some(RequestKind::Solicit) => Kind::Advertise,
                    _ => Kind::Reply,
                };
                let servers = 0..4;
                for server in servers {
                    self.step(&Step::Reply(Answer {
                        kind,
                        server,
                        back: 0,
                        status: 0,
                        ia_status: 0,
                        has_ia: true,
                        marks: (0, 0),
                        addresses: vec![(7, 3600, 7200)],
                        longest: None,
                    }));
                }
            }
        }
        assert!(
            !self.machine.addresses().is_empty(),
            "no lease: {:?}",
            self.machine
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_servers_say_the_client_keeps_its_word_and_its_peace(steps in vec(step(), 0..100)) {
        let mut model = Model::new();
        for step in &steps {
            model.step(step);
        }
        model.good_server_comes();
    }
}

/// The model would be worth nothing if what it draws never got to a lease.
#[test]
fn the_bad_server_gets_far_enough_to_do_harm() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let (mut leases, mut kinds) = (0, BTreeMap::new());
    for _ in 0..100 {
        let steps = vec(step(), 120).new_tree(&mut runner).unwrap().current();
        let mut model = Model::new();
        for step in &steps {
            model.step(step);
        }
        leases += model.leases;
        for (_, request) in &model.sent {
            *kinds.entry(format!("{:?}", request.kind)).or_insert(0) += 1;
        }
    }
    assert!(leases > 50 && kinds.len() == 6, "{leases} {kinds:?}");
}
