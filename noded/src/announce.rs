//! What the node writes to the chain: its record, its reports, signs of life.
//!
//! Nothing that runs waits for any of it. What could not be written is tried again; what changed
//! meanwhile is written as it is then.

use std::{
    collections::BTreeMap,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use loam_chain::{
    GridReader, NodeRecord, NodeState,
    writer::{GridWriter, NodeRegistration, WriteError},
};
use loam_deployment::{
    ChainContext, ContractId, FarmId,
    report::{self, Report},
};
use loam_node_api::network::Uplink;
use tokio::{
    sync::watch,
    time::{sleep_until, timeout},
};
use tracing::{info, warn};

use crate::{agent::Offer, budget::Budget, follow::View, identity::Identity, reach};

/// After a failure.
const RETRY: Duration = Duration::from_secs(10);
/// A node that was silent for longer may be taken for gone.
const HEARTBEAT: Duration = Duration::from_secs(60 * 60);
/// Something of the record is wrong: a disk came or went, or no address leads here any more. It may
/// be a thing of moments.
const SETTLE: Duration = Duration::from_secs(30);
/// Some of the addresses are others now, and one that is registered still leads here.
const SETTLE_ADDRESSES: Duration = Duration::from_secs(60 * 60);
/// Between two registrations for addresses alone.
const ADDRESSES: Duration = Duration::from_secs(24 * 60 * 60);

pub struct Announcer {
    pub identity: Rc<Identity>,
    pub writer: Rc<GridWriter>,
    pub reader: Arc<dyn GridReader>,
    pub chain: ChainContext,
    pub farm: FarmId,
}

/// How much the record on the chain differs from what is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Difference {
    Absent,
    Wrong,
    SomeAddresses,
}

impl Announcer {
    /// Keeps the node's record on the chain true.
    pub async fn register(
        &self,
        mut views: watch::Receiver<Option<Rc<View>>>,
        mut offers: watch::Receiver<Option<Offer>>,
    ) {
        let binding = self.writer.bind(self.identity.signing.as_bytes());
        let mut spoke = Instant::now();
        let mut moved: Option<Instant> = None;
        let mut pending: Option<(NodeRegistration, Instant)> = None;
        let mut not_before = Instant::now();
        loop {
            let offer = offers.borrow_and_update().clone();
            let view = views.borrow_and_update().clone();
            let now = Instant::now();
            let mut due = None;
            if let (Some(offer), Some(view)) = (offer, view) {
                let known = view.node.as_ref().map_or("", |record| &record.addresses);
                let wanted = NodeRegistration {
                    key: self.identity.node,
                    farm: self.farm,
                    hpke_key: self.identity.hpke.public,
                    capacity: offer.capacity,
                    addresses: reach::addresses(&offer.uplink, known),
                    binding,
                };
                let difference = difference(&wanted, view.node.as_ref(), &offer.uplink);
                let since = match &pending {
                    Some((before, since)) if *before == wanted => *since,
                    _ => now,
                };
                pending = Some((wanted.clone(), since));
                due = match difference {
                    // Without an address nobody can reach it.
                    _ if wanted.addresses.is_empty() => None,
                    None => None,
                    Some(Difference::Absent) => Some(now),
                    Some(Difference::Wrong) => Some(since + SETTLE),
                    Some(Difference::SomeAddresses) => {
                        let rested = moved.map_or(now, |moved| moved + ADDRESSES);
                        Some(rested.max(since + SETTLE_ADDRESSES))
                    }
                }
                .map(|due| due.max(not_before));
                if due.is_some_and(|due| due <= now) {
                    match self.writer.register_node(&wanted).await {
                        Ok(included) => {
                            info!(node = %wanted.key, block = included.block.number, "registered");
                            spoke = Instant::now();
                            moved = Some(spoke);
                            self.wait_until(&mut views, included.block.number).await;
                        }
                        Err(error) => self.complain("register the node", &error),
                    }
                    not_before = Instant::now() + RETRY;
                    due = Some(not_before);
                } else if difference.is_none() && spoke.elapsed() > HEARTBEAT {
                    spoke = Instant::now();
                    if let Err(error) = self.writer.heartbeat(NodeState::Up).await {
                        self.complain("give a sign of life", &error);
                    }
                }
            }
            tokio::select! {
                _ = views.changed() => {}
                _ = offers.changed() => {}
                () = until(due) => {}
            }
        }
    }

