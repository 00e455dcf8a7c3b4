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
//! | of the RFCs | here |
//! |---|---|
//! | options 1, 3, 6, 26, 51, 54, 58, 59, 121, in `file` and `sname` too (52), in parts (RFC 3396) | read |
//! | option 61 and `chaddr` | the Ethernet address, by which a server finds its lease again |
//! | probing, announcing, defending (RFC 5227) | done, with shorter waits before an address is taken |
//! | all other options | passed over: not asked for, and nothing of the node needs them |
//! | INIT-REBOOT, RELEASE, INFORM (RFC 2131) | not sent: a lease does not outlive the power, and who loses its power releases nothing |
//! | a wait of one to ten seconds before the first message (RFC 2131 4.4.1) | not kept: firmware parts the nodes of a farm by more |

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
