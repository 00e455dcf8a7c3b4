//! Reading and writing the grid's contract.
//!
//! The chain is the grid's only authority. This crate says what it says, and never what to run.
//!
//! | module | what it is for |
//! |---|---|
//! | [`grid`] | [`GridConfig`]: which contract on which chain, and who answers for it |
//! | [`record`] | what the contract keeps: twins, farms, nodes, contracts |
//! | [`reader`] | [`GridReader`]: every question that can be asked, at one block |
//! | [`endpoint`] | [`EndpointReader`]: answers from one JSON-RPC endpoint, taken at its word |
//! | [`follower`] | [`Follower`]: finalized blocks as they come, never backwards |
//! | [`writer`] | [`GridWriter`]: transactions, and what their refusals mean |
//! | [`account`] | [`AccountKey`]: the key of a chain account |
//! | [`binding`] | a node's word for its chain account |
//! | `tool`, `local` | with feature `local-chain`: `anvil` and `solc`, a chain of one's own |
//!
//! `contracts/README.md` describes the contract and its storage.

mod abi;
pub mod account;
pub mod binding;
mod decode;
pub mod endpoint;
pub mod follower;
pub mod grid;
#[cfg(feature = "local-chain")]
pub mod local;
pub mod reader;
pub mod record;
mod refusal;
mod rpc;
#[cfg(feature = "local-chain")]
pub mod tool;
mod transaction;
pub mod writer;

pub use account::AccountKey;
pub use alloy::primitives::{Address, B256};
pub use endpoint::EndpointReader;
pub use follower::{FollowError, Follower, FollowerOptions, WentBack};
pub use grid::GridConfig;
#[cfg(feature = "local-chain")]
pub use local::{LocalChain, LocalChainOptions, Mining};
pub use reader::{BlockRef, GridReader, ReadError};
pub use record::{
    Capacity, ContractRecord, ContractState, FarmRecord, NodeRecord, NodeState, TwinRecord,
    WeightedKey,
};
pub use writer::{
    DeployError, GridWriter, Inclusion, NodeRegistration, Refusal, WriteError, WriterOptions,
};
