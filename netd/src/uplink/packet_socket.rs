//! Raw frames of one link, and packets that the kernel leads to their receiver on it.

use std::{
    io, mem,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with,
};
use tokio::io::{Interest, unix::AsyncFd};

/// The largest frame without a VLAN tag.
const FRAME: usize = 1514;

/// `PACKET_IGNORE_OUTGOING` of `linux/if_packet.h`.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
/// `SO_BINDTOIFINDEX` of `asm-generic/socket.h`.
const SO_BINDTOIFINDEX: libc::c_int = 62;

/// What the kernel hands over, as a classic BPF program (`linux/filter.h`): nothing else of a busy
/// link's traffic is worth waking up for. Of ARP it is what says that somebody has, or probes for,
/// the address that is watched.
#[rustfmt::skip]
fn filter(watched: Option<Ipv4Addr>) -> [libc::sock_filter; 17] {
    use libc::{BPF_ABS, BPF_B, BPF_H, BPF_IND, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_LD, BPF_LDX,
        BPF_MSH, BPF_RET, BPF_W};
    const fn step(code: u32, then: u8, otherwise: u8, k: u32) -> libc::sock_filter {
        libc::sock_filter { code: code as u16, jt: then, jf: otherwise, k }
    }
    // Nobody can have this one.
    let address = watched.unwrap_or(Ipv4Addr::BROADCAST).to_bits();
    [
        step(BPF_LD | BPF_H | BPF_ABS, 0, 0, 12),     //  0 ethertype
        step(BPF_JMP | BPF_JEQ, 0, 5, 0x0806),        //  1 ARP? else 7
        step(BPF_LD | BPF_W | BPF_ABS, 0, 0, 28),     //  2 sender's IPv4 address
        step(BPF_JMP | BPF_JEQ, 11, 0, address),      //  3 the watched one? take
        step(BPF_JMP | BPF_JEQ, 0, 11, 0),            //  4 none, a probe? else leave
        step(BPF_LD | BPF_W | BPF_ABS, 0, 0, 38),     //  5 target's IPv4 address
        step(BPF_JMP | BPF_JEQ, 8, 9, address),       //  6 the watched one? take, else leave
        step(BPF_JMP | BPF_JEQ, 0, 8, 0x0800),        //  7 IPv4? else leave
        step(BPF_LD | BPF_B | BPF_ABS, 0, 0, 23),     //  8 protocol
        step(BPF_JMP | BPF_JEQ, 0, 6, 17),            //  9 UDP? else leave
        step(BPF_LD | BPF_H | BPF_ABS, 0, 0, 20),     // 10 fragment offset
        step(BPF_JMP | BPF_JSET, 4, 0, 0x1fff),       // 11 later fragment? leave
        step(BPF_LDX | BPF_B | BPF_MSH, 0, 0, 14),    // 12 length of the IPv4 header
        step(BPF_LD | BPF_H | BPF_IND, 0, 0, 16),     // 13 destination port
        step(BPF_JMP | BPF_JEQ, 0, 1, 68),            // 14 DHCP client? take, else leave
        step(BPF_RET, 0, 0, FRAME as u32),            // 15 take
        step(BPF_RET, 0, 0, 0),                       // 16 leave
    ]
}

/// A packet socket bound to one link.
#[derive(Debug)]
pub struct PacketSocket {
    socket: AsyncFd<OwnedFd>,
}

impl PacketSocket {
    pub fn open(link: u32) -> io::Result<Self> {
        // Protocol 0: nothing is received before the filter is set and the link is chosen.
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: a plain system call without pointers.
        let socket = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
        // SAFETY: the descriptor was just made and is owned by nothing else.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        attach(&socket, &filter(None))?;
        set_option(&socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1)?;
        bind(&socket, link)?;
        // SAFETY: `OwnedFd` gives the same descriptor for all of its life.
        let socket = unsafe { AsyncFd::register(socket) }?;
        Ok(Self { socket })
    }

    /// The next frame.
    pub async fn receive(&self) -> io::Result<Vec<u8>> {
        let mut frame = vec![0; FRAME];
        let read = self.socket.async_io(Interest::READABLE, |socket| {
            loop {
                match rustix::io::read(socket, &mut frame) {
                    // Said once; the link's state is told by other means.
                    Err(rustix::io::Errno::NETDOWN) => {}
                    other => return other.map_err(io::Error::from),
                }
            }
        });
        let length = read.await?;
        frame.truncate(length);
        Ok(frame)
    }

    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        rustix::io::write(self.socket.get_ref(), frame)?;
        Ok(())
    }

    /// Receives what ARP says about this address from now on, or nothing.
    pub fn watch(&self, address: Option<Ipv4Addr>) -> io::Result<()> {
        attach(self.socket.get_ref(), &filter(address))
    }
}

/// Sends whole IPv4 packets by one link to hosts and routers whose Ethernet address the kernel finds.
#[derive(Debug)]
pub struct RoutedSocket(OwnedFd);

impl RoutedSocket {
    pub fn open(link: u32) -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        // Of this protocol nothing is ever received, and the header is the sender's (raw(7)).
        let (family, kind) = (AddressFamily::INET, SocketType::RAW);
        let socket = socket_with(family, kind, flags, Some(ipproto::RAW))?;
        bind_to_link(&socket, link)?;
        Ok(Self(socket))
    }

    pub fn send(&self, to: Ipv4Addr, packet: &[u8]) -> io::Result<()> {
        sendto(
            &self.0,
            packet,
            SendFlags::empty(),
            &SocketAddrV4::new(to, 0),
        )?;
        Ok(())
    }
}

/// Binds the socket to the link: it hears and says nothing on others.
pub fn bind_to_link(socket: &OwnedFd, link: u32) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, SO_BINDTOIFINDEX, &index(link)?)
}

/// In place of the filter that was there.
pub fn attach(socket: &OwnedFd, filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        // The kernel only reads it.
        filter: filter.as_ptr().cast_mut(),
    };
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

fn index(link: u32) -> io::Result<i32> {
    i32::try_from(link).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn set_option<T>(
    socket: &OwnedFd,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let length = mem::size_of::<T>() as libc::socklen_t;
    let value = std::ptr::from_ref(value).cast();
    // SAFETY: `value` points to `length` readable bytes for the time of the call.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value, length) })?;
    Ok(())
}

fn bind(socket: &OwnedFd, link: u32) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: index(link)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = mem::size_of_val(&address) as libc::socklen_t;
    let address = std::ptr::from_ref(&address).cast();
    // SAFETY: `address` points to a `sockaddr_ll` of `length` bytes for the time of the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), address, length) })?;
    Ok(())
}
