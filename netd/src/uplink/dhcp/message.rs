//! DHCP messages as bytes: what servers send, checked, and what we send.
//!
//! `dhcproto` walks the fields and options. Its parsed form is not used for what strangers send: one
//! odd option makes all of the message an error, `file` and `sname` end at the first zero, and the
//! length of an address is taken from the message itself.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use dhcproto::{
    Encodable,
    error::EncodeError,
    v4::{self, DhcpOption, HType, MessageType, Opcode, OptionCode, borrowed},
};

use loam_node_api::farm::DHCP_OPTION;

use super::terms::{Refusal, Terms};
use crate::uplink::lease::is_host;

/// From a server to this client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub xid: u32,
    /// By which a server is known (option 54).
    pub server: Ipv4Addr,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Offer(Terms),
    Acknowledge(Terms),
    Refuse,
}

/// Why a message is not for us, or cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    #[error("it is no reply in a DHCP message")]
    NoReply,
    #[error("it is for another host")]
    NotOurs,
    #[error("option 53 is no answer to a client")]
    NoAnswer,
    #[error("no server names itself in option 54")]
    NoServer,
    #[error(transparent)]
    Terms(#[from] Refusal),
}

/// Options by their number, each put together from all of its parts (RFC 3396).
#[derive(Debug, Default)]
pub struct Options(BTreeMap<u8, Vec<u8>>);

impl Options {
    pub fn get(&self, code: OptionCode) -> Option<&[u8]> {
        self.0.get(&u8::from(code)).map(Vec::as_slice)
    }

    /// Of exactly this length. What came several times (servers and relays that each add it) was put together,
    /// as RFC 3396 demands: of equal ones, one counts.
    pub fn array<const N: usize>(&self, code: OptionCode) -> Option<[u8; N]> {
        let (parts, rest) = self.get(code)?.as_chunks::<N>();
        let (first, others) = parts.split_first()?;
        let same = rest.is_empty() && others.iter().all(|other| other == first);
        same.then_some(*first)
    }

    pub fn address(&self, code: OptionCode) -> Option<Ipv4Addr> {
        self.array(code).map(<[u8; 4]>::into)
    }

    pub fn seconds(&self, code: OptionCode) -> Option<u32> {
        self.array(code).map(u32::from_be_bytes)
    }

    fn add(&mut self, field: &[u8]) {
        for option in borrowed::DhcpOptionIterator::new(field) {
            let all = self.0.entry(option.code().into()).or_default();
            all.extend_from_slice(option.data());
        }
    }
}

/// Fields of fixed places (RFC 2131 2).
const SNAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;
const OPTIONS: usize = 240;

/// Reads what was sent to port 68, for the client with this address.
pub fn read(bytes: &[u8], mac: [u8; 6]) -> Result<Reply, Ignored> {
    let message = borrowed::Message::new(bytes).map_err(|_| Ignored::NoReply)?;
    let is_reply = message.opcode() == Opcode::BootReply && bytes[FILE.end..OPTIONS] == v4::MAGIC;
    if !is_reply {
        return Err(Ignored::NoReply);
    }
    // The length first: the library cuts by it.
    let is_ours =
        message.htype() == HType::Eth && message.hlen() == 6 && message.chaddr() == mac.as_slice();
    if !is_ours {
        return Err(Ignored::NotOurs);
    }
    let options = options(bytes);
    let server = options.address(OptionCode::ServerIdentifier);
    let server = server.filter(|server| is_host(*server));
    let server = server.ok_or(Ignored::NoServer)?;
    let kind = match options
        .array(OptionCode::MessageType)
        .map(|[kind]| kind.into())
    {
        Some(MessageType::Offer) => Kind::Offer(Terms::read(message.yiaddr(), &options)?),
        Some(MessageType::Ack) => Kind::Acknowledge(Terms::read(message.yiaddr(), &options)?),
        Some(MessageType::Nak) => Kind::Refuse,
        _ => return Err(Ignored::NoAnswer),
    };
    let xid = message.xid();
    Ok(Reply { xid, server, kind })
}

/// `bytes` are a message of whole fields. Options go on in `file` and `sname`, in this order, when
/// option 52 says so (RFC 2131 4.1, RFC 3396 5).
fn options(bytes: &[u8]) -> Options {
    let mut options = Options::default();
    options.add(&bytes[OPTIONS..]);
    let [overload] = options.array(OptionCode::OptionOverload).unwrap_or([0]);
    if overload & 1 != 0 {
        options.add(&bytes[FILE]);
    }
    if overload & 2 != 0 {
        options.add(&bytes[SNAME]);
    }
    options
}

/// From this client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub kind: RequestKind,
    pub xid: u32,
    /// Since the client began to ask.
    pub waited: Duration,
    /// Its address, if it has one.
    pub client: Option<Ipv4Addr>,
    /// The address that it asks for, or declines.
    pub requested: Option<Ipv4Addr>,
    /// The one server that is meant.
    pub server: Option<Ipv4Addr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    Discover,
    Request,
    Decline,
}

/// What we ask for. RFC 3442: the routes before the router.
const WANTED: [OptionCode; 9] = [
    OptionCode::SubnetMask,
    OptionCode::ClasslessStaticRoute,
    OptionCode::Router,
    OptionCode::DomainNameServer,
    OptionCode::InterfaceMtu,
    OptionCode::AddressLeaseTime,
    OptionCode::Renewal,
    OptionCode::Rebinding,
    FARM,
];

/// Of a number that is no standard's: its meaning is ours alone.
pub const FARM: OptionCode = OptionCode::Unknown(DHCP_OPTION);

/// With its headers it fits the smallest link that we run on, see [`Mtu`](crate::uplink::lease::Mtu).
const LARGEST_REPLY: u16 = 1280 - 28;
/// RFC 1542 2.1: some relays drop what is shorter than BOOTP's messages.
const SHORTEST: usize = 300;

pub fn write(request: &Request, mac: [u8; 6]) -> Result<Vec<u8>, EncodeError> {
    let mut message = v4::Message::default();
    // No broadcast flag: a packet socket hears what is sent to an address that we do not have yet.
    message
        .set_xid(request.xid)
        .set_chaddr(&mac)
        .set_ciaddr(request.client.unwrap_or(Ipv4Addr::UNSPECIFIED))
        .set_secs(u16::try_from(request.waited.as_secs()).unwrap_or(u16::MAX));
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(match request.kind {
        RequestKind::Discover => MessageType::Discover,
        RequestKind::Request => MessageType::Request,
        RequestKind::Decline => MessageType::Decline,
    }));
    // By it servers find the lease again: an Ethernet address (RFC 2132 9.14), as ever.
    options.insert(DhcpOption::ClientIdentifier([&[1], &mac[..]].concat()));
    if let Some(requested) = request.requested {
        options.insert(DhcpOption::RequestedIpAddress(requested));
    }
    if let Some(server) = request.server {
        options.insert(DhcpOption::ServerIdentifier(server));
    }
    // RFC 2131, table 5: who declines wants nothing.
    if request.kind != RequestKind::Decline {
        options.insert(DhcpOption::ParameterRequestList(WANTED.to_vec()));
        options.insert(DhcpOption::MaxMessageSize(LARGEST_REPLY));
    }
    let mut bytes = message.to_vec()?;
    if bytes.len() < SHORTEST {
        // Pads after the end.
        bytes.resize(SHORTEST, 0);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
