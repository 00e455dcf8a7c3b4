//! What answers of servers do (RFC 8415 18.2.9, 18.2.10).

use std::time::Duration;

use dhcproto::v6::Status;
use loam_node_api::network::Missing;

use super::{Machine, REFRESH, SHORTEST_REFRESH};
use crate::uplink::{
    dhcpv6::{
        event::{Action, Note},
        message::{Ia, Kind, Reply, ServerId},
        retry::Limits,
        state::{Advertised, Exchange, Held, Informing, State},
        terms::{Address, Marks, renewed, usable},
    },
    moment::{Dice, Moment},
};

impl Machine {
    pub(super) fn receive(&mut self, reply: Reply, dice: Dice, actions: &mut Vec<Action>) {
        let informs = reply.kind == Kind::Reply
            && matches!(&self.informing, Informing::Asking(exchange) if exchange.asks(reply.xid));
        if !informs && self.xid() != Some(reply.xid) {
            return;
        }
        let said = |wait: Option<Duration>, limits: &mut Limits| {
            limits.longest = wait.unwrap_or(limits.longest);
        };
        said(reply.solicit_longest, &mut self.solicit_limits);
        said(reply.inform_longest, &mut self.inform_limits);
        if informs {
            if reply.status == Status::Success {
                self.informed(reply, actions);
            }
            return;
        }
        let asked = match &self.state {
            State::Requesting { server, .. } | State::Declining { server, .. } => Some(server),
            State::Renewing { held, .. } => Some(&held.server),
            _ => None,
        };
        if asked.is_some_and(|asked| *asked != reply.server) {
            return;
        }
        match (&self.state, reply.kind) {
            (State::Soliciting { .. }, Kind::Advertise) => self.consider(reply, actions),
            (State::Requesting { held, .. }, Kind::Reply) => {
                let held = held.clone();
                self.granted(held, reply, actions);
            }
            (State::Renewing { held, .. } | State::Rebinding { held, .. }, Kind::Reply) => {
                let held = held.clone();
                self.renewed(held, reply, dice, actions);
            }
            (State::Declining { .. }, Kind::Reply) => self.state = State::Idle,
            _ => {}
        }
    }

    /// Of the exchange for addresses that is open.
    fn xid(&self) -> Option<u32> {
        match &self.state {
            State::Soliciting { xid, began, .. } => began.map(|_| *xid),
            State::Requesting { exchange, .. }
            | State::Renewing { exchange, .. }
            | State::Rebinding { exchange, .. }
            | State::Declining { exchange, .. } => (exchange.sent > 0).then_some(exchange.xid),
            State::Idle | State::Bound { .. } => None,
        }
    }

    fn consider(&mut self, reply: Reply, actions: &mut Vec<Action>) {
        let ia = reply.ia.filter(|ia| ia.status == Status::Success);
        let usable = ia.map(|ia| usable(&ia)).unwrap_or_default();
        if usable.is_empty() || reply.status != Status::Success {
            self.no_addresses(reply.server, actions);
            return;
        }
        let new = Advertised {
            server: reply.server,
            preference: reply.preference,
            addresses: usable.iter().map(|given| given.address).collect(),
        };
        let distrusted = &self.distrusted;
        let worth = |of: &Advertised| (!distrusted.contains(&of.server), of.preference);
        if let State::Soliciting { best, .. } = &mut self.state
            // Of equals, the first.
            && best.as_ref().is_none_or(|old| worth(&new) > worth(old))
        {
            *best = Some(new);
        }
    }

    /// Told once, until there are some.
    fn no_addresses(&mut self, server: ServerId, actions: &mut Vec<Action>) {
        if self.missing != Some(Missing::Dhcpv6Addresses) {
            self.missing = Some(Missing::Dhcpv6Addresses);
            actions.push(Action::Note(Note::NoAddresses { server }));
        }
        self.unanswered = 0;
    }

