//! The contract and its client against a real chain (`anvil`), one per test.

// All of it is tests, the functions around them too.
#![allow(clippy::unwrap_used)]

mod artefact;
mod contracts;
mod farms_and_nodes;
mod follow;
mod lists;
mod local;
mod storage;
mod twins;
mod world;
mod writing;
