//! What became of each contract's deployment: the one that stands, and why a newer one does not.
//!
//! Kept in memory only. After a restart of noded, a contract whose deployment on the chain is
//! refused is left as it is found ([`Contract::Keep`]); while noded lives, the version before goes
//! on as desired.
//!
//! A deployment is judged once, and again only when something has changed by which it was judged.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use loam_chain::{B256, ContractRecord, ContractState, TwinRecord};
use loam_deployment::{
    ContractId, Payload, Rejection, Version,
    envelope::{self, Expected, Farm, TwinKeys},
    payload::{Body, NodePolicy},
    report::Verdict,
};
use loam_node_api::{
    clock::UnixTime,
    storage::{VolumeKey, VolumeSpec},
};

use crate::{
    admit::{Judge, PortRange, Refusal, followed},
    desired::{Contract, Desired, Halt, Kept, Stated, Workloads},
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
    /// At the last update.
    now: UnixTime,
}

#[derive(Debug)]
struct Entry {
    state: ContractState,
    standing: Option<Standing>,
    /// Of the deployment on the chain.
    version: Version,
    verdict: Verdict,
    refused: Option<Refused>,
}

/// A deployment on the chain that does not stand.
#[derive(Debug)]
struct Refused {
    basis: Basis,
    /// When it ended, if that is why. A clock that is set may turn out to have been ahead.
    ended: Option<UnixTime>,
}

/// A deployment that was admitted.
#[derive(Debug)]
struct Standing {
    version: Version,
    hash: B256,
    valid_until: Option<UnixTime>,
    body: StandingBody,
}

#[derive(Debug)]
enum StandingBody {
    Workloads(Rc<Stated>),
    Policy(NodePolicy),
}

/// All that a refusal depends on, but for the node's own keys.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Basis {
    hash: B256,
    version: Version,
    owner: TwinRecord,
    farm: Option<Farm>,
    ports: Option<PortRange>,
    /// What the contract has here already.
    volumes: Vec<(VolumeKey, VolumeSpec)>,
}

/// What the deployments of one view are judged by.
#[derive(Clone, Copy)]
struct Rules<'j> {
    judge: &'j Judge<'j>,
    farm: Option<Farm>,
    ports: Option<PortRange>,
}

/// What changed with a new view of the chain.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub accepted: Vec<(ContractId, Version)>,
    pub rejected: Vec<(ContractId, Version, String)>,
    pub gone: Vec<ContractId>,
}

impl Ledger {
    /// Judges what is new. `published` is every contract of this node at one finalized block; `now`
    /// is the time by which ends are judged.
    pub fn update(
        &mut self,
        published: &[Published],
        judge: &Judge<'_>,
        farm: Option<Farm>,
        now: UnixTime,
    ) -> Changes {
        let mut changes = Changes::default();
        self.now = now;
        let listed: BTreeSet<_> = published.iter().map(|p| p.record.id).collect();
        self.entries.retain(|id, _| {
            let there = listed.contains(id);
            if !there {
                changes.gone.push(*id);
            }
            there
        });
        let mut rules = Rules {
            judge,
            farm,
            ports: self.policy().publish_ports,
        };
        // The farmer's word first, for all others are judged by it.
        let farmers = |p: &&Published| farm.is_some_and(|farm| farm.twin == p.record.twin);
        let (farmers, others): (Vec<_>, Vec<_>) = published.iter().partition(farmers);
        let mut workloads = Vec::new();
        for contract in farmers {
            let Some(payload) = self.look(contract, rules, &mut changes) else {
                continue;
            };
            match &payload.body {
                Body::Node(policy) => {
                    let body = followed(policy).map(StandingBody::Policy);
                    self.enter(contract, rules, &payload, body, &mut changes);
                }
                Body::Workload(_) => workloads.push((contract, payload)),
            }
        }
        rules.ports = self.policy().publish_ports;
        for contract in others {
            if let Some(payload) = self.look(contract, rules, &mut changes) {
                workloads.push((contract, payload));
            }
        }
        for (contract, payload) in workloads {
            let admitted = judge.admit(&payload, rules.ports);
            let body = admitted.map(|workloads| StandingBody::Workloads(Rc::new(workloads.into())));
            self.enter(contract, rules, &payload, body, &mut changes);
        }
        changes
    }

