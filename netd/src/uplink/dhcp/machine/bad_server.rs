//! The machine against servers and neighbours that do whatever harms most.
//!
//! A model that knows less than the machine keeps account of what was sent and told, and says what
//! must never be. In the end a good server comes, and gives a lease.

use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::uplink::{
    dhcp::{terms::Terms, timing::Times},
    lease,
};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// From a discovery to a lease by a good server, the longest back-off and a conflict's pause before.
const GOOD_SERVER_NEEDS: Duration = Duration::from_secs(5 * 60);

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
    Reply(Answer),
    Arp {
        ours: bool,
        sender: Who,
        target: Who,
    },
}

#[derive(Clone, Debug)]
struct Answer {
    kind: u8,
    server: u8,
    /// Of the address that was asked for, or of another.
    same: bool,
    /// To which of the messages sent, from the last on; to none if there are not so many.
    back: usize,
    lease: Option<u32>,
    t1: Option<u32>,
    t2: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
enum Who {
    Asked,
    Nobody,
    Other,
}

fn step() -> impl Strategy<Value = Step> {
    let who = || prop_oneof![Just(Who::Asked), Just(Who::Nobody), Just(Who::Other)];
    let seconds = || option::of(prop_oneof![0u32..300, Just(u32::MAX), any::<u32>()]);
    let answer = (
        (
            0u8..3,
            prop_oneof![4 => Just(0u8), 1 => 1u8..4],
            prop::bool::weighted(0.9),
        ),
        prop_oneof![8 => Just(0usize), 1 => 1usize..5],
        (seconds(), seconds(), seconds()),
    );
    let answer = answer.prop_map(|((kind, server, same), back, (lease, t1, t2))| Answer {
        kind,
        server,
        same,
        back,
        lease,
        t1,
        t2,
    });
    prop_oneof![
        6 => Just(Step::Due),
        2 => (0u64..3000).prop_map(Step::Pass),
        1 => (1u64..1000).prop_map(Step::Leap),
        1 => (1u64..100).prop_map(Step::Back),
        8 => answer.prop_map(Step::Reply),
        1 => (any::<bool>(), who(), who())
            .prop_map(|(ours, sender, target)| Step::Arp { ours, sender, target }),
    ]
}

/// A lease that was told, as the model knows it.
#[derive(Clone, Debug)]
struct Lease {
    address: Ipv4Addr,
    t1: Moment,
    t2: Moment,
    end: Moment,
}

#[derive(Debug)]
struct Model {
    machine: Machine,
    /// What the clock shows; the machine's own never goes back.
    clock: Moment,
    latest: Moment,
    dice: u64,
    sent: Vec<(Moment, Request, Destination)>,
    lease: Option<Lease>,
    /// A request was sent, and its server has not answered.
    open: bool,
    /// What that server acknowledged, and when it was asked for, as long as nobody objects.
    acknowledged: Option<(Terms, Moment)>,
    probes: usize,
    leases: usize,
}

impl Model {
    fn new() -> Self {
        Self {
            machine: Machine::new(MAC, Moment::default()),
            clock: Moment::default(),
            latest: Moment::default(),
            dice: 0,
            sent: vec![],
            lease: None,
            open: false,
            acknowledged: None,
            probes: 0,
            leases: 0,
        }
    }

    /// The address that it is about now: held, probed, or asked for.
    fn asked(&self) -> Ipv4Addr {
        let held = self.lease.as_ref().map(|lease| lease.address);
        let acknowledged = self.acknowledged.as_ref();
        let probed = acknowledged.map(|(terms, _)| terms.lease.address.addr());
        let mut requests = self.sent.iter().rev();
        let last = requests.find_map(|(_, r, _)| r.requested.or(r.client));
        held.or(probed)
            .or(last)
            .unwrap_or(Ipv4Addr::new(192, 0, 2, 50))
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Due => {
                self.clock = self.clock.max(self.machine.deadline());
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
            Step::Reply(answer) => self.reply(answer),
            Step::Arp {
                ours,
                sender,
                target,
            } => {
                let address = |who: &Who| match who {
                    Who::Asked => self.asked(),
                    Who::Nobody => Ipv4Addr::UNSPECIFIED,
                    Who::Other => Ipv4Addr::new(192, 0, 2, 99),
                };
                let arp = Arp {
                    sender_mac: if *ours { MAC } else { [2, 0, 0, 0, 0, 9] },
                    sender: address(sender),
                    target: address(target),
                };
                let asked = self.asked();
                let probe = arp.sender.is_unspecified() && arp.target == asked;
                self.event_after(Event::Arp(arp), |model| {
                    if !*ours && (arp.sender == asked || probe) {
                        model.acknowledged = None;
                    }
                });
            }
        }
    }

