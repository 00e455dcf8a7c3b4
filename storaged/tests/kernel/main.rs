//! storaged on the real kernel: block devices (loop), btrfs, what other people's programs leave on disks,
//! and what they make of layers. Needs root.

// What fails in a test shall end it; clippy does not take the parts beside `#[test]` for tests.
#![allow(clippy::unwrap_used)]

mod guests;
mod images;
mod layers;
mod loops;
mod node;
mod pools;
mod returns;
mod strangers;
