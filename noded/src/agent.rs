//! The loop: look, plan, apply, report; again when the chain or the node changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use loam_chain::Capacity;
use loam_deployment::{Bytes, ChainContext, ContractId, payload::Media, report::Report};
use loam_node_api::{
    WorkloadId,
    machine::MachineState,
    network::Uplink,
    status::ChainState,
    storage::{Disk, Pool},
};
use tokio::{sync::watch, time::timeout};
use tracing::{info, warn};

use crate::{
    actual::Actual,
    admit::Judge,
    apply::{self, Outcome},
    backoff::Backoff,
    daemons::{DaemonError, Daemons, call, deadline},
    follow::View,
    identity::Identity,
    ledger::{Changes, Ledger},
    plan::{self, Plan},
    report::Findings,
    screen::Screen,
    step::{Resource, Step},
    tenant::{Access, Owner},
};

/// How often the node is looked at when nothing calls for it.
const CALM: Duration = Duration::from_secs(2);
/// While something is under way.
const BUSY: Duration = Duration::from_millis(500);

/// What the rest of noded learns from each round.
#[derive(Debug)]
pub struct Outlets {
    pub access: watch::Sender<Access>,
    pub reports: watch::Sender<Vec<Report>>,
    /// Whose things are on this node.
    pub present: watch::Sender<BTreeSet<ContractId>>,
    /// What the node offers, and where tenants reach it.
    pub offer: watch::Sender<Option<Offer>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub capacity: Capacity,
    pub addresses: String,
}

#[derive(Debug)]
pub struct Agent {
    identity: Rc<Identity>,
    chain: ChainContext,
    ledger: Ledger,
    backoff: Backoff,
    /// Machines seen running with their age, to tell a fresh end from one that was seen before.
    alive: BTreeMap<WorkloadId, Duration>,
    /// No machine is on its way up or down.
    settled: bool,
    screen: Screen,
}

impl Agent {
    pub fn new(identity: Rc<Identity>, chain: ChainContext, screen: Screen) -> Self {
        Self {
            identity,
            chain,
            ledger: Ledger::default(),
            backoff: Backoff::default(),
            alive: BTreeMap::new(),
            settled: true,
            screen,
        }
    }

    pub async fn run(
        mut self,
        mut views: watch::Receiver<Option<Rc<View>>>,
        state: watch::Receiver<ChainState>,
        outlets: Outlets,
    ) {
        loop {
            let view = views.borrow_and_update().clone();
            self.screen.chain = state.borrow().clone();
            let pause = match self.round(view.as_deref(), &outlets).await {
                Ok(outcome) if outcome.waiting.is_empty() && outcome.done == 0 && self.settled => {
                    CALM
                }
                Ok(_) => BUSY,
                Err(error) => {
                    warn!(%error, "this round was given up; nothing is removed for it");
                    CALM
                }
            };
            // The sender lives as long as the process, so an error here is a pause all the same.
            let _ = timeout(pause, views.changed()).await;
        }
    }

    async fn round(
        &mut self,
        view: Option<&View>,
        outlets: &Outlets,
    ) -> Result<Outcome, DaemonError> {
        let daemons = Daemons::connect().await?;
        let uplink = daemons
            .network
            .uplink(deadline())
            .await
            .map_err(call("netd"))?;
        let disks = daemons
            .storage
            .disks(deadline())
            .await
            .map_err(call("storaged"))?;
        let pools = daemons
            .storage
            .pools(deadline())
            .await
            .map_err(call("storaged"))?;
        outlets.offer.send_if_modified(|offer| {
            let new = Some(offer_of(&pools, &uplink));
            let modified = *offer != new;
            *offer = new;
            modified
        });
        let actual = daemons.actual().await?;
        outlets.present.send_if_modified(|present| {
            let now = actual.contracts();
            let modified = *present != now;
            *present = now;
            modified
        });
        let mut outcome = Outcome::default();
        // Without a whole view of the chain there is nothing to want, and so nothing to remove.
        if let Some(view) = view {
            outcome = self
                .reconcile(view, &daemons, actual, &uplink, outlets)
                .await?;
        }
        self.show(&daemons, uplink, disks).await?;
        Ok(outcome)
    }

