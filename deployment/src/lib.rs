//! What Loam's users sign: types, canonical bytes, signatures, sealed secrets, limits.
//!
//! This crate is pure: no I/O, no async, no clock of its own. Everything that enters a node or a
//! command line from outside is parsed here once, and only valid values are held afterwards.
//!
//! A deployment's way: [`written`] reads the TOML that people write, is told the digests of the images
//! that it names by a tag, seals its secrets ([`seal`]) and gives a [`payload`]; [`envelope`] signs it. On the node, [`envelope`]
//! verifies the bytes, which [`cbor`] reads and [`validate`] checks against [`limits`]. What the
//! node made of it comes back as a signed [`report`].

pub mod bytes;
pub mod cbor;
pub mod chain_context;
pub mod envelope;
mod host;
pub mod id;
pub mod image_digest;
pub mod image_name;
pub mod limits;
pub mod name;
pub mod oci_reference;
pub mod payload;
pub mod rejection;
pub mod report;
pub mod seal;
pub mod subnet;
pub mod validate;
pub mod written;

pub use bytes::Bytes;
pub use chain_context::ChainContext;
pub use ed25519_dalek::{SigningKey, VerifyingKey};
pub use id::{ContractId, FarmId, NodeKey, TwinId, Version};
pub use image_digest::ImageDigest;
pub use image_name::ImageName;
pub use name::{Name, NameError};
pub use payload::Payload;
pub use rejection::{FieldError, Problem, Rejection};
