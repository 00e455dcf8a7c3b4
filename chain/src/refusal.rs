//! [`Refusal`]: why the contract said no, and what to do about it.

use alloy::{primitives::Address, sol_types::SolInterface};
use loam_deployment::{ContractId, FarmId, NodeKey, TwinId, Version};

use crate::abi::Grid::{ContractState, GridErrors};

/// One for each error of `Grid.sol`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "this account already owns twin {0}; use that one, or another account for another twin"
    )]
    TwinAlreadyRegistered(TwinId),
    #[error("account {0} owns no twin; register one first")]
    NoTwin(Address),
    #[error("there is no twin {0}")]
    NoSuchTwin(TwinId),
    #[error("a twin needs at least one key")]
    NoKeys,
    #[error("{count} keys are too many; a twin has at most {most}")]
    TooManyKeys { count: u64, most: u64 },
    #[error("{keys} keys came with {weights} weights; give one weight for each key")]
    KeysAndWeightsDiffer { keys: u64, weights: u64 },
    #[error("a key of zeros is no key")]
    ZeroKey,
    #[error("key {} has weight 0; leave it out, or give it a weight of at least 1", hex(.0))]
    ZeroWeight([u8; 32]),
    #[error("key {} is given twice; give it once, with the sum of its weights", hex(.0))]
    DuplicateKey([u8; 32]),
    #[error(
        "a threshold of {threshold} cannot be reached by keys of weight {weight} together; choose \
         1 to {weight}"
    )]
    ThresholdOutOfReach { threshold: u32, weight: u64 },
    #[error("a farm's name has 1 to {most} bytes, not {length}")]
    NameLength { length: u64, most: u64 },
    #[error("there is no farm {0}; `farm` must be the number of a farm on this grid")]
    NoSuchFarm(FarmId),
    #[error("account {account} does not own farm {farm}; only the farmer may do this")]
    NotFarmOwner { farm: FarmId, account: Address },
    #[error("addresses of {length} bytes are too long; at most {most} fit")]
    AddressesTooLong { length: u64, most: u64 },
    #[error(
        "node {node} was registered by account {account}; a node whose identity another account \
         took needs a new one"
    )]
    NodeKeyTaken { node: NodeKey, account: Address },
    #[error("account {account} already speaks for node {node}; each node has its own account")]
    AccountHasNode { account: Address, node: NodeKey },
    #[error("there is no node {0} on this grid; `loam node list` shows those that are")]
    NoSuchNode(NodeKey),
    #[error("account {0} speaks for no node; register the node first")]
    NotANode(Address),
    #[error("account {account} does not speak for node {node}; only the node itself may report")]
    NotNodeAccount { node: NodeKey, account: Address },
    #[error("node {node} has {most} contracts and takes no more; choose another node")]
    NodeFull { node: NodeKey, most: u64 },
    #[error("the next contract is {next}, not {expected}; someone was faster, sign for {next}")]
    UnexpectedId {
        expected: ContractId,
        next: ContractId,
    },
    #[error("the next version is {next}, not {given}; read the contract and sign version {next}")]
    UnexpectedVersion { given: Version, next: Version },
    #[error("there is no contract {0}")]
    NoSuchContract(ContractId),
    #[error("contract {0} is cancelled; deploy again for a new one")]
    ContractIsCancelled(ContractId),
    #[error("contract {id} is {}", .state)]
    WrongContractState { id: ContractId, state: &'static str },
    #[error("contract {id} does not belong to account {account}; use the key of its owner")]
    NotContractOwner { id: ContractId, account: Address },
    #[error("a report on version {given} cannot be, the contract is at version {current}")]
    ReportOfOtherVersion { given: Version, current: Version },
    #[error("a heartbeat says up or down")]
    WrongState,
    #[error("there are no bytes to store")]
    NoBytes,
    #[error("{length} bytes are too many; at most {most} can be stored")]
    TooManyBytes { length: u64, most: u64 },
    #[error("the chain did not store the bytes; the transaction ran out of gas")]
    DataContractFailed,
}

