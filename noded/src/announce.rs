//! What the node writes to the chain: its record, its reports, signs of life.
//!
//! Nothing that runs waits for any of it. What could not be written is tried again; what changed
//! meanwhile is written as it is then.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use loam_chain::{
    GridReader, NodeState, ReadError,
    writer::{GridWriter, NodeRegistration, WriteError},
};
use loam_deployment::{
    ChainContext, ContractId, NodeKey,
    report::{self, Report, ReportError},
};
use thiserror::Error;
use tokio::{sync::watch, time::timeout};
use tracing::{info, warn};

use crate::{
    agent::Offer,
    budget::Budget,
    farm::Choice,
    follow::View,
    identity::Identity,
    reach,
    registration::{RETRY, Schedule},
    until::until,
};

/// A node that was silent for longer may be taken for gone.
const HEARTBEAT: Duration = Duration::from_secs(60 * 60);

pub struct Announcer {
    pub identity: Rc<Identity>,
    pub writer: Rc<GridWriter>,
    pub reader: Arc<dyn GridReader>,
    pub chain: ChainContext,
    /// In which it is to be.
    pub farm: watch::Receiver<Choice>,
}

#[derive(Debug, Error)]
enum ReportFailure {
    #[error(transparent)]
    Report(#[from] ReportError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl ReportFailure {
    /// Whether another report would fail as well.
    fn concerns_all(&self) -> bool {
        matches!(
            self,
            Self::Write(
                WriteError::Read(_) | WriteError::NoFunds { .. } | WriteError::TooExpensive(_)
            )
        )
    }
}

/// When the next sign of life is due: so long after the last word to the chain, whatever else is to be
/// written and waits.
#[derive(Clone, Copy, Debug)]
struct Sign(Instant);

impl Sign {
    fn new(start: Instant) -> Self {
        Self(start + HEARTBEAT)
    }

    fn due(self) -> Instant {
        self.0
    }

    fn given(&mut self, now: Instant) {
        self.0 = now + HEARTBEAT;
    }

    fn tried(&mut self, now: Instant) {
        self.0 = now + RETRY;
    }
}

impl std::fmt::Debug for Announcer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Announcer")
            .field("farm", &self.farm.borrow().farm)
            .finish_non_exhaustive()
    }
}

impl Announcer {
    /// Keeps the node's record on the chain true.
    pub async fn register(
        &self,
        mut views: watch::Receiver<Option<Rc<View>>>,
        mut offers: watch::Receiver<Option<Offer>>,
    ) {
        let binding = self.writer.bind(self.identity.signing.as_bytes());
        let mut sign = Sign::new(Instant::now());
        let mut schedule = Schedule::default();
        let mut farms = self.farm.clone();
        loop {
            let farm = farms.borrow_and_update().to_join();
            let offer = offers.borrow_and_update().clone();
            let view = views.borrow_and_update().clone();
            let now = Instant::now();
            let mut due = None;
            if let (Some(offer), Some(view), Some(farm)) = (offer, view, farm) {
                let record = view.node.as_ref();
                let known = record.map_or("", |record| &record.addresses);
                let wanted = NodeRegistration {
                    key: self.identity.node,
                    farm,
                    hpke_key: self.identity.hpke.public,
                    capacity: offer.capacity,
                    addresses: reach::addresses(&offer.uplink, known),
                    binding,
                };
                due = schedule.due(&wanted, record, &offer.uplink, now);
                if due.is_some_and(|due| due <= now) {
                    match self.writer.register_node(&wanted).await {
                        Ok(included) => {
                            info!(node = %wanted.key, block = included.block.number, "registered");
                            let now = Instant::now();
                            sign.given(now);
                            schedule.written(now);
                            self.wait_until(&mut views, included.block.number).await;
                        }
                        Err(error) => self.complain("register the node", &error),
                    }
                    schedule.tried(Instant::now());
                    due = Some(Instant::now() + RETRY);
                } else if record.is_some() && sign.due() <= now {
                    match self.writer.heartbeat(NodeState::Up).await {
                        Ok(_) => sign.given(Instant::now()),
                        Err(error) => {
                            self.complain("give a sign of life", &error);
                            sign.tried(Instant::now());
                        }
                    }
                }
                let sign = record.map(|_| sign.due());
                due = due.into_iter().chain(sign).min();
            }
            tokio::select! {
                _ = views.changed() => {}
                _ = offers.changed() => {}
                _ = farms.changed() => {}
                () = until(due) => {}
            }
        }
    }