    /// The deployment on the chain if it is new, or must be judged again, and is its owner's.
    fn look(
        &mut self,
        contract: &Published,
        rules: Rules<'_>,
        changes: &mut Changes,
    ) -> Option<Payload> {
        if self.stands(contract) {
            self.renew(contract, changes);
            return None;
        }
        let basis = rules.basis(contract);
        if self.is_refused(contract.record.id, &basis) {
            self.renew(contract, changes);
            return None;
        }
        match self.verify(contract, rules) {
            Ok(payload) => Some(payload),
            Err(rejection) => {
                let refused = Refused { basis, ended: None };
                self.refuse(contract, refused, &rejection.into(), changes);
                None
            }
        }
    }

    fn stands(&self, Published { record, .. }: &Published) -> bool {
        let entry = self.entries.get(&record.id);
        let standing = entry.and_then(|entry| entry.standing.as_ref());
        // The same bytes under a higher number are a replay, which verification refuses.
        standing.is_some_and(|standing| {
            standing.hash == record.deployment.hash && standing.version == record.version()
        })
    }

    /// Whether the deployment was refused, and nothing has changed since by which it was judged.
    fn is_refused(&self, id: ContractId, basis: &Basis) -> bool {
        let entry = self.entries.get(&id);
        let refused = entry.and_then(|entry| entry.refused.as_ref());
        refused.is_some_and(|refused| {
            let still = refused.ended.is_none_or(|ended| ended < self.now);
            still && refused.basis == *basis
        })
    }

    /// Its signatures, its addressee and its number; not whether it has ended.
    fn verify(&self, contract: &Published, rules: Rules<'_>) -> Result<Payload, Rejection> {
        let id = contract.record.id;
        let standing = self.entries.get(&id).and_then(|e| e.standing.as_ref());
        let keys = keys(&contract.owner);
        let expected = Expected {
            chain: rules.judge.chain,
            node: rules.judge.identity.node,
            farm: rules.farm,
            contract: id,
            version: contract.record.version(),
            owner: contract.record.twin,
            keys: &keys,
            now: 0,
            running: standing.map(|standing| standing.version),
        };
        envelope::verify(&contract.bytes, &expected)
    }

    /// Takes in a deployment that is the owner's.
    fn enter(
        &mut self,
        contract: &Published,
        rules: Rules<'_>,
        payload: &Payload,
        body: Result<StandingBody, Refusal>,
        changes: &mut Changes,
    ) {
        let basis = rules.basis(contract);
        let body = match body {
            Ok(body) => body,
            Err(refusal) => {
                let refused = Refused { basis, ended: None };
                return self.refuse(contract, refused, &refusal, changes);
            }
        };
        let standing = Standing {
            version: payload.version,
            hash: basis.hash,
            valid_until: payload.valid_until.map(UnixTime),
            body,
        };
        let ended = standing.ended(self.now);
        let id = contract.record.id;
        let before = self.entries.get(&id);
        // After a restart nothing stands yet; but of an earlier version there are volumes.
        let named = rules.judge.last_named(id);
        let stands = before.is_some_and(|entry| entry.standing.is_some())
            || named.is_some_and(|version| version < payload.version);
        if let Some(UnixTime(valid_until)) = ended
            && stands
        {
            // One that had ended before it was seen does not take the place of one that stands.
            let refusal = Rejection::Expired { valid_until }.into();
            let refused = Refused { basis, ended };
            return self.refuse(contract, refused, &refusal, changes);
        }
        let entry = Entry {
            state: contract.record.state,
            standing: Some(standing),
            version: payload.version,
            verdict: verdict(ended),
            refused: None,
        };
        self.keep(contract.record.id, entry, changes);
    }

    fn refuse(
        &mut self,
        contract: &Published,
        refused: Refused,
        refusal: &Refusal,
        changes: &mut Changes,
    ) {
        let before = self.entries.get_mut(&contract.record.id);
        let entry = Entry {
            state: contract.record.state,
            standing: before.and_then(|entry| entry.standing.take()),
            version: contract.record.version(),
            verdict: rejected(refusal),
            refused: Some(refused),
        };
        self.keep(contract.record.id, entry, changes);
    }

    fn keep(&mut self, id: ContractId, entry: Entry, changes: &mut Changes) {
        let told = self
            .entries
            .get(&id)
            .map(|e| (e.version, e.verdict.clone()));
        changes.tell(id, told, &entry);
        self.entries.insert(id, entry);
    }

