//! The node's own screen: whether all is well, what to do if not, and what the node is. No login.
//!
//! | module | what |
//! |---|---|
//! | [`condition`] | the node's state in one word, and the next step in one sentence (pure) |
//! | [`home`], [`network`] | what stands where: of the node, and of a network test (pure) |
//! | [`app`] | which view is shown, and what keys do (pure) |
//! | [`paint`], [`pace`] | from cells to bytes for a console, and when to send them (pure) |
//! | [`console`] | the consoles of the kernel |
//! | [`qr`], [`text`] | what all of these use |
//!
//! It is a process of its own, with a user of its own and an empty root: it shows what strangers wrote. PID 1 tells it
//! the facts and starts it again when it ends ([`loam_node_api::screen`]).

pub mod app;
pub mod condition;
pub mod console;
mod home;
mod network;
pub mod pace;
mod paint;
mod qr;
mod text;
