//! Servers of other makes as they are found on networks: dnsmasq, ISC's dhcpd, kea, radvd. One alone,
//! two that do not know of each other, and some that break.
//!
//! dnsmasq is the machine's own; the others are unpacked by `cargo xtask setup`, as installed they would
//! serve the machine's own network.

mod alone;
mod broken;
mod daemon;
mod ipv6;
mod lan;
mod two;
mod wire;
