//! What goes into the machine and what comes out of it.

use std::{fmt, net::Ipv6Addr};

use super::{
    Want,
    message::{Reply, Request, ServerId},
};

#[derive(Clone, Debug)]
pub enum Event {
    /// The deadline has come, or nothing has happened.
    Time,
    /// What the link's routers say there is.
    Want(Want),
    /// A message to this client.
    Reply(Reply),
    /// Another host has this address (RFC 4862 5.4).
    Duplicate(Ipv6Addr),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// To all servers of the link.
    Send(Request),
    /// To be told to whom it concerns. At most a few for each message that is sent.
    Note(Note),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    NoServer,
    NoSettings,
    NoAddresses { server: ServerId },
    Unanswered { server: ServerId },
    Leased { addresses: Vec<Ipv6Addr> },
    Informed { servers: Vec<Ipv6Addr> },
    Duplicate { address: Ipv6Addr },
    Withdrawn { server: ServerId },
    Ended,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::NoServer => write!(
                f,
                "the router says that addresses come by DHCPv6, and no server answers"
            ),
            Note::NoSettings => write!(
                f,
                "the router says that name servers come by DHCPv6, and no server answers"
            ),
            Note::NoAddresses { server } => {
                write!(f, "the DHCPv6 server {server} has no address for this node")
            }
            Note::Unanswered { server } => write!(
                f,
                "the DHCPv6 server {server} does not give what it advertised"
            ),
            Note::Leased { addresses } => write!(f, "leased by DHCPv6: {addresses:?}"),
            Note::Informed { servers } => write!(f, "name servers by DHCPv6: {servers:?}"),
            Note::Duplicate { address } => write!(
                f,
                "{address} is in use by another host; it is declined, and another asked for"
            ),
            Note::Withdrawn { server } => {
                write!(f, "the DHCPv6 server {server} took its addresses back")
            }
            Note::Ended => write!(f, "no DHCPv6 server renewed the lease"),
        }
    }
}
