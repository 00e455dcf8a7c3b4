//! The DHCPv6 client of one link (RFC 8415): addresses where routers say so, name servers.
//!
//! | module | what |
//! |---|---|
//! | [`machine`] | the client's states: pure |
//! | [`event`] | what goes into the machine and comes out |
//! | [`state`] | what it holds in each state |
//! | [`retry`] | when it asks again (RFC 8415 15) |
//! | [`terms`] | what a server gives, each field checked |
//! | [`message`] | messages as bytes, written by `dhcproto` |
//! | [`socket`] | where messages come from and go |
//!
//! What is followed of the RFC, refused and ignored is in `docs/uplink.md`.

mod event;
mod machine;
mod message;
mod retry;
mod socket;
mod state;
mod terms;

pub use event::{Action, Event};
pub use machine::{Machine, PAUSE};
pub use message::{Identity, read, write};
pub use socket::Socket;
pub use terms::Address;

/// What the routers of a link say there is by DHCPv6 (RFC 4861 4.2), the most last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Want {
    #[default]
    Nothing,
    /// Flag O: name servers.
    Settings,
    /// Flag M: addresses, and name servers with them.
    Addresses,
}
