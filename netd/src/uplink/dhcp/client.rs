//! The client on its link: the machine with a socket, a clock and dice.

use std::{io, net::Ipv4Addr, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    event::{Action, Destination, Event},
    frame,
    machine::Machine,
    message,
};
use crate::uplink::{
    lease::Lease,
    moment::{Dice, Moment},
    packet_socket::{PacketSocket, RoutedSocket},
};

/// What a client tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// For so many seconds from now on; `u32::MAX` is for ever.
    Leased { lease: Lease, seconds: u32 },
    /// There was a lease and it is no more. The client goes on looking.
    Lost,
}

/// A client on one link, to be [run](Client::run).
#[derive(Debug)]
pub struct Client {
    link: u32,
    mac: [u8; 6],
    socket: PacketSocket,
    machine: Machine,
    began: Instant,
}

impl Client {
    /// One that sends nothing for the time of `silence`.
    pub fn open(link: u32, mac: [u8; 6], silence: Duration) -> io::Result<Self> {
        Ok(Self {
            link,
            mac,
            socket: PacketSocket::open(link)?,
            machine: Machine::new(mac, Moment(silence)),
            began: Instant::now(),
        })
    }

    /// Tells `outcomes` of what comes, with the link's index, until aborted.
    pub async fn run(mut self, outcomes: mpsc::Sender<(u32, Outcome)>) {
        loop {
            let event = match self.next().await {
                Ok(event) => event,
                Err(error) => {
                    tracing::error!(link = self.link, "the DHCP client's socket failed: {error}");
                    return;
                }
            };
            let now = Moment(self.began.elapsed());
            for action in self.machine.on(now, Dice(rand::random()), event) {
                if let Some(outcome) = self.act(action)
                    && outcomes.send((self.link, outcome)).await.is_err()
                {
                    return;
                }
            }
        }
    }

    /// The next frame that says something, or the time when something is due.
    async fn next(&self) -> io::Result<Event> {
        let due = sleep_until(self.began + self.machine.deadline().0);
        tokio::pin!(due);
        loop {
            // What is due comes first, whatever comes in.
            let frame = tokio::select! {
                biased;
                () = &mut due => return Ok(Event::Time),
                frame = self.socket.receive() => frame?,
            };
            match frame::read(&frame) {
                Some(frame::Received::Arp(arp)) => return Ok(Event::Arp(arp)),
                Some(frame::Received::Dhcp(bytes)) => match message::read(bytes, self.mac) {
                    Ok(reply) => return Ok(Event::Reply(reply)),
                    // At most what a link carries, and nothing that concerns the person who reads.
                    Err(why) => tracing::debug!(link = self.link, "a DHCP message: {why}"),
                },
                None => {}
            }
        }
    }

    fn act(&self, action: Action) -> Option<Outcome> {
        let done = match action {
            Action::Send(request, to) => message::write(&request, self.mac)
                .map_err(io::Error::other)
                .and_then(|message| self.send(&message, to)),
            Action::Watch(address) => self.socket.watch(address),
            Action::Probe(address) => self.socket.send(&frame::probe(self.mac, address)),
            Action::Announce(address) => self.socket.send(&frame::announcement(self.mac, address)),
            Action::Leased { lease, seconds } => return Some(Outcome::Leased { lease, seconds }),
            Action::Lost => return Some(Outcome::Lost),
            Action::Note(note) => {
                tracing::warn!(link = self.link, "{note}");
                Ok(())
            }
        };
        // What is lost here is like one lost on the cable: it is sent again in time.
        if let Err(error) = done {
            tracing::debug!(link = self.link, "the DHCP client: {error}");
        }
        None
    }

    fn send(&self, message: &[u8], to: Destination) -> io::Result<()> {
        let broadcast = |from| self.socket.send(&frame::broadcast(self.mac, from, message));
        match to {
            Destination::Broadcast => broadcast(Ipv4Addr::UNSPECIFIED),
            Destination::BroadcastFrom(from) => broadcast(from),
            Destination::Unicast { from, to } => {
                RoutedSocket::open(self.link)?.send(to, &frame::datagram(from, to, message))
            }
        }
    }
}
