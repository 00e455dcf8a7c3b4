//! A DHCP server with one address to give, which a test can change, silence or turn hostile.

use std::{
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use dhcproto::{
    Decodable,
    v4::{DhcpOption, MAGIC, Message, MessageType, OptionCode},
};

use crate::host::{Host, LIMIT};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Gives,
    /// Says nothing.
    Silent,
    /// Refuses every request (NAK) but makes offers.
    Refuses,
    /// Gives, but a second server on the link refuses every request before that.
    IsContradicted,
}

#[derive(Clone, Debug)]
pub struct Offer {
    pub mood: Mood,
    pub address: Ipv4Addr,
    pub seconds: u32,
    /// Numbers and data; the server's name, the message's kind and its time come on top.
    pub options: Vec<(u8, Vec<u8>)>,
    /// What is in the field `file`.
    pub file: Vec<u8>,
}

pub struct DhcpServer {
    offer: Arc<Mutex<Offer>>,
    seen: Mutex<Receiver<MessageType>>,
}

pub const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const DNS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);

pub const MASK: (u8, [u8; 4]) = (1, [255, 255, 255, 0]);

/// An option of addresses.
pub fn addresses(code: u8, addresses: &[Ipv4Addr]) -> (u8, Vec<u8>) {
    let octets = addresses.iter().flat_map(|address| address.octets());
    (code, octets.collect())
}

impl DhcpServer {
    pub fn start(host: &Host, link: &str) -> Self {
        let socket = host.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:67").unwrap();
            socket.set_broadcast(true).unwrap();
            bind_to(&socket, link);
            socket
        });
        let address = crate::world::NODE.parse().unwrap();
        let offer = Arc::new(Mutex::new(Offer {
            mood: Mood::Gives,
            address,
            seconds: 3600,
            options: vec![
                (MASK.0, MASK.1.to_vec()),
                addresses(3, &[SERVER]),
                addresses(6, &[DNS]),
            ],
            file: vec![],
        }));
        let (sender, seen) = channel();
        let shared = offer.clone();
        thread::spawn(move || serve(&socket, &shared, &sender));
        Self {
            offer,
            seen: Mutex::new(seen),
        }
    }

    pub fn set(&self, change: impl FnOnce(&mut Offer)) {
        change(&mut self.offer.lock().unwrap());
    }

    /// In place of the option with this number.
    pub fn set_option(&self, (code, data): (u8, Vec<u8>)) {
        self.set(|offer| {
            offer.options.retain(|(other, _)| *other != code);
            offer.options.push((code, data));
        });
    }

    pub fn leave_out(&self, code: u8) {
        self.set(|offer| offer.options.retain(|(other, _)| *other != code));
    }

    /// Waits for a message of this type from a client.
    pub fn wait_for(&self, kind: MessageType) {
        let seen = self.seen.lock().unwrap();
        while seen.recv_timeout(LIMIT).expect("no such DHCP message came") != kind {}
    }

    /// What clients said until now, and was not waited for.
    pub fn forget(&self) -> Vec<MessageType> {
        self.seen.lock().unwrap().try_iter().collect()
    }
}

/// A broadcast leaves by a link, not by a route: one would be gone when the link was down.
fn bind_to(socket: &UdpSocket, link: &str) {
    let length = link.len() as libc::socklen_t;
    // SAFETY: the name is `length` readable bytes for the time of the call.
    let result = unsafe {
        let option = libc::SO_BINDTODEVICE;
        let name = link.as_ptr().cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, name, length)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

fn serve(socket: &UdpSocket, offer: &Mutex<Offer>, seen: &Sender<MessageType>) {
    let mut buffer = [0; 1500];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
        let request = Message::from_bytes(&buffer[..length]).unwrap();
        let kind = request.opts().msg_type().unwrap();
        let offer = offer.lock().unwrap().clone();
        // Renewals come from an address and are answered there.
        let to = if peer.ip().is_unspecified() {
            Ipv4Addr::BROADCAST.into()
        } else {
            peer.ip()
        };
        let say = |kind, server| {
            let _ = socket.send_to(&answer(&request, kind, server, &offer), (to, 68));
        };
        match (kind, offer.mood) {
            (_, Mood::Silent) => {}
            (MessageType::Discover, _) => say(MessageType::Offer, SERVER),
            (MessageType::Request, Mood::Refuses) => say(MessageType::Nak, SERVER),
            (MessageType::Request, mood) => {
                if mood == Mood::IsContradicted {
                    say(MessageType::Nak, OTHER);
                }
                let same = wanted(&request) == offer.address;
                let kind = if same {
                    MessageType::Ack
                } else {
                    MessageType::Nak
                };
                say(kind, SERVER);
            }
            _ => {}
        }
        if seen.send(kind).is_err() {
            return;
        }
    }
}

fn wanted(request: &Message) -> Ipv4Addr {
    match request.opts().get(OptionCode::RequestedIpAddress) {
        Some(DhcpOption::RequestedIpAddress(address)) => *address,
        _ => request.ciaddr(),
    }
}

/// Byte by byte, as what is wrong in it must come out so.
fn answer(request: &Message, kind: MessageType, server: Ipv4Addr, offer: &Offer) -> Vec<u8> {
    let given = kind != MessageType::Nak;
    let mut bytes = vec![2, 1, 6, 0];
    bytes.extend(request.xid().to_be_bytes());
    bytes.extend([0, 0, 0x80, 0, 0, 0, 0, 0]);
    bytes.extend(if given {
        offer.address.octets()
    } else {
        [0; 4]
    });
    bytes.extend([0; 8]);
    bytes.extend(request.chaddr());
    bytes.resize(108, 0);
    bytes.extend(&offer.file);
    bytes.resize(236, 0);
    bytes.extend(MAGIC);
    let mut option = |code: u8, data: &[u8]| {
        bytes.extend([code, data.len() as u8]);
        bytes.extend(data);
    };
    option(53, &[u8::from(kind)]);
    option(54, &server.octets());
    if given {
        option(51, &offer.seconds.to_be_bytes());
        for (code, data) in &offer.options {
            option(*code, data);
        }
    }
    bytes.push(255);
    bytes
}
