//! What is known of one disk, and what follows from it for the others.

use std::{
    collections::BTreeMap,
    fs::File,
    sync::Arc,
    time::{Duration, Instant},
};

use loam_node_api::storage::{Disk, DiskState};
use uuid::Uuid;

use crate::{
    boot::Decided,
    disk::{SysDisk, Unfit},
    header::{self, Found, Header, State},
    machine::Machine,
    original::{InDoubt, MayHold, Shown},
    pool::{Health, Pool},
    probe::{self, Finding},
    takeover::{Seen, Surroundings, Waiting, What},
};

/// A disk that failed is tried again: a cable is put right, a predecessor's `mkfs` ends.
const RETRY: Duration = Duration::from_secs(30);

/// For so long a disk is waited for when the node starts. The kernel gives up on most in this time.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A disk that has answered with nothing but errors for so long, some ten attempts, is dead, and no
/// reason any more not to begin a new node on the others. A disk that had trouble only when power came
/// back is read by then, and if it is read later still, [`crate::set`] says what becomes of it.
const GIVEN_UP: Duration = Duration::from_secs(5 * 60);

const SILENT: &str = "does not answer";

#[derive(Debug)]
pub struct Known {
    pub sys: SysDisk,
    pub stage: Stage,
    pub since: Instant,
    /// What was found last, which is shown while it is looked at again.
    pub found: Option<DiskState>,
    /// Since when it has not been read, though it was tried.
    unread_since: Option<Instant>,
    /// What its header showed when it was read last, as long as it has not been read to the end since.
    showed: Option<Shown>,
}

#[derive(Debug)]
pub enum Stage {
    Looking,
    /// Waits for a decision, and for what else, if for anything.
    Seen(Finding, Option<Waiting>),
    /// Is mounted or made a pool.
    Opening(Option<Uuid>),
    InUse(Arc<Pool>),
    Left(DiskState, Doubt),
}

/// Whether a disk that is left alone may be this node's all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// It was read and is not, or can be no pool, or its pool is already known as one of this node's.
    None,
    /// It could not be read to the end.
    Unread,
    /// It holds this pool, of this set, that cannot be used.
    Pool(Shown),
    /// It holds a pool of another Loam, which does not say whose it is.
    OtherFormat,
    /// It shows what another disk shows, and may be that disk under another name.
    Copy,
    /// It shows the pool that other disks of its id show, and the pool is used on none of them.
    Twin(Shown),
}

impl Stage {
    /// Whether both wait for the same.
    pub fn waits_as(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Seen(_, one), Self::Seen(_, other)) if one == other)
    }
}

impl Known {
    pub fn new(sys: SysDisk, stage: Stage, before: Option<&Self>) -> Self {
        let before_found = before.and_then(|known| known.found.clone());
        let found = match &stage {
            Stage::Left(state, _) => Some(state.clone()),
            Stage::InUse(pool) => Some(DiskState::Pool(pool.uuid().to_string())),
            _ => before_found,
        };
        let now = Instant::now();
        let unread_before = before.and_then(|known| known.unread_since);
        Self {
            showed: match &stage {
                Stage::Left(_, Doubt::Pool(shown) | Doubt::Twin(shown)) => Some(*shown),
                Stage::Looking | Stage::Left(_, Doubt::Unread) => {
                    before.and_then(|known| known.showed)
                }
                _ => None,
            },
            unread_since: match &stage {
                Stage::Left(_, Doubt::Unread) => Some(unread_before.unwrap_or(now)),
                Stage::Looking => unread_before,
                _ => None,
            },
            sys,
            stage,
            since: now,
            found,
        }
    }

    /// A disk that is ours stays known when the kernel changes its mind about details such as its size;
    /// one that was pulled and put back is another.
    pub fn is(&self, disk: &SysDisk) -> bool {
        let same = self.sys.name == disk.name && self.sys.id == disk.id && self.sys.seq == disk.seq;
        *disk == self.sys || (same && self.pool().is_some())
    }

    pub fn pool(&self) -> Option<&Arc<Pool>> {
        match &self.stage {
            Stage::InUse(pool) => Some(pool),
            _ => None,
        }
    }

    pub fn is_to_be_retried(&self) -> bool {
        let failed = matches!(
            self.stage,
            Stage::Left(DiskState::Failed(_), _) | Stage::Left(_, Doubt::Unread)
        );
        failed && self.since.elapsed() >= RETRY
    }

