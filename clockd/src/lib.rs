//! `clockd`: what is known about the time on a node, and setting the kernel's clock.
//!
//! A farmer's machine may have a dead clock battery, and lain in a drawer for years. Nothing waits
//! for the time: the other daemons judge by the **floor** (a moment that has surely passed) until
//! servers on the network have said what time it is.
//!
//! | module | what |
//! |---|---|
//! | [`config`] | which servers are asked: `/etc/loam/time.toml` of the image |
//! | [`instant`] | moments in nanoseconds, and the kernel's clocks that give them |
//! | [`packet`] | NTPv4 packets (RFC 5905, section 7.3) |
//! | [`nts`] | what authenticates them (RFC 8915): key exchange, extension fields |
//! | [`query`] | asking one server |
//! | [`judge`] | which time is believed, of what several servers answered. Pure |
//! | [`alarm`] | what a farmer is told about a floor that servers contradict. Pure |
//! | [`floor`] | the latest moment that has surely passed. Pure |
//! | [`known`] | what is known, and the file in which other daemons read it |
//! | [`keeper`] | the loop: ask, judge, set |
//! | `local_server` | with feature `local-server`: a stock server for tests |
//!
//! The protocol is written here rather than taken from a crate: the ones there are judge a time
//! server's certificate by the very clock that is to be set.

pub mod alarm;
pub mod config;
pub mod floor;
pub mod instant;
pub mod judge;
pub mod keeper;
pub mod known;
#[cfg(feature = "local-server")]
pub mod local_server;
pub mod nts;
pub mod packet;
pub mod query;
