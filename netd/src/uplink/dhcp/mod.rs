//! The DHCPv4 client of one link (RFC 2131, RFC 2132, RFC 3442, RFC 5227).
//!
//! | module | what |
//! |---|---|
//! | [`machine`] | the states of RFC 2131, with the probing of RFC 5227: pure |
//! | [`event`] | what goes into the machine and comes out |
//! | [`state`] | what it holds in each state |
//! | [`timing`] | when it asks, and how long what it was given lasts |
//! | [`message`] | messages as bytes, read and written by `dhcproto` |
//! | [`terms`] | what a server's options say, each field checked |
//! | [`frame`] | the frames that carry messages, and ARP |
//! | [`client`] | the machine on a link: socket, clock, dice |
//!
//! The machine is our own, as none that we found could be made right from outside: smoltcp's gives
//! up a lease at any server's refusal and asks again at once, thousands of times a second, and
//! reads neither lists of routers nor options 26, 52 and 121. Here nothing that a server says gets
//! it to send more than one message a second.
//!
//! What is followed of the RFCs, refused and ignored is in `docs/uplink.md`.

pub mod client;
mod event;
mod frame;
mod machine;
mod message;
mod state;
mod terms;
mod timing;

pub use client::{Client, Outcome};
pub use machine::PAUSE;
