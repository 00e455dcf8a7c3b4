//! What a server offers, from its options: each field is a stranger's.

use std::{fmt, net::Ipv4Addr};

use dhcproto::v4::OptionCode;
use ipnet::Ipv4Net;
use loam_deployment::FarmId;
use loam_node_api::farm;

use super::{
    message::{FARM, Options},
    timing::{SHORTEST_LEASE, Times},
};
use crate::{
    transit::RANGE_V4,
    uplink::lease::{Lease, Mtu, Route, is_host},
};

/// More than any network needs; who has written down more name servers waits for the first anyway.
const ADDRESSES: usize = 8;
/// More than a home or a cloud has. A message could hold 250.
const ROUTES: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    pub lease: Lease,
    pub times: Times,
    /// What was strange and did no harm.
    pub oddities: Vec<Oddity>,
}

/// Why an offer is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{0} is no host's address")]
    NoHost(Ipv4Addr),
    #[error("{0} is its own subnet's first or last address")]
    SubnetsOwn(Ipv4Net),
}

/// What a server said that is passed over, or understood in some other way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Oddity {
    NoMask(Ipv4Net),
    BadMask(Ipv4Addr),
    /// In seconds.
    ShortLease(u32),
    SmallMtu(u16, Mtu),
    NonsenseMtu(Vec<u8>),
    MalformedRoutes,
    ManyRoutes,
    BadRoute(Route),
    NoFarm(Vec<u8>),
}

impl Terms {
    /// Of the address `address`.
    pub fn read(address: Ipv4Addr, options: &Options) -> Result<Self, Refusal> {
        if !is_host(address) {
            return Err(Refusal::NoHost(address));
        }
        let mut oddities = Vec::new();
        let net = subnet(address, options, &mut oddities);
        let is_subnets_own = address == net.network() || address == net.broadcast();
        // RFC 3021: of two addresses, both are hosts'.
        if net.prefix_len() < 31 && is_subnets_own {
            return Err(Refusal::SubnetsOwn(net));
        }
        let mut routers = hosts(options.get(OptionCode::Router));
        routers.retain(|router| *router != address);
        let lease = Lease {
            address: net,
            routers,
            classless: classless(address, options, &mut oddities),
            dns: hosts(options.get(OptionCode::DomainNameServer)),
            mtu: mtu(options, &mut oddities),
            farm: farm(options, &mut oddities),
        };
        let seconds = options.seconds(OptionCode::AddressLeaseTime);
        let short = seconds.filter(|seconds| *seconds < SHORTEST_LEASE);
        oddities.extend(short.map(Oddity::ShortLease));
        let times = Times::new(
            seconds,
            options.seconds(OptionCode::Renewal),
            options.seconds(OptionCode::Rebinding),
        );
        Ok(Self {
            lease,
            times,
            oddities,
        })
    }
}

/// Without a mask that makes sense, that of the address's class (RFC 791 2.3), as other clients do.
fn subnet(address: Ipv4Addr, options: &Options, oddities: &mut Vec<Oddity>) -> Ipv4Net {
    let mask = options.address(OptionCode::SubnetMask);
    // A mask of no bits would make all the world a neighbour.
    let net = mask.and_then(|mask| Ipv4Net::with_netmask(address, mask).ok());
    if let Some(net) = net.filter(|net| net.prefix_len() > 0) {
        return net;
    }
    let length = match address.octets()[0] {
        0..=127 => 8,
        128..=191 => 16,
        _ => 24,
    };
    let net = Ipv4Net::new_assert(address, length);
    oddities.push(match mask {
        Some(mask) => Oddity::BadMask(mask),
        None => Oddity::NoMask(net),
    });
    net
}

/// A list of addresses; what is no host's, and a rest that is no address, are passed over.
fn hosts(list: Option<&[u8]>) -> Vec<Ipv4Addr> {
    let mut hosts = Vec::new();
    for chunk in list.unwrap_or_default().chunks_exact(4) {
        let host = Ipv4Addr::new(chunk[0], chunk[1], chunk[2], chunk[3]);
        if is_host(host) && !hosts.contains(&host) && hosts.len() < ADDRESSES {
            hosts.push(host);
        }
    }
    hosts
}

fn mtu(options: &Options, oddities: &mut Vec<Oddity>) -> Option<Mtu> {
    let bytes = options.get(OptionCode::InterfaceMtu)?;
    let said = options.array(OptionCode::InterfaceMtu);
    let said = said.map(u16::from_be_bytes);
    let Some((said, mtu)) = said.and_then(|said| Some((said, Mtu::said(said)?))) else {
        oddities.push(Oddity::NonsenseMtu(shown(bytes)));
        return None;
    };
    if mtu.get() != said {
        oddities.push(Oddity::SmallMtu(said, mtu));
    }
    Some(mtu)
}

