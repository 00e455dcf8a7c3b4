//! What the node's init and the guest's init both do: mount, load modules, reap children.

pub mod module;
pub mod mount;
pub mod reap;
