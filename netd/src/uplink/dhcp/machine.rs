//! The states of a DHCP client (RFC 2131 4.4) with the probing of RFC 5227: pure.
//!
//! An event and the time go in, actions come out; between events nothing happens before the
//! [deadline](Machine::deadline). There is no socket, no clock and no source of chance in here, so
//! that a model of a bad server can be asked for the worst (`bad_server.rs`).
//!
//! A node has no INIT-REBOOT: its lease is in `/run` and goes with the power, and a netd that starts
//! anew while the address is there asks from the beginning, behind it.

use std::{net::Ipv4Addr, time::Duration};

use super::{
    event::{Action, Arp, Destination, Event, Note},
    message::{Kind, Reply, Request, RequestKind},
    state::{Asking, Exchange, Held, Offer, State, renewal},
    terms::Oddity,
    timing::{Backoff, FOR_EVER, LAST_RETRY},
};
use crate::uplink::{
    misgivings::{Conflicts, Distrusted},
    moment::{Dice, Moment},
};

/// Between two messages, whatever a server says. It is also how long offers are collected (RFC 2131
/// 4.4.1), so that the fastest server is not the one that wins.
pub const PAUSE: Duration = Duration::from_secs(1);
/// How often an offer is asked for that is not acknowledged. RFC 2131 4.4.1 has five times in a
/// minute as an example; after three, some 14 s, another server's offer is the better hope.
const REQUESTS: u8 = 3;

/// RFC 5227 1.1: `PROBE_NUM`.
const PROBES: u8 = 3;
/// Between two probes, and after the last. RFC 5227 has one to two seconds, for whatever calls
/// itself Ethernet, by which each boot would take six seconds longer. A host on a wired LAN
/// answers within milliseconds; NetworkManager waits for 0.2 s in all.
const PROBE_PAUSE: Duration = Duration::from_millis(300);
/// RFC 5227 1.1: `ANNOUNCE_NUM` and `ANNOUNCE_INTERVAL`.
const ANNOUNCEMENTS: u8 = 2;
const ANNOUNCE_PAUSE: Duration = Duration::from_secs(2);
/// RFC 5227 1.1: `DEFEND_INTERVAL`.
const DEFEND_PAUSE: Duration = Duration::from_secs(10);

/// The client of one link.
#[derive(Debug)]
pub struct Machine {
    mac: [u8; 6],
    /// The latest that was told; time does not go back.
    now: Moment,
    /// No message is sent before.
    quiet_until: Moment,
    /// No discovery begins before.
    discover_at: Moment,
    backoff: Backoff,
    conflicts: Conflicts,
    distrusted: Distrusted<Ipv4Addr>,
    /// The address is not defended before.
    defend_at: Moment,
    state: State,
}

impl Machine {
    /// `quiet_until` keeps what was sent on this link before from being followed too soon.
    pub fn new(mac: [u8; 6], quiet_until: Moment) -> Self {
        Self {
            mac,
            now: Moment::default(),
            quiet_until,
            discover_at: Moment::default(),
            backoff: Backoff::default(),
            conflicts: Conflicts::default(),
            distrusted: Distrusted::default(),
            defend_at: Moment::default(),
            state: State::Init,
        }
    }

    /// Takes notice of an event at `now`, and of the time that has passed.
    pub fn on(&mut self, now: Moment, dice: Dice, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.now = self.now.max(now);
        // What has ended by now does not see the event.
        while self.advance(dice, &mut actions) {}
        match event {
            Event::Time => {}
            Event::Reply(reply) => self.receive(reply, &mut actions),
            Event::Arp(arp) => self.hear(arp, &mut actions),
        }
        while self.advance(dice, &mut actions) {}
        actions
    }

    /// When to say [`Event::Time`] next. There is always such a moment.
    pub fn deadline(&self) -> Moment {
        let sending = |at: Moment| at.max(self.quiet_until);
        match &self.state {
            State::Init => sending(self.discover_at),
            State::Selecting { offer: Some(_), .. } => self.quiet_until,
            State::Selecting { offer: None, .. } => sending(self.discover_at),
            State::Requesting { next, .. } => sending(*next),
            State::Probing { held, next, .. } => (*next).min(held.end()),
            State::Declining { .. } => self.quiet_until,
            State::Bound {
                held,
                announced,
                next,
            } if *announced < ANNOUNCEMENTS => (*next).min(held.t1()),
            State::Bound { held, .. } => held.t1(),
            State::Renewing { held, asking } => sending(asking.next).min(held.t2()),
            State::Rebinding { held, asking } => sending(asking.next).min(held.end()),
        }
    }

    /// Whether a lease was told that was not told lost.
    #[cfg(test)]
    fn has_lease(&self) -> bool {
        matches!(
            self.state,
            State::Bound { .. } | State::Renewing { .. } | State::Rebinding { .. }
        )
    }

