//! Tests that boot the real image: the framework.
//!
//! A case reads like its own description: start a grid, boot a node, deploy, look, break
//! something, look again. What is waited for is always an event (a report, an answer, a line), with
//! a limit far above what emulation needs; no case asserts a duration.
//!
//! | module | what it gives a case |
//! |---|---|
//! | [`grid`] | a chain of its own with a farm, and the demo's image in a registry |
//! | [`tenant`] | someone who deploys: valid deployments, and any bytes |
//! | [`node`] | a node in QEMU: boot, cut its power, look into it, break its daemons |
//! | [`shared`] | one node for cases that do not break it |
//! | [`write_log`], [`power_cut`] | what a node wrote, and disks as a power cut may leave them |
//! | [`nbd`] | a disk that hangs, fails or is slow when told to |
//! | [`folder`] | where its files are |
//! | [`http`] | the few requests that cases make of the demo's web server |
//!
//! The cases are in `cases/`; `cargo xtask test` builds what they need and runs them.

mod console;
pub mod debian_image;
pub mod folder;
pub mod grid;
pub mod http;
pub mod nbd;
pub mod node;
pub mod power_cut;
pub mod shared;
pub mod tenant;
pub mod wait;
pub mod write_log;
