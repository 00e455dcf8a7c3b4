//! The pipeline: from a fresh clone to an image, and from an image to a running node.
//! `main.rs` is its command line; `qemu-tests` uses it as a library.

pub mod bench;
pub mod cache;
pub mod check;
pub mod debian;
pub mod image;
pub mod interrupt;
pub mod lock;
pub mod mutants;
pub mod oci;
pub mod phase;
pub mod program;
pub mod qemu;
pub mod registry;
pub mod setup;
pub mod up;
pub mod workspace;
pub mod write_usb;
