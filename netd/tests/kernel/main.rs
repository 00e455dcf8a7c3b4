//! netd on the real kernel: each test has network and mount namespaces of its own, with a host
//! outside the node, a DHCP server, and machines that are namespaces behind taps.
//!
//! What must not arrive is shown by what comes after it on the same way and does arrive.

// What fails in a test shall end it; clippy does not take the parts beside `#[test]` for tests.
#![allow(clippy::unwrap_used)]

mod bad_dhcp;
mod dhcp_server;
mod dhcpv6_server;
mod frame;
mod host;
mod ipv6;
mod killed;
mod machine;
mod netd;
mod nft;
mod real_servers;
mod restart;
mod scale;
mod spoofing;
mod tenants;
mod trouble;
mod uplink;
mod world;
