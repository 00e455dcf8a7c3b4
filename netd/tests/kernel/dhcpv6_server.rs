//! A DHCPv6 server with one address to give, which a test can change or silence.

use std::{
    net::{Ipv6Addr, UdpSocket},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use dhcproto::{
    Decodable, Encodable,
    v6::{DhcpOption, IAAddr, IANA, Message, MessageType, OptionCode},
};

use crate::host::{Host, LIMIT};

#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// None: the server says nothing.
    pub address: Option<Ipv6Addr>,
    /// Preferred and valid.
    pub seconds: (u32, u32),
}

pub struct Dhcpv6Server {
    offer: Arc<Mutex<Offer>>,
    seen: Mutex<Receiver<MessageType>>,
}

pub const DNS: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 0x546);

impl Dhcpv6Server {
    pub fn start(host: &Host, link: &str, address: Ipv6Addr) -> Self {
        let socket = host.run(|| {
            let socket = UdpSocket::bind("[::]:547").unwrap();
            let index = rustix::net::netdevice::name_to_index(&socket, link).unwrap();
            let servers = "ff02::1:2".parse().unwrap();
            socket.join_multicast_v6(&servers, index).unwrap();
            socket
        });
        let offer = Arc::new(Mutex::new(Offer {
            address: Some(address),
            seconds: (600, 1200),
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
    pub fn wait_for(&self, kind: MessageType) {
        let seen = self.seen.lock().unwrap();
        while seen
            .recv_timeout(LIMIT)
            .expect("no such DHCPv6 message came")
            != kind
        {}
    }

    /// What clients said until now, and was not waited for.
    pub fn forget(&self) -> Vec<MessageType> {
        self.seen.lock().unwrap().try_iter().collect()
    }
}

fn serve(socket: &UdpSocket, offer: &Mutex<Offer>, seen: &Sender<MessageType>) {
    let mut buffer = [0; 1500];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
        let request = Message::from_bytes(&buffer[..length]).unwrap();
        let offer = *offer.lock().unwrap();
        if let Some(address) = offer.address {
            let answer = answer(&request, address, offer.seconds).to_vec().unwrap();
            let _ = socket.send_to(&answer, peer);
        }
        if seen.send(request.msg_type()).is_err() {
            return;
        }
    }
}

fn answer(request: &Message, address: Ipv6Addr, seconds: (u32, u32)) -> Message {
    let kind = match request.msg_type() {
        MessageType::Solicit => MessageType::Advertise,
        _ => MessageType::Reply,
    };
    let mut answer = Message::new_with_id(kind, request.xid());
    let options = answer.opts_mut();
    options.insert(request.opts().get(OptionCode::ClientId).unwrap().clone());
    options.insert(DhcpOption::ServerId(vec![0, 3, 0, 1, 2, 0, 0, 0, 0, 1]));
    options.insert(DhcpOption::DomainNameServers(vec![DNS]));
    if let Some(DhcpOption::IANA(asked)) = request.opts().get(OptionCode::IANA) {
        let given = DhcpOption::IAAddr(IAAddr {
            addr: address,
            preferred_life: seconds.0,
            valid_life: seconds.1,
            opts: Default::default(),
        });
        options.insert(DhcpOption::IANA(IANA {
            id: asked.id,
            t1: 0,
            t2: 0,
            opts: [given].into_iter().collect(),
        }));
    }
    answer
}