    fn granted(&mut self, before: Option<Held>, reply: Reply, actions: &mut Vec<Action>) {
        match reply.status {
            Status::Success => {}
            Status::NotOnLink | Status::NoAddrsAvail | Status::NoBinding => {
                return self.refused(reply.server, actions);
            }
            // RFC 8415 18.2.10: asked again, as if nothing had been said.
            _ => return,
        }
        let ia = reply.ia.clone().filter(|ia| ia.status == Status::Success);
        let usable = ia.as_ref().map(usable).unwrap_or_default();
        let (Some(ia), false) = (ia, usable.is_empty()) else {
            return self.refused(reply.server, actions);
        };
        let before = before.map(|held| held.addresses).unwrap_or_default();
        self.bind(&before, &ia, reply, actions);
    }

    fn refused(&mut self, server: ServerId, actions: &mut Vec<Action>) {
        self.distrusted.add(server.clone());
        self.no_addresses(server, actions);
        self.lose();
    }

    /// The answer to a renewal.
    fn renewed(&mut self, held: Held, reply: Reply, dice: Dice, actions: &mut Vec<Action>) {
        let status = match (reply.status, &reply.ia) {
            (Status::Success, Some(ia)) => ia.status,
            (status, _) => status,
        };
        match (status, reply.ia.clone()) {
            (Status::NoBinding, _) => {
                // RFC 8415 18.2.10.1: the server has forgotten us, and may give the same again.
                self.state = State::Requesting {
                    exchange: Exchange::new(dice, self.now),
                    server: reply.server,
                    addresses: held.addresses(),
                    held: Some(held),
                };
            }
            (Status::Success, Some(ia)) => {
                let rest = renewed(&held.addresses, &ia, self.now);
                if rest.is_empty() {
                    let server = reply.server;
                    actions.push(Action::Note(Note::Withdrawn { server }));
                    self.lose();
                } else if !usable(&ia).is_empty() {
                    self.bind(&held.addresses, &ia, reply, actions);
                } else {
                    // Some were taken back, and nothing was said about the others.
                    self.keep(rest);
                }
            }
            _ => {}
        }
    }

    /// `ia` has usable addresses.
    fn bind(&mut self, before: &[Address], ia: &Ia, reply: Reply, actions: &mut Vec<Action>) {
        let now = self.now;
        let marks = Marks::new(ia, &usable(ia));
        let held = Held {
            server: reply.server,
            addresses: renewed(before, ia, now),
            name_servers: reply.name_servers,
            since: self.held().map_or(now, |held| held.since),
            t1: now + marks.t1,
            t2: now + marks.t2,
        };
        let names = |addresses: &[Address]| -> Vec<_> {
            addresses.iter().map(|held| held.address).collect()
        };
        if names(before) != held.addresses() {
            let addresses = held.addresses();
            actions.push(Action::Note(Note::Leased { addresses }));
        }
        self.unanswered = 0;
        self.missing = None;
        self.distrusted.clear();
        self.state = State::Bound { held };
    }

    fn keep(&mut self, addresses: Vec<Address>) {
        if let State::Renewing { held, .. } | State::Rebinding { held, .. } = &mut self.state {
            held.addresses = addresses;
        }
    }

    fn informed(&mut self, reply: Reply, actions: &mut Vec<Action>) {
        let refresh = reply.refresh.unwrap_or(REFRESH).max(SHORTEST_REFRESH);
        let refresh_at = match refresh {
            u32::MAX => Moment::NEVER,
            seconds => self.now + Duration::from_secs(seconds.into()),
        };
        if self.settings != reply.name_servers {
            self.settings = reply.name_servers;
            let servers = self.settings.clone();
            actions.push(Action::Note(Note::Informed { servers }));
        }
        if !self.lacks_addresses() {
            self.unanswered = 0;
            self.missing = None;
        }
        self.informing = Informing::Informed { refresh_at };
    }
}
