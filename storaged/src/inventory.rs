//! The disks and pools of this moment. One thread looks for disks that came or went; what may wait for
//! a disk (to look at it, to mount it, to make it a pool) is done on a thread of its own, so that one
//! that hangs holds up no other.

mod opening;
mod sharing;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use loam_deployment::NodeKey;
use loam_node_api::{
    page::Changes,
    path,
    storage::{Disk, DiskState},
};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use crate::{
    boot::Boot,
    disk::{self, SysDisk},
    known::{self, Doubt, Known, PATIENCE, Stage},
    machine::Machine,
    mounts::Mounts,
    pool::Pool,
    probe::Finding,
    search::Search,
    takeover::{self, Verdict, Waiting},
    uevent::Uevents,
};

/// The kernel says when a disk comes; this is for what it cannot say (a file system that went bad).
const INTERVAL: Duration = Duration::from_secs(10);
const SETTLING_INTERVAL: Duration = Duration::from_secs(1);
/// While a disk is being looked at, opened or made a pool.
const BUSY_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Inventory {
    places: Places,
    /// This machine, as far as it can be told from others.
    machine: Option<Machine>,
    disks: RwLock<BTreeMap<String, Known>>,
    boot: Mutex<Boot>,
    mounts: Arc<Mounts>,
    /// Held while pools are told what the others have.
    sharing: Mutex<()>,
    settled: watch::Sender<bool>,
    /// Whether disks may yet come that were there when the node started.
    searching: AtomicBool,
    /// Told whenever a disk or a pool is another than before.
    changes: Changes,
    /// Whose pools these are, once noded has said so.
    node: Mutex<Option<NodeKey>>,
}

/// Where things are; on a node as the default says.
#[derive(Clone, Debug)]
pub struct Places {
    pub sys_block: PathBuf,
    pub pools: PathBuf,
    /// What was decided since the node booted (see [`crate::boot`]).
    pub boot: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            sys_block: disk::SYS_BLOCK.into(),
            pools: path::POOLS.into(),
            boot: Path::new(path::RUN).join("storaged.json"),
        }
    }
}

/// How far the look at the disks has come that were there when the node started.
#[derive(Clone, Copy)]
enum Phase {
    Searching,
    /// What is ours is being opened.
    Opening,
    Settled,
}

/// Which disks are not there any more.
#[derive(Clone, Copy)]
struct Gone {
    any: bool,
    /// One of them may hold what is waited for, and be back in seconds.
    missed: bool,
}

impl Inventory {
    pub fn new(places: Places, machine: Option<Machine>, changes: Changes) -> Self {
        Self {
            boot: Mutex::new(Boot::open(&places.boot)),
            mounts: Arc::new(Mounts::below(places.pools.clone())),
            places,
            machine,
            disks: RwLock::default(),
            sharing: Mutex::default(),
            settled: watch::Sender::new(false),
            searching: AtomicBool::new(true),
            changes,
            node: Mutex::default(),
        }
    }

    pub fn disks(&self) -> Vec<Disk> {
        self.read().values().filter_map(Known::describe).collect()
    }

    pub fn pools(&self) -> Vec<Arc<Pool>> {
        self.read()
            .values()
            .filter_map(|known| known.pool().cloned())
            .collect()
    }

    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Returns once every disk that was there when the node started has been looked at, and what is
    /// ours is open.
    pub async fn settled(&self) {
        let mut settled = self.settled.subscribe();
        // The sender is `self`, so it is there for as long as we wait.
        let _ = settled.wait_for(|settled| *settled).await;
    }

