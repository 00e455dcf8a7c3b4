//! The link beyond the node as a switch, with as many hosts at it as a test wants.

use std::{cell::Cell, fs};

use crate::{dhcp_server::Mood, host::Host, world::World};

use super::wire::Wire;

/// What each host calls its link.
pub const LINK: &str = "eth0";

pub struct Lan<'w> {
    world: &'w World,
    pub wire: Wire,
    hosts: Cell<u8>,
}

impl<'w> Lan<'w> {
    pub fn new(world: &'w World) -> Self {
        // The world's own server and router are no part of it.
        world.dhcp.set(|offer| offer.mood = Mood::Silent);
        world.outside.ip("addr flush dev out0");
        world
            .outside
            .ip("link add switch type bridge mcast_snooping 0");
        world.outside.ip("link set out0 master switch");
        world.outside.ip("link set switch up");
        Self {
            world,
            wire: Wire::watch(&world.outside, "out0", world.node.mac("up0")),
            hosts: Cell::new(0),
        }
    }

    /// A host with these addresses, each with the length of its prefix.
    pub fn host(&self, addresses: &[&str]) -> Host {
        let host = Host::new();
        let (number, outside) = (self.hosts.get(), &self.world.outside);
        self.hosts.set(number + 1);
        // Its addresses shall be there at once.
        host.run(|| fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap());
        outside.ip(&format!("link add port{number} type veth peer name {LINK}"));
        host.take(outside, LINK);
        outside.ip(&format!("link set port{number} master switch up"));
        host.ip(&format!("link set {LINK} up"));
        for address in addresses {
            host.ip(&format!("addr add {address} dev {LINK}"));
        }
        host
    }

    /// A host that forwards IPv6, as routers do.
    pub fn router(&self, addresses: &[&str]) -> Host {
        let host = self.host(addresses);
        host.run(|| fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap());
        host
    }
}