impl Refusal {
    /// Reads what the contract returned; nothing if it is none of its errors.
    pub(crate) fn decode(data: &[u8]) -> Option<Self> {
        let error = GridErrors::abi_decode_validate(data).ok()?;
        Some(error.into())
    }
}

impl From<GridErrors> for Refusal {
    fn from(error: GridErrors) -> Self {
        use GridErrors as E;
        let number = |n: alloy::primitives::U256| n.saturating_to::<u64>();
        match error {
            E::TwinAlreadyRegistered(e) => Self::TwinAlreadyRegistered(TwinId(e.twin)),
            E::NoTwin(e) => Self::NoTwin(e.account),
            E::NoSuchTwin(e) => Self::NoSuchTwin(TwinId(e.twin)),
            E::NoKeys(_) => Self::NoKeys,
            E::TooManyKeys(e) => Self::TooManyKeys {
                count: number(e.count),
                most: number(e.most),
            },
            E::KeysAndWeightsDiffer(e) => Self::KeysAndWeightsDiffer {
                keys: number(e.keys),
                weights: number(e.weights),
            },
            E::ZeroKey(_) => Self::ZeroKey,
            E::ZeroWeight(e) => Self::ZeroWeight(e.key.0),
            E::DuplicateKey(e) => Self::DuplicateKey(e.key.0),
            E::ThresholdOutOfReach(e) => Self::ThresholdOutOfReach {
                threshold: e.threshold,
                weight: number(e.weight),
            },
            E::NameLength(e) => Self::NameLength {
                length: number(e.length),
                most: number(e.most),
            },
            E::NoSuchFarm(e) => Self::NoSuchFarm(FarmId(e.farm)),
            E::NotFarmOwner(e) => Self::NotFarmOwner {
                farm: FarmId(e.farm),
                account: e.account,
            },
            E::AddressesTooLong(e) => Self::AddressesTooLong {
                length: number(e.length),
                most: number(e.most),
            },
            E::NodeKeyTaken(e) => Self::NodeKeyTaken {
                node: NodeKey(e.node.0),
                account: e.account,
            },
            E::AccountHasNode(e) => Self::AccountHasNode {
                account: e.account,
                node: NodeKey(e.node.0),
            },
            E::NoSuchNode(e) => Self::NoSuchNode(NodeKey(e.node.0)),
            E::NotANode(e) => Self::NotANode(e.account),
            E::NotNodeAccount(e) => Self::NotNodeAccount {
                node: NodeKey(e.node.0),
                account: e.account,
            },
            E::NodeFull(e) => Self::NodeFull {
                node: NodeKey(e.node.0),
                most: number(e.most),
            },
            E::UnexpectedId(e) => Self::UnexpectedId {
                expected: ContractId(e.expected),
                next: ContractId(e.next),
            },
            E::UnexpectedVersion(e) => Self::UnexpectedVersion {
                given: Version(e.given),
                next: Version(e.next),
            },
            E::NoSuchContract(e) => Self::NoSuchContract(ContractId(e.id)),
            E::ContractIsCancelled(e) => Self::ContractIsCancelled(ContractId(e.id)),
            E::WrongContractState(e) => Self::WrongContractState {
                id: ContractId(e.id),
                state: match e.state {
                    ContractState::Suspended => "already suspended",
                    _ => "not suspended",
                },
            },
            E::NotContractOwner(e) => Self::NotContractOwner {
                id: ContractId(e.id),
                account: e.account,
            },
            E::ReportOfOtherVersion(e) => Self::ReportOfOtherVersion {
                given: Version(e.given),
                current: Version(e.current),
            },
            E::WrongState(_) => Self::WrongState,
            E::NoBytes(_) => Self::NoBytes,
            E::TooManyBytes(e) => Self::TooManyBytes {
                length: number(e.length),
                most: number(e.most),
            },
            E::DataContractFailed(_) => Self::DataContractFailed,
        }
    }
}

fn hex(key: &[u8; 32]) -> String {
    alloy::primitives::hex::encode(key)
}