    /// Looks for disks for ever. Blocks.
    pub fn watch(self: &Arc<Self>) {
        let uevents = Uevents::listen()
            .inspect_err(|error| tracing::warn!(%error, "cannot hear of new disks; looking for them every {INTERVAL:?}"))
            .ok();
        let mut phase = Phase::Searching;
        let mut search = Search::new(since_kernel_started());
        let mut refreshed = Instant::now();
        let mut shown = Vec::new();
        loop {
            phase = self.pass(phase, &mut search, since_kernel_started());
            if refreshed.elapsed() >= INTERVAL {
                refreshed = Instant::now();
                self.pools().iter().for_each(Pool::refresh);
            }
            self.tell_changes(&mut shown);
            let interval = match phase {
                _ if self.is_busy() => BUSY_INTERVAL,
                Phase::Settled => INTERVAL,
                _ => SETTLING_INTERVAL,
            };
            let heard = uevents.as_ref().map(|uevents| uevents.wait(interval));
            if !matches!(heard, Some(Ok(()))) {
                thread::sleep(interval);
            }
        }
    }

    /// One look, and what follows from it.
    fn pass(self: &Arc<Self>, phase: Phase, search: &mut Search, now: Duration) -> Phase {
        match self.look() {
            Ok(gone) => {
                search.found(self.fit_disks(), now);
                if gone.missed {
                    search.lost(now);
                }
            }
            Err(error) => {
                tracing::error!(%error, "cannot list the disks; trying again");
                search.failed(now);
            }
        }
        self.go_on(phase, search, now)
    }

    fn go_on(self: &Arc<Self>, phase: Phase, search: &Search, now: Duration) -> Phase {
        self.searching
            .store(!search.is_over(now), Ordering::Release);
        let waits = |busy: bool| busy && !search.is_too_long(now);
        // What was found last has its time, too.
        let waits_longer = |busy: bool| busy && !search.is_too_long(now.saturating_sub(PATIENCE));
        match phase {
            Phase::Searching if !search.is_quiet(now) || waits(self.is_busy()) => phase,
            Phase::Searching => {
                self.decide();
                Phase::Opening
            }
            Phase::Opening => {
                self.decide();
                if waits_longer(self.is_busy()) || waits(self.has_undecided()) {
                    return Phase::Opening;
                }
                tracing::info!(pools = self.pools().len(), "every disk has been looked at");
                self.settled.send_replace(true);
                Phase::Settled
            }
            Phase::Settled => {
                self.decide();
                Phase::Settled
            }
        }
    }

    /// One look at which disks are there. What they hold is found out on threads of their own.
    fn look(self: &Arc<Self>) -> io::Result<Gone> {
        let mut present = disk::scan(&self.places.sys_block)?;
        let gone = self.forget_all_but(&mut present);
        for disk in present {
            match self.read().get(&disk.name) {
                None => {}
                Some(known) if known.is_to_be_retried() => {}
                // A disk that hung and was plugged in anew may be there twice for a while.
                Some(known) if gone.any && known.is_copy() => {}
                Some(_) => continue,
            }
            self.set(&disk, Stage::Looking);
            self.spawn(disk, Self::judge);
        }
        Ok(gone)
    }

    /// Asks a disk for its name, unless that is known, and for what it holds.
    fn judge(&self, disk: &mut SysDisk) -> Stage {
        if !disk.named {
            let named = match disk::ask_name(&self.places.sys_block, disk) {
                Ok(named) => named,
                Err(error) => return known::unread(format!("does not say its name: {error}")),
            };
            if let Some(known) = self.write().get_mut(&disk.name)
                && known.is(disk)
            {
                known.sys = named.clone();
            }
            *disk = named;
        }
        known::judge(disk)
    }

    /// The ids of the disks that can be pools.
    fn fit_disks(&self) -> Vec<String> {
        let disks = self.read();
        let is_fit = |known: &&Known| known.sys.named && known.sys.unfit.is_none();
        let fit = disks.values().filter(is_fit);
        fit.map(|known| known.sys.id.clone()).collect()
    }

