//! Debian packages, fetched by hash from the archive this machine already uses, never installed:
//! only the files that the image needs are taken out of them.

pub mod archive;
pub mod component;
pub mod control;
pub mod deb;
pub mod index;
pub mod lock;
pub mod release;
pub mod resolve;
pub mod version;
