//! Frames as a hostile machine would make them.

use std::net::{Ipv4Addr, Ipv6Addr};

pub fn ethernet(to: [u8; 6], from: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &ethertype.to_be_bytes(), payload].concat()
}

pub fn udp_v4(from: Ipv4Addr, to: Ipv4Addr, ports: (u16, u16), text: &str) -> Vec<u8> {
    let length = 28 + text.len() as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(ports.0.to_be_bytes());
    packet.extend(ports.1.to_be_bytes());
    packet.extend((8 + text.len() as u16).to_be_bytes());
    // RFC 768: no checksum.
    packet.extend([0, 0]);
    packet.extend(text.as_bytes());
    packet
}

/// A gratuitous reply: "`address` is at `mac`".
pub fn arp_reply(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 2];
    packet.extend(mac);
    packet.extend(address.octets());
    packet.extend([0xff; 6]);
    packet.extend(address.octets());
    ethernet([0xff; 6], mac, 0x0806, &packet)
}

/// An ICMPv6 message in an IPv6 packet, with hop limit 255 as neighbour discovery demands.
pub fn icmp_v6(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    message[2..4].copy_from_slice(&[0, 0]);
    let length = (message.len() as u32).to_be_bytes();
    let pseudo = [
        &from.octets()[..],
        &to.octets(),
        &length,
        &[0, 0, 0, 58],
        &message,
    ]
    .concat();
    let sum = checksum(&pseudo);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((message.len() as u16).to_be_bytes());
    packet.extend([58, 255]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(message);
    packet
}

/// A router advertisement: a default router for half an hour, and a prefix for addresses.
pub fn router_advertisement(prefix: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![134, 0, 0, 0, 64, 0];
    message.extend(1800u16.to_be_bytes());
    message.extend([0; 8]);
    // RFC 4861 4.6.2: 64 bits, on link and autonomous, an hour.
    message.extend([3, 4, 64, 0xc0]);
    message.extend(3600u32.to_be_bytes());
    message.extend(3600u32.to_be_bytes());
    message.extend([0; 4]);
    message.extend(prefix.octets());
    message
}

/// An option of a router advertisement with name servers (RFC 8106 5.1).
pub fn name_servers(seconds: u32, servers: &[Ipv6Addr]) -> Vec<u8> {
    let mut option = vec![25, 1 + 2 * servers.len() as u8, 0, 0];
    option.extend(seconds.to_be_bytes());
    servers
        .iter()
        .for_each(|server| option.extend(server.octets()));
    option
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|c| u32::from(c[0]) << 8 | c.get(1).map_or(0, |b| u32::from(*b)));
    let mut sum: u32 = words.sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
