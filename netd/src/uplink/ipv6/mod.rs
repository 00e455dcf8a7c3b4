//! IPv6 of the physical links.
//!
//! The kernel listens to router advertisements itself: it makes addresses (RFC 4862), routes, and keeps
//! the MTU (RFC 4861). What it leaves to us is read here: name servers (RFC 8106), and whether there is
//! more by DHCPv6.
//!
//! | module | what |
//! |---|---|
//! | [`advertisement`] | a router advertisement, each field checked |
//! | [`routers`] | what routers have said, and for how long it holds: pure |
//! | [`router_socket`] | where advertisements come from |
//! | [`listener`] | routers and the DHCPv6 client of one link |
//! | [`links`] | the listeners, and what they have heard |
//! | [`lease`] | addresses by DHCPv6 in the kernel |

mod advertisement;
mod lease;
mod links;
mod listener;
mod router_socket;
mod routers;

use std::net::Ipv6Addr;

pub use links::{Adopted, Ipv6Links};
pub use listener::Heard;

use crate::transit::RANGE_V6;

/// Whether an address can be a host's, and means something beyond its link. A link-local name server
/// is of no use: machines do not reach it, and our own resolvers cannot say on which link it is.
pub fn is_routable(address: Ipv6Addr) -> bool {
    let nowhere = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    let elsewhere = address.is_unicast_link_local() || address.to_ipv4_mapped().is_some();
    !nowhere && !elsewhere && !RANGE_V6.contains(&address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_hosts_and_means_something_beyond_its_link() {
        let none = [
            "::",
            "::1",
            "ff02::fb",
            "fe80::1",
            "::ffff:192.0.2.1",
            "fd6c:6f61:6d00::1",
        ];
        for none in none {
            assert!(!is_routable(none.parse().unwrap()), "{none}");
        }
        for host in ["2001:db8::53", "fd00::53"] {
            assert!(is_routable(host.parse().unwrap()), "{host}");
        }
    }
}
