//! The DHCPv4 client of one link: smoltcp's, over a packet socket.
//!
//! smoltcp keeps the state machine of RFC 2131 (discover, request, renew, rebind, expiry, NAK). It
//! tells of every acknowledgement, renewals too, because it is given a buffer for the packet;
//! from that the length of the lease is read.

use std::{io, time::Duration};

use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet, SocketStorage},
    socket::dhcpv4::{self, RetryConfig},
    time::Instant,
    wire::{DhcpRepr, EthernetAddress, HardwareAddress, IpCidr},
};
use tokio::sync::mpsc;

use super::{
    lease::{self, Lease},
    packet_socket::PacketSocket,
};

/// What a client tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Leased(Lease),
    /// There was a lease and it is no more. The client goes on looking.
    Lost,
}

/// The first retry is early: a switch that just saw the cable often loses the first frames.
const FIRST_RETRY: Duration = Duration::from_secs(2);
/// RFC 2131 4.1: doubled each time, up to this.
const LAST_RETRY: Duration = Duration::from_secs(64);
/// When the server does not say (RFC 2131 demands that it does); smoltcp's own assumption.
const UNSAID_LEASE: u32 = 120;
/// The largest DHCP message in an Ethernet frame.
const MESSAGE: usize = 1500;

/// A client on one link, to be [run](Client::run).
#[derive(Debug)]
pub struct Client {
    link: u32,
    mac: [u8; 6],
    device: PacketSocket,
}

impl Client {
    pub fn open(link: u32, mac: [u8; 6]) -> io::Result<Self> {
        Ok(Self {
            link,
            mac,
            device: PacketSocket::open(link)?,
        })
    }

    /// Tells `outcomes` of what comes, with the link's index, until aborted.
    pub async fn run(mut self, outcomes: mpsc::Sender<(u32, Outcome)>) {
        let mac = HardwareAddress::Ethernet(EthernetAddress(self.mac));
        let mut config = Config::new(mac);
        config.random_seed = rand::random();
        let mut interface = Interface::new(config, &mut self.device, Instant::now());

        let mut message = [0; MESSAGE];
        let mut socket = dhcpv4::Socket::new();
        socket.set_receive_packet_buffer(&mut message);
        let mut sockets = SocketSet::new([SocketStorage::EMPTY]);
        let handle = sockets.add(socket);
        let mut backoff = Backoff::new(Instant::now());

        loop {
            backoff.set(sockets.get_mut(handle), Instant::now());
            interface.poll(Instant::now(), &mut self.device, &mut sockets);
            if let Some(outcome) = take_outcome(&mut interface, &mut sockets, handle) {
                backoff.restart(Instant::now());
                if outcomes.send((self.link, outcome)).await.is_err() {
                    return;
                }
                continue;
            }
            let delay = interface
                .poll_delay(Instant::now(), &sockets)
                .map(Duration::from);
            let frame = async {
                match delay {
                    Some(delay) => tokio::time::timeout(delay, self.device.readable())
                        .await
                        .ok(),
                    None => Some(self.device.readable().await),
                }
            };
            if let Some(Err(error)) = frame.await {
                tracing::error!(link = self.link, "the DHCP client's socket failed: {error}");
                return;
            }
        }
    }
}

fn take_outcome(
    interface: &mut Interface,
    sockets: &mut SocketSet<'_>,
    handle: SocketHandle,
) -> Option<Outcome> {
    match sockets.get_mut::<dhcpv4::Socket>(handle).poll()? {
        dhcpv4::Event::Configured(config) => {
            // Renewals go to the server by unicast, so smoltcp must know its own address.
            interface.update_ip_addrs(|addresses| {
                addresses.clear();
                // There is room for one: the list was just emptied.
                let _ = addresses.push(IpCidr::Ipv4(config.address));
            });
            interface.routes_mut().remove_default_ipv4_route();
            if let Some(router) = config.router {
                // Without it a server beyond the router is asked by broadcast, later.
                let _ = interface.routes_mut().add_default_ipv4_route(router);
            }
            let seconds = config
                .packet
                .as_ref()
                .and_then(|packet| DhcpRepr::parse(packet).ok()?.lease_duration);
            Some(Outcome::Leased(Lease {
                address: ipnet::Ipv4Net::new(config.address.address(), config.address.prefix_len())
                    .ok()?,
                router: config.router.filter(|router| lease::is_host(*router)),
                dns: config
                    .dns_servers
                    .iter()
                    .copied()
                    .filter(|a| lease::is_host(*a))
                    .collect(),
                seconds: seconds.unwrap_or(UNSAID_LEASE),
            }))
        }
        dhcpv4::Event::Deconfigured => {
            let had_address = interface.ipv4_addr().is_some();
            interface.update_ip_addrs(|addresses| addresses.clear());
            interface.routes_mut().remove_default_ipv4_route();
            // smoltcp says so at the start, too.
            had_address.then_some(Outcome::Lost)
        }
    }
}

/// How long to wait for an offer: longer each time, as long as none comes.
#[derive(Debug)]
struct Backoff {
    wait: Duration,
    until: Instant,
}

impl Backoff {
    fn new(now: Instant) -> Self {
        Self {
            wait: FIRST_RETRY,
            until: now + FIRST_RETRY.into(),
        }
    }

    fn restart(&mut self, now: Instant) {
        *self = Self::new(now);
    }

    fn set(&mut self, socket: &mut dhcpv4::Socket, now: Instant) {
        while now >= self.until && self.wait < LAST_RETRY {
            self.wait = (self.wait * 2).min(LAST_RETRY);
            self.until += self.wait.into();
        }
        let mut config = RetryConfig::default();
        config.discover_timeout = self.wait.into();
        socket.set_retry_config(config);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(backoff: &mut Backoff, second: i64) -> u64 {
        let mut socket = dhcpv4::Socket::new();
        backoff.set(&mut socket, Instant::from_secs(second));
        socket.get_retry_config().discover_timeout.secs()
    }

    #[test]
    fn discovery_slows_down_and_starts_over_after_a_lease() {
        let mut backoff = Backoff::new(Instant::from_secs(0));
        let waits: Vec<u64> = [0, 2, 6, 14, 30, 62, 126, 10_000]
            .map(|s| wait(&mut backoff, s))
            .into();
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 64, 64]);
        backoff.restart(Instant::from_secs(20_000));
        assert_eq!(wait(&mut backoff, 20_000), 2);
    }
}
