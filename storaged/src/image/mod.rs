//! OCI images: from a registry to one read-only EROFS file a manifest.
//!
//! | module | step |
//! |---|---|
//! | [`store`] | which images are here, being fetched, or failed; one fetch an image |
//! | [`fetch`] | the whole way of one image |
//! | [`registry`], [`address`] | asking a registry for bytes, and where it may be |
//! | [`blob`] | a layer to a file, resumed where it was cut, its digest checked |
//! | [`digest`], [`manifest`] | what an image consists of |
//! | [`layer`], [`tarball`], [`pax`] | a layer's bytes, unpacked and checked, then its entries |
//! | [`tree`] | layers one over another, as a tree of names |
//! | [`merged`] | that tree as one tar stream |
//! | [`erofs`] | that stream as a file system, by `mkfs.erofs` |
//! | [`kept`] | that file on a pool, with what it says about how to run it |
//! | [`limits`] | how much of each a stranger may make us do |
//!
//! Nothing of an image is ever unpacked to the node's own file systems, so no name in a layer can
//! reach a file of the node's.

pub mod address;
pub mod blob;
pub mod digest;
pub mod erofs;
pub mod fetch;
pub mod kept;
pub mod layer;
pub mod limits;
pub mod manifest;
pub mod merged;
pub mod pax;
pub mod registry;
pub mod store;
pub mod tarball;
pub mod tree;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod testing_registry;
