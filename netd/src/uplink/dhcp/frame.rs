//! Frames that carry DHCP and ARP.

use std::net::Ipv4Addr;

use smoltcp::{
    phy::{Checksum, ChecksumCapabilities},
    wire::{
        ArpHardware, ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame,
        EthernetProtocol, EthernetRepr, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket,
        UdpRepr,
    },
};

use super::event::Arp;

/// RFC 2131 4.1.
const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
const HOPS: u8 = 64;

const ETHERNET: usize = 14;
const ARP: usize = 28;
const IPV4: usize = 20;
const UDP: usize = 8;

#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// A message to a client's port.
    Dhcp(&'a [u8]),
    Arp(Arp),
}

/// None if it is neither, or damaged.
pub fn read(frame: &[u8]) -> Option<Received<'_>> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    match frame.ethertype() {
        EthernetProtocol::Arp => read_arp(frame.payload()),
        EthernetProtocol::Ipv4 => read_dhcp(frame.payload()),
        _ => None,
    }
}

fn read_arp(packet: &[u8]) -> Option<Received<'_>> {
    let packet = ArpPacket::new_checked(packet).ok()?;
    // Requests and replies alike tell who has what.
    let ArpRepr::EthernetIpv4 {
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = ArpRepr::parse(&packet).ok()?
    else {
        return None;
    };
    Some(Received::Arp(Arp {
        sender_mac: source_hardware_addr.0,
        sender: source_protocol_addr,
        target: target_protocol_addr,
    }))
}

fn read_dhcp(packet: &[u8]) -> Option<Received<'_>> {
    let packet = Ipv4Packet::new_checked(packet).ok()?;
    let ip = Ipv4Repr::parse(&packet, &checksums()).ok()?;
    if ip.next_header != IpProtocol::Udp {
        return None;
    }
    let datagram = UdpPacket::new_checked(packet.payload()).ok()?;
    let (from, to) = (IpAddress::Ipv4(ip.src_addr), IpAddress::Ipv4(ip.dst_addr));
    let udp = UdpRepr::parse(&datagram, &from, &to, &checksums()).ok()?;
    // RFC 2131 4.1 says to which port servers send, not from which, and some send from any.
    (udp.dst_port == CLIENT_PORT).then(|| Received::Dhcp(datagram.payload()))
}

fn checksums() -> ChecksumCapabilities {
    let mut checksums = ChecksumCapabilities::default();
    // A server behind a virtual link leaves the UDP checksum to hardware that is not there.
    checksums.udp = Checksum::Tx;
    checksums
}

/// A message to all servers of the link.
pub fn broadcast(mac: [u8; 6], from: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(mac, EthernetProtocol::Ipv4, IPV4 + UDP + message.len());
    frame[ETHERNET..].copy_from_slice(&datagram(from, Ipv4Addr::BROADCAST, message));
    frame
}

/// A message in an IPv4 packet.
pub fn datagram(from: Ipv4Addr, to: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; IPV4 + UDP + message.len()];
    let ip = Ipv4Repr {
        src_addr: from,
        dst_addr: to,
        next_header: IpProtocol::Udp,
        payload_len: UDP + message.len(),
        hop_limit: HOPS,
    };
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[..]), &checksums());
    let udp = UdpRepr {
        src_port: CLIENT_PORT,
        dst_port: SERVER_PORT,
    };
    udp.emit(
        &mut UdpPacket::new_unchecked(&mut bytes[IPV4..]),
        &IpAddress::Ipv4(from),
        &IpAddress::Ipv4(to),
        message.len(),
        |payload| payload.copy_from_slice(message),
        &checksums(),
    );
    bytes
}

/// RFC 5227 1.1: "who has `address`", said by nobody.
pub fn probe(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    arp(mac, Ipv4Addr::UNSPECIFIED, address)
}

/// RFC 5227 1.1: `address` asks for itself, so that all learn who has it.
pub fn announcement(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    arp(mac, address, address)
}

fn arp(mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(mac, EthernetProtocol::Arp, ARP);
    let repr = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(mac),
        source_protocol_addr: sender,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: target,
    };
    let mut packet = ArpPacket::new_unchecked(&mut frame[ETHERNET..]);
    packet.set_hardware_type(ArpHardware::Ethernet);
    repr.emit(&mut packet);
    frame
}

