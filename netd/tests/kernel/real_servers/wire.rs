//! What passes on the uplink's wire of DHCP, both ways, with the kernel's time of each frame.

use std::{
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::Duration,
};

use dhcproto::{Decodable, v4, v6};
use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, UdpPacket};

use crate::host::{Host, LIMIT};

/// A message that a busy machine sends late is that much nearer to the next: one too many is none in a
/// storm, whose messages add up.
const TOLERANCE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    V4(v4::MessageType),
    V6(v6::MessageType),
}

pub const DISCOVER: Kind = Kind::V4(v4::MessageType::Discover);
pub const REQUEST: Kind = Kind::V4(v4::MessageType::Request);
pub const NAK: Kind = Kind::V4(v4::MessageType::Nak);

#[derive(Clone, Copy, Debug)]
struct Passed {
    at: Duration,
    by_client: bool,
    kind: Kind,
}

#[derive(Default)]
struct Record {
    passed: Mutex<Vec<Passed>>,
    more: Condvar,
}

pub struct Wire {
    record: Arc<Record>,
}

impl Wire {
    /// Watches a link at whose other end `client` is.
    pub fn watch(host: &Host, link: &str, client: [u8; 6]) -> Self {
        let socket = host.run(|| packet_socket(link));
        let record = Arc::new(Record::default());
        let shared = record.clone();
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Some((at, frame)) = receive(&socket, &mut buffer) {
                if let Some((from, kind)) = read(frame) {
                    let by_client = from == client;
                    let new = Passed {
                        at,
                        by_client,
                        kind,
                    };
                    shared.passed.lock().unwrap().push(new);
                    shared.more.notify_all();
                }
            }
        });
        Self { record }
    }

    /// What the client has said until now.
    pub fn said(&self) -> Vec<Kind> {
        self.all(true)
    }

    /// What servers have said to anybody on this wire.
    pub fn heard(&self) -> Vec<Kind> {
        self.all(false)
    }

    /// Waits until the client has said this `count` times.
    pub fn wait_for(&self, kind: Kind, count: usize) {
        let is_less = |passed: &mut Vec<Passed>| {
            let same = passed
                .iter()
                .filter(|one| one.by_client && one.kind == kind);
            same.count() < count
        };
        let guard = self.passed();
        let (guard, waited) = self
            .record
            .more
            .wait_timeout_while(guard, LIMIT, is_less)
            .unwrap();
        let seen = guard.clone();
        drop(guard);
        assert!(
            !waited.timed_out(),
            "no {count} of {kind:?} came, but {seen:?}"
        );
    }

    /// That the client never said more than a message a second, of each protocol.
    pub fn was_peaceful(&self) {
        let passed = self.passed().clone();
        let by_client = passed.iter().filter(|one| one.by_client);
        let (v4, v6): (Vec<&Passed>, Vec<&Passed>) =
            by_client.partition(|one| matches!(one.kind, Kind::V4(_)));
        for said in [v4, v6] {
            let times: Vec<_> = said.iter().map(|one| one.at).collect();
            assert!(are_apart(&times), "{said:?}");
        }
    }

    fn all(&self, by_client: bool) -> Vec<Kind> {
        let passed = self.passed();
        let these = passed.iter().filter(|one| one.by_client == by_client);
        these.map(|one| one.kind).collect()
    }

    fn passed(&self) -> MutexGuard<'_, Vec<Passed>> {
        self.record.passed.lock().unwrap()
    }
}

/// Whether in no span of time more messages follow the first than there are seconds, and one.
fn are_apart(times: &[Duration]) -> bool {
    times.iter().enumerate().all(|(first, from)| {
        let mut later = (1u32..).zip(&times[first + 1..]);
        later.all(|(others, to)| {
            to.saturating_sub(*from) + TOLERANCE >= Duration::from_secs(1) * others
        })
    })
}

#[test]
fn a_storm_is_seen_wherever_it_is() {
    let milliseconds = |times: &[u64]| -> Vec<_> {
        times
            .iter()
            .map(|time| Duration::from_millis(*time))
            .collect()
    };
    assert!(are_apart(&[]));
    assert!(are_apart(&milliseconds(&[0, 1000, 1950, 3000, 9000, 9640])));
    assert!(!are_apart(&milliseconds(&[0, 5000, 5300, 5600])));
    // A little early each time is no tolerance any more.
    assert!(!are_apart(&milliseconds(&[0, 600, 1200, 1800])));
}

/// Hears all frames of the link, sent and received.
fn packet_socket(link: &str) -> OwnedFd {
    let link = std::ffi::CString::new(link).unwrap();
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: plain system calls; `address` is readable for their time, and nobody else has the socket.
    let (socket, bound) = unsafe {
        let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, protocol.into());
        assert!(socket >= 0, "{}", std::io::Error::last_os_error());
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = libc::if_nametoindex(link.as_ptr()).cast_signed();
        let length = size_of_val(&address) as libc::socklen_t;
        let bound = libc::bind(socket, std::ptr::from_ref(&address).cast(), length);
        (OwnedFd::from_raw_fd(socket), bound)
    };
    assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
    socket
}

/// The next frame, and when the kernel had it.
fn receive<'b>(socket: &OwnedFd, buffer: &'b mut [u8]) -> Option<(Duration, &'b [u8])> {
    // linux/sockios.h; libc has no name for it.
    const SIOCGSTAMPNS: libc::c_ulong = 0x8907;
    let length = rustix::io::read(socket, &mut *buffer).ok()?;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is writable for the time of the call.
    let told = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSTAMPNS, &raw mut time) };
    assert_eq!(told, 0, "{}", std::io::Error::last_os_error());
    let at = Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32);
    Some((at, &buffer[..length]))
}

/// Who sends a DHCP message, if it is one.
fn read(frame: &[u8]) -> Option<([u8; 6], Kind)> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    let payload = match frame.ethertype() {
        EthernetProtocol::Ipv4 => {
            let packet = Ipv4Packet::new_checked(frame.payload()).ok()?;
            (packet.next_header() == IpProtocol::Udp).then(|| packet.payload())
        }
        // RFC 8200 3: 40 bytes, of which the seventh says what follows.
        EthernetProtocol::Ipv6 => {
            let (header, rest) = frame.payload().split_at_checked(40)?;
            (header[6] == u8::from(IpProtocol::Udp)).then_some(rest)
        }
        _ => None,
    }?;
    let datagram = UdpPacket::new_checked(payload).ok()?;
    let message = datagram.payload();
    let kind = match datagram.dst_port() {
        67 | 68 => Kind::V4(v4::Message::from_bytes(message).ok()?.opts().msg_type()?),
        546 | 547 => Kind::V6((*message.first()?).into()),
        _ => return None,
    };
    Some((frame.src_addr().0, kind))
}
