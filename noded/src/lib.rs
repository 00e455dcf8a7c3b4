//! The rooms of the node agent; the binary `loam-noded` puts them together.
//!
//! | module | what |
//! |---|---|
//! | [`follow`] | what the chain says about this node |
//! | [`admit`], [`ledger`] | which deployments stand, and what they ask for (pure) |
//! | [`desired`], [`actual`] | what shall be, and what is |
//! | [`plan`], [`step`], [`course`] | the way from one to the other (pure) |
//! | [`address`], [`fingerprint`] | what machines get, and what they were started with (pure) |
//! | [`daemons`], [`apply`] | the calls that do a plan |
//! | [`connection`] | how long a call waits for a daemon that may be gone |
//! | [`backoff`] | how long a machine waits that ends again and again |
//! | [`report`], [`announce`], [`screen`] | what is said about it, and to whom |
//! | [`agent`] | the loop around all of it |
//! | [`tenant`] | what tenants ask the node directly |
//! | [`mod@until`] | waiting for a moment that may not be set |
//! | [`network_test`] | what of the network works, for who sits at the screen |
//! | [`identity`], [`grid`] | who the node is, and where it belongs |
//! | [`farm`], [`membership`] | which farm it joins (pure), and the one that it keeps |

pub mod actual;
pub mod address;
pub mod admit;
pub mod agent;
pub mod announce;
pub mod apply;
pub mod backoff;
pub mod bucket;
pub mod budget;
pub mod clock;
pub mod complaint;
pub mod connection;
pub mod course;
pub mod daemons;
pub mod desired;
pub mod errand;
pub mod execute;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod fake_chain;
pub mod farm;
pub mod fingerprint;
#[cfg(test)]
mod fixture;
pub mod follow;
pub mod grid;
pub mod identity;
pub mod ledger;
pub mod lookout;
pub mod membership;
pub mod network_test;
mod owned;
pub mod picture;
pub mod plan;
pub mod reach;
pub mod registration;
pub mod report;
pub mod retry;
pub mod screen;
pub mod step;
pub mod tenant;
pub mod until;
