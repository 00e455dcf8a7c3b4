//! Forgets connections that lead where the rules no longer do.
//!
//! The rules decide where a connection's first packet goes; the rest follows the kernel's
//! connection table. A peer that keeps sending datagrams to a port that was published to another
//! machine since would otherwise never reach it. What is forgotten is told from the table and the
//! rules of now alone, so a netd that was killed between the two makes up for it.
//!
//! Numbers are from `include/uapi/linux/netfilter/nfnetlink_conntrack.h`.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddrV4},
};

use loam_deployment::payload::Protocol;

use super::netfilter::Conversation;
use crate::transit::RANGE_V4;

const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const DUMP: u16 = 0x300;

/// `CTA_TUPLE_ORIG`, `CTA_TUPLE_REPLY`.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
/// `CTA_TUPLE_IP`, `CTA_IP_V4_SRC`, `CTA_IP_V4_DST`.
const TUPLE_IP: u16 = 1;
const SOURCE_V4: u16 = 1;
const DESTINATION_V4: u16 = 2;
/// `CTA_TUPLE_PROTO`, `CTA_PROTO_NUM`, `CTA_PROTO_SRC_PORT`, `CTA_PROTO_DST_PORT`.
const TUPLE_PROTOCOL: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
/// The attribute's number without its flags (`NLA_TYPE_MASK`).
const KIND: u16 = 0x3fff;
const NESTED: u16 = 0x8000;

/// Where the rules of a namespace lead connections to its published ports.
#[derive(Clone, Debug)]
pub struct Leads {
    pub ports: HashMap<(Protocol, u16), SocketAddrV4>,
    pub through: Through,
}

/// How a connection is known to have been led by a rule of ours.
#[derive(Clone, Copy, Debug)]
pub enum Through {
    /// The node's own: it leads to a network's link.
    Node,
    /// A network's: it was opened to the network's end of its link.
    Namespace(Ipv4Addr),
}

impl Leads {
    /// Whether a connection with this entry's body was led elsewhere than the rules say now.
    fn mislead(&self, entry: &[u8]) -> bool {
        let Some((protocol, asked, answers)) = ways(entry) else {
            return false;
        };
        let led = match self.through {
            Through::Node => RANGE_V4.contains(answers.ip()),
            Through::Namespace(far) => *asked.ip() == far,
        };
        let lead = self.ports.get(&(protocol, asked.port()));
        led && asked != answers && lead != Some(&answers)
    }
}

