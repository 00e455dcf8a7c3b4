//! As much of rtnetlink(7) as a machine's interfaces need: links up, addresses, default routes.

use std::{io, net::IpAddr, os::fd::OwnedFd};

use ipnet::IpNet;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Number of an interface in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkIndex(pub u32);

/// What is asked of the kernel: message type, flags and content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

// `linux/netlink.h`
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 0x001;
const NLM_F_ACK: u16 = 0x004;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;

// `linux/rtnetlink.h`, `linux/if_link.h`, `linux/if_addr.h`
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const IFF_UP: u32 = 1;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;
const RTNH_F_ONLINK: u32 = 4;

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;

impl Request {
    /// Brings the interface up.
    pub fn link_up(link: LinkIndex) -> Self {
        // struct ifinfomsg: family, padding, type, index, flags, mask of the flags to change.
        let mut body = vec![0; 4];
        body.extend(link.0.to_ne_bytes());
        body.extend(IFF_UP.to_ne_bytes());
        body.extend(IFF_UP.to_ne_bytes());
        Self {
            kind: RTM_NEWLINK,
            flags: 0,
            body,
        }
    }

    /// What the interface carries in one packet, in bytes.
    pub fn link_mtu(link: LinkIndex, mtu: u16) -> Self {
        // struct ifinfomsg, which changes no flag.
        let mut body = vec![0; 4];
        body.extend(link.0.to_ne_bytes());
        body.extend([0; 8]);
        attribute(&mut body, IFLA_MTU, &u32::from(mtu).to_ne_bytes());
        Self {
            kind: RTM_NEWLINK,
            flags: 0,
            body,
        }
    }

    /// Gives the interface an address; one that it has already is left as it is.
    pub fn address(link: LinkIndex, address: IpNet) -> Self {
        // struct ifaddrmsg: family, prefix length, flags, scope, index. The node hands addresses
        // out, so the kernel need not ask the network whether someone else has an IPv6 one.
        let flags = if address.addr().is_ipv6() {
            IFA_F_NODAD
        } else {
            0
        };
        let mut body = vec![family(address.addr()), address.prefix_len(), flags, 0];
        body.extend(link.0.to_ne_bytes());
        let octets = octets(address.addr());
        attribute(&mut body, IFA_LOCAL, &octets);
        attribute(&mut body, IFA_ADDRESS, &octets);
        Self {
            kind: RTM_NEWADDR,
            flags: NLM_F_CREATE | NLM_F_REPLACE,
            body,
        }
    }

    /// The default route of the gateway's address family. The lowest `metric` wins. `on_link`: the
    /// gateway is in none of the interface's own subnets.
    pub fn default_route(link: LinkIndex, gateway: IpAddr, metric: u32, on_link: bool) -> Self {
        // struct rtmsg: family, lengths of destination and source, tos, table, protocol, scope,
        // type, flags.
        let mut body = vec![
            family(gateway),
            0,
            0,
            0,
            RT_TABLE_MAIN,
            RTPROT_STATIC,
            0,
            RTN_UNICAST,
        ];
        body.extend(if on_link { RTNH_F_ONLINK } else { 0 }.to_ne_bytes());
        attribute(&mut body, RTA_GATEWAY, &octets(gateway));
        attribute(&mut body, RTA_OIF, &link.0.to_ne_bytes());
        attribute(&mut body, RTA_PRIORITY, &metric.to_ne_bytes());
        Self {
            kind: RTM_NEWROUTE,
            flags: NLM_F_CREATE | NLM_F_REPLACE,
            body,
        }
    }

