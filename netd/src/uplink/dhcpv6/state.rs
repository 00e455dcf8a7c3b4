//! The states that a client can be in (RFC 8415 18.2), and what it holds in each.

use std::net::Ipv6Addr;

use super::{
    message::{Request, RequestKind, ServerId},
    retry::{Limits, Retry},
    terms::Address,
};
use crate::uplink::moment::{Dice, Moment};

#[derive(Clone, Debug)]
pub enum State {
    /// No addresses are wanted, or that they are has not been looked at.
    Idle,
    Soliciting {
        xid: u32,
        /// When the first solicitation was sent.
        began: Option<Moment>,
        best: Option<Advertised>,
    },
    Requesting {
        exchange: Exchange,
        server: ServerId,
        addresses: Vec<Ipv6Addr>,
        /// A lease that its server does not know of any more, and may give anew.
        held: Option<Held>,
    },
    Bound {
        held: Held,
    },
    Renewing {
        held: Held,
        exchange: Exchange,
    },
    Rebinding {
        held: Held,
        exchange: Exchange,
    },
    /// The address is another's; the server is to hear of it.
    Declining {
        exchange: Exchange,
        server: ServerId,
        address: Ipv6Addr,
    },
}

/// How far it is in asking for settings without addresses (RFC 8415 18.2.6).
#[derive(Clone, Copy, Debug, Default)]
pub enum Informing {
    /// Settings are not wanted, or come with addresses.
    #[default]
    Not,
    Asking(Exchange),
    Informed {
        refresh_at: Moment,
    },
}

/// What a server would give.
#[derive(Clone, Debug)]
pub struct Advertised {
    pub server: ServerId,
    pub preference: u8,
    pub addresses: Vec<Ipv6Addr>,
}

/// What was given.
#[derive(Clone, Debug)]
pub struct Held {
    pub server: ServerId,
    /// Never empty.
    pub addresses: Vec<Address>,
    pub name_servers: Vec<Ipv6Addr>,
    pub since: Moment,
    /// When the server is asked to renew.
    pub t1: Moment,
    /// When any server is asked.
    pub t2: Moment,
}

impl Held {
    pub fn end(&self) -> Moment {
        let ends = self.addresses.iter().map(|held| held.valid_until);
        ends.max().unwrap_or_default()
    }

    pub fn addresses(&self) -> Vec<Ipv6Addr> {
        self.addresses.iter().map(|held| held.address).collect()
    }
}

/// A message until it is answered: sent again with the same number (RFC 8415 16.1).
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    pub xid: u32,
    began: Option<Moment>,
    pub sent: u8,
    retry: Retry,
    pub next: Moment,
}

impl Exchange {
    /// Not before `next`.
    pub fn new(dice: Dice, next: Moment) -> Self {
        Self {
            xid: xid(dice),
            began: None,
            sent: 0,
            retry: Retry::default(),
            next,
        }
    }

    /// Whether it was sent with this number.
    pub fn asks(&self, xid: u32) -> bool {
        self.sent > 0 && self.xid == xid
    }

    /// The message, now.
    pub fn send(
        &mut self,
        kind: RequestKind,
        server: Option<&ServerId>,
        addresses: Vec<Ipv6Addr>,
        limits: Limits,
        (now, dice): (Moment, Dice),
    ) -> Request {
        let began = *self.began.get_or_insert(now);
        self.sent = self.sent.saturating_add(1);
        self.next = now + self.retry.next(limits, dice);
        Request {
            kind,
            xid: self.xid,
            waited: now.since(began),
            server: server.cloned(),
            addresses,
        }
    }
}

/// RFC 8415 8: of 24 bits.
pub fn xid(dice: Dice) -> u32 {
    dice.xid() & 0x00ff_ffff
}
