//! DHCPv6 messages as bytes: what servers send, checked, and what we send.
//!
//! `dhcproto` writes them and knows the numbers. It does not read what strangers send: an option that
//! is shorter than it should be makes its reader panic (a status without a code) or lose its place.

use std::{fmt, net::Ipv6Addr, time::Duration};

use dhcproto::{
    Encodable,
    error::EncodeError,
    v6::{self, DhcpOption, DhcpOptions, IAAddr, IANA, MessageType, ORO, OptionCode, Status},
};

use crate::uplink::ipv6::is_routable;

/// Who this client is, at each boot the same: the link's Ethernet address (RFC 8415 11.4, DUID-LL).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub mac: [u8; 6],
}

impl Identity {
    fn duid(self) -> [u8; 10] {
        let [a, b, c, d, e, f] = self.mac;
        [0, 3, 0, 1, a, b, c, d, e, f]
    }

    /// Of the one set of addresses (IA_NA) that is asked for.
    fn iaid(self) -> u32 {
        let [.., c, d, e, f] = self.mac;
        u32::from_be_bytes([c, d, e, f])
    }
}

/// A server's DUID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerId(Vec<u8>);

impl ServerId {
    /// RFC 8415 11.1: a type and up to 128 bytes.
    fn new(duid: &[u8]) -> Option<Self> {
        (3..=130).contains(&duid.len()).then(|| Self(duid.to_vec()))
    }

    #[cfg(test)]
    pub fn numbered(number: u8) -> Self {
        Self(vec![0, 3, 0, 1, 2, 0, 0, 0, 0, number])
    }
}

/// As much of it as fits a line.
impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .take(20)
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// From a server to this client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub kind: Kind,
    /// 24 bits.
    pub xid: u32,
    pub server: ServerId,
    pub preference: u8,
    /// Of the message as a whole.
    pub status: Status,
    pub ia: Option<Ia>,
    pub name_servers: Vec<Ipv6Addr>,
    /// The longest wait between two solicitations, and between two requests for settings (RFC 8415 21.24,
    /// 21.25).
    pub solicit_longest: Option<Duration>,
    pub inform_longest: Option<Duration>,
    /// When settings are to be asked for again, in seconds.
    pub refresh: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Advertise,
    Reply,
}

/// The set of addresses that was asked for. Times are in seconds, from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ia {
    pub status: Status,
    pub t1: u32,
    pub t2: u32,
    pub addresses: Vec<Given>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    pub address: Ipv6Addr,
    pub preferred: u32,
    pub valid: u32,
}

/// Why a message is not for us, or cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    #[error("it is no answer of a DHCPv6 server")]
    NoAnswer,
    #[error("it ends in the middle of an option")]
    Short,
    #[error("it is for another host")]
    NotOurs,
    #[error("no server names itself in option 2")]
    NoServer,
}

/// More name servers than anybody asks, and more addresses than anybody has.
const LISTED: usize = 8;

/// RFC 8415 21.24 and 21.25: other values are passed over.
const LONGEST_WAITS: std::ops::RangeInclusive<u32> = 60..=86400;
/// RFC 8415 7.6: what the wait is when nothing is said. More would let one message of a stranger keep a
/// node from asking for a day.
const LONGEST_WAIT: u32 = 3600;

/// Options by their places in the message; of several of a kind, the first counts.
#[derive(Debug)]
struct Options<'a>(Vec<(u16, &'a [u8])>);

impl<'a> Options<'a> {
    fn read(mut bytes: &'a [u8]) -> Result<Self, Ignored> {
        let mut options = Vec::new();
        while let Some((head, rest)) = bytes.split_first_chunk::<4>() {
            let [a, b, c, d] = *head;
            let length = usize::from(u16::from_be_bytes([c, d]));
            let (data, behind) = rest.split_at_checked(length).ok_or(Ignored::Short)?;
            options.push((u16::from_be_bytes([a, b]), data));
            bytes = behind;
        }
        if bytes.is_empty() {
            Ok(Self(options))
        } else {
            Err(Ignored::Short)
        }
    }

    fn all(&self, code: OptionCode) -> impl Iterator<Item = &'a [u8]> {
        let code = u16::from(code);
        let of = self.0.iter().filter(move |(other, _)| *other == code);
        of.map(|(_, data)| *data)
    }

    fn get(&self, code: OptionCode) -> Option<&'a [u8]> {
        self.all(code).next()
    }

    fn seconds(&self, code: OptionCode) -> Option<u32> {
        let bytes: [u8; 4] = self.get(code)?.try_into().ok()?;
        Some(u32::from_be_bytes(bytes))
    }

    fn wait(&self, code: OptionCode) -> Option<Duration> {
        let seconds = self.seconds(code)?;
        let sane = LONGEST_WAITS.contains(&seconds);
        sane.then(|| Duration::from_secs(seconds.min(LONGEST_WAIT).into()))
    }

    /// RFC 8415 21.13: none is success, and so is one that has no code.
    fn status(&self) -> Status {
        let status = self.get(OptionCode::StatusCode);
        let code = status.and_then(|data| data.first_chunk::<2>());
        code.map_or(Status::Success, |code| u16::from_be_bytes(*code).into())
    }
}

