//! What became of each contract's deployment: the one that stands, and why a newer one does not.
//!
//! Kept in memory only. After a restart of noded, a contract whose deployment on the chain is
//! refused is left as it is found ([`Contract::Keep`]); while noded lives, the version before goes
//! on as desired.

use std::collections::{BTreeMap, BTreeSet};

use loam_chain::{B256, ContractRecord, ContractState, TwinRecord};
use loam_deployment::{
    ContractId, Version,
    envelope::{Expected, Farm, TwinKeys},
    payload::NodePolicy,
    report::Verdict,
};

use crate::{
    admit::{Admitted, AdmittedBody, Judge},
    desired::{Contract, Desired, Workloads},
};

/// A contract as the chain has it, with the bytes of its deployment and its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    pub record: ContractRecord,
    pub bytes: Vec<u8>,
    pub owner: TwinRecord,
}

#[derive(Debug, Default)]
pub struct Ledger {
    entries: BTreeMap<ContractId, Entry>,
}

#[derive(Debug)]
struct Entry {
    state: ContractState,
    standing: Option<(Admitted, B256)>,
    /// Of the deployment on the chain.
    verdict: Verdict,
    version: Version,
}

/// What changed with a new view of the chain.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub accepted: Vec<(ContractId, Version)>,
    pub rejected: Vec<(ContractId, Version, String)>,
    pub gone: Vec<ContractId>,
}

impl Ledger {
    /// Judges what is new. `published` is every contract of this node at one finalized block.
    pub fn update(
        &mut self,
        published: &[Published],
        judge: &Judge<'_>,
        farm: Option<Farm>,
        now: u64,
    ) -> Changes {
        let mut changes = Changes::default();
        self.entries.retain(|id, _| {
            let there = published.iter().any(|p| p.record.id == *id);
            if !there {
                changes.gone.push(*id);
            }
            there
        });
        for contract in published {
            let id = contract.record.id;
            let hash = contract.record.deployment.hash;
            let version = contract.record.version();
            let before = self.entries.remove(&id);
            let known = before
                .as_ref()
                .map(|entry| (entry.version, entry.verdict.clone()));
            let standing = before.and_then(|entry| entry.standing);
            let (standing, verdict) = match standing {
                // The same bytes under a higher number are a replay, which verification refuses.
                Some((admitted, stands)) if stands == hash && admitted.version == version => {
                    (Some((admitted, stands)), Verdict::Accepted)
                }
                standing => {
                    let running = standing.as_ref().map(|(admitted, _)| admitted.version);
                    let keys = keys(&contract.owner);
                    let expected = Expected {
                        chain: judge.chain,
                        node: judge.identity.node,
                        farm,
                        contract: id,
                        version,
                        owner: contract.record.twin,
                        keys: &keys,
                        now,
                        running,
                    };
                    match judge.admit(&contract.bytes, &expected) {
                        Ok(admitted) => (Some((admitted, hash)), Verdict::Accepted),
                        Err(refusal) => (
                            standing,
                            Verdict::Rejected {
                                reason: refusal.to_string(),
                            },
                        ),
                    }
                }
            };
            if known.as_ref() != Some(&(version, verdict.clone())) {
                match &verdict {
                    Verdict::Accepted => changes.accepted.push((id, version)),
                    Verdict::Rejected { reason } => {
                        changes.rejected.push((id, version, reason.clone()));
                    }
                }
            }
            let state = contract.record.state;
            self.entries.insert(
                id,
                Entry {
                    state,
                    standing,
                    verdict,
                    version,
                },
            );
        }
        changes
    }

    /// `cancelled` are contracts whose record says so, and that are listed no more.
    pub fn desired(&self, cancelled: &BTreeSet<ContractId>) -> Desired {
        let mut desired = Desired {
            contracts: BTreeMap::new(),
            cancelled: cancelled.clone(),
        };
        for (id, entry) in &self.entries {
            let workloads = match &entry.standing {
                Some((admitted, _)) => match &admitted.body {
                    AdmittedBody::Workloads(workloads) => Some(workloads.clone()),
                    AdmittedBody::Policy(_) => Some(Workloads::none(admitted.version)),
                },
                None => None,
            };
            let contract = match (entry.state, workloads) {
                // Not listed for a node; were one, then its things go.
                (ContractState::Cancelled, _) => {
                    desired.cancelled.insert(*id);
                    continue;
                }
                (_, None) => Contract::Keep,
                (ContractState::Created, Some(workloads)) => Contract::Run(workloads),
                (ContractState::Suspended, Some(workloads)) => Contract::Suspended(workloads),
            };
            desired.contracts.insert(*id, contract);
        }
        desired
    }

    /// The farmer's word about this node; of several the one in the newest contract.
    pub fn policy(&self) -> NodePolicy {
        self.entries
            .values()
            .rev()
            .find_map(|entry| match &entry.standing {
                Some((
                    Admitted {
                        body: AdmittedBody::Policy(policy),
                        ..
                    },
                    _,
                )) => Some(policy.clone()),
                _ => None,
            })
            .unwrap_or_default()
    }

    /// Each contract with the version on the chain and what was found of it.
    pub fn verdicts(&self) -> impl Iterator<Item = (ContractId, Version, &Verdict)> {
        self.entries
            .iter()
            .map(|(id, entry)| (*id, entry.version, &entry.verdict))
    }
}

fn keys(twin: &TwinRecord) -> TwinKeys {
    TwinKeys {
        keys: twin
            .keys
            .iter()
            .map(|key| (key.key, key.weight.into()))
            .collect(),
        threshold: twin.threshold,
    }
}

#[cfg(test)]
mod tests;
