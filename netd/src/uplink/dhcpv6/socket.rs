//! DHCPv6 messages of one link. Unlike DHCPv4, it needs no frames: a client speaks from the link's own
//! address, which is there before any server is.

use std::{
    io,
    net::{Ipv6Addr, SocketAddrV6},
    os::fd::OwnedFd,
};

use dhcproto::v6::{CLIENT_PORT, SERVER_PORT};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt};
use tokio::net::UdpSocket;

use crate::uplink::packet_socket::bind_to_link;

/// RFC 8415 7.1: `All_DHCP_Relay_Agents_and_Servers`.
const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// Servers are not told of a limit; what holds a few addresses is far shorter, and a longer one ends in
/// the middle of an option and counts for nothing.
const LARGEST: usize = 4096;

#[derive(Debug)]
pub struct Socket {
    link: u32,
    socket: UdpSocket,
}

impl Socket {
    pub fn open(link: u32) -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (family, kind) = (AddressFamily::INET6, SocketType::DGRAM);
        let socket: OwnedFd = socket_with(family, kind, flags, Some(ipproto::UDP))?;
        sockopt::set_ipv6_v6only(&socket, true)?;
        // The socket of an earlier client of this link may take a moment to go.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind_to_link(&socket, link)?;
        let any = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, CLIENT_PORT, 0, 0);
        bind(&socket, &any)?;
        let socket = UdpSocket::from_std(socket.into())?;
        Ok(Self { link, socket })
    }

    pub async fn receive(&self) -> io::Result<Vec<u8>> {
        let mut message = vec![0; LARGEST];
        let length = self.socket.recv(&mut message).await?;
        message.truncate(length);
        Ok(message)
    }

    /// To all servers of the link. Refused as long as the link has no address of its own.
    pub fn send(&self, message: &[u8]) -> io::Result<()> {
        let to = SocketAddrV6::new(SERVERS, SERVER_PORT, 0, self.link);
        self.socket.try_send_to(message, to.into())?;
        Ok(())
    }
}
