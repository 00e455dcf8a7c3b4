//! What a tenant might try against others: connections, and packets with a forged source address.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

/// Long enough for any network that a test has; a packet that is dropped gives no answer at all.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// Makes a TCP connection and ends it at once.
pub fn connect(to: SocketAddr, from: Option<IpAddr>) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(from) = from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    socket.connect_timeout(&to.into(), CONNECT_LIMIT)
}

/// What a forged datagram carries.
pub const FORGED: &[u8] = b"hello: forged";

/// Sends one UDP datagram whose IPv4 header says that `source` sent it. Needs `CAP_NET_RAW`.
pub fn send_forged(source: Ipv4Addr, target: SocketAddrV4) -> io::Result<()> {
    // IPPROTO_RAW: the header is ours.
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255)))?;
    let packet = datagram(source, target, FORGED)?;
    let address = SocketAddrV4::new(*target.ip(), 0);
    let sent = socket.send_to(&packet, &SocketAddr::V4(address).into())?;
    if sent == packet.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// IPv4 header (RFC 791) and UDP header (RFC 768). The kernel fills in identification and header
/// checksum; a UDP checksum of 0 says that there is none.
fn datagram(source: Ipv4Addr, target: SocketAddrV4, payload: &[u8]) -> io::Result<Vec<u8>> {
    let udp_length = u16::try_from(8 + payload.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let total = udp_length
        .checked_add(20)
        .ok_or(io::ErrorKind::InvalidInput)?;
    let mut packet = vec![0x45, 0];
    packet.extend(total.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(source.octets());
    packet.extend(target.ip().octets());
    packet.extend(target.port().to_be_bytes());
    packet.extend(target.port().to_be_bytes());
    packet.extend(udp_length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    Ok(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_made_or_refused() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        connect(address, None).unwrap();
        connect(address, Some("127.0.0.1".parse().unwrap())).unwrap();
        connect(address, Some("192.0.2.1".parse().unwrap())).unwrap_err();
        connect(address, Some("::1".parse().unwrap())).unwrap_err();
        drop(listener);
        connect(address, None).unwrap_err();
    }

    #[test]
    fn a_datagram_has_the_forged_source() {
        let target = "192.0.2.9:53".parse().unwrap();
        let packet = datagram(Ipv4Addr::new(10, 1, 2, 3), target, b"ab").unwrap();
        assert_eq!(packet.len(), 30);
        assert_eq!(packet[2..4], [0, 30]);
        assert_eq!(packet[12..16], [10, 1, 2, 3]);
        assert_eq!(packet[16..20], [192, 0, 2, 9]);
        assert_eq!(packet[22..26], [0, 53, 0, 10]);
        assert!(datagram(Ipv4Addr::LOCALHOST, target, &[0; 65535]).is_err());
    }
}
