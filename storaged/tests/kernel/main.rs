//! storaged on the real kernel: block devices (loop), btrfs, and what other people's programs leave on
//! disks. Needs root.

// What fails in a test shall end it; clippy does not take the parts beside `#[test]` for tests.
#![allow(clippy::unwrap_used)]

mod guests;
mod images;
mod loops;
mod node;
mod pools;
mod returns;
mod strangers;
