//! Disks, pools, volumes, images and the node's own small secrets.
//!
//! storaged owns the data disks of a node. It turns empty disks into pools and keeps on them what
//! the chain asks for; it never writes to a disk that holds anything else. All its state is on the
//! pools, so that killing it at any moment loses nothing.
//!
//! | module | what it is |
//! |---|---|
//! | [`disk`], [`machine`] | the disks that the kernel shows, and the machine that they are in |
//! | [`probe`], [`signature`], [`sample`] | whether a disk is empty, ours, or somebody's |
//! | [`header`], [`format`] | how an empty disk becomes a pool, also through a power cut |
//! | [`set`], [`duplicate`], [`original`], [`takeover`], [`boot`] | whose pools are whose, and which of two copies is used, and when |
//! | [`inventory`], [`known`], [`search`], [`mounts`], [`uevent`] | the disks and pools of this moment |
//! | [`pool`], [`header_in_use`], [`folders`], [`ledger`] | one pool: its header and folders, and what its space is promised to |
//! | [`worker`], [`pulse`] | how a disk that hangs holds up nobody who does not need it |
//! | [`volume`], [`placement`], [`whereabouts`] | files that machines have as disks, and the pool each is on |
//! | [`secret`] | the node's own small secrets |
//! | [`image`] | OCI images |
//! | [`service`] | all this, as [`loam_node_api::storage::Storage`] |
//! | [`durable`], [`sweep`], [`program`], [`mount`], [`time`] | what the above stand on |

pub mod boot;
pub mod disk;
pub mod duplicate;
pub mod durable;
pub mod folders;
pub mod format;
pub mod given_up;
pub mod header;
pub mod header_in_use;
pub mod image;
pub mod inventory;
pub mod known;
pub mod ledger;
pub mod machine;
pub mod mount;
pub mod mounts;
pub mod original;
pub mod placement;
pub mod pool;
pub mod probe;
pub mod program;
pub mod provision;
pub mod pulse;
pub mod sample;
pub mod search;
pub mod secret;
pub mod service;
pub mod set;
pub mod signature;
pub mod sweep;
pub mod takeover;
pub mod time;
pub mod uevent;
pub mod volume;
pub mod whereabouts;
pub mod worker;
