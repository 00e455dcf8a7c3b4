//! Raw frames of one link: DHCP answers to us, and ARP replies for renewing by unicast.

use std::{
    io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use smoltcp::{
    phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken},
    time::Instant,
};
use tokio::io::{Interest, unix::AsyncFd};

/// The largest frame without a VLAN tag.
const FRAME: usize = 1514;

/// `PACKET_IGNORE_OUTGOING` of `linux/if_packet.h`.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// What the kernel hands over, as a classic BPF program (`linux/filter.h`): nothing else of a busy
/// link's traffic is worth waking up for.
#[rustfmt::skip]
const FILTER: [libc::sock_filter; 14] = {
    use libc::{BPF_ABS, BPF_B, BPF_H, BPF_IND, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_LD, BPF_LDX,
        BPF_MSH, BPF_RET};
    const fn step(code: u32, then: u8, otherwise: u8, k: u32) -> libc::sock_filter {
        libc::sock_filter { code: code as u16, jt: then, jf: otherwise, k }
    }
    [
        step(BPF_LD | BPF_H | BPF_ABS, 0, 0, 12),     //  0 ethertype
        step(BPF_JMP | BPF_JEQ, 0, 2, 0x0806),        //  1 ARP? else 4
        step(BPF_LD | BPF_H | BPF_ABS, 0, 0, 20),     //  2 operation
        step(BPF_JMP | BPF_JEQ, 8, 9, 2),             //  3 reply? take, else leave
        step(BPF_JMP | BPF_JEQ, 0, 8, 0x0800),        //  4 IPv4? else leave
        step(BPF_LD | BPF_B | BPF_ABS, 0, 0, 23),     //  5 protocol
        step(BPF_JMP | BPF_JEQ, 0, 6, 17),            //  6 UDP? else leave
        step(BPF_LD | BPF_H | BPF_ABS, 0, 0, 20),     //  7 fragment offset
        step(BPF_JMP | BPF_JSET, 4, 0, 0x1fff),       //  8 later fragment? leave
        step(BPF_LDX | BPF_B | BPF_MSH, 0, 0, 14),    //  9 length of the IPv4 header
        step(BPF_LD | BPF_H | BPF_IND, 0, 0, 16),     // 10 destination port
        step(BPF_JMP | BPF_JEQ, 0, 1, 68),            // 11 DHCP client? take, else leave
        step(BPF_RET, 0, 0, FRAME as u32),            // 12 take
        step(BPF_RET, 0, 0, 0),                       // 13 leave
    ]
};

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
        let program = libc::sock_fprog {
            len: FILTER.len() as u16,
            // The kernel only reads it.
            filter: FILTER.as_ptr().cast_mut(),
        };
        set_option(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
        set_option(&socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1)?;
        bind(&socket, link)?;
        // SAFETY: `OwnedFd` gives the same descriptor for all of its life.
        let socket = unsafe { AsyncFd::register(socket) }?;
        Ok(Self { socket })
    }

    /// Until a frame may be there.
    pub async fn readable(&self) -> io::Result<()> {
        // Readiness ends when reading finds nothing; see `receive`.
        self.socket
            .readable()
            .await
            .map(|mut guard| guard.retain_ready())
    }
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
    let index = i32::try_from(link).map_err(|_| io::ErrorKind::InvalidInput)?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: index,
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

/// One received frame.
#[derive(Debug)]
pub struct Received(Vec<u8>);

/// Leave to send one frame.
#[derive(Debug)]
pub struct Sending<'a>(&'a AsyncFd<OwnedFd>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut frame = vec![0; length];
        let result = write(&mut frame);
        // A frame that is lost here is like one lost on the cable: it is sent again in time.
        if let Err(error) = rustix::io::write(self.0.get_ref(), &frame) {
            tracing::debug!("a DHCP frame was not sent: {error}");
        }
        result
    }
}

impl Device for PacketSocket {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        let mut frame = vec![0; FRAME];
        let read = self.socket.try_io(Interest::READABLE, |socket| {
            rustix::io::read(socket, &mut frame).map_err(io::Error::from)
        });
        // Also when the link went down: its state is told by other means.
        frame.truncate(read.ok()?);
        Some((Received(frame), Sending(&self.socket)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&self.socket))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut checksum = ChecksumCapabilities::default();
        // A server behind a virtual link leaves the UDP checksum to hardware that is not there.
        checksum.udp = Checksum::Tx;
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME;
        capabilities.checksum = checksum;
        capabilities
    }
}