    /// Writes each report that says something new, as its budget allows.
    pub async fn report(
        &self,
        views: watch::Receiver<Option<Rc<View>>>,
        mut reports: watch::Receiver<Vec<Report>>,
    ) {
        let mut budgets: BTreeMap<ContractId, Budget> = BTreeMap::new();
        loop {
            let current = reports.borrow_and_update().clone();
            budgets.retain(|id, _| current.binary_search_by_key(id, |r| r.contract).is_ok());
            let mut next: Option<Instant> = None;
            let mut written = false;
            for report in current {
                let now = Instant::now();
                let id = report.contract;
                let budget = match budgets.entry(id) {
                    std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                    std::collections::btree_map::Entry::Vacant(entry) => {
                        // Before a restart this node may have written it already.
                        let Ok(there) = self.on_chain(id, &views).await else {
                            next = earliest(next, now + RETRY);
                            continue;
                        };
                        let budget = entry.insert(Budget::new(now));
                        if let Some(there) = there {
                            budget.has(there, now);
                        }
                        budget
                    }
                };
                match budget.due(&report, now) {
                    None => {}
                    Some(due) if due > now => next = earliest(next, due),
                    Some(_) => {
                        budget.spend(now);
                        match self.write(&report).await {
                            Ok(()) => budget.has(report, Instant::now()),
                            Err(error) => {
                                warn!(contract = %id, error, "a report was not written");
                                next = earliest(next, Instant::now() + RETRY);
                            }
                        }
                        written = true;
                    }
                }
            }
            // What is said may have changed while it was written.
            if written && reports.has_changed().unwrap_or(false) {
                continue;
            }
            tokio::select! {
                // The sender lives as long as the process.
                _ = reports.changed() => {}
                () = until(next) => {}
            }
        }
    }

    /// What the chain has of this node's about the contract.
    async fn on_chain(
        &self,
        contract: ContractId,
        views: &watch::Receiver<Option<Rc<View>>>,
    ) -> Result<Option<Report>, loam_chain::ReadError> {
        let Some(view) = views.borrow().clone() else {
            return Ok(None);
        };
        let Some(listed) = view.contracts.iter().find(|c| c.record.id == contract) else {
            return Ok(None);
        };
        let bytes = self.reader.report(&listed.record, view.block).await?;
        let report =
            bytes.and_then(|bytes| report::verify(&bytes, &self.chain, &self.identity.node).ok());
        Ok(report.filter(|report| report.contract == contract))
    }

    async fn write(&self, report: &Report) -> Result<(), String> {
        let shortened = report.clone().shortened();
        let bytes = report::sign(&shortened, &self.chain, &self.identity.signing)
            .map_err(|error| error.to_string())?;
        self.writer
            .report(report.contract, report.version, &bytes)
            .await
            .map_err(|error| error.to_string())?;
        info!(contract = %report.contract, version = %report.version, "reported");
        Ok(())
    }

    /// Until the follower has seen the block, the record still looks old.
    async fn wait_until(&self, views: &mut watch::Receiver<Option<Rc<View>>>, block: u64) {
        let seen = views.wait_for(|view| view.as_ref().is_some_and(|v| v.block.number >= block));
        // A block that is taken back is never seen; then the record is simply written again.
        let _ = timeout(Duration::from_secs(30 * 60), seen).await;
    }

    fn complain(&self, what: &str, error: &WriteError) {
        warn!(account = %self.writer.account(), %error, "could not {what}");
    }
}

fn difference(
    wanted: &NodeRegistration,
    record: Option<&NodeRecord>,
    uplink: &Uplink,
) -> Option<Difference> {
    let Some(record) = record else {
        return Some(Difference::Absent);
    };
    let right = record.farm == wanted.farm
        && record.hpke_key == wanted.hpke_key
        && record.capacity == wanted.capacity
        && reach::leads_here(uplink, &record.addresses);
    match right {
        false => Some(Difference::Wrong),
        true if record.addresses != wanted.addresses => Some(Difference::SomeAddresses),
        true => None,
    }
}

fn earliest(a: Option<Instant>, b: Instant) -> Option<Instant> {
    Some(a.map_or(b, |a| a.min(b)))
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
