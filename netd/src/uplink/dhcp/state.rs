//! The states that a client can be in (RFC 2131 4.4), and what it holds in each.

use std::{net::Ipv4Addr, time::Duration};

use super::{
    message::{Request, RequestKind},
    terms::Terms,
    timing::Backoff,
};
use crate::uplink::moment::{Dice, Moment};

#[derive(Clone, Debug)]
pub enum State {
    Init,
    Selecting {
        exchange: Exchange,
        offer: Option<Offer>,
    },
    Requesting {
        exchange: Exchange,
        offer: Offer,
        /// When the first request for it was sent: the lease counts from then (RFC 2131 4.4.1).
        asked: Moment,
        sent: u8,
        backoff: Backoff,
        next: Moment,
    },
    Probing {
        held: Held,
        sent: u8,
        next: Moment,
    },
    /// The address is another's; the server is to hear of it.
    Declining {
        xid: u32,
        server: Ipv4Addr,
        address: Ipv4Addr,
    },
    Bound {
        held: Held,
        announced: u8,
        next: Moment,
    },
    Renewing {
        held: Held,
        asking: Asking,
    },
    Rebinding {
        held: Held,
        asking: Asking,
    },
}

/// From the first discovery to the acknowledgement.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    pub xid: u32,
    pub began: Moment,
    /// What the last discovery said of the time since then. A request for what was offered has to say the same
    /// (RFC 2131, 4.4.1).
    pub waited: Duration,
}

#[derive(Clone, Debug)]
pub struct Offer {
    pub server: Ipv4Addr,
    pub address: Ipv4Addr,
    pub leads_out: bool,
}

/// What was acknowledged.
#[derive(Clone, Debug)]
pub struct Held {
    pub server: Ipv4Addr,
    pub terms: Terms,
    pub asked: Moment,
    pub xid: u32,
}

/// For more time.
#[derive(Clone, Copy, Debug)]
pub struct Asking {
    pub began: Moment,
    /// The last request's number and time: an answer to an earlier one would come so late that
    /// nobody could say from when it counts.
    pub last: Option<(u32, Moment)>,
    pub next: Moment,
}

impl Held {
    pub fn address(&self) -> Ipv4Addr {
        self.terms.lease.address.addr()
    }

    pub fn t1(&self) -> Moment {
        self.asked + self.terms.times.t1()
    }

    pub fn t2(&self) -> Moment {
        self.asked + self.terms.times.t2()
    }

    pub fn end(&self) -> Moment {
        self.asked + self.terms.times.lease()
    }
}

impl Asking {
    pub fn begin(at: Moment) -> Self {
        Self {
            began: at,
            last: None,
            next: at,
        }
    }

    pub fn asks(&self, xid: u32) -> bool {
        self.last.is_some_and(|(last, _)| last == xid)
    }
}

/// The next request for more time; another follows when half of what is left `until` then is over.
pub fn renewal(
    held: &Held,
    asking: &mut Asking,
    until: Moment,
    now: Moment,
    dice: Dice,
) -> Request {
    asking.last = Some((dice.xid(), now));
    asking.next = now + held.terms.times.pause(until.since(now));
    Request {
        kind: RequestKind::Request,
        xid: dice.xid(),
        waited: now.since(asking.began),
        // RFC 2131 4.3.6: by this field, and by neither option 50 nor 54, servers know a renewal.
        client: Some(held.address()),
        requested: None,
        server: None,
    }
}
