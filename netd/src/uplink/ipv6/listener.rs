//! What is heard on one link: routers, and the DHCPv6 client where they say so.

use std::{io, net::Ipv6Addr, time::Duration};

use loam_node_api::network::Missing;
use rustix::time::{ClockId, clock_gettime};
use tokio::{sync::mpsc, time::sleep};

use super::{advertisement, router_socket::RouterSocket, routers::Routers};
use crate::uplink::{
    dhcpv6::{self, Action, Address, Event, Identity, Machine, Want},
    lease::Mtu,
    moment::{Dice, Moment},
};

/// What a link's routers and DHCPv6 servers say now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// By DHCPv6.
    pub addresses: Vec<Address>,
    pub dhcp_servers: Vec<Ipv6Addr>,
    pub router_servers: Vec<Ipv6Addr>,
    pub mtu: Option<Mtu>,
    pub missing: Option<Missing>,
}

/// To be [run](Self::run).
#[derive(Debug)]
pub struct Listener {
    link: u32,
    identity: Identity,
    routers: Routers,
    client: Machine,
    want: Want,
    /// No other is taken before: a router that changes its mind all the time fills no log.
    want_at: Moment,
    router_socket: RouterSocket,
    dhcp_socket: dhcpv6::Socket,
    duplicates: mpsc::Receiver<Ipv6Addr>,
    told: Heard,
    /// Nothing is told before.
    tell_at: Moment,
}

/// Whoever is told asks the kernel and writes files, which nobody on the link shall make it do without
/// end.
const TELL_PAUSE: Duration = Duration::from_secs(1);

/// What comes in.
#[derive(Debug)]
enum Incoming {
    Nothing,
    Advertisement(Ipv6Addr, Vec<u8>),
    Dhcp(Vec<u8>),
    Duplicate(Ipv6Addr),
}

/// What has passed since the kernel started.
pub fn now() -> Moment {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
    Moment(Duration::new(seconds, nanos))
}

impl Listener {
    /// `adopted` are name servers of an earlier life; `duplicates` brings addresses by DHCPv6 that
    /// another host has.
    pub fn open(
        link: u32,
        mac: [u8; 6],
        adopted: &[Ipv6Addr],
        duplicates: mpsc::Receiver<Ipv6Addr>,
    ) -> io::Result<Self> {
        let now = now();
        Ok(Self {
            link,
            identity: Identity { mac },
            routers: Routers::new(now, adopted),
            // A client of an earlier life may just have said something.
            client: Machine::new(now + dhcpv6::PAUSE),
            want: Want::Nothing,
            want_at: now,
            router_socket: RouterSocket::open(link)?,
            dhcp_socket: dhcpv6::Socket::open(link)?,
            duplicates,
            told: Heard {
                router_servers: adopted.to_vec(),
                ..Heard::default()
            },
            tell_at: now,
        })
    }

    /// Tells `tell` what is new, with the link's index, until aborted.
    pub async fn run(mut self, tell: mpsc::Sender<(u32, Heard)>) {
        loop {
            match self.next().await {
                Ok(incoming) => self.take(incoming),
                Err(error) => {
                    tracing::error!(link = self.link, "IPv6 is not listened to: {error}");
                    return;
                }
            }
            let (heard, now) = (self.heard(), now());
            if heard != self.told && now >= self.tell_at {
                self.told = heard.clone();
                self.tell_at = now + TELL_PAUSE;
                if tell.send((self.link, heard)).await.is_err() {
                    return;
                }
            }
        }
    }

    async fn next(&mut self) -> io::Result<Incoming> {
        let telling = if self.heard() == self.told {
            Moment::NEVER
        } else {
            self.tell_at
        };
        let wanting = if self.routers.want() == self.want {
            Moment::NEVER
        } else {
            self.want_at
        };
        let deadline = self.routers.deadline().min(self.client.deadline());
        let due = sleep(deadline.min(telling).min(wanting).since(now()));
        tokio::select! {
            // What is due comes first, whatever comes in.
            biased;
            () = due => Ok(Incoming::Nothing),
            Some(address) = self.duplicates.recv() => Ok(Incoming::Duplicate(address)),
            message = self.dhcp_socket.receive() => Ok(Incoming::Dhcp(message?)),
            message = self.router_socket.receive() => {
                let (from, message) = message?;
                Ok(Incoming::Advertisement(from, message))
            }
        }
    }

    fn take(&mut self, incoming: Incoming) {
        let now = now();
        let event = match incoming {
            Incoming::Nothing => Event::Time,
            Incoming::Duplicate(address) => Event::Duplicate(address),
            Incoming::Dhcp(message) => match dhcpv6::read(&message, self.identity) {
                Ok(reply) => Event::Reply(reply),
                // Nothing that concerns the person who reads.
                Err(why) => {
                    tracing::debug!(link = self.link, "a DHCPv6 message: {why}");
                    Event::Time
                }
            },
            Incoming::Advertisement(from, message) => {
                match advertisement::read(&message) {
                    Ok(said) => self.hear(now, from, said),
                    Err(why) => {
                        tracing::debug!(link = self.link, %from, "an advertisement: {why}");
                    }
                }
                Event::Time
            }
        };
        if self.routers.advance(now)
            && let Err(error) = self.router_socket.solicit()
        {
            // Without an address yet, for example; it is asked again.
            tracing::debug!(link = self.link, "routers could not be asked: {error}");
        }
        self.on(now, event);
        let want = self.routers.want();
        if want != self.want && now >= self.want_at {
            self.want = want;
            self.want_at = now + TELL_PAUSE;
            self.log_want();
            self.on(now, Event::Want(want));
        }
    }

    fn hear(&mut self, now: Moment, from: Ipv6Addr, said: advertisement::Advertisement) {
        for server in self.routers.hear(now, from, said) {
            tracing::debug!(link = self.link, %from, %server, "no name server has such an address");
        }
    }

    fn log_want(&self) {
        let what = match self.want {
            Want::Nothing => "no router says any more that there is something by DHCPv6",
            Want::Settings => "a router says that name servers come by DHCPv6",
            Want::Addresses => "a router says that addresses come by DHCPv6",
        };
        tracing::info!(link = self.link, "{what}");
    }

    fn on(&mut self, now: Moment, event: Event) {
        for action in self.client.on(now, Dice(rand::random()), event) {
            match action {
                Action::Note(note) => tracing::warn!(link = self.link, "{note}"),
                Action::Send(request) => {
                    let sent = dhcpv6::write(&request, self.identity)
                        .map_err(io::Error::other)
                        .and_then(|message| self.dhcp_socket.send(&message));
                    // What is lost here is like one lost on the cable: it is sent again in time.
                    if let Err(error) = sent {
                        tracing::debug!(link = self.link, "the DHCPv6 client: {error}");
                    }
                }
            }
        }
    }

    fn heard(&self) -> Heard {
        Heard {
            addresses: self.client.addresses().to_vec(),
            dhcp_servers: self.client.name_servers().to_vec(),
            router_servers: self.routers.servers(),
            mtu: self.routers.mtu(),
            missing: self.client.missing(),
        }
    }
}
