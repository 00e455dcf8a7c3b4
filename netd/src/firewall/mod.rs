//! nftables: which packets pass, and whose addresses they bear.
//!
//! | module | what |
//! |---|---|
//! | [`node`] | rules of the node's own namespace, from the list of published ports |
//! | [`network`] | rules of a network's namespace: routing, NAT, its published ports |
//! | [`machine`] | rules at each machine's door: spoofing ends there |
//! | [`expression`], [`table`] | the language those three are written in |
//! | [`encode`] | the same as netlink messages |
//! | [`conntrack`] | forgets connections that lead where no rule leads any more |
//!
//! Rules are never edited: each change makes the whole table anew from the state and replaces it
//! in one transaction of the kernel, so no packet ever meets half a rule set.

pub mod conntrack;
pub mod encode;
pub mod expression;
pub mod icmp;
pub mod machine;
pub mod netfilter;
pub mod network;
pub mod node;
pub mod table;

#[cfg(test)]
mod tests;

use std::io;

use encode::Batch;
use table::Table;

/// Replaces `tables` in the calling thread's network namespace, all at once.
pub fn replace(tables: &[Table]) -> io::Result<()> {
    let batch = Batch::replacing(tables);
    netfilter::Conversation::open()?.transact(batch.bytes(), batch.acknowledged_sequence())
}
