//! OCI images: from a registry to one read-only EROFS file a manifest.
//!
//! | module | step |
//! |---|---|
//! | [`store`], [`known`], [`backoff`] | which images are here, being fetched, or failed; answers from memory |
//! | [`removal`] | how what nobody wants any more goes |
//! | [`fetch`], [`build`], [`failure`] | the whole way of one image; the part that takes a processor; why it ended early |
//! | [`queue`], [`pace`], [`stop`] | whose turn it is, whether it moves, what holds it up or ends it |
//! | [`staging`], [`claim`], [`answering`] | what a pool holds of an attempt, the space it takes, and whether its disk answers |
//! | [`late`] | what an attempt still does on a disk that hangs, when it has gone to another |
//! | [`blob`] | a layer to a file; the registry is asked by [`loam_oci`] |
//! | [`config`], [`healthcheck`] | what an image says about how to run it, and to see whether it is healthy |
//! | [`layer`], [`tarball`] | a layer's bytes, unpacked and checked, then its entries |
//! | [`entries`] | those of all layers in their order, while several layers are read |
//! | [`aside`], [`space`] | their files' data, put aside meanwhile; what it takes its room from |
//! | [`ustar`], [`pax`], [`sparse`] | what an entry's header says, its extensions, and the map of its holes |
//! | [`posix_acl`] | whether an attribute is an access control list that Linux takes |
//! | [`tree`] | layers one over another, as a tree of names |
//! | [`erofs`] | that tree as a file system |
//! | [`finish`], [`carry`] | its file; the layers' data, which the file shares with what was put aside |
//! | [`pack`] | the same without a pool, for tools |
//! | [`kept`], [`found`] | that file on a pool, with what it says about how to run it; what a pool holds at its start |
//! | [`limits`] | how much of each a stranger may make us do |
//!
//! Nothing of an image is ever unpacked to the node's own file systems, so no name in a layer can
//! reach a file of the node's. No other program has a part in it.

pub mod answering;
pub mod aside;
pub mod backoff;
pub mod blob;
pub mod build;
pub mod carry;
pub mod claim;
pub mod config;
pub mod entries;
pub mod erofs;
pub mod failure;
pub mod fetch;
pub mod finish;
pub mod found;
pub mod healthcheck;
pub mod kept;
pub mod known;
pub mod late;
pub mod layer;
pub mod limits;
pub mod pace;
pub mod pack;
pub mod pax;
pub mod posix_acl;
pub mod queue;
pub mod removal;
pub mod space;
pub mod sparse;
pub mod staging;
pub mod stop;
pub mod store;
pub mod tarball;
pub mod tree;
pub mod ustar;

#[cfg(test)]
mod testing;