/// Which farm the network names, by a number in digits. RFC 2132 2: of text that ends with zeroes they are no part.
fn farm(options: &Options, oddities: &mut Vec<Oddity>) -> Option<FarmId> {
    let bytes = options.get(FARM)?;
    let end = bytes.iter().rposition(|byte| *byte != 0);
    let farm = end.and_then(|end| farm::number(&bytes[..=end]));
    if farm.is_none() {
        oddities.push(Oddity::NoFarm(shown(bytes)));
    }
    farm
}

/// All of what makes no sense, or as much as fits a line.
fn shown(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len().min(8)].to_vec()
}

/// Routes of RFC 3442. Half a list of routes may lead into nowhere, so one that is malformed is none.
fn classless(
    address: Ipv4Addr,
    options: &Options,
    oddities: &mut Vec<Oddity>,
) -> Option<Vec<Route>> {
    let bytes = options.get(OptionCode::ClasslessStaticRoute)?;
    let Some(all) = routes(bytes).filter(|routes| !routes.is_empty()) else {
        oddities.push(Oddity::MalformedRoutes);
        return None;
    };
    let mut taken: Vec<Route> = Vec::new();
    for route in all {
        if taken.iter().any(|other| other.to == route.to) {
            continue;
        }
        if taken.len() == ROUTES {
            oddities.push(Oddity::ManyRoutes);
            break;
        }
        if is_usable(&route, address) {
            taken.push(route);
        } else if !oddities
            .iter()
            .any(|odd| matches!(odd, Oddity::BadRoute(_)))
        {
            // The first stands for all.
            oddities.push(Oddity::BadRoute(route));
        }
    }
    Some(taken)
}

fn routes(mut bytes: &[u8]) -> Option<Vec<Route>> {
    let mut routes = Vec::new();
    while let Some((length, rest)) = bytes.split_first() {
        let significant = usize::from(length.div_ceil(8));
        let (network, rest) = rest.split_at_checked(significant)?;
        let (gateway, rest) = rest.split_first_chunk::<4>()?;
        let mut octets = [0; 4];
        octets.get_mut(..significant)?.copy_from_slice(network);
        let gateway = Ipv4Addr::from(*gateway);
        routes.push(Route {
            // Bits behind the mask are cut off, as the RFC demands.
            to: Ipv4Net::new(octets.into(), *length).ok()?.trunc(),
            gateway: (!gateway.is_unspecified()).then_some(gateway),
        });
        bytes = rest;
    }
    Some(routes)
}

/// No server gives routes to this node itself, or into tenants' networks.
fn is_usable(route: &Route, address: Ipv4Addr) -> bool {
    let first = route.to.network();
    let leads_out = !first.is_loopback() && !first.is_multicast() && !RANGE_V4.contains(&route.to);
    let gateway = route.gateway;
    leads_out && gateway.is_none_or(|gateway| is_host(gateway) && gateway != address)
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Oddity::NoMask(net) => {
                write!(
                    f,
                    "no subnet mask (option 1); that of the address's class is taken: {net}"
                )
            }
            Oddity::BadMask(mask) => write!(
                f,
                "{mask} is no subnet mask (option 1); that of the address's class is taken"
            ),
            Oddity::ShortLease(seconds) => write!(
                f,
                "a lease of {seconds} s (option 51); it is held for {SHORTEST_LEASE} s all the same"
            ),
            Oddity::SmallMtu(said, mtu) => {
                let mtu = mtu.get();
                write!(
                    f,
                    "an MTU of {said} (option 26), at which IPv6 ends; {mtu} is taken"
                )
            }
            Oddity::NonsenseMtu(bytes) => {
                write!(
                    f,
                    "no link has the MTU {bytes:02x?} (option 26); it is ignored"
                )
            }
            Oddity::MalformedRoutes => {
                write!(
                    f,
                    "the list of routes (option 121) is malformed and ignored"
                )
            }
            Oddity::ManyRoutes => {
                write!(f, "only the first {ROUTES} routes (option 121) are taken")
            }
            Oddity::NoFarm(bytes) => {
                write!(
                    f,
                    "{bytes:02x?} is no farm's number in digits (option {}); it is ignored",
                    farm::DHCP_OPTION
                )
            }
            Oddity::BadRoute(route) => {
                write!(
                    f,
                    "the route {route} (option 121) cannot be, and is ignored"
                )
            }
        }
    }
}