    pub fn is_copy(&self) -> bool {
        matches!(self.stage, Stage::Left(_, Doubt::Copy | Doubt::Twin(_)))
    }

    /// Whether something is under way that is still waited for.
    pub fn is_busy(&self) -> bool {
        let under_way = matches!(self.stage, Stage::Looking | Stage::Opening(_));
        under_way && self.since.elapsed() < PATIENCE
    }

    /// What it may hold that is not known of; nothing if that is known.
    fn may_hold(&self, now: Instant) -> Option<MayHold> {
        // Also while it is tried again, and when nothing of it can be read any more.
        if let Some(shown) = self.showed {
            return Some(MayHold::Pool(shown));
        }
        match self.stage {
            Stage::Looking if self.sys.can_be_no_pool() => None,
            Stage::Looking | Stage::Left(_, Doubt::OtherFormat) => Some(MayHold::Anything),
            Stage::Left(_, Doubt::Pool(shown) | Doubt::Twin(shown)) => Some(MayHold::Pool(shown)),
            Stage::Left(_, Doubt::Unread) => {
                let is_given_up = |since| now.saturating_duration_since(since) >= GIVEN_UP;
                match self.unread_since.is_some_and(is_given_up) {
                    true => Some(MayHold::GivenUp),
                    false => Some(MayHold::Anything),
                }
            }
            Stage::Left(_, Doubt::None | Doubt::Copy)
            | Stage::Seen(..)
            | Stage::Opening(_)
            | Stage::InUse(_) => None,
        }
    }

    /// Whether it is waited for when it drops off the bus: it may be this node's, and is not in use.
    pub fn is_missed(&self, now: Instant) -> bool {
        let shows_pool = matches!(self.stage, Stage::Seen(Finding::Pool { .. }, _));
        shows_pool || self.may_hold(now).is_some()
    }

    /// What is shown; nothing for a disk that is still being looked at for the first time.
    pub fn describe(&self) -> Option<Disk> {
        let late = self.since.elapsed() >= PATIENCE;
        let state = match &self.stage {
            Stage::Looking | Stage::Opening(_) if late => DiskState::Failed(SILENT.to_owned()),
            // Most waiting is over soon, and no news.
            Stage::Seen(_, Some(waiting)) if late => DiskState::Failed(waiting.to_string()),
            Stage::Looking | Stage::Opening(_) | Stage::Seen(..) => self.found.clone()?,
            Stage::InUse(pool) => match pool.health() {
                Health::Well => DiskState::Pool(pool.uuid().to_string()),
                Health::Hangs => DiskState::Failed(SILENT.to_owned()),
                Health::Fails(why) => DiskState::Failed(why),
            },
            Stage::Left(state, _) => state.clone(),
        };
        Some(Disk {
            id: self.sys.id.clone(),
            device: self.sys.device.clone(),
            size: self.sys.size,
            media: self.sys.media,
            state,
        })
    }
}

/// The disks that wait for a decision, and what it depends on beside them.
pub fn survey(
    disks: &BTreeMap<String, Known>,
    machine: Option<Machine>,
    now: Instant,
) -> (Vec<Seen>, Surroundings) {
    let mut waiting = Vec::new();
    let mut around = Surroundings {
        machine,
        ..Surroundings::default()
    };
    for (name, known) in disks {
        around
            .in_doubt
            .extend(known.may_hold(now).map(|may_hold| InDoubt {
                id: known.sys.id.clone(),
                may_hold,
            }));
        if matches!(known.stage, Stage::Opening(_) | Stage::InUse(_)) {
            around.ids_in_use.insert(known.sys.id.clone());
        }
        match &known.stage {
            Stage::Seen(finding, _) => {
                let what = match finding {
                    Finding::Pool { header, generation } => What::Pool {
                        header: *header,
                        generation: *generation,
                    },
                    _ => What::Blank,
                };
                waiting.push(Seen {
                    name: name.clone(),
                    seq: known.sys.seq,
                    id: known.sys.id.clone(),
                    what,
                });
            }
            Stage::Opening(uuid) => {
                around.in_use.extend(*uuid);
                around.opening |= uuid.is_some();
            }
            Stage::InUse(pool) => {
                around.in_use.insert(pool.uuid());
            }
            Stage::Looking | Stage::Left(..) => {}
        }
    }
    (waiting, around)
}