    /// What changes without a new deployment: the state, and that it ends.
    fn renew(&mut self, contract: &Published, changes: &mut Changes) {
        let stands = self.stands(contract);
        let Some(entry) = self.entries.get_mut(&contract.record.id) else {
            return;
        };
        entry.state = contract.record.state;
        let told = Some((entry.version, entry.verdict.clone()));
        if let Some(standing) = entry.standing.as_ref().filter(|_| stands) {
            entry.version = standing.version;
            entry.verdict = verdict(standing.ended(self.now));
            entry.refused = None;
        }
        changes.tell(contract.record.id, told, entry);
    }

    /// `cancelled` are contracts whose record says so, and that are listed no more.
    pub fn desired(&self, cancelled: &BTreeSet<ContractId>) -> Desired {
        let mut desired = Desired {
            contracts: BTreeMap::new(),
            cancelled: cancelled.clone(),
        };
        for (id, entry) in &self.entries {
            let suspended = entry.state == ContractState::Suspended;
            let contract = match (&entry.standing, entry.state) {
                // Not listed for a node; were one, then its things go.
                (_, ContractState::Cancelled) => {
                    desired.cancelled.insert(*id);
                    continue;
                }
                (None, _) => Contract::Keep(Kept { suspended }),
                (Some(standing), _) => {
                    let stated = standing.stated();
                    match standing.ended(self.now) {
                        Some(until) => Contract::Halted(stated, Halt::Ended(until)),
                        None if suspended => Contract::Halted(stated, Halt::Suspended),
                        None => Contract::Run(stated),
                    }
                }
            };
            desired.contracts.insert(*id, contract);
        }
        desired
    }

    /// The farmer's word about this node; of several the one in the newest contract.
    pub fn policy(&self) -> NodePolicy {
        let standing = self.entries.values().rev();
        let mut standing = standing.filter_map(|entry| entry.standing.as_ref());
        let policy = |standing: &Standing| match &standing.body {
            StandingBody::Policy(policy) if standing.ended(self.now).is_none() => {
                Some(policy.clone())
            }
            _ => None,
        };
        standing.find_map(policy).unwrap_or_default()
    }

    /// Each contract with the version on the chain and what was found of it.
    pub fn verdicts(&self) -> impl Iterator<Item = (ContractId, Version, &Verdict)> {
        self.entries
            .iter()
            .map(|(id, entry)| (*id, entry.version, &entry.verdict))
    }

    /// The first moment at which a deployment that stands has ended: then [`Ledger::update`] and a
    /// new plan are due.
    pub fn next_end(&self) -> Option<UnixTime> {
        let standing = self.entries.values().filter_map(|e| e.standing.as_ref());
        standing
            .filter(|standing| standing.ended(self.now).is_none())
            .filter_map(|standing| standing.valid_until)
            .map(|until| UnixTime(until.0.saturating_add(1)))
            .min()
    }
}

impl Rules<'_> {
    fn basis(&self, contract: &Published) -> Basis {
        Basis {
            hash: contract.record.deployment.hash,
            version: contract.record.version(),
            owner: contract.owner.clone(),
            farm: self.farm,
            ports: self.ports,
            volumes: self.judge.volumes_of(contract.record.id),
        }
    }
}

impl Standing {
    /// Until when it was valid, if that is over.
    fn ended(&self, now: UnixTime) -> Option<UnixTime> {
        self.valid_until.filter(|until| *until < now)
    }

    fn stated(&self) -> Rc<Stated> {
        match &self.body {
            StandingBody::Workloads(stated) => stated.clone(),
            StandingBody::Policy(_) => Rc::new(Workloads::none(self.version).into()),
        }
    }
}

impl Changes {
    fn tell(&mut self, id: ContractId, told: Option<(Version, Verdict)>, entry: &Entry) {
        if told.is_some_and(|told| told == (entry.version, entry.verdict.clone())) {
            return;
        }
        match &entry.verdict {
            Verdict::Accepted => self.accepted.push((id, entry.version)),
            Verdict::Rejected { reason, .. } => {
                self.rejected.push((id, entry.version, reason.clone()));
            }
        }
    }
}

fn verdict(ended: Option<UnixTime>) -> Verdict {
    match ended {
        None => Verdict::Accepted,
        Some(UnixTime(valid_until)) => rejected(&Rejection::Expired { valid_until }.into()),
    }
}

fn rejected(refusal: &Refusal) -> Verdict {
    Verdict::Rejected {
        code: refusal.code().to_owned(),
        reason: refusal.to_string(),
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