    /// Does what is due, and says whether there may be more: each step goes to another state, or sets
    /// its next moment after now.
    fn advance(&mut self, dice: Dice, actions: &mut Vec<Action>) -> bool {
        let now = self.now;
        let may_send = now >= self.quiet_until;
        match &mut self.state {
            State::Init if may_send && now >= self.discover_at => {
                let exchange = Exchange {
                    xid: dice.xid(),
                    began: now,
                    waited: Duration::ZERO,
                };
                self.discover(exchange, dice, actions);
            }
            State::Selecting {
                exchange,
                offer: Some(offer),
            } if may_send => {
                let (exchange, offer) = (*exchange, offer.clone());
                self.state = State::Requesting {
                    exchange,
                    offer,
                    asked: now,
                    sent: 0,
                    backoff: Backoff::default(),
                    next: now,
                };
            }
            State::Selecting {
                exchange,
                offer: None,
            } if may_send && now >= self.discover_at => {
                let exchange = *exchange;
                self.discover(exchange, dice, actions);
            }
            State::Requesting {
                offer, sent, next, ..
            } if *sent == REQUESTS && now >= *next => {
                let server = offer.server;
                actions.push(Action::Note(Note::Unacknowledged { server }));
                self.distrusted.add(server);
                self.state = State::Init;
            }
            State::Requesting {
                exchange,
                offer,
                sent,
                backoff,
                next,
                ..
            } if may_send && now >= *next => {
                *sent += 1;
                *next = now + backoff.next(dice);
                let request = Request {
                    kind: RequestKind::Request,
                    xid: exchange.xid,
                    waited: exchange.waited,
                    client: None,
                    requested: Some(offer.address),
                    server: Some(offer.server),
                };
                self.send(request, Destination::Broadcast, actions);
            }
            State::Probing { held, .. } if now >= held.end() => {
                let server = held.server;
                actions.push(Action::Watch(None));
                self.distrusted.add(server);
                self.state = State::Init;
            }
            State::Probing { held, sent, next } if now >= *next => {
                if *sent < PROBES {
                    *sent += 1;
                    *next = now + PROBE_PAUSE;
                    actions.push(Action::Probe(held.address()));
                } else {
                    let held = held.clone();
                    let odd = &held.terms.oddities;
                    notes(held.server, odd, actions);
                    self.bind(held, 0, actions);
                }
            }
            State::Declining {
                xid,
                server,
                address,
            } if may_send => {
                let request = Request {
                    kind: RequestKind::Decline,
                    xid: *xid,
                    waited: Duration::ZERO,
                    client: None,
                    requested: Some(*address),
                    server: Some(*server),
                };
                self.send(request, Destination::Broadcast, actions);
                self.discover_at = self.discover_at.max(now + self.conflicts.pause());
                self.state = State::Init;
            }
            State::Bound { held, .. }
            | State::Renewing { held, .. }
            | State::Rebinding { held, .. }
                if now >= held.end() =>
            {
                let address = held.address();
                actions.push(Action::Note(Note::Ended { address }));
                self.lose(actions);
            }
            State::Bound { held, .. } if now >= held.t1() => {
                let (held, asking) = (held.clone(), Asking::begin(now));
                self.state = State::Renewing { held, asking };
            }
            State::Bound {
                held,
                announced,
                next,
            } if *announced < ANNOUNCEMENTS && now >= *next => {
                *announced += 1;
                *next = now + ANNOUNCE_PAUSE;
                actions.push(Action::Announce(held.address()));
            }
            State::Renewing { held, .. } if now >= held.t2() => {
                let (held, asking) = (held.clone(), Asking::begin(now));
                self.state = State::Rebinding { held, asking };
            }
            State::Renewing { held, asking } if may_send && now >= asking.next => {
                let (from, to) = (held.address(), held.server);
                let request = renewal(held, asking, held.t2(), now, dice);
                self.send(request, Destination::Unicast { from, to }, actions);
            }
            State::Rebinding { held, asking } if may_send && now >= asking.next => {
                let from = held.address();
                let request = renewal(held, asking, held.end(), now, dice);
                self.send(request, Destination::BroadcastFrom(from), actions);
            }
            _ => return false,
        }
        true
    }

    fn discover(&mut self, exchange: Exchange, dice: Dice, actions: &mut Vec<Action>) {
        let exchange = Exchange {
            waited: self.now.since(exchange.began),
            ..exchange
        };
        let request = Request {
            kind: RequestKind::Discover,
            // The same each time, so that a slow server's answer counts (some ping the address first).
            xid: exchange.xid,
            waited: exchange.waited,
            client: None,
            requested: None,
            server: None,
        };
        self.discover_at = self.now + self.backoff.next(dice);
        self.send(request, Destination::Broadcast, actions);
        self.state = State::Selecting {
            exchange,
            offer: None,
        };
    }

    fn send(&mut self, request: Request, to: Destination, actions: &mut Vec<Action>) {
        self.quiet_until = self.now + PAUSE;
        actions.push(Action::Send(request, to));
    }