/// Reads what was sent to port 546, for the client `identity`.
pub fn read(bytes: &[u8], identity: Identity) -> Result<Reply, Ignored> {
    let (head, rest) = bytes.split_first_chunk::<4>().ok_or(Ignored::NoAnswer)?;
    let [kind, a, b, c] = *head;
    let kind = match kind.into() {
        MessageType::Advertise => Kind::Advertise,
        MessageType::Reply => Kind::Reply,
        _ => return Err(Ignored::NoAnswer),
    };
    let options = Options::read(rest)?;
    // RFC 8415 16.3 and 16.10.
    if options.get(OptionCode::ClientId) != Some(&identity.duid()[..]) {
        return Err(Ignored::NotOurs);
    }
    let server = options.get(OptionCode::ServerId).and_then(ServerId::new);
    let ias = options.all(OptionCode::IANA);
    let ours = identity.iaid().to_be_bytes();
    Ok(Reply {
        kind,
        xid: u32::from_be_bytes([0, a, b, c]),
        server: server.ok_or(Ignored::NoServer)?,
        preference: match options.get(OptionCode::Preference) {
            Some([preference]) => *preference,
            _ => 0,
        },
        status: options.status(),
        ia: ias.filter_map(|data| ia(data, ours)).next(),
        name_servers: name_servers(options.get(OptionCode::DomainNameServers)),
        solicit_longest: options.wait(OptionCode::SolMaxRt),
        inform_longest: options.wait(OptionCode::InfMaxRt),
        refresh: options.seconds(OptionCode::InformationRefreshTime),
    })
}

/// None if it is malformed or another's.
fn ia(data: &[u8], ours: [u8; 4]) -> Option<Ia> {
    let (head, rest) = data.split_first_chunk::<12>()?;
    if head[..4] != ours {
        return None;
    }
    let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let options = Options::read(rest).ok()?;
    let addresses = options.all(OptionCode::IAAddr).filter_map(given);
    Some(Ia {
        status: options.status(),
        t1: word(4),
        t2: word(8),
        addresses: addresses.take(LISTED).collect(),
    })
}

/// None if it is malformed, or of no success.
fn given(data: &[u8]) -> Option<Given> {
    let (address, rest) = data.split_first_chunk::<16>()?;
    let (preferred, rest) = rest.split_first_chunk::<4>()?;
    let (valid, rest) = rest.split_first_chunk::<4>()?;
    let options = Options::read(rest).ok()?;
    (options.status() == Status::Success).then(|| Given {
        address: Ipv6Addr::from(*address),
        preferred: u32::from_be_bytes(*preferred),
        valid: u32::from_be_bytes(*valid),
    })
}

/// What is no server's address, and a rest that is no address, are passed over.
fn name_servers(data: Option<&[u8]>) -> Vec<Ipv6Addr> {
    let mut servers = Vec::new();
    for server in data.unwrap_or_default().as_chunks::<16>().0 {
        let server = Ipv6Addr::from(*server);
        if is_routable(server) && !servers.contains(&server) && servers.len() < LISTED {
            servers.push(server);
        }
    }
    servers
}

/// From this client, to all servers of the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub kind: RequestKind,
    /// 24 bits.
    pub xid: u32,
    /// Since the first message of this exchange.
    pub waited: Duration,
    /// The one server that is meant.
    pub server: Option<ServerId>,
    /// Those that it asks for, has, or declines.
    pub addresses: Vec<Ipv6Addr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    Solicit,
    Request,
    Renew,
    Rebind,
    Decline,
    Inform,
}

pub fn write(request: &Request, identity: Identity) -> Result<Vec<u8>, EncodeError> {
    let kind = match request.kind {
        RequestKind::Solicit => MessageType::Solicit,
        RequestKind::Request => MessageType::Request,
        RequestKind::Renew => MessageType::Renew,
        RequestKind::Rebind => MessageType::Rebind,
        RequestKind::Decline => MessageType::Decline,
        RequestKind::Inform => MessageType::InformationRequest,
    };
    let mut message = v6::Message::new(kind);
    message.set_xid_num(request.xid);
    let options = message.opts_mut();
    options.insert(DhcpOption::ClientId(identity.duid().to_vec()));
    if let Some(ServerId(duid)) = &request.server {
        options.insert(DhcpOption::ServerId(duid.clone()));
    }
    // In hundredths of a second (RFC 8415 21.9).
    let waited = request.waited.as_millis() / 10;
    let waited = u16::try_from(waited).unwrap_or(u16::MAX);
    options.insert(DhcpOption::ElapsedTime(waited));
    if request.kind != RequestKind::Inform {
        options.insert(addresses(&request.addresses, identity));
    }
    if request.kind != RequestKind::Decline {
        let mut wanted = vec![OptionCode::DomainNameServers, OptionCode::SolMaxRt];
        if request.kind == RequestKind::Inform {
            wanted = vec![
                OptionCode::DomainNameServers,
                OptionCode::InformationRefreshTime,
                OptionCode::InfMaxRt,
            ];
        }
        options.insert(DhcpOption::ORO(ORO { opts: wanted }));
    }
    message.to_vec()
}

/// Lifetimes and times are the server's to choose.
fn addresses(addresses: &[Ipv6Addr], identity: Identity) -> DhcpOption {
    let address = |addr: &Ipv6Addr| {
        DhcpOption::IAAddr(IAAddr {
            addr: *addr,
            preferred_life: 0,
            valid_life: 0,
            opts: DhcpOptions::new(),
        })
    };
    DhcpOption::IANA(IANA {
        id: identity.iaid(),
        t1: 0,
        t2: 0,
        opts: addresses.iter().map(address).collect(),
    })
}

#[cfg(test)]
mod tests;
