//! From the contract's own structures to records: whatever cannot be is refused here.

use alloy::primitives::Address;
use loam_deployment::{Bytes, ChainContext, ContractId, FarmId, NodeKey, TwinId, Version};

use crate::{
    Capacity, ContractRecord, ContractState, FarmRecord, NodeRecord, NodeState, TwinRecord,
    WeightedKey,
    abi::Grid,
    binding::binding_holds,
    record::{ReportRef, Stored},
};

/// The contract's `MAX_KEYS`.
const MAX_KEYS: usize = 16;
const MAX_NAME: usize = 64;
const MAX_ADDRESSES: usize = 256;

pub(crate) fn twin(id: TwinId, raw: Grid::Twin) -> Result<Option<TwinRecord>, String> {
    if raw.owner == Address::ZERO {
        return Ok(None);
    }
    if raw.keys.len() != raw.weights.len() || raw.keys.len() > MAX_KEYS {
        return Err(format!("twin {id} has keys and weights that do not match"));
    }
    if raw.threshold == 0 || raw.weights.contains(&0) {
        return Err(format!("anyone could sign for twin {id}"));
    }
    let keys = raw.keys.into_iter().zip(raw.weights);
    Ok(Some(TwinRecord {
        id,
        owner: raw.owner,
        keys: keys
            .map(|(key, weight)| WeightedKey { key: key.0, weight })
            .collect(),
        threshold: raw.threshold,
        version: raw.version,
    }))
}

pub(crate) fn farm(id: FarmId, raw: Grid::Farm) -> Result<Option<FarmRecord>, String> {
    if raw.twin == 0 {
        return Ok(None);
    }
    if raw.name.len() > MAX_NAME {
        return Err(format!("the name of farm {id} is too long"));
    }
    let policy = (raw.policy != Address::ZERO).then_some(Stored {
        version: Version(raw.policyVersion),
        pointer: raw.policy,
        hash: raw.policyHash,
    });
    Ok(Some(FarmRecord {
        id,
        twin: TwinId(raw.twin),
        name: raw.name,
        policy,
    }))
}

pub(crate) fn node(key: NodeKey, raw: Grid::Node) -> Result<Option<NodeRecord>, String> {
    if raw.account == Address::ZERO {
        return Ok(None);
    }
    if raw.addresses.len() > MAX_ADDRESSES {
        return Err(format!("the addresses of node {key} are too long"));
    }
    let state = match raw.state {
        Grid::NodeState::Up => NodeState::Up,
        Grid::NodeState::Down => NodeState::Down,
        _ => return Err(format!("node {key} has no state")),
    };
    let mut binding = [0; 64];
    binding[..32].copy_from_slice(raw.bindingR.as_slice());
    binding[32..].copy_from_slice(raw.bindingS.as_slice());
    Ok(Some(NodeRecord {
        key,
        farm: FarmId(raw.farm),
        account: raw.account,
        hpke_key: raw.hpkeKey.0,
        capacity: Capacity {
            cpus: raw.capacity.cpu,
            memory: Bytes(raw.capacity.memory_),
            ssd: Bytes(raw.capacity.ssd),
            hdd: Bytes(raw.capacity.hdd),
        },
        addresses: raw.addresses,
        binding,
        state,
        registered: raw.registeredBlock,
        last_report: raw.lastReportBlock,
    }))
}

/// A record whose binding does not hold is a stranger's, not the node's.
pub(crate) fn bound(record: &NodeRecord, grid: ChainContext) -> bool {
    binding_holds(record.key, grid, record.account, &record.binding)
}

pub(crate) fn contract(
    id: ContractId,
    raw: Grid::ContractRecord,
) -> Result<Option<ContractRecord>, String> {
    let state = match raw.state {
        Grid::ContractState::Unknown => return Ok(None),
        Grid::ContractState::Created => ContractState::Created,
        Grid::ContractState::Cancelled => ContractState::Cancelled,
        Grid::ContractState::Suspended => ContractState::Suspended,
        _ => return Err(format!("contract {id} is in no known state")),
    };
    if raw.version == 0 || raw.deployment == Address::ZERO {
        return Err(format!("contract {id} has no deployment"));
    }
    let report = (raw.report != Address::ZERO).then_some(ReportRef {
        pointer: raw.report,
        version: Version(raw.reportVersion),
        written: raw.reportBlock,
    });
    Ok(Some(ContractRecord {
        id,
        twin: TwinId(raw.twin),
        node: NodeKey(raw.node.0),
        state,
        deployment: Stored {
            version: Version(raw.version),
            pointer: raw.deployment,
            hash: raw.deploymentHash,
        },
        report,
        created: raw.createdBlock,
        updated: raw.updatedBlock,
    }))
}