    fn receive(&mut self, reply: Reply, actions: &mut Vec<Action>) {
        let Reply { xid, server, kind } = reply;
        match (&mut self.state, kind) {
            (State::Selecting { exchange, offer }, Kind::Offer(terms)) if exchange.xid == xid => {
                let new = Offer {
                    server,
                    address: terms.lease.address.addr(),
                    leads_out: terms.lease.leads_out(),
                };
                let worth = |offer: &Offer| {
                    let trusted = !self.distrusted.contains(&offer.server);
                    (trusted, offer.leads_out)
                };
                // Of equals, the first.
                if offer.as_ref().is_none_or(|old| worth(&new) > worth(old)) {
                    *offer = Some(new);
                }
            }
            (
                State::Requesting {
                    exchange,
                    offer,
                    asked,
                    ..
                },
                kind,
            ) if exchange.xid == xid && offer.server == server => match kind {
                // The address may be another than was offered: it is probed all the same.
                Kind::Acknowledge(terms) => {
                    let held = Held {
                        server,
                        terms,
                        asked: *asked,
                        xid,
                    };
                    actions.push(Action::Watch(Some(held.address())));
                    self.state = State::Probing {
                        held,
                        sent: 0,
                        next: self.now,
                    };
                }
                Kind::Refuse => {
                    actions.push(Action::Note(Note::Refused { server }));
                    self.distrusted.add(server);
                    self.state = State::Init;
                }
                Kind::Offer(_) => {}
            },
            (State::Renewing { held, asking }, kind)
                if asking.asks(xid) && held.server == server =>
            {
                let (held, asking) = (held.clone(), *asking);
                self.answered(held, asking, server, kind, actions);
            }
            // All servers were asked, so that any may answer (RFC 2131 4.4.5).
            (State::Rebinding { held, asking }, kind) if asking.asks(xid) => {
                let (held, asking) = (held.clone(), *asking);
                self.answered(held, asking, server, kind, actions);
            }
            _ => {}
        }
    }

    /// The request for more time.
    fn answered(
        &mut self,
        held: Held,
        asking: Asking,
        server: Ipv4Addr,
        kind: Kind,
        actions: &mut Vec<Action>,
    ) {
        match (kind, asking.last) {
            // An address that was not asked for is not probed either, and not taken.
            (Kind::Acknowledge(terms), Some((xid, asked)))
                if terms.lease.address.addr() == held.address() =>
            {
                if terms.oddities != held.terms.oddities {
                    notes(server, &terms.oddities, actions);
                }
                let renewed = Held {
                    server,
                    terms,
                    asked,
                    xid,
                };
                self.bind(renewed, ANNOUNCEMENTS, actions);
            }
            (Kind::Refuse, Some(_)) => {
                actions.push(Action::Note(Note::Refused { server }));
                self.lose(actions);
            }
            _ => {}
        }
    }

    fn bind(&mut self, held: Held, announced: u8, actions: &mut Vec<Action>) {
        let seconds = if held.terms.times.is_endless() {
            FOR_EVER
        } else {
            let left = held.end().since(self.now);
            let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
            u32::try_from(seconds).unwrap_or(FOR_EVER)
        };
        actions.push(Action::Leased {
            lease: held.terms.lease.clone(),
            seconds,
        });
        self.conflicts = Conflicts::default();
        self.distrusted.clear();
        self.state = State::Bound {
            held,
            announced,
            next: self.now,
        };
    }

    /// A lease that was kept for more than a minute is looked for anew at once; one that goes as soon as it comes
    /// is asked for as seldom as one that never comes.
    fn lose(&mut self, actions: &mut Vec<Action>) {
        if self.now.since(self.discover_at) >= LAST_RETRY {
            self.backoff = Backoff::default();
        }
        actions.push(Action::Watch(None));
        actions.push(Action::Lost);
        self.state = State::Init;
    }

    fn hear(&mut self, arp: Arp, actions: &mut Vec<Action>) {
        // Some switches send our own frames back.
        if arp.sender_mac == self.mac {
            return;
        }
        let mac = arp.sender_mac;
        match &self.state {
            State::Probing { held, .. } => {
                let address = held.address();
                // RFC 5227 2.1.1: it has the address, or probes for it as well.
                let probes = arp.sender.is_unspecified() && arp.target == address;
                if arp.sender != address && !probes {
                    return;
                }
                actions.push(Action::Note(Note::Conflict { address, mac }));
                actions.push(Action::Watch(None));
                self.conflicts.add();
                self.state = State::Declining {
                    xid: held.xid,
                    server: held.server,
                    address,
                };
            }
            State::Bound { held, .. }
            | State::Renewing { held, .. }
            | State::Rebinding { held, .. }
                if arp.sender == held.address() && self.now >= self.defend_at =>
            {
                // RFC 5227 2.4 (c): kept and defended. To give it up would let any host of the LAN
                // take the node off the network, and its tenants with it.
                let address = held.address();
                self.defend_at = self.now + DEFEND_PAUSE;
                actions.push(Action::Note(Note::Defended { address, mac }));
                actions.push(Action::Announce(address));
            }
            _ => {}
        }
    }
}

fn notes(server: Ipv4Addr, oddities: &[Oddity], actions: &mut Vec<Action>) {
    let odd = |what: &Oddity| {
        Action::Note(Note::Odd {
            server,
            what: what.clone(),
        })
    };
    actions.extend(oddities.iter().map(odd));
}

#[cfg(test)]
mod bad_server;
#[cfg(test)]
mod tests;