/// In the calling thread's network namespace.
pub fn forget_misled(leads: &Leads) -> io::Result<()> {
    let conversation = Conversation::open()?;
    let mut gone = Vec::new();
    conversation.dump(&message(GET, DUMP, &[]), |entry| {
        if leads.mislead(entry.body)
            && let Some(tuple) = tuple(entry.body, ORIGINAL)
        {
            gone.push(tuple.to_vec());
        }
    })?;
    for tuple in gone {
        match conversation.request(&message(DELETE, ACKNOWLEDGE, &tuple)) {
            // It ended by itself meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

fn message(kind: u16, flags: u16, tuple: &[u8]) -> Vec<u8> {
    let attribute = if tuple.is_empty() { 0 } else { tuple.len() + 4 };
    let mut bytes = Vec::new();
    bytes.extend((20 + attribute as u32).to_ne_bytes());
    bytes.extend(((SUBSYSTEM << 8) | kind).to_ne_bytes());
    bytes.extend((REQUEST | flags).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([libc::AF_INET as u8, 0, 0, 0]);
    if attribute > 0 {
        bytes.extend((attribute as u16).to_ne_bytes());
        bytes.extend((ORIGINAL | NESTED).to_ne_bytes());
        bytes.extend(tuple);
    }
    bytes
}

/// The protocol, where the first packet was sent to, and who answers it.
fn ways(entry: &[u8]) -> Option<(Protocol, SocketAddrV4, SocketAddrV4)> {
    let (original, reply) = (tuple(entry, ORIGINAL)?, tuple(entry, REPLY)?);
    let number = find(find(original, TUPLE_PROTOCOL)?, PROTOCOL_NUMBER)?;
    let protocol = match i32::from(*number.first()?) {
        libc::IPPROTO_TCP => Protocol::Tcp,
        libc::IPPROTO_UDP => Protocol::Udp,
        _ => return None,
    };
    Some((
        protocol,
        end(original, DESTINATION_V4, DESTINATION_PORT)?,
        end(reply, SOURCE_V4, SOURCE_PORT)?,
    ))
}

fn end(tuple: &[u8], address: u16, port: u16) -> Option<SocketAddrV4> {
    let address: [u8; 4] = find(find(tuple, TUPLE_IP)?, address)?.try_into().ok()?;
    let port = find(find(tuple, TUPLE_PROTOCOL)?, port)?.try_into().ok()?;
    Some(SocketAddrV4::new(address.into(), u16::from_be_bytes(port)))
}

/// Behind `struct nfgenmsg`.
fn tuple(entry: &[u8], which: u16) -> Option<&[u8]> {
    find(entry.get(4..)?, which)
}

/// The value of the first attribute of this kind.
fn find(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let found = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & KIND;
        let value = bytes.get(4..length)?;
        if found == kind {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (value.len() as u16 + 4).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// A connection as the kernel tells it: sent to `asked`, answered by `answers`.
    fn entry(protocol: i32, asked: &str, answers: &str) -> Vec<u8> {
        let (asked, answers): (SocketAddrV4, SocketAddrV4) =
            (asked.parse().unwrap(), answers.parse().unwrap());
        let peer: SocketAddrV4 = "192.0.2.1:40000".parse().unwrap();
        let tuple = |kind: u16, from: SocketAddrV4, to: SocketAddrV4| {
            let ip = [
                attribute(SOURCE_V4, &from.ip().octets()),
                attribute(DESTINATION_V4, &to.ip().octets()),
            ];
            let ports = [
                attribute(PROTOCOL_NUMBER, &[protocol as u8]),
                attribute(SOURCE_PORT, &from.port().to_be_bytes()),
                attribute(DESTINATION_PORT, &to.port().to_be_bytes()),
            ];
            let inner = [
                attribute(TUPLE_IP | NESTED, &ip.concat()),
                attribute(TUPLE_PROTOCOL | NESTED, &ports.concat()),
            ];
            attribute(kind | NESTED, &inner.concat())
        };
        let tuples = [tuple(ORIGINAL, peer, asked), tuple(REPLY, answers, peer)];
        [&[libc::AF_INET as u8, 0, 0, 0][..], &tuples.concat()].concat()
    }

    fn leads(through: Through, leads: &[(Protocol, u16, &str)]) -> Leads {
        let ports = leads.iter();
        let ports = ports.map(|(protocol, port, to)| ((*protocol, *port), to.parse().unwrap()));
        Leads {
            ports: ports.collect(),
            through,
        }
    }

    const TCP: i32 = libc::IPPROTO_TCP;
    const UDP: i32 = libc::IPPROTO_UDP;

    #[test]
    fn the_node_forgets_what_goes_to_a_network_that_no_rule_leads_to() {
        let now = leads(Through::Node, &[(Protocol::Tcp, 8001, "198.18.0.3:8001")]);
        let misled = |protocol, asked, answers| now.mislead(&entry(protocol, asked, answers));
        assert!(!misled(TCP, "192.0.2.10:8001", "198.18.0.3:8001"));
        assert!(misled(TCP, "192.0.2.10:8001", "198.18.0.5:8001"));
        assert!(misled(UDP, "192.0.2.10:8001", "198.18.0.3:8001"));
        assert!(misled(TCP, "192.0.2.10:8002", "198.18.0.3:8002"));
        // A machine's connection to the world, one to the node, one of another protocol.
        assert!(!misled(TCP, "203.0.113.9:443", "203.0.113.9:443"));
        assert!(!misled(TCP, "192.0.2.10:9650", "192.0.2.10:9650"));
        assert!(!misled(TCP, "198.18.0.3:8002", "198.18.0.3:8002"));
        assert!(!misled(libc::IPPROTO_SCTP, "192.0.2.10:1", "198.18.0.3:1"));
    }

    #[test]
    fn a_network_forgets_what_goes_to_a_machine_that_no_rule_leads_to() {
        let far = Ipv4Addr::new(198, 18, 0, 3);
        let now = leads(
            Through::Namespace(far),
            &[(Protocol::Udp, 8001, "10.20.0.2:53")],
        );
        let misled = |asked, answers| now.mislead(&entry(UDP, asked, answers));
        assert!(!misled("198.18.0.3:8001", "10.20.0.2:53"));
        assert!(misled("198.18.0.3:8001", "10.20.0.3:53"));
        assert!(misled("198.18.0.3:8001", "10.20.0.2:54"));
        assert!(misled("198.18.0.3:8002", "10.20.0.2:53"));
        assert!(!misled("10.20.0.2:53", "10.20.0.2:53"), "between machines");
        assert!(!misled("198.18.0.3:8002", "198.18.0.3:8002"), "never led");
    }

    #[test]
    fn an_entry_that_is_cut_short_is_no_connection() {
        let now = leads(Through::Node, &[]);
        let whole = entry(TCP, "192.0.2.10:8001", "198.18.0.3:8001");
        assert!(now.mislead(&whole));
        for length in 0..whole.len() {
            let cut = now.mislead(&whole[..length]);
            // The end is the padding and the port of the peer, of which nothing is asked.
            assert!(
                !cut || whole.len() - length < 12,
                "{length} of {}",
                whole.len()
            );
        }
    }

    #[test]
    fn a_deletion_names_the_connection() {
        let body = entry(TCP, "192.0.2.10:8001", "198.18.0.3:8001");
        let original = tuple(&body, ORIGINAL).unwrap();
        let bytes = message(DELETE, ACKNOWLEDGE, original);
        assert_eq!(
            bytes.len(),
            u32::from_ne_bytes(bytes[..4].try_into().unwrap()) as usize
        );
        assert_eq!(bytes[4..8], [2, 1, 5, 0]);
        assert_eq!(bytes[16..20], [libc::AF_INET as u8, 0, 0, 0]);
        assert_eq!(tuple(&bytes[16..], ORIGINAL), Some(original));
        let dump = message(GET, DUMP, &[]);
        assert_eq!((dump.len(), &dump[4..8]), (20, &[1, 1, 1, 3][..]));
    }
}