    /// Writes each report that says something new, as its budget allows.
    pub async fn report(
        &self,
        views: watch::Receiver<Option<Rc<View>>>,
        reports: watch::Receiver<Vec<Report>>,
    ) {
        let written = |id| {
            let view = views.borrow().clone();
            async move {
                let (node, view) = (self.identity.node, view.as_deref());
                on_chain(&*self.reader, &self.chain, node, view, id).await
            }
        };
        keep_reported(reports, written, async |report: &Report| {
            self.write(report).await
        })
        .await;
    }

    async fn write(&self, report: &Report) -> Result<(), ReportFailure> {
        let shortened = report.clone().shortened();
        let bytes = report::sign(&shortened, &self.chain, &self.identity.signing)?;
        self.writer
            .report(report.contract, report.version, &bytes)
            .await?;
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

/// Writes, by `write`, each report that says something else than what is `written` already.
async fn keep_reported(
    mut reports: watch::Receiver<Vec<Report>>,
    written: impl AsyncFn(ContractId) -> Result<Option<Report>, ReadError>,
    write: impl AsyncFn(&Report) -> Result<(), ReportFailure>,
) {
    let mut budgets: BTreeMap<ContractId, Budget> = BTreeMap::new();
    loop {
        let current = reports.borrow_and_update().clone();
        budgets.retain(|id, _| current.binary_search_by_key(id, |r| r.contract).is_ok());
        let mut next: Option<Instant> = None;
        let mut tried = false;
        for report in current {
            let now = Instant::now();
            let id = report.contract;
            let budget = match budgets.entry(id) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    // Before a restart this node may have written it already.
                    let Ok(there) = written(id).await else {
                        // Nor would it answer about the others.
                        next = earliest(next, Instant::now() + RETRY);
                        break;
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
                    tried = true;
                    match write(&report).await {
                        Ok(()) => {
                            budget.spend(now);
                            budget.has(report, Instant::now());
                        }
                        Err(error) => {
                            warn!(contract = %id, %error, "a report was not written");
                            next = earliest(next, Instant::now() + RETRY);
                            if error.concerns_all() {
                                break;
                            }
                            // It may have cost something all the same.
                            budget.spend(now);
                        }
                    }
                }
            }
        }
        // What is said may have changed while it was written.
        if tried && reports.has_changed().unwrap_or(false) {
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
    reader: &dyn GridReader,
    chain: &ChainContext,
    node: NodeKey,
    view: Option<&View>,
    contract: ContractId,
) -> Result<Option<Report>, ReadError> {
    let Some(view) = view else {
        return Ok(None);
    };
    let Some(listed) = view.contracts.iter().find(|c| c.record.id == contract) else {
        return Ok(None);
    };
    let bytes = reader.report(&listed.record, view.block).await?;
    let report = bytes.and_then(|bytes| report::verify(&bytes, chain, &node).ok());
    Ok(report.filter(|report| report.contract == contract))
}

fn earliest(a: Option<Instant>, b: Instant) -> Option<Instant> {
    Some(a.map_or(b, |a| a.min(b)))
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use ed25519_dalek::SigningKey;
    use loam_chain::{ContractState, TwinRecord};
    use loam_deployment::{
        Version,
        report::{Verdict, WorkloadReport},
    };

    use super::*;
    use crate::{fake_chain::*, ledger::Published};

    #[test]
    fn a_sign_of_life_that_did_not_get_through_is_given_again_soon() {
        let start = Instant::now();
        let mut sign = Sign::new(start);
        assert_eq!(sign.due(), start + HEARTBEAT);
        let now = sign.due();
        sign.tried(now);
        assert_eq!(sign.due(), now + RETRY);
        let now = sign.due();
        sign.given(now);
        assert_eq!(sign.due(), now + HEARTBEAT);
    }

    fn said(contract: u64, detail: &str) -> Report {
        let workload = WorkloadReport {
            detail: detail.into(),
            ..WorkloadReport::default()
        };
        Report {
            node: NodeKey([1; 32]),
            contract: ContractId(contract),
            version: Version(1),
            time: 5,
            image: String::new(),
            verdict: Verdict::Accepted,
            workloads: [("web".parse().unwrap(), workload)].into(),
        }
    }

    /// It comes to rest meanwhile.
    async fn let_the_loop_look() {
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn only_what_is_news_is_written_and_what_changes_all_the_time_costs_little() {
        let (say, reports) = watch::channel(vec![said(1, "up")]);
        let writes = RefCell::new(Vec::new());
        let written = async |id: ContractId| Ok((id.0 == 1).then(|| said(1, "up")));
        let write = async |report: &Report| {
            writes.borrow_mut().push(report.contract.0);
            Ok(())
        };
        let changes = async {
            let_the_loop_look().await;
            assert!(writes.borrow().is_empty(), "the chain has it");
            say.send_replace(vec![said(1, "up"), said(2, "up")]);
            let_the_loop_look().await;
            say.send_replace(vec![said(1, "up"), said(2, "up")]);
            let_the_loop_look().await;
            assert_eq!(*writes.borrow(), [2]);
            // A machine that ends and starts for ever.
            for version in 2..60 {
                let flapping = Report {
                    version: Version(version),
                    ..said(2, "up")
                };
                say.send_replace(vec![said(1, "up"), flapping]);
                let_the_loop_look().await;
            }
            assert!(writes.borrow().len() < 20, "{:?}", writes.borrow());
        };
        tokio::select! {
            () = keep_reported(reports, written, write) => unreachable!("it goes on for ever"),
            () = changes => {}
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_not_written_over() {
        let (_say, reports) = watch::channel(vec![said(1, "up"), said(2, "up")]);
        let asked = Cell::new(0);
        let written = async |_| {
            asked.set(asked.get() + 1);
            Err(ReadError::Configuration("none".into()))
        };
        let write = async |_: &Report| panic!("nobody knows what the chain has");
        tokio::select! {
            () = keep_reported(reports, written, write) => unreachable!("it goes on for ever"),
            () = let_the_loop_look() => {}
        }
        assert_eq!(asked.get(), 1, "nor would it answer about the others");
    }

    #[tokio::test]
    async fn what_this_node_has_reported_before_a_restart_is_found_again() {
        let signing = SigningKey::from_bytes(&[1; 32]);
        let node = NodeKey(signing.verifying_key().to_bytes());
        let chain = FakeChain::default();
        let grid = chain.grid();
        let report = |contract| Report {
            node,
            contract: ContractId(contract),
            version: Version(1),
            time: 5,
            image: String::new(),
            verdict: Verdict::Accepted,
            workloads: BTreeMap::new(),
        };
        let sign = |report: &Report| report::sign(report, &grid, &signing).unwrap();
        let published = |id| Published {
            record: contract(id, node, ContractState::Created),
            bytes: vec![],
            owner: TwinRecord {
                id: loam_deployment::TwinId(1),
                owner: loam_chain::Address::ZERO,
                keys: vec![],
                threshold: 1,
                version: 1,
            },
        };
        let view = View {
            block: block(1),
            node: None,
            farm: None,
            contracts: (1..=4).map(published).collect(),
            cancelled: Default::default(),
            generation: 1,
        };
        let mut changed = sign(&report(3));
        *changed.last_mut().unwrap() ^= 1;
        *chain.reports.lock().unwrap() = [
            (ContractId(1), sign(&report(1))),
            // Another contract's, and one that was changed.
            (ContractId(2), sign(&report(1))),
            (ContractId(3), changed),
        ]
        .into();
        for (id, expected) in [
            (1, Some(report(1))),
            (2, None),
            (3, None),
            (4, None),
            (5, None),
        ] {
            let found = on_chain(&chain, &grid, node, Some(&view), ContractId(id)).await;
            assert_eq!(found.unwrap(), expected, "{id}");
        }
    }
}
