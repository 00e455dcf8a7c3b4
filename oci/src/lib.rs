//! Asking registries for images, as the OCI distribution and image specifications (1.1) have it. The one
//! registry client of the workspace.
//!
//! | module | what it knows |
//! |---|---|
//! | [`host`], [`mirror`], [`address`] | which host is asked, and which before it; where a registry is, and where it must not be |
//! | [`registry`] | asking one repository for manifests and blobs |
//! | [`pause`] | how long a registry is left alone that cannot answer now |
//! | [`transfer`], [`gate`] | a blob to where it is kept, resumed where it was cut; what holds transfers up |
//! | [`challenge`], [`login`] | how a server wants to be logged in to, and how that is done |
//! | [`resolve`], [`platform`] | from an index to the one image that a node runs |
//! | [`tag`] | what a tag names now, for those who sign |
//! | [`manifest`], [`digest`] | what an image consists of, and by what each part is checked |
//! | [`json`] | documents of strangers, and which place of one cannot be read |
//! | [`limits`] | how much of each a registry may make us do |
//! | `test_registry`, `test_target` | a registry of one's own, and where what comes from it goes, for tests |
//!
//! Whoever asks says what may be reached and by whose word a registry is the one that has its name
//! ([`address::Outside`]), where bytes go ([`transfer::Target`]), and how long it may take.

pub mod address;
pub mod challenge;
pub mod digest;
pub mod gate;
pub mod host;
pub mod json;
pub mod limits;
pub mod login;
pub mod manifest;
pub mod mirror;
pub mod pause;
pub mod platform;
pub mod registry;
pub mod resolve;
pub mod tag;
#[cfg(feature = "test-registry")]
pub mod test_registry;
#[cfg(feature = "test-registry")]
pub mod test_target;
pub mod transfer;