/// To all, with room for the payload.
fn ethernet(mac: [u8; 6], ethertype: EthernetProtocol, payload: usize) -> Vec<u8> {
    let mut frame = vec![0; ETHERNET + payload];
    let header = EthernetRepr {
        src_addr: EthernetAddress(mac),
        dst_addr: EthernetAddress::BROADCAST,
        ethertype,
    };
    header.emit(&mut EthernetFrame::new_unchecked(&mut frame[..]));
    frame
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 50);
    const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    /// As the server would send it: the client's, with its ports the other way round.
    fn answer(message: &[u8]) -> Vec<u8> {
        by_ports(SERVER_PORT, CLIENT_PORT, message)
    }

    fn by_ports(from: u16, to: u16, message: &[u8]) -> Vec<u8> {
        let mut frame = broadcast(MAC, SERVER, message);
        let ports = ETHERNET + IPV4;
        frame[ports..ports + 2].copy_from_slice(&from.to_be_bytes());
        frame[ports + 2..ports + 4].copy_from_slice(&to.to_be_bytes());
        frame
    }

    #[test]
    fn a_message_comes_out_of_its_frame() {
        let mut frame = answer(b"hello");
        assert_eq!(read(&frame), Some(Received::Dhcp(b"hello")));
        // A virtual link's sender has left the checksum to hardware.
        frame[ETHERNET + IPV4 + 6] ^= 0xff;
        assert_eq!(read(&frame), Some(Received::Dhcp(b"hello")));
        // An Ethernet frame is padded to its least length.
        frame.resize(60, 0);
        assert_eq!(read(&frame), Some(Received::Dhcp(b"hello")));
        frame[ETHERNET + 8] ^= 1;
        assert_eq!(read(&frame), None, "the header is damaged");
        assert_eq!(read(&broadcast(MAC, SERVER, b"hello")), None, "a client's");
    }

    #[test]
    fn a_server_may_send_from_any_port() {
        let received = |from, to| read(&by_ports(from, to, b"hello")).is_some();
        for from in [0, CLIENT_PORT, 1025, u16::MAX] {
            assert!(received(from, CLIENT_PORT), "from {from}");
        }
        for to in [SERVER_PORT, CLIENT_PORT - 2, CLIENT_PORT + 1] {
            assert!(!received(SERVER_PORT, to), "to {to}");
        }
    }

    #[test]
    fn probes_and_announcements_are_those_of_rfc_5227() {
        let frame = probe(MAC, ADDRESS);
        assert_eq!(frame.len(), 42);
        assert_eq!(frame[..6], [0xff; 6]);
        assert_eq!(frame[6..14], [2, 0, 0, 0, 0, 1, 0x08, 0x06]);
        assert_eq!(frame[14..22], [0, 1, 8, 0, 6, 4, 0, 1], "a request");
        assert_eq!(frame[22..32], [2, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(frame[32..42], [0, 0, 0, 0, 0, 0, 192, 0, 2, 50]);
        let said = |sender| {
            Some(Received::Arp(Arp {
                sender_mac: MAC,
                sender,
                target: ADDRESS,
            }))
        };
        assert_eq!(read(&frame), said(Ipv4Addr::UNSPECIFIED));
        assert_eq!(read(&announcement(MAC, ADDRESS)), said(ADDRESS));
    }

    /// Anything at all, or an answer with a few bytes that are others, and cut.
    fn odd_frame() -> impl Strategy<Value = Vec<u8>> {
        let changes = vec((0usize..80, any::<u8>()), 0..4);
        let likely = (vec(any::<u8>(), 0..40), changes, 0usize..120);
        let likely = likely.prop_map(|(message, changes, length)| {
            let mut frame = answer(&message);
            for (at, to) in changes {
                if let Some(byte) = frame.get_mut(at) {
                    *byte = to;
                }
            }
            frame.truncate(length);
            frame
        });
        prop_oneof![3 => likely, 1 => vec(any::<u8>(), 0..200)]
    }

    /// What is taken out lies in the frame, where its headers say.
    fn is_sane(frame: &[u8]) -> bool {
        match read(frame) {
            Some(Received::Dhcp(message)) => {
                let all = ETHERNET + IPV4 + UDP + message.len();
                frame[12..14] == [8, 0] && all <= frame.len() && frame[23] == 17
            }
            Some(Received::Arp(arp)) => frame[12..14] == [8, 6] && frame[22..28] == arp.sender_mac,
            None => true,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_frame_is_read_or_ignored(frame in odd_frame()) {
            prop_assert!(is_sane(&frame));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]

        #[test]
        #[ignore = "slow: a hundred thousand frames"]
        fn any_of_very_many_frames_is_read_or_ignored(frame in odd_frame()) {
            prop_assert!(is_sane(&frame));
        }
    }

    /// The property would be worth nothing if what it draws never was a message.
    #[test]
    fn odd_frames_are_messages_often_enough_to_do_harm() {
        use proptest::{strategy::ValueTree, test_runner::TestRunner};
        let mut runner = TestRunner::deterministic();
        let mut read = 0;
        for _ in 0..400 {
            let frame = odd_frame().new_tree(&mut runner).unwrap().current();
            read += usize::from(super::read(&frame).is_some());
        }
        assert!((20..380).contains(&read), "{read}");
    }
}