    fn reply(&mut self, answer: &Answer) {
        let of = self.sent.len().checked_sub(answer.back + 1);
        let request = of.map(|of| self.sent[of].clone());
        let address = if answer.same {
            self.asked()
        } else {
            Ipv4Addr::new(192, 0, 2, 60 + answer.server)
        };
        let terms = Terms {
            lease: lease::Lease {
                address: ipnet::Ipv4Net::new_assert(address, 24),
                routers: vec![],
                classless: None,
                dns: vec![],
                mtu: None,
                farm: None,
            },
            times: Times::new(answer.lease, answer.t1, answer.t2),
            oddities: vec![],
        };
        let server = Ipv4Addr::new(192, 0, 2, 1 + answer.server);
        let reply = Reply {
            xid: request
                .as_ref()
                .map_or(0xdead, |(_, request, _)| request.xid),
            server,
            kind: match answer.kind {
                0 => Kind::Offer(terms.clone()),
                1 => Kind::Acknowledge(terms.clone()),
                _ => Kind::Refuse,
            },
        };
        // What the time brings comes before the answer.
        self.event(Event::Time);
        self.know(&reply, terms);
        self.event(Event::Reply(reply));
    }

    /// Whether this answers the last message, and so may become a lease.
    fn know(&mut self, reply: &Reply, terms: Terms) {
        let acknowledges = matches!(reply.kind, Kind::Acknowledge(_));
        let offers = matches!(reply.kind, Kind::Offer(_));
        let Some((at, last, _)) = self.sent.last() else {
            return;
        };
        if last.xid != reply.xid || offers {
            return;
        }
        match &self.lease {
            Some(lease) if acknowledges && last.client == Some(terms.lease.address.addr()) => {
                assert_eq!(last.client, Some(lease.address));
                self.acknowledged = Some((terms, *at));
                self.probes = PROBES.into();
            }
            None if self.open && last.server == Some(reply.server) => {
                self.open = false;
                if acknowledges {
                    // The lease counts from the first of the requests on.
                    let same = |r: &Request| r.xid == reply.xid && r.kind == last.kind;
                    let first = self
                        .sent
                        .iter()
                        .find(|(_, r, _)| same(r))
                        .map(|sent| sent.0);
                    self.acknowledged = first.map(|at| (terms, at));
                    self.probes = 0;
                }
            }
            _ => {}
        }
    }

    fn event(&mut self, event: Event) {
        self.event_after(event, |_| {});
    }

    /// `known` is what the model learns with the event, after the time has brought what was due.
    fn event_after(&mut self, event: Event, known: impl Fn(&mut Self)) {
        self.latest = self.latest.max(self.clock);
        for event in [Event::Time, event] {
            if !matches!(event, Event::Time) {
                known(self);
            }
            self.dice = self
                .dice
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(99991);
            let actions = self.machine.on(self.clock, Dice(self.dice), event);
            for action in actions {
                self.judge(action);
            }
        }
        assert!(
            self.machine.deadline() > self.latest,
            "stuck, or busy: {:?}",
            self.machine
        );
        if let Some(lease) = &self.lease {
            assert!(lease.end > self.latest, "it ended and nobody said so");
        }
        assert_eq!(self.lease.is_some(), self.machine.has_lease());
    }

