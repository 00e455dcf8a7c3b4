//! What goes into the machine and what comes out of it.

use std::{fmt, net::Ipv4Addr};

use super::{
    message::{Reply, Request},
    terms::Oddity,
};
use crate::uplink::lease::Lease;

/// What comes in.
#[derive(Clone, Debug)]
pub enum Event {
    /// The deadline has come, or nothing has happened.
    Time,
    /// A message to this client.
    Reply(Reply),
    Arp(Arp),
}

/// What an ARP packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    pub sender_mac: [u8; 6],
    pub sender: Ipv4Addr,
    pub target: Ipv4Addr,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Send(Request, Destination),
    /// Pass on what ARP says about this address, or nothing.
    Watch(Option<Ipv4Addr>),
    /// Ask by ARP who has the address.
    Probe(Ipv4Addr),
    /// Say by ARP that we have the address.
    Announce(Ipv4Addr),
    /// There is a lease, or it was renewed.
    Leased {
        lease: Lease,
        /// From now on, rounded up; [`FOR_EVER`] is for ever.
        seconds: u32,
    },
    /// There was a lease and it is no more.
    Lost,
    /// To be told to whom it concerns. At most a few for each message that is sent.
    Note(Note),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To all on the link, from no address.
    Broadcast,
    /// To all on the link, from the leased address.
    BroadcastFrom(Ipv4Addr),
    Unicast {
        from: Ipv4Addr,
        to: Ipv4Addr,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    Refused { server: Ipv4Addr },
    Unacknowledged { server: Ipv4Addr },
    Conflict { address: Ipv4Addr, mac: [u8; 6] },
    Defended { address: Ipv4Addr, mac: [u8; 6] },
    Ended { address: Ipv4Addr },
    Odd { server: Ipv4Addr, what: Oddity },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mac = |mac: &[u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
        match self {
            Note::Refused { server } => write!(f, "the DHCP server {server} refuses"),
            Note::Unacknowledged { server } => {
                write!(
                    f,
                    "the DHCP server {server} does not acknowledge what it offered"
                )
            }
            Note::Conflict { address, mac: of } => write!(
                f,
                "{address} is in use by {}; it is declined, and another asked for",
                mac(of)
            ),
            Note::Defended { address, mac: of } => write!(
                f,
                "{} uses our address {address} as well; we keep it and say so",
                mac(of)
            ),
            Note::Ended { address } => write!(f, "no server renewed the lease of {address}"),
            Note::Odd { server, what } => write!(f, "the DHCP server {server}: {what}"),
        }
    }
}
