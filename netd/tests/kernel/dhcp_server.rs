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

use smoltcp::wire::{DhcpMessageType, DhcpPacket, DhcpRepr};

use crate::host::{Host, LIMIT};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Gives,
    /// Says nothing.
    Silent,
    /// Refuses every request (NAK) but makes offers.
    Refuses,
}

#[derive(Clone, Copy, Debug)]
pub struct Offer {
    pub mood: Mood,
    pub address: Ipv4Addr,
    pub seconds: u32,
}

pub struct DhcpServer {
    offer: Arc<Mutex<Offer>>,
    seen: Mutex<Receiver<DhcpMessageType>>,
}

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const DNS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);

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

    /// Waits for a message of this type from a client.
    pub fn wait_for(&self, kind: DhcpMessageType) {
        let seen = self.seen.lock().unwrap();
        while seen.recv_timeout(LIMIT).expect("no such DHCP message came") != kind {}
    }

    /// Forgets what clients said until now.
    pub fn forget(&self) {
        while self.seen.lock().unwrap().try_recv().is_ok() {}
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

fn serve(socket: &UdpSocket, offer: &Mutex<Offer>, seen: &Sender<DhcpMessageType>) {
    let mut buffer = [0; 1500];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
        let packet = DhcpPacket::new_checked(&buffer[..length]).unwrap();
        let request = DhcpRepr::parse(&packet).unwrap();
        let offer = *offer.lock().unwrap();
        let kind = match (request.message_type, offer.mood) {
            (_, Mood::Silent) => None,
            (DhcpMessageType::Discover, _) => Some(DhcpMessageType::Offer),
            (DhcpMessageType::Request, Mood::Gives) => {
                let wanted = request.requested_ip.unwrap_or(request.client_ip);
                let same = wanted == offer.address;
                Some(if same {
                    DhcpMessageType::Ack
                } else {
                    DhcpMessageType::Nak
                })
            }
            (DhcpMessageType::Request, Mood::Refuses) => Some(DhcpMessageType::Nak),
            _ => None,
        };
        if let Some(kind) = kind {
            let answer = answer(&request, kind, offer);
            // Renewals come from an address and are answered there.
            let broadcast = peer.ip().is_unspecified();
            let to = if broadcast {
                Ipv4Addr::BROADCAST.into()
            } else {
                peer.ip()
            };
            let _ = socket.send_to(&answer, (to, 68));
        }
        if seen.send(request.message_type).is_err() {
            return;
        }
    }
}

fn answer(request: &DhcpRepr, kind: DhcpMessageType, offer: Offer) -> Vec<u8> {
    let given = kind != DhcpMessageType::Nak;
    let answer = DhcpRepr {
        message_type: kind,
        transaction_id: request.transaction_id,
        secs: 0,
        client_hardware_address: request.client_hardware_address,
        client_ip: Ipv4Addr::UNSPECIFIED,
        your_ip: if given {
            offer.address
        } else {
            Ipv4Addr::UNSPECIFIED
        },
        server_ip: SERVER,
        router: given.then_some(SERVER),
        subnet_mask: given.then_some(Ipv4Addr::new(255, 255, 255, 0)),
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: true,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(SERVER),
        parameter_request_list: None,
        dns_servers: given.then(|| [DNS].into_iter().collect()),
        max_size: None,
        lease_duration: given.then_some(offer.seconds),
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    };
    let mut bytes = vec![0; answer.buffer_len()];
    answer
        .emit(&mut DhcpPacket::new_unchecked(&mut bytes))
        .unwrap();
    bytes
}