    async fn reconcile(
        &mut self,
        view: &View,
        daemons: &Daemons,
        mut actual: Actual,
        uplink: &Uplink,
        outlets: &Outlets,
    ) -> Result<Outcome, DaemonError> {
        self.judge(view, &actual, outlets);
        let desired = self.ledger.desired(&view.cancelled);
        self.watch_ends(&actual);
        let held = self.backoff.held(Instant::now());
        let plan = plan::plan(&desired, &actual, &held);
        let outcome = apply::apply(daemons, &plan.steps, &mut actual, uplink).await?;
        self.note_starts(&plan, &outcome);
        if outcome.done > 0 || !outcome.failed.is_empty() {
            actual = daemons.actual().await?;
        }
        let reports = Findings {
            ledger: &self.ledger,
            desired: &desired,
            actual: &actual,
            plan: &plan,
            outcome: &outcome,
        }
        .reports(self.identity.node, now());
        self.screen.reports.clone_from(&reports);
        self.screen.desired = desired;
        outlets.reports.send_replace(reports);
        Ok(outcome)
    }

    fn judge(&mut self, view: &View, actual: &Actual, outlets: &Outlets) {
        let judge = Judge {
            identity: &self.identity,
            chain: self.chain,
            publish_ports: self.ledger.policy().publish_ports,
            volumes: &actual.volumes,
        };
        let Changes {
            accepted,
            rejected,
            gone,
        } = self
            .ledger
            .update(&view.contracts, &judge, view.farm, now());
        for (contract, version) in accepted {
            info!(%contract, %version, "accepted");
            self.backoff.forgive(contract);
        }
        for (contract, version, reason) in rejected {
            warn!(%contract, %version, %reason, "rejected");
        }
        for contract in gone {
            info!(%contract, "listed no more");
        }
        let access = view.contracts.iter().map(|contract| {
            let owner = &contract.owner;
            let keys = owner.keys.iter().map(|key| key.key).collect();
            (
                contract.record.id,
                Owner {
                    twin: owner.id,
                    keys,
                },
            )
        });
        outlets.access.send_replace(access.collect());
    }

    /// A machine that has just ended waits before it is started again.
    fn watch_ends(&mut self, actual: &Actual) {
        let mut alive = BTreeMap::new();
        for (id, machine) in &actual.machines {
            if matches!(machine.state, MachineState::Exited(_)) {
                if let Some(age) = self.alive.get(id) {
                    info!(machine = %id, state = ?machine.state, "ended");
                    self.backoff.failed(id, *age, Instant::now());
                }
            } else {
                alive.insert(id.clone(), Duration::from_secs(machine.age_seconds));
            }
        }
        self.settled = actual.machines.values().all(|machine| {
            !matches!(
                machine.state,
                MachineState::Booting | MachineState::Stopping
            )
        });
        self.alive = alive;
    }

    /// So does a machine that could not even be started. One that was started counts as alive from
    /// now on, so that an end before the next look is seen too.
    fn note_starts(&mut self, plan: &Plan, outcome: &Outcome) {
        for step in &plan.steps {
            let Step::MachineStart(start) = step else {
                continue;
            };
            let machine = Resource::Machine(start.id.clone());
            if outcome.refused.contains(&machine) {
                self.backoff
                    .failed(&start.id, Duration::ZERO, Instant::now());
            } else if !outcome.failed.contains_key(&machine)
                && !outcome.waiting.contains_key(&machine)
            {
                self.alive.insert(start.id.clone(), Duration::ZERO);
            }
        }
    }

    async fn show(
        &mut self,
        daemons: &Daemons,
        uplink: Uplink,
        disks: Vec<Disk>,
    ) -> Result<(), DaemonError> {
        self.screen.uplink = uplink;
        self.screen.disks = disks;
        let status = self.screen.status();
        daemons
            .machines
            .set_status(deadline(), status)
            .await
            .map_err(call("init"))
    }
}

fn offer_of(pools: &[Pool], uplink: &Uplink) -> Offer {
    let sum = |media| {
        Bytes(
            pools
                .iter()
                .filter(|pool| pool.media == media)
                .map(|pool| pool.size.get())
                .sum(),
        )
    };
    let addresses: Vec<_> = uplink
        .addresses
        .iter()
        .map(|net| net.addr().to_string())
        .collect();
    Offer {
        capacity: Capacity {
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            memory: memory(),
            ssd: sum(Media::Ssd),
            hdd: sum(Media::Hdd),
        },
        addresses: addresses.join(" "),
    }
}

/// `MemTotal` of /proc/meminfo; 0 where it cannot be read.
fn memory() -> Bytes {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse::<u64>().ok());
    Bytes(kib.unwrap_or(0) << 10)
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}