    fn encode(&self, sequence: u32) -> Vec<u8> {
        let mut message = Vec::with_capacity(HEADER + self.body.len());
        message.extend(((HEADER + self.body.len()) as u32).to_ne_bytes());
        message.extend(self.kind.to_ne_bytes());
        message.extend((self.flags | NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        message.extend(sequence.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.extend(&self.body);
        message
    }
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 2,
        IpAddr::V6(_) => 10,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    }
}

/// `struct rtattr` and its content, padded to 4 bytes. Contents here are 16 bytes at most.
fn attribute(body: &mut Vec<u8>, kind: u16, content: &[u8]) {
    body.extend((4 + content.len() as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(content);
    body.resize(body.len().next_multiple_of(4), 0);
}

#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub fn open() -> io::Result<Self> {
        // NETLINK_ROUTE is the default protocol, number 0.
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Sends a request and waits until the kernel has carried it out or refused it.
    pub fn ask(&mut self, request: &Request) -> io::Result<()> {
        self.sequence += 1;
        let message = request.encode(self.sequence);
        rustix::net::send(&self.socket, &message, SendFlags::empty())?;
        let mut reply = [0; 8192];
        loop {
            let (count, _) = match rustix::net::recv(&self.socket, &mut reply, RecvFlags::empty()) {
                Err(rustix::io::Errno::INTR) => continue,
                received => received?,
            };
            if let Some(result) = outcome(&reply[..count], self.sequence) {
                return result;
            }
        }
    }
}

/// What the messages of a reply say about the request with this number, if anything.
fn outcome(mut reply: &[u8], sequence: u32) -> Option<io::Result<()>> {
    let word =
        |bytes: &[u8], at: usize| -> Option<[u8; 4]> { bytes.get(at..at + 4)?.try_into().ok() };
    loop {
        let length = u32::from_ne_bytes(word(reply, 0)?) as usize;
        let message = reply.get(..length).filter(|_| length >= HEADER)?;
        let kind = u16::from_ne_bytes([message[4], message[5]]);
        if kind == NLMSG_ERROR && u32::from_ne_bytes(word(message, 8)?) == sequence {
            let code = i32::from_ne_bytes(word(message, HEADER)?);
            return Some(match code {
                0 => Ok(()),
                code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
            });
        }
        reply = reply.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::UdpSocket;

    const LINK: LinkIndex = LinkIndex(2);

    #[test]
    fn an_address_as_the_kernel_reads_it() {
        let request = Request::address(LINK, "10.20.0.2/24".parse().unwrap());
        assert_eq!(
            request.body,
            [
                2, 24, 0, 0, 2, 0, 0, 0, 8, 0, 2, 0, 10, 20, 0, 2, 8, 0, 1, 0, 10, 20, 0, 2
            ]
        );
        let message = request.encode(7);
        assert_eq!(
            message[..16],
            [40, 0, 0, 0, 20, 0, 5, 5, 7, 0, 0, 0, 0, 0, 0, 0]
        );
    }

    fn reply(kind: u16, sequence: u32, code: i32) -> Vec<u8> {
        let body = code.to_ne_bytes().to_vec();
        let mut message = Request {
            kind,
            flags: 0,
            body,
        }
        .encode(sequence);
        message.extend([0; 2]);
        message[0] += 2;
        message.extend([0; 2]);
        message
    }

    #[test]
    fn the_answer_is_found_among_others() {
        let mut messages = reply(RTM_NEWADDR, 3, 0);
        messages.extend(reply(NLMSG_ERROR, 2, -1));
        assert!(outcome(&messages, 3).is_none());
        messages.extend(reply(NLMSG_ERROR, 3, -17));
        let error = outcome(&messages, 3).unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert!(outcome(&reply(NLMSG_ERROR, 4, 0), 4).unwrap().is_ok());
        assert!(outcome(&[], 1).is_none());
    }

    proptest! {
        #[test]
        fn no_reply_makes_it_panic_or_loop(reply in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = outcome(&reply, 0);
        }
    }

    /// Of a link in the calling thread's network.
    fn mtu(name: &str) -> i32 {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        // SAFETY: all zeroes is a valid `ifreq`, which the kernel reads and writes within its size.
        unsafe {
            let mut request: libc::ifreq = std::mem::zeroed();
            for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
                *to = from as libc::c_char;
            }
            let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
            assert_eq!(libc::ioctl(fd, libc::SIOCGIFMTU as _, &mut request), 0);
            request.ifr_ifru.ifru_mtu
        }
    }

    /// On a real kernel, in a network of this thread's own.
    #[test]
    fn the_kernel_takes_the_requests() {
        std::thread::spawn(|| {
            // SAFETY: only this thread leaves its network namespace; files and signals stay shared.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
                .expect("a network namespace needs root (CAP_SYS_ADMIN): run the tests as root");
            let lo = LinkIndex(1);
            let mut netlink = Netlink::open().unwrap();
            netlink.ask(&Request::link_up(lo)).unwrap();
            netlink.ask(&Request::link_mtu(lo, 1400)).unwrap();
            assert_eq!(mtu("lo"), 1400);
            for address in ["10.20.0.2/24", "fd00:20::2/64"] {
                let address: IpNet = address.parse().unwrap();
                UdpSocket::bind((address.addr(), 0)).unwrap_err();
                // Twice is once.
                netlink.ask(&Request::address(lo, address)).unwrap();
                netlink.ask(&Request::address(lo, address)).unwrap();
                UdpSocket::bind((address.addr(), 0)).unwrap();
            }
            let outside = "192.0.2.1:9";
            let reach = || UdpSocket::bind("0.0.0.0:0").unwrap().connect(outside);
            reach().unwrap_err();
            let error = netlink
                .ask(&Request::default_route(
                    lo,
                    "198.51.100.1".parse().unwrap(),
                    100,
                    false,
                ))
                .unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NetworkUnreachable);
            let missing = Request::link_up(LinkIndex(77));
            assert_eq!(
                netlink.ask(&missing).unwrap_err().raw_os_error(),
                Some(libc::ENODEV)
            );
        })
        .join()
        .unwrap();
    }
}
