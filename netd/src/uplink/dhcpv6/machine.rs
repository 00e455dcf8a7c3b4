//! The states of a DHCPv6 client (RFC 8415 18.2): pure.
//!
//! An event and the time go in, actions come out; between events nothing happens before the
//! [deadline](Machine::deadline). What it holds can be [asked for](Machine::addresses) at any time.
//!
//! Settings are asked for beside that where no addresses are wanted, or none given.
//!
//! A client keeps nothing over a boot, and a netd that starts anew asks from the beginning: by its
//! identity, which never changes, servers give the same address again.

mod answer;

use std::{net::Ipv6Addr, time::Duration};

use loam_node_api::network::Missing;

use super::{
    Want,
    event::{Action, Event, Note},
    message::{Request, RequestKind, ServerId},
    retry::{Limits, Retry},
    state::{Exchange, Held, Informing, State, xid},
    terms::Address,
};
use crate::uplink::{
    misgivings::{Conflicts, Distrusted},
    moment::{Dice, Moment},
};

/// Between two messages, whatever a server says. It is also how long advertisements are collected
/// (RFC 8415 18.2.1), so that the fastest server is not the one that wins.
pub const PAUSE: Duration = Duration::from_secs(1);

/// RFC 8415 7.6.
const SOLICIT: Limits = seconds(1, 3600);
const REQUEST: Limits = seconds(1, 30);
const RENEW: Limits = seconds(10, 600);
const REBIND: Limits = seconds(10, 600);
const INFORM: Limits = seconds(1, 3600);
const DECLINE: Limits = seconds(1, 3600);
const DECLINES: u8 = 4;
/// How often an address is asked for that was advertised. The RFC has ten times, four minutes; after
/// four, some 15 s, another server is the better hope.
const REQUESTS: u8 = 4;
/// So many messages without any answer, some 7 s, are told to whom it concerns.
const UNANSWERED: u8 = 3;

/// Settings last for a day if a server does not say, and at least ten minutes (RFC 8415 7.6, 21.23).
const REFRESH: u32 = 86400;
const SHORTEST_REFRESH: u32 = 600;

/// A lease that goes sooner is asked for as seldom as one that never comes.
const LASTING: Duration = Duration::from_secs(60);

const fn seconds(first: u64, longest: u64) -> Limits {
    Limits {
        first: Duration::from_secs(first),
        longest: Duration::from_secs(longest),
    }
}

/// The client of one link.
#[derive(Debug)]
pub struct Machine {
    /// The latest that was told; time does not go back.
    now: Moment,
    /// No message is sent before.
    quiet_until: Moment,
    want: Want,
    /// Of solicitations, over all exchanges that come to nothing.
    retry: Retry,
    solicit_at: Moment,
    solicit_limits: Limits,
    inform_limits: Limits,
    /// Messages since something that could be used.
    unanswered: u8,
    conflicts: Conflicts,
    distrusted: Distrusted<ServerId>,
    missing: Option<Missing>,
    /// Name servers without a lease.
    settings: Vec<Ipv6Addr>,
    informing: Informing,
    state: State,
}

impl Machine {
    /// `quiet_until` keeps what was sent on this link before from being followed too soon.
    pub fn new(quiet_until: Moment) -> Self {
        Self {
            now: Moment::default(),
            quiet_until,
            want: Want::Nothing,
            retry: Retry::default(),
            solicit_at: Moment::default(),
            solicit_limits: SOLICIT,
            inform_limits: INFORM,
            unanswered: 0,
            conflicts: Conflicts::default(),
            distrusted: Distrusted::default(),
            missing: None,
            settings: Vec::new(),
            informing: Informing::Not,
            state: State::Idle,
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
            Event::Want(want) => self.want = want,
            Event::Reply(reply) => self.receive(reply, dice, &mut actions),
            Event::Duplicate(address) => self.decline(address, dice, &mut actions),
        }
        while self.advance(dice, &mut actions) {}
        actions
    }

