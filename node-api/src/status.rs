//! What noded has to say on the node's own screen.
//!
//! A screen has few lines, and there may be more to say than one message holds: what is told is an
//! [`Excerpt`], which is bounded whatever tenants state. Of their workloads only numbers are told, for the screen is
//! the farmer's.

use std::net::IpAddr;

use loam_deployment::{Bytes, NodeKey};
use serde::{Deserialize, Serialize};

use crate::farm::NamedFarm;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// None before the identity exists, which needs a disk.
    pub node: Option<NodeKey>,
    /// Which one it joins or has joined; none as long as nobody has named one.
    pub farm: Option<NamedFarm>,
    pub addresses: Vec<IpAddr>,
    pub chain: ChainState,
    /// What keeps the node from its work, and what to do.
    pub trouble: Option<String>,
    pub disks: DiskCount,
    pub workloads: Vec<WorkloadCount>,
    /// What a farmer should look at: foreign disks, no link, no space.
    pub notices: Excerpt<String>,
}

/// The first lines of a list, and how many more there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Excerpt<T> {
    pub first: Vec<T>,
    pub more: usize,
}

impl<T> Excerpt<T> {
    /// More lines than a screen has.
    pub const MAX: usize = 64;
}

impl<T> Default for Excerpt<T> {
    fn default() -> Self {
        Self {
            first: Vec::new(),
            more: 0,
        }
    }
}

impl<T> FromIterator<T> for Excerpt<T> {
    fn from_iter<I: IntoIterator<Item = T>>(lines: I) -> Self {
        let mut lines = lines.into_iter();
        Self {
            first: lines.by_ref().take(Self::MAX).collect(),
            more: lines.count(),
        }
    }
}

/// The longest text of a line, in bytes: a screen's lines have far fewer characters.
pub const MAX_TEXT: usize = 1024;

/// `text`, or as many of its whole characters as fit into [`MAX_TEXT`].
pub fn bounded(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    text
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChainState {
    #[default]
    Connecting,
    /// Registered, and following this finalized block.
    Following { block: u64 },
    /// Registration is on its way.
    Registering { block: u64 },
    /// No answer; what runs goes on.
    Silent { reason: String },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskCount {
    /// Those that hold a pool of this node's, and what they have together.
    pub used: usize,
    pub size: Bytes,
    /// Those that hold what is not ours.
    pub left_alone: usize,
    pub failed: usize,
    /// Those that are no fit place for data, as the one that the node boots from.
    pub unfit: usize,
}

/// How many workloads of one kind there are, by what became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadCount {
    /// `machine`, `volume`, `network`.
    pub kind: String,
    pub running: usize,
    /// On its way: it waits, is fetched or starts.
    pub coming: usize,
    pub stopped: usize,
    pub failed: usize,
}