/// Why pools of this node may be missing among those that are in use, if so.
pub fn missing(disks: &BTreeMap<String, Known>, decided: &Decided, now: Instant) -> Option<String> {
    let pools: BTreeMap<Uuid, u64> = disks
        .values()
        .filter_map(|known| known.pool().map(|pool| (pool.uuid(), pool.used())))
        .collect();
    let is_in_doubt = |known: &&Known| match known.may_hold(now) {
        // A copy of one that is in use is no loss, unless it was used after that was taken into use.
        Some(MayHold::Pool(shown)) => {
            let in_use = pools.get(&shown.uuid);
            in_use.is_none_or(|used| shown.used > *used)
                && decided.set.is_none_or(|ours| ours == shown.set)
        }
        Some(MayHold::Anything) => true,
        Some(MayHold::GivenUp) | None => false,
    };
    if let Some(known) = disks.values().find(is_in_doubt) {
        return Some(format!("disk {} does not say what it holds", known.sys.id));
    }
    for known in disks.values() {
        if let Stage::Seen(Finding::Pool { header, .. }, Some(waiting)) = &known.stage
            && decided.set == Some(header.set)
        {
            let (uuid, disk) = (header.uuid, &known.sys.id);
            return Some(format!("pool {uuid} on disk {disk} {waiting}"));
        }
    }
    // The disks of all that were in use since the node booted.
    let runs_on = &decided.runs_on;
    let away = runs_on.iter().find(|(uuid, _)| !pools.contains_key(uuid));
    if let Some((uuid, disk)) = away {
        return Some(format!("pool {uuid} on disk {disk} is not in use"));
    }
    let mut unopened = decided.unopened.keys();
    let unopened = unopened.find(|uuid| !pools.contains_key(uuid));
    unopened.map(|uuid| format!("pool {uuid} could not be used"))
}

/// Reads what a disk holds, as far as it takes to know a pool.
pub fn judge(disk: &SysDisk) -> Stage {
    let left = |unfit: Unfit, doubt| Stage::Left(DiskState::Unfit(unfit.to_string()), doubt);
    let read_only = match (disk.unfit, &disk.in_use) {
        (None, Some(what)) => return foreign(what.clone()),
        (None, None) => false,
        // It cannot be used, but it may be the only disk that says whose node this is.
        (Some(Unfit::ReadOnly), None) => true,
        // A disk that has not spun up yet, or never will.
        (Some(unfit @ Unfit::Sizeless), _) => return left(unfit, Doubt::Unread),
        (Some(unfit), _) => return left(unfit, Doubt::None),
    };
    let size = disk.size.get();
    let file = match File::open(&disk.device) {
        Ok(file) => file,
        Err(error) => return unread(format!("cannot be opened: {error}")),
    };
    match probe::glance(&file, size) {
        Ok(Finding::Pool { header, .. }) if read_only => {
            let what = format!("{}, and it holds {}", Unfit::ReadOnly, name(&header));
            Stage::Left(DiskState::Unfit(what), doubt(&header))
        }
        Ok(Finding::Unusable { what, header }) => {
            let state = match read_only {
                true => DiskState::Unfit(format!("{}: {what}", Unfit::ReadOnly)),
                false => DiskState::Foreign(what),
            };
            Stage::Left(state, header.as_ref().map_or(Doubt::OtherFormat, doubt))
        }
        Ok(_) if read_only => left(Unfit::ReadOnly, Doubt::None),
        Ok(Finding::Foreign(what)) => foreign(what),
        Ok(finding) => Stage::Seen(finding, None),
        Err(error) => match Header::read(&file, header::filesystem_size(size)) {
            Ok(Found::Header(header)) if header.state == State::Pool => {
                let why = format!("cannot be read: {error}; it holds {}", name(&header));
                Stage::Left(DiskState::Failed(why), doubt(&header))
            }
            _ if read_only => left(Unfit::ReadOnly, Doubt::Unread),
            _ => unread(format!("cannot be read: {error}")),
        },
    }
}

pub fn doubt(header: &Header) -> Doubt {
    Doubt::Pool(Shown::by(header))
}

fn name(header: &Header) -> String {
    match header.node {
        Some(node) => format!("a pool of node {node}"),
        None => format!("pool {}", header.uuid),
    }
}

fn foreign(what: String) -> Stage {
    Stage::Left(DiskState::Foreign(what), Doubt::None)
}

pub fn unread(why: String) -> Stage {
    Stage::Left(DiskState::Failed(why), Doubt::Unread)
}

#[cfg(test)]
#[path = "known_tests.rs"]
mod tests;