    /// What is done with the disks that have been looked at.
    fn decide(self: &Arc<Self>) {
        let bound = lock(&self.boot).decided().runs_on.clone();
        for (disk, finding, verdict) in self.verdicts() {
            match (verdict, finding) {
                (Verdict::Wait(waiting), finding) => self.wait(&disk, finding, waiting),
                (Verdict::Leave(what), _) => {
                    self.conclude(&disk, Stage::Left(DiskState::Foreign(what), Doubt::None));
                }
                (Verdict::Copy(what), _) => {
                    self.conclude(&disk, Stage::Left(DiskState::Foreign(what), Doubt::Copy));
                }
                (Verdict::Twin { what, shown }, _) => {
                    let doubt = Doubt::Twin(shown);
                    self.conclude(&disk, Stage::Left(DiskState::Foreign(what), doubt));
                }
                (Verdict::Open, Finding::Pool { header, .. }) => {
                    let first = !bound.contains_key(&header.uuid);
                    self.set(&disk, Stage::Opening(Some(header.uuid)));
                    self.spawn(disk, move |this, disk| this.open(disk, header, first));
                }
                (Verdict::Make(set), _) => {
                    self.set(&disk, Stage::Opening(None));
                    self.spawn(disk, move |this, disk| this.make(disk, set));
                }
                (Verdict::Open, _) => {}
            }
        }
    }

    /// Tells what a disk waits for, unless that is known.
    fn wait(&self, disk: &SysDisk, finding: Finding, waiting: Waiting) {
        let stage = Stage::Seen(finding, Some(waiting.clone()));
        let waits = self
            .read()
            .get(&disk.name)
            .is_some_and(|known| known.stage.waits_as(&stage));
        if !waits {
            tracing::info!(disk = %disk.id, device = %disk.name, %waiting, "a disk waits");
            self.set(disk, stage);
        }
    }

    fn verdicts(&self) -> Vec<(SysDisk, Finding, Verdict)> {
        let disks = self.read();
        let (waiting, mut around) = known::survey(&disks, self.machine, Instant::now());
        around.searching = self.searching.load(Ordering::Acquire);
        let mut verdicts = BTreeMap::new();
        lock(&self.boot).change(|decided| {
            verdicts = takeover::decide(&waiting, decided, &around);
        });
        verdicts
            .into_iter()
            .filter_map(|(name, verdict)| {
                let known = disks.get(&name)?;
                match &known.stage {
                    Stage::Seen(finding, _) => Some((known.sys.clone(), finding.clone(), verdict)),
                    _ => None,
                }
            })
            .collect()
    }

    /// Those that are known keep their ids in `present`.
    fn forget_all_but(self: &Arc<Self>, present: &mut [SysDisk]) -> Gone {
        let gone: Vec<Known> = {
            let mut disks = self.write();
            for disk in present.iter_mut() {
                if let Some(known) = disks.get(&disk.name) {
                    disk.keep_id(&known.sys);
                }
            }
            let names: Vec<String> = disks
                .iter()
                .filter(|(_, known)| !present.iter().any(|disk| known.is(disk)))
                .map(|(name, _)| name.clone())
                .collect();
            names.iter().filter_map(|name| disks.remove(name)).collect()
        };
        for known in &gone {
            let (disk, device) = (&known.sys.id, &known.sys.name);
            match known.pool() {
                Some(pool) => {
                    tracing::warn!(disk, device, "a disk is gone");
                    self.mounts.detach(pool.clone());
                }
                // Nobody misses it, and it may be there still: a stick's medium or size changes when
                // the kernel has had a closer look.
                None => tracing::info!(disk, device, "a disk is gone, or another one now"),
            }
        }
        let is_back = |known: &Known| {
            let mut same = present.iter().filter(|disk| disk.name == known.sys.name);
            same.any(|disk| disk.id == known.sys.id)
        };
        let now = Instant::now();
        Gone {
            any: !gone.is_empty(),
            missed: gone
                .iter()
                .any(|known| known.is_missed(now) && !is_back(known)),
        }
    }

    /// Has `act` done for a disk on a thread of its own, and takes note of what came of it.
    fn spawn(
        self: &Arc<Self>,
        disk: SysDisk,
        act: impl FnOnce(&Self, &mut SysDisk) -> Stage + Send + 'static,
    ) {
        let (this, mut its) = (self.clone(), disk.clone());
        let started = thread::Builder::new()
            .name(disk.name.clone())
            .spawn(move || {
                let stage = act(&this, &mut its);
                this.conclude(&its, stage);
            });
        if let Err(error) = started {
            self.conclude(&disk, known::unread(format!("no thread for it: {error}")));
        }
    }

