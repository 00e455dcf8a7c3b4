//! Forgets the connections of ports that are no longer published.
//!
//! The rules decide where a connection's first packet goes; the rest follows the kernel's
//! connection table. A peer that keeps sending datagrams to a port that was published to another
//! machine since would otherwise never reach it.
//!
//! Numbers are from `include/uapi/linux/netfilter/nfnetlink_conntrack.h`.

use std::io;

use loam_deployment::payload::Protocol;

use super::netfilter::Conversation;

const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const DUMP: u16 = 0x300;

/// `CTA_TUPLE_ORIG`, `CTA_TUPLE_PROTO`, `CTA_PROTO_NUM`, `CTA_PROTO_DST_PORT`.
const ORIGINAL: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const DESTINATION_PORT: u16 = 3;
/// The attribute's number without its flags (`NLA_TYPE_MASK`).
const KIND: u16 = 0x3fff;
const NESTED: u16 = 0x8000;

/// In the calling thread's network namespace: IPv4 connections that were opened to `ports`.
pub fn forget(ports: &[(Protocol, u16)]) -> io::Result<()> {
    if ports.is_empty() {
        return Ok(());
    }
    let conversation = Conversation::open()?;
    let mut gone = Vec::new();
    conversation.dump(&message(GET, DUMP, &[]), |entry| {
        if let Some(tuple) = original_tuple(entry.body)
            && destination(tuple).is_some_and(|destination| ports.contains(&destination))
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

/// Behind `struct nfgenmsg`.
fn original_tuple(body: &[u8]) -> Option<&[u8]> {
    find(body.get(4..)?, ORIGINAL)
}

fn destination(tuple: &[u8]) -> Option<(Protocol, u16)> {
    let protocol = find(tuple, TUPLE_PROTOCOL)?;
    let port = find(protocol, DESTINATION_PORT)?
        .try_into()
        .ok()
        .map(u16::from_be_bytes)?;
    let number = i32::from(*find(protocol, PROTOCOL_NUMBER)?.first()?);
    match number {
        libc::IPPROTO_TCP => Some((Protocol::Tcp, port)),
        libc::IPPROTO_UDP => Some((Protocol::Udp, port)),
        _ => None,
    }
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
