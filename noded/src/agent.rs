//! The loop: what has changed is looked at, planned for, done and reported; then it waits for the
//! next change.
//!
//! A round starts when the chain's view, a daemon's revision or a call under way says so, or when a
//! wait is over (a back-off, the end of a deployment, a fetch that is to be looked at). Nothing that
//! a daemon does or fails to do holds a round for longer than a few seconds, nor others at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    rc::Rc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use loam_chain::Capacity;
use loam_deployment::{Bytes, ChainContext, ContractId, payload::Media, report::Report};
use loam_node_api::{
    WorkloadId,
    clock::{Clock, UnixTime},
    machine::MachineState,
    network::Uplink,
    page::Revision,
    status::{ChainState, NodeStatus},
    storage::Pool,
    system,
};
use tokio::{sync::watch, task::spawn_local};
use tracing::{info, warn};

use crate::{
    admit::Judge,
    apply,
    backoff::Backoff,
    course::Outcome,
    daemons::{Daemon, Sockets, call, shortly},
    execute::Executor,
    farm::Choice,
    follow::View,
    identity::Identity,
    ledger::{Changes, Ledger},
    picture::{self, Picture, Revisions},
    plan::{self, Memory, Task},
    report::Findings,
    screen::Screen,
    step::{Resource, Step},
    tenant::{Access, Owner},
    until::until,
};

/// How often a fetch under way is looked at.
const FETCH: Duration = Duration::from_secs(2);
/// A daemon that tells its revision and not its lists is asked again after this, doubled each time.
const UNREAD: Duration = Duration::from_millis(250);
const LONGEST_UNREAD: Duration = Duration::from_secs(10);
/// How far the screen's block number may lie behind.
const BLOCKS: Duration = Duration::from_secs(15);
/// A clock that jumps may bring the end of a deployment nearer than it looked.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// While steps follow each other, reports are made no more often.
const BUSY_REPORTS: Duration = Duration::from_secs(5);

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

/// What the agent waits for.
#[derive(Debug)]
pub struct Inlets {
    pub views: watch::Receiver<Option<Rc<View>>>,
    pub chain: watch::Receiver<ChainState>,
    pub farm: watch::Receiver<Choice>,
    pub storaged: watch::Receiver<Option<Revision>>,
    pub netd: watch::Receiver<Option<Revision>>,
    pub init: watch::Receiver<Option<Revision>>,
}