    fn conclude(self: &Arc<Self>, disk: &SysDisk, stage: Stage) {
        let opened = match &stage {
            Stage::InUse(pool) => Some(pool.clone()),
            _ => None,
        };
        if !self.set(disk, stage)
            && let Some(pool) = opened
        {
            // The disk went while it was opened.
            self.mounts.detach(pool);
        }
    }

    /// False if that disk is not there any more.
    fn set(&self, disk: &SysDisk, stage: Stage) -> bool {
        let mut disks = self.write();
        let before = disks.get(&disk.name).filter(|known| known.is(disk));
        if before.is_none() && !matches!(stage, Stage::Looking) {
            return false;
        }
        let known = Known::new(disk.clone(), stage, before);
        if before.and_then(|before| before.found.as_ref()) != known.found.as_ref() {
            tell(disk, known.found.as_ref());
        }
        disks.insert(disk.name.clone(), known);
        true
    }

    /// Whether something is under way that is still waited for.
    fn is_busy(&self) -> bool {
        self.read().values().any(Known::is_busy)
    }

    /// Whether disks wait for a decision that comes by itself, and soon.
    fn has_undecided(&self) -> bool {
        let disks = self.read();
        let searching = self.searching.load(Ordering::Acquire);
        let opens_late = |known: &Known| match &known.stage {
            Stage::Opening(_) => !known.is_busy(),
            Stage::Seen(_, Some(waiting)) => matches!(waiting, Waiting::Original(_)),
            _ => false,
        };
        let opens_late = disks.values().any(opens_late);
        let soon = |known: &Known| match &known.stage {
            Stage::Seen(_, None) => true,
            Stage::Seen(_, Some(Waiting::Opening)) => searching || !opens_late,
            Stage::Seen(_, Some(Waiting::Unknown | Waiting::Original(_))) => searching,
            _ => false,
        };
        disks.values().any(soon)
    }

    /// Compares what is shown with what was shown before.
    fn tell_changes(self: &Arc<Self>, shown: &mut Vec<Disk>) {
        let now = self.disks();
        if now == *shown {
            return;
        }
        for disk in &now {
            let before = shown.iter().find(|before| before.id == disk.id);
            if let DiskState::Failed(why) = &disk.state
                && before.is_some_and(|before| matches!(before.state, DiskState::Pool(_)))
            {
                tracing::error!(disk = %disk.id, device = %disk.device.display(), %why, "the disk of a pool failed");
            }
        }
        *shown = now;
        self.changes.note();
        let this = self.clone();
        let sharing = thread::Builder::new()
            .name("share".to_owned())
            .spawn(move || this.share());
        if let Err(error) = sharing {
            tracing::error!(%error, "no thread to give pools what they lack; trying again");
            shown.clear();
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, Known>> {
        self.disks.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Known>> {
        self.disks.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(disk: &SysDisk, found: Option<&DiskState>) {
    match found {
        Some(DiskState::Pool(uuid)) => {
            tracing::info!(disk = %disk.id, device = %disk.name, %uuid, "pool is ready");
        }
        Some(DiskState::Foreign(what)) => {
            tracing::info!(disk = %disk.id, device = %disk.name, %what, "left alone: the disk holds something");
        }
        Some(DiskState::Unfit(why)) => {
            tracing::info!(disk = %disk.id, device = %disk.name, %why, "not fit for a pool");
        }
        Some(DiskState::Failed(why)) => {
            tracing::error!(disk = %disk.id, device = %disk.name, %why, "disk failed; trying again later");
        }
        None => {}
    }
}

fn failed(why: String) -> Stage {
    Stage::Left(DiskState::Failed(why), Doubt::None)
}

fn since_kernel_started() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "inventory_tests.rs"]
mod tests;
