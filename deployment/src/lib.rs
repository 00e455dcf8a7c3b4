//! What Loam's users sign: types, canonical bytes, signatures, sealed secrets, limits.
//!
//! This crate is pure: no I/O, no async, no clock of its own. Everything that enters a node or a
//! command line from outside is parsed here once, and only valid values are held afterwards.

pub mod bytes;
pub mod id;
pub mod name;
pub mod payload;

pub use bytes::Bytes;
pub use id::{ContractId, FarmId, NodeKey, TwinId, Version};
pub use name::{Name, NameError};