impl Inlets {
    fn revisions(&mut self) -> Revisions {
        Revisions {
            storaged: *self.storaged.borrow_and_update(),
            netd: *self.netd.borrow_and_update(),
            init: *self.init.borrow_and_update(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub capacity: Capacity,
    pub uplink: Uplink,
}

#[derive(Debug)]
pub struct Agent {
    identity: Rc<Identity>,
    /// Which image this node runs.
    image: String,
    chain: ChainContext,
    sockets: Sockets,
    /// What clockd wrote.
    clock: PathBuf,
    ledger: Ledger,
    backoff: Backoff,
    memory: Memory,
    /// Since when machines run, to tell a fresh end from one that was seen before.
    alive: BTreeMap<WorkloadId, Instant>,
    executor: Executor,
    picture: Picture,
    /// Of the view that the last round saw, and what it knew of the daemons.
    generation: Option<u64>,
    seen: Revisions,
    /// The revision at which storaged was seen last, and had been told whose node this is.
    named: Option<Revision>,
    /// When the next round is due although nothing changes.
    wakes: Wakes,
    /// What waits is judged by this moment for a whole round. A wait that ends meanwhile makes the next
    /// one due at once: were it judged twice, it could be too early here and over there.
    judged: Instant,
    reported: Option<Instant>,
    screen: Screen,
    shown: Option<(NodeStatus, Instant)>,
}

#[derive(Debug, Default)]
struct Wakes {
    /// The last round has done something: what is next?
    again: bool,
    fetch: Option<Instant>,
    unread: Option<Instant>,
    unread_pause: Duration,
}

impl Agent {
    pub fn new(
        identity: Rc<Identity>,
        chain: ChainContext,
        sockets: Sockets,
        clock: PathBuf,
        screen: Screen,
    ) -> Self {
        Self {
            identity,
            image: system::image(),
            chain,
            executor: Executor::new(sockets.clone()),
            sockets,
            clock,
            ledger: Ledger::default(),
            backoff: Backoff::default(),
            memory: Memory::default(),
            alive: BTreeMap::new(),
            picture: Picture::default(),
            generation: None,
            seen: Revisions::default(),
            named: None,
            wakes: Wakes::default(),
            judged: Instant::now(),
            reported: None,
            screen,
            shown: None,
        }
    }

    /// Must run inside a `LocalSet`.
    pub async fn run(mut self, mut inlets: Inlets, outlets: Outlets) {
        loop {
            self.screen.chain = inlets.chain.borrow_and_update().clone();
            self.screen.farm = inlets.farm.borrow_and_update().clone();
            let view = inlets.views.borrow_and_update().clone();
            let now = inlets.revisions();
            self.seen = now;
            self.generation = view.as_ref().map(|view| view.generation);
            self.round(view.as_deref(), now, &outlets).await;
            self.event(&mut inlets).await;
        }
    }

    /// Waits for a reason to look again. The senders live as long as the process.
    async fn event(&mut self, inlets: &mut Inlets) {
        loop {
            let due = self.due();
            tokio::select! {
                _ = inlets.storaged.changed() => {}
                _ = inlets.netd.changed() => {}
                _ = inlets.init.changed() => {}
                () = self.executor.ended() => return,
                () = self.picture.arrived() => return,
                () = until(due) => return,
                _ = inlets.views.changed() => {
                    let generation = inlets.views.borrow_and_update().as_ref().map(|v| v.generation);
                    if generation != self.generation {
                        inlets.views.mark_changed();
                        return;
                    }
                }
                _ = inlets.farm.changed() => {
                    self.screen.farm = inlets.farm.borrow_and_update().clone();
                    if inlets.init.borrow().is_some() {
                        self.show().await;
                    }
                }
                _ = inlets.chain.changed() => {
                    let chain = inlets.chain.borrow_and_update().clone();
                    let news = !is_same_but_block(&self.screen.chain, &chain)
                        || self.shown.as_ref().is_none_or(|(_, at)| at.elapsed() >= BLOCKS);
                    self.screen.chain = chain;
                    if news && inlets.init.borrow().is_some() {
                        self.show().await;
                    }
                }
            }
            // What noded itself has changed is known already when the daemon tells it.
            let now = inlets.revisions();
            if self.seen.answers_differ(now) || !self.picture.is_at(now) {
                return;
            }
        }
    }

    fn due(&self) -> Option<Instant> {
        let now = Instant::now();
        if self.wakes.again {
            return Some(now);
        }
        let until_end = self.ledger.next_end().map(|end| {
            // Judged anew when it comes; a clock that is not set yet may be far behind.
            let wait = end.0.saturating_sub(self.ends().0).max(1);
            now + Duration::from_secs(wait).min(LONGEST_SLEEP)
        });
        [
            until_end,
            self.wakes.fetch,
            self.wakes.unread,
            self.backoff.next_due(self.judged),
            self.executor.next_due(self.judged),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    async fn round(&mut self, view: Option<&View>, now: Revisions, outlets: &Outlets) {
        let fetch_due = self
            .wakes
            .fetch
            .take()
            .is_some_and(|due| due <= Instant::now());
        self.wakes.again = false;
        self.judged = Instant::now();
        self.take_in_late(now);
        self.look(now, fetch_due).await;
        self.tell_name(now);
        if self.picture.shows_offer() {
            let new = Some(offer_of(&self.picture.pools, &self.picture.uplink));
            replace(&outlets.offer, new);
        }
        if self.picture.is_whole() {
            replace(&outlets.present, self.picture.actual.contracts());
            // Without a whole view of the chain there is nothing to want, and so nothing to remove.
            if let Some(view) = view {
                self.reconcile(view, outlets).await;
            }
        }
        if now.init.is_some() {
            self.show().await;
        }
    }

    fn take_in_late(&mut self, now: Revisions) {
        for (step, result) in self.executor.begin_round(&mut self.picture, now) {
            match (step, result) {
                (Step::MachineStart(start), Ok(())) => {
                    // Its plan took it for one that is still to start.
                    self.memory.stopped.remove(&start.id);
                    self.has_started(&start.id);
                }
                (Step::MachineStart(start), Err(reason)) => {
                    self.backoff.refused(&start.id, reason, Instant::now());
                }
                // It runs on. That it stops all the same, if only the answer was lost, shows in its state.
                (Step::MachineStop(id), Err(_)) => {
                    self.memory.stopped.remove(&id);
                }
                _ => {}
            }
        }
    }

    async fn look(&mut self, now: Revisions, fetch_due: bool) {
        let (disks, pools) = (self.picture.disks.len(), self.picture.pools.clone());
        let uplink = self.picture.uplink.clone();
        let errors = self.picture.refresh(&self.sockets, now).await;
        self.wakes.unread = None;
        if errors.is_empty() {
            self.wakes.unread_pause = UNREAD;
        } else {
            for error in &errors {
                warn!(%error, "its lists could not be read; nothing is removed for it");
            }
            let pause = self.wakes.unread_pause.max(UNREAD);
            self.wakes.unread = Some(Instant::now() + pause);
            self.wakes.unread_pause = (pause * 2).min(LONGEST_UNREAD);
        }
        if fetch_due && let Err(error) = self.picture.refresh_images(&self.sockets).await {
            warn!(%error, "how far fetches are is not known");
        }
        let room = |pools: &[Pool]| -> Vec<_> {
            pools
                .iter()
                .map(|pool| (pool.id.clone(), pool.size))
                .collect()
        };
        if disks != self.picture.disks.len() || room(&pools) != room(&self.picture.pools) {
            self.executor.try_now(Daemon::Storaged);
        }
        if uplink != self.picture.uplink {
            self.executor.try_now(Daemon::Netd);
        }
    }

    /// Each life of storaged is told anew whose node it serves, also one that began while a round saw the
    /// life before; a disk that hangs may let it take its time.
    fn tell_name(&mut self, now: Revisions) {
        let named = std::mem::replace(&mut self.named, now.storaged);
        let Some(at) = now.storaged else {
            return;
        };
        if named.is_some_and(|named| picture::is_one_life(named, at)) {
            return;
        }
        let (identity, sockets) = (self.identity.clone(), self.sockets.clone());
        spawn_local(async move {
            let told = match sockets.storage().await {
                Ok(storage) => identity.tell(&storage).await,
                Err(error) => Err(error.into()),
            };
            // A disk that cannot be marked now is no reason to stay away from the others.
            if let Err(error) = told {
                warn!(%error, "the pools do not carry this node's name yet");
            }
        });
    }

    async fn reconcile(&mut self, view: &View, outlets: &Outlets) {
        self.judge(view, outlets);
        let desired = self.ledger.desired(&view.cancelled);
        self.watch_ends();
        self.memory.held = self.backoff.held(self.judged);
        let plan = plan::plan(&desired, &self.picture.actual, &self.memory);
        let steps = plan.tasks.iter().map(|task| &task.step);
        self.executor.begin_plan(steps, &self.picture.actual);
        let uplink = self.picture.uplink.clone();
        let actual = &mut self.picture.actual;
        let mut outcome = apply::apply(&mut self.executor, &plan.tasks, actual, &uplink).await;
        self.memory.note(&plan, &outcome);
        self.executor.end_round(&mut self.picture);
        self.note_starts(&plan.tasks, &outcome);
        for (id, reason) in self.backoff.refusals() {
            let machine = Resource::Machine(id.clone());
            outcome
                .failed
                .entry(machine)
                .or_insert_with(|| reason.into());
        }
        let fetching = |resource: &Resource| matches!(resource, Resource::Image(_));
        if outcome.waiting.keys().any(fetching) {
            self.wakes.fetch = Some(Instant::now() + FETCH);
        }
        self.wakes.again = outcome.done > 0;
        // A round that did something is followed by one that sees what came of it.
        if outcome.done > 0 && self.reported.is_some_and(|at| at.elapsed() < BUSY_REPORTS) {
            return;
        }
        self.reported = Some(Instant::now());
        let reports = Findings {
            ledger: &self.ledger,
            desired: &desired,
            actual: &self.picture.actual,
            plan: &plan,
            outcome: &outcome,
        }
        .reports(self.identity.node, &self.image, now());
        self.screen.reports.clone_from(&reports);
        self.screen.desired = desired;
        outlets.reports.send_replace(reports);
    }

    /// The time by which ends are judged.
    fn ends(&self) -> UnixTime {
        Clock::read(&self.clock).for_ends(UnixTime::kernel())
    }

    fn judge(&mut self, view: &View, outlets: &Outlets) {
        let ends = self.ends();
        let judge = Judge {
            identity: &self.identity,
            chain: self.chain,
            volumes: &self.picture.actual.known_volumes(),
        };
        let Changes {
            accepted,
            rejected,
            gone,
        } = self.ledger.update(&view.contracts, &judge, view.farm, ends);
        for (contract, version) in accepted {
            info!(%contract, %version, "accepted");
            self.backoff.forgive(contract);
            self.executor.forgive(contract);
        }
        for (contract, version, reason) in rejected {
            warn!(%contract, %version, %reason, "rejected");
        }
        for contract in gone {
            info!(%contract, "listed no more");
            let away = &mut self.picture.actual.away;
            away.retain(|volume, _| volume.contract() != contract);
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
        replace(&outlets.access, access.collect());
    }

    /// A machine that has just ended waits before it is started again.
    fn watch_ends(&mut self) {
        let now = Instant::now();
        let mut alive = BTreeMap::new();
        for (id, machine) in &self.picture.actual.machines {
            let since = self.alive.get(id).copied();
            if matches!(machine.state, MachineState::Exited(_)) {
                if let Some(since) = since {
                    if self.executor.is_news_of(Some(id.contract)) {
                        info!(machine = %id, state = ?machine.state, "ended");
                    }
                    self.backoff.ended(id, now - since, now);
                }
            } else {
                let age = Duration::from_secs(machine.age_seconds);
                let since = since.or(now.checked_sub(age)).unwrap_or(now);
                alive.insert(id.clone(), since);
            }
        }
        self.alive = alive;
        self.backoff.prune(now);
    }

    /// So does a machine that could not even be started. One that was started counts as alive from
    /// now on, so that an end before the next look is seen too.
    fn note_starts(&mut self, tasks: &[Task], outcome: &Outcome) {
        let now = Instant::now();
        for task in tasks {
            let Step::MachineStart(start) = &task.step else {
                continue;
            };
            let machine = Resource::Machine(start.id.clone());
            if outcome.refused.contains(&machine) {
                let reason = outcome.failed.get(&machine).cloned().unwrap_or_default();
                self.backoff.refused(&start.id, reason, now);
            } else if !outcome.failed.contains_key(&machine)
                && !outcome.waiting.contains_key(&machine)
            {
                self.has_started(&start.id);
            }
        }
    }

    fn has_started(&mut self, machine: &WorkloadId) {
        self.backoff.started(machine);
        self.alive.insert(machine.clone(), Instant::now());
    }

    /// Tells init what the screen shall show, if that is news.
    async fn show(&mut self) {
        self.screen.uplink.clone_from(&self.picture.uplink);
        self.screen.disks.clone_from(&self.picture.disks);
        let status = self.screen.status();
        if let Some((shown, at)) = &self.shown {
            let differs_by_block = is_same_but_block(&shown.chain, &status.chain)
                && NodeStatus {
                    chain: status.chain.clone(),
                    ..shown.clone()
                } == status;
            if *shown == status || (differs_by_block && at.elapsed() < BLOCKS) {
                return;
            }
        }
        let sent = async {
            let init = self.sockets.machines().await?;
            init.set_status(shortly(), status.clone())
                .await
                .map_err(call(Daemon::Init))
        };
        match sent.await {
            Ok(()) => self.shown = Some((status, Instant::now())),
            Err(error) => warn!(%error, "the screen could not be drawn"),
        }
    }
}

fn is_same_but_block(a: &ChainState, b: &ChainState) -> bool {
    match (a, b) {
        (ChainState::Following { .. }, ChainState::Following { .. })
        | (ChainState::Registering { .. }, ChainState::Registering { .. }) => true,
        (a, b) => a == b,
    }
}

/// Sends what is news.
fn replace<T: PartialEq>(sender: &watch::Sender<T>, new: T) {
    sender.send_if_modified(|old| {
        let news = *old != new;
        if news {
            *old = new;
        }
        news
    });
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
    Offer {
        capacity: Capacity {
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            memory: memory(),
            ssd: sum(Media::Ssd),
            hdd: sum(Media::Hdd),
        },
        uplink: uplink.clone(),
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

#[cfg(test)]
mod tests;
