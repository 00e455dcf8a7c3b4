//! Router advertisements of one link, as they come.

use std::{
    io,
    net::{Ipv6Addr, SocketAddrV6},
    os::fd::OwnedFd,
};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recvfrom, sendto,
    socket_with, sockopt,
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::uplink::packet_socket::{attach, bind_to_link};

/// More than a link carries in one packet that is not put together from fragments, which RFC 6980
/// forbids for these.
const LARGEST: usize = 9216;

/// More messages than a socket keeps.
const QUEUE: usize = 1024;

/// RFC 4861 4.1, without options. The kernel fills in the checksum.
const SOLICITATION: [u8; 8] = [133, 0, 0, 0, 0, 0, 0, 0];
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// `SKF_NET_OFF` of `linux/filter.h`: from here on the IPv6 header, which a raw socket does not give.
const IPV6: u32 = 0xfff0_0000;

/// What RFC 4861 6.1.2 demands of a message beside its own content: it comes from the link itself.
/// (The kernel checks the sum of what a raw socket of ICMPv6 receives.)
#[rustfmt::skip]
fn filter() -> [libc::sock_filter; 9] {
    use libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_H, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET};
    const fn step(code: u32, then: u8, otherwise: u8, k: u32) -> libc::sock_filter {
        libc::sock_filter { code: code as u16, jt: then, jf: otherwise, k }
    }
    [
        step(BPF_LD | BPF_B | BPF_ABS, 0, 0, IPV6 + 7),  // 0 hop limit
        step(BPF_JMP | BPF_JEQ, 0, 6, 255),              // 1 by no router on the way? else leave
        step(BPF_LD | BPF_H | BPF_ABS, 0, 0, IPV6 + 8),  // 2 begin of the source
        step(BPF_ALU | BPF_AND | BPF_K, 0, 0, 0xffc0),   // 3
        step(BPF_JMP | BPF_JEQ, 0, 3, 0xfe80),           // 4 link-local? else leave
        step(BPF_LD | BPF_B | BPF_ABS, 0, 0, 0),         // 5 type
        step(BPF_JMP | BPF_JEQ, 0, 1, 134),              // 6 router advertisement? else leave
        step(BPF_RET, 0, 0, LARGEST as u32),             // 7 take
        step(BPF_RET, 0, 0, 0),                          // 8 leave
    ]
}

#[derive(Debug)]
pub struct RouterSocket {
    link: u32,
    socket: AsyncFd<OwnedFd>,
}

impl RouterSocket {
    pub fn open(link: u32) -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (family, kind) = (AddressFamily::INET6, SocketType::RAW);
        let socket = socket_with(family, kind, flags, Some(ipproto::ICMPV6))?;
        attach(&socket, &filter())?;
        bind_to_link(&socket, link)?;
        sockopt::set_ipv6_multicast_hops(&socket, 255)?;
        // What came before the filter and the link were set is of other links and kinds.
        let mut rest = [0; 1];
        for _ in 0..QUEUE {
            if recvfrom(&socket, &mut rest, RecvFlags::empty()).is_err() {
                break;
            }
        }
        // SAFETY: `OwnedFd` gives the same descriptor for all of its life.
        let socket = unsafe { AsyncFd::register(socket) }?;
        Ok(Self { link, socket })
    }

    /// The next message, and the router that it is from.
    pub async fn receive(&self) -> io::Result<(Ipv6Addr, Vec<u8>)> {
        let mut message = vec![0; LARGEST];
        let read = self.socket.async_io(Interest::READABLE, |socket| {
            loop {
                match recvfrom(socket, &mut message, RecvFlags::empty()) {
                    // Said once; the link's state is told by other means.
                    Err(rustix::io::Errno::NETDOWN) => {}
                    Err(error) => return Err(error.into()),
                    Ok((length, _, from)) => return Ok((length, from)),
                }
            }
        });
        let (length, from) = read.await?;
        message.truncate(length);
        let from = from.and_then(|from| SocketAddrV6::try_from(from).ok());
        let from = from.ok_or(io::ErrorKind::InvalidData)?;
        Ok((*from.ip(), message))
    }

    /// Asks the routers of the link to speak.
    pub fn solicit(&self) -> io::Result<()> {
        let to = SocketAddrV6::new(ALL_ROUTERS, 0, 0, self.link);
        sendto(
            self.socket.get_ref(),
            &SOLICITATION,
            SendFlags::empty(),
            &to,
        )?;
        Ok(())
    }
}