    fn judge(&mut self, action: Action) {
        let now = self.latest;
        match action {
            Action::Send(request, to) => {
                if let Some((before, ..)) = self.sent.last() {
                    assert!(
                        now.since(*before) >= Duration::from_secs(1),
                        "two in a second"
                    );
                }
                match (&self.lease, to) {
                    (None, Destination::Broadcast) => assert_eq!(request.client, None),
                    (Some(lease), Destination::Unicast { from, .. }) => {
                        assert_eq!(from, lease.address);
                        assert!(lease.t1 <= now && now < lease.t2);
                    }
                    (Some(lease), Destination::BroadcastFrom(from)) => {
                        assert_eq!(from, lease.address);
                        assert!(lease.t2 <= now && now < lease.end);
                    }
                    (lease, to) => panic!("{request:?} {to:?} in {lease:?}"),
                }
                self.open = self.lease.is_none() && request.kind == RequestKind::Request;
                if request.kind == RequestKind::Discover {
                    self.acknowledged = None;
                }
                self.sent.push((now, request, to));
            }
            Action::Probe(_) => self.probes += 1,
            Action::Leased { lease, seconds } => {
                let (terms, asked) = self.acknowledged.take().expect("nobody acknowledged it");
                assert_eq!(terms.lease, lease);
                assert!(self.probes >= PROBES.into(), "it was not probed");
                let end = asked + terms.times.lease();
                let left = u64::from(seconds);
                let exact = end.since(now).as_secs();
                if terms.times.is_endless() {
                    assert_eq!(seconds, FOR_EVER);
                } else {
                    assert!(left == exact || left == exact + 1, "{left} of {exact} s");
                }
                self.leases += 1;
                self.lease = Some(Lease {
                    address: lease.address.addr(),
                    t1: asked + terms.times.t1(),
                    t2: asked + terms.times.t2(),
                    end,
                });
            }
            Action::Lost => {
                assert!(self.lease.take().is_some(), "there was none to lose");
                self.acknowledged = None;
            }
            Action::Watch(_) | Action::Announce(_) | Action::Note(_) => {}
        }
    }

    /// From now on one server answers everything, and nobody else says anything.
    fn good_server_comes(&mut self) {
        self.clock = self.latest;
        let until = self.latest + GOOD_SERVER_NEEDS;
        while self.latest < until && !self.machine.has_lease() {
            let seen = self.sent.len();
            self.step(&Step::Due);
            if self.sent.len() > seen {
                let kind = match self.sent.last().map(|(_, r, _)| r.kind) {
                    Some(RequestKind::Discover) => 0,
                    Some(RequestKind::Request) => 1,
                    _ => continue,
                };
                // The server that is asked, and any for a discovery.
                let server = self.sent.last().and_then(|(_, r, _)| r.server);
                let server = server.map_or(0, |server| server.octets()[3] - 1);
                self.step(&Step::Reply(Answer {
                    kind,
                    server,
                    same: true,
                    back: 0,
                    lease: Some(3600),
                    t1: None,
                    t2: None,
                }));
            }
        }
        assert!(
            self.machine.has_lease(),
            "no lease in {GOOD_SERVER_NEEDS:?}: {:?}",
            self.machine
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_servers_say_the_client_keeps_its_word_and_its_peace(steps in vec(step(), 0..100)) {
        let mut model = Model::new();
        model.event(Event::Time);
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
    let (mut leases, mut renewals, mut lost) = (0, 0, 0);
    for _ in 0..60 {
        let steps = vec(step(), 120).new_tree(&mut runner).unwrap().current();
        let mut model = Model::new();
        model.event(Event::Time);
        for step in &steps {
            let before = (model.lease.is_some(), model.leases);
            model.step(step);
            leases += usize::from(!before.0 && model.leases > before.1);
            renewals += usize::from(before.0 && model.leases > before.1);
            lost += usize::from(before.0 && model.lease.is_none());
        }
    }
    assert!(
        leases > 30 && renewals > 5 && lost > 30,
        "{leases} {renewals} {lost}"
    );
}
