//! What the node writes to the chain: its record, its reports, signs of life.
//!
//! Nothing that runs waits for any of it. What could not be written is tried again; what changed
//! meanwhile is written as it is then.

use std::{
    collections::BTreeMap,
    rc::Rc,
    time::{Duration, Instant},
};

use loam_chain::{
    NodeState,
    writer::{GridWriter, NodeRegistration, WriteError},
};
use loam_deployment::{
    ChainContext, ContractId, FarmId,
    report::{self, Report},
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use crate::{agent::Offer, follow::View, identity::Identity, report::says_the_same};

/// Between two transactions of one kind: a machine that starts and ends all the time must not
/// turn into a transaction each time.
const PAUSE: Duration = Duration::from_secs(1);
/// After a failure.
const RETRY: Duration = Duration::from_secs(10);
/// A node that was silent for longer may be taken for gone.
const HEARTBEAT: Duration = Duration::from_secs(60 * 60);

#[derive(Clone, Debug)]
pub struct Announcer {
    pub identity: Rc<Identity>,
    pub writer: Rc<GridWriter>,
    pub chain: ChainContext,
    pub farm: FarmId,
}

impl Announcer {
    /// Keeps the node's record on the chain true.
    pub async fn register(
        self,
        mut views: watch::Receiver<Option<Rc<View>>>,
        mut offers: watch::Receiver<Option<Offer>>,
    ) {
        let mut spoke = Instant::now();
        loop {
            let offer = offers.borrow_and_update().clone();
            let view = views.borrow_and_update().clone();
            if let (Some(offer), Some(view)) = (offer, view)
                && !offer.addresses.is_empty()
            {
                let wanted = self.registration(offer);
                if !registered(&wanted, &view) {
                    match self.writer.register_node(&wanted).await {
                        Ok(included) => {
                            info!(node = %wanted.key, block = included.block.number, "registered");
                            spoke = Instant::now();
                            self.wait_until(&mut views, included.block.number).await;
                        }
                        Err(error) => {
                            self.complain("register the node", &error);
                            sleep(RETRY).await;
                        }
                    }
                } else if spoke.elapsed() > HEARTBEAT {
                    spoke = Instant::now();
                    if let Err(error) = self.writer.heartbeat(NodeState::Up).await {
                        self.complain("give a sign of life", &error);
                    }
                }
            }
            tokio::select! {
                _ = views.changed() => {}
                _ = offers.changed() => {}
            }
        }
    }

    /// Writes each report that says something new.
    pub async fn report(self, mut reports: watch::Receiver<Vec<Report>>) {
        let mut written: BTreeMap<ContractId, Report> = BTreeMap::new();
        loop {
            let current = reports.borrow_and_update().clone();
            written.retain(|contract, _| current.iter().any(|r| r.contract == *contract));
            let mut failed = false;
            for report in current {
                if written
                    .get(&report.contract)
                    .is_some_and(|old| says_the_same(old, &report))
                {
                    continue;
                }
                match self.write(&report).await {
                    Ok(()) => {
                        written.insert(report.contract, report);
                    }
                    Err(error) => {
                        warn!(contract = %report.contract, error, "a report was not written");
                        failed = true;
                    }
                }
            }
            sleep(if failed { RETRY } else { PAUSE }).await;
            if !failed {
                // The sender lives as long as the process.
                let _ = reports.changed().await;
            }
        }
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

    fn registration(&self, offer: Offer) -> NodeRegistration {
        NodeRegistration {
            key: self.identity.node,
            farm: self.farm,
            hpke_key: self.identity.hpke.public,
            capacity: offer.capacity,
            addresses: offer.addresses,
            binding: self.writer.bind(self.identity.signing.as_bytes()),
        }
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

fn registered(wanted: &NodeRegistration, view: &View) -> bool {
    view.node.as_ref().is_some_and(|record| {
        record.farm == wanted.farm
            && record.hpke_key == wanted.hpke_key
            && record.capacity == wanted.capacity
            && record.addresses == wanted.addresses
    })
}