    /// When to say [`Event::Time`] next.
    pub fn deadline(&self) -> Moment {
        let sending = |at: Moment| at.max(self.quiet_until);
        let informing = match &self.informing {
            Informing::Not => Moment::NEVER,
            Informing::Asking(exchange) => sending(exchange.next),
            Informing::Informed { refresh_at } => *refresh_at,
        };
        let other = match &self.state {
            State::Idle => Moment::NEVER,
            State::Soliciting { best: Some(_), .. } => self.quiet_until,
            State::Soliciting { best: None, .. } => sending(self.solicit_at),
            State::Requesting { exchange, held, .. } => {
                let end = held.as_ref().map_or(Moment::NEVER, Held::end);
                sending(exchange.next).min(end)
            }
            State::Bound { held } => held.t1.min(held.end()),
            State::Renewing { held, exchange } => {
                sending(exchange.next).min(held.t2).min(held.end())
            }
            State::Rebinding { held, exchange } => sending(exchange.next).min(held.end()),
            State::Declining { exchange, .. } => sending(exchange.next),
        };
        other.min(informing)
    }

    /// What is leased now.
    pub fn addresses(&self) -> &[Address] {
        self.held().map_or(&[], |held| &held.addresses)
    }

    pub fn name_servers(&self) -> &[Ipv6Addr] {
        self.held()
            .map_or(&self.settings, |held| &held.name_servers)
    }

    /// Why there is not what routers say there is.
    pub fn missing(&self) -> Option<Missing> {
        self.missing
    }

    fn held(&self) -> Option<&Held> {
        match &self.state {
            State::Requesting { held, .. } => held.as_ref(),
            State::Bound { held }
            | State::Renewing { held, .. }
            | State::Rebinding { held, .. } => Some(held),
            _ => None,
        }
    }

    /// Does what is due, and says whether there may be more: each step goes to another state, or sets
    /// its next moment after now.
    fn advance(&mut self, dice: Dice, actions: &mut Vec<Action>) -> bool {
        let now = self.now;
        let may_send = now >= self.quiet_until;
        if self.held().is_some_and(|held| now >= held.end()) {
            actions.push(Action::Note(Note::Ended));
            self.lose();
            return true;
        }
        if self.inform(dice, actions) {
            return true;
        }
        match &mut self.state {
            State::Idle => return self.begin(dice),
            State::Soliciting { .. } if self.want != Want::Addresses => self.rest(),
            State::Soliciting { best, .. } if may_send && best.is_some() => {
                let best = best.take();
                self.state = best.map_or(State::Idle, |best| State::Requesting {
                    exchange: Exchange::new(dice, now),
                    server: best.server,
                    addresses: best.addresses,
                    held: None,
                });
            }
            State::Soliciting { xid, began, .. } if may_send && now >= self.solicit_at => {
                let began = *began.get_or_insert(now);
                let request = Request {
                    kind: RequestKind::Solicit,
                    xid: *xid,
                    waited: now.since(began),
                    server: None,
                    addresses: Vec::new(),
                };
                self.solicit_at = now + self.retry.next(self.solicit_limits, dice);
                self.send(request, actions);
                self.miss(Missing::Dhcpv6Server, Note::NoServer, actions);
            }
            State::Requesting {
                exchange,
                server,
                addresses,
                ..
            } if now >= exchange.next => {
                if exchange.sent == REQUESTS {
                    let server = server.clone();
                    self.distrusted.add(server.clone());
                    actions.push(Action::Note(Note::Unanswered { server }));
                    self.lose();
                    return true;
                }
                if !may_send {
                    return false;
                }
                let addresses = addresses.clone();
                let moment = (now, dice);
                let request = exchange.send(
                    RequestKind::Request,
                    Some(&*server),
                    addresses,
                    REQUEST,
                    moment,
                );
                self.send(request, actions);
            }
            State::Bound { held } if now >= held.t1 => {
                let (held, exchange) = (held.clone(), Exchange::new(dice, now));
                self.state = State::Renewing { held, exchange };
            }
            State::Renewing { held, .. } if now >= held.t2 => {
                let (held, exchange) = (held.clone(), Exchange::new(dice, now));
                self.state = State::Rebinding { held, exchange };
            }
            State::Renewing { held, exchange } if may_send && now >= exchange.next => {
                let (server, all) = (Some(&held.server), held.addresses());
                let request = exchange.send(RequestKind::Renew, server, all, RENEW, (now, dice));
                self.send(request, actions);
            }
            State::Rebinding { held, exchange } if may_send && now >= exchange.next => {
                let all = held.addresses();
                let request = exchange.send(RequestKind::Rebind, None, all, REBIND, (now, dice));
                self.send(request, actions);
            }
            State::Declining { exchange, .. }
                if now >= exchange.next && exchange.sent == DECLINES =>
            {
                self.state = State::Idle;
            }
            State::Declining {
                exchange,
                server,
                address,
            } if may_send && now >= exchange.next => {
                let all = vec![*address];
                let moment = (now, dice);
                let request =
                    exchange.send(RequestKind::Decline, Some(&*server), all, DECLINE, moment);
                self.send(request, actions);
            }
            _ => return false,
        }
        true
    }

    /// Asks for settings alone, and says whether there may be more to do.
    fn inform(&mut self, dice: Dice, actions: &mut Vec<Action>) -> bool {
        let now = self.now;
        let may_send = now >= self.quiet_until;
        let wanted = match self.want {
            Want::Nothing => false,
            Want::Settings => self.held().is_none(),
            // They come with addresses, unless nobody gives any.
            Want::Addresses => self.lacks_addresses(),
        };
        match &mut self.informing {
            Informing::Not if wanted => {
                let exchange = Exchange::new(dice, parted(now, dice));
                self.informing = Informing::Asking(exchange);
            }
            Informing::Asking(_) | Informing::Informed { .. } if !wanted => {
                self.informing = Informing::Not;
                self.settings.clear();
                self.missing = None;
                self.unanswered = 0;
            }
            Informing::Asking(exchange) if may_send && now >= exchange.next => {
                let (limits, moment) = (self.inform_limits, (now, dice));
                let request = exchange.send(RequestKind::Inform, None, Vec::new(), limits, moment);
                self.send(request, actions);
                if self.want == Want::Settings {
                    self.miss(Missing::Dhcpv6Settings, Note::NoSettings, actions);
                }
            }
            Informing::Informed { refresh_at } if now >= *refresh_at => {
                self.informing = Informing::Asking(Exchange::new(dice, now));
            }
            _ => return false,
        }
        true
    }

    fn lacks_addresses(&self) -> bool {
        matches!(
            self.missing,
            Some(Missing::Dhcpv6Server | Missing::Dhcpv6Addresses)
        )
    }

    fn begin(&mut self, dice: Dice) -> bool {
        if self.want != Want::Addresses {
            if self.lacks_addresses() {
                self.rest();
            }
            return false;
        }
        self.solicit_at = self.solicit_at.max(parted(self.now, dice));
        self.state = State::Soliciting {
            xid: xid(dice),
            began: None,
            best: None,
        };
        true
    }

    /// Routers do not say any more that there are addresses.
    fn rest(&mut self) {
        self.missing = None;
        self.unanswered = 0;
        self.state = State::Idle;
    }

    fn send(&mut self, request: Request, actions: &mut Vec<Action>) {
        self.quiet_until = self.now + PAUSE;
        actions.push(Action::Send(request));
    }

    /// A message was sent; those before it may have had no answer for long.
    fn miss(&mut self, what: Missing, note: Note, actions: &mut Vec<Action>) {
        if self.unanswered == UNANSWERED && self.missing != Some(what) {
            self.missing = Some(what);
            actions.push(Action::Note(note));
        }
        self.unanswered = self.unanswered.saturating_add(1);
    }

    /// Of what is held, if anything is; from the beginning then.
    fn lose(&mut self) {
        let lasted = |held: &Held| self.now.since(held.since) >= LASTING;
        if self.held().is_some_and(lasted) {
            self.retry = Retry::default();
            self.solicit_at = self.now;
            self.conflicts = Conflicts::default();
        }
        self.state = State::Idle;
    }

    fn decline(&mut self, address: Ipv6Addr, dice: Dice, actions: &mut Vec<Action>) {
        let Some(held) = self.held() else { return };
        if !held.addresses().contains(&address) {
            return;
        }
        let server = held.server.clone();
        actions.push(Action::Note(Note::Duplicate { address }));
        self.conflicts.add();
        self.solicit_at = self.solicit_at.max(self.now + self.conflicts.pause());
        self.state = State::Declining {
            exchange: Exchange::new(dice, self.now),
            server,
            address,
        };
    }
}

/// Nodes of a farm that hear the same router part by up to a second (RFC 8415 18.2.1, 18.2.6).
fn parted(now: Moment, dice: Dice) -> Moment {
    now + Duration::from_millis(u64::from(dice.fraction()) % 1000)
}

#[cfg(test)]
mod bad_server;
#[cfg(test)]
mod tests;
