//! What is done with disks that have been looked at: a pure function.
//!
//! It decides for all disks that wait at once, so that what comes of them does not depend on which was
//! looked at first; when the node starts, that is when every disk has been looked at.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use uuid::Uuid;

use crate::{
    boot::Decided,
    duplicate::{self, Candidate, Choice},
    header::{DiskTag, Header},
    machine::Machine,
    original::{self, Awaited, InDoubt, MayHold, Others, Shown},
    set,
};

/// A disk that waits.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The kernel's name.
    pub name: String,
    /// The kernel's count of the disks that it has seen.
    pub seq: u64,
    /// Stable across boots.
    pub id: String,
    pub what: What,
}

impl Seen {
    fn holds(&self, pool: Uuid) -> bool {
        matches!(self.what, What::Pool { header, .. } if header.uuid == pool)
    }
}

#[derive(Clone, Copy, Debug)]
pub enum What {
    Pool {
        header: Header,
        generation: u64,
    },
    /// Empty, or half made by us.
    Blank,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A pool of ours: mount it.
    Open,
    /// Make it a pool of this set.
    Make(Uuid),
    /// It holds what the text says.
    Leave(String),
    /// It holds what another disk holds or is that very disk, as the text says. To be looked at again
    /// when a disk goes.
    Copy(String),
    /// The same, of a pool of which it is not known which disk to use: it may be this node's only one.
    Twin { what: String, shown: Shown },
    /// Nothing yet.
    Wait(Waiting),
}

/// What a disk waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// A disk that may be this node's, for this one is not known to be.
    Unknown,
    /// The pools of this node.
    Opening,
    /// What may be the original of this pool, or was used after it.
    Original(Awaited),
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => write!(
                f,
                "waits for a disk that does not say what it holds, for it may be this node's"
            ),
            Self::Opening => write!(f, "waits until the pools of this node are open"),
            Self::Original(awaited) => write!(f, "{awaited}"),
        }
    }
}

/// What is known beside the disks that wait.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    pub machine: Option<Machine>,
    /// Pools that are in use or being opened.
    pub in_use: BTreeSet<Uuid>,
    /// The disks under them, and those that are being made pools.
    pub ids_in_use: BTreeSet<String>,
    /// Whether pools are being opened.
    pub opening: bool,
    /// Whether disks may yet come that were there when the node started.
    pub searching: bool,
    /// Disks that do not say what they hold.
    pub in_doubt: Vec<InDoubt>,
}

impl Surroundings {
    /// Whether a disk that is not known of may be this node's.
    pub fn unknown(&self) -> bool {
        let counts = |disk: &InDoubt| disk.may_hold != MayHold::GivenUp;
        self.searching || self.in_doubt.iter().any(counts)
    }
}

/// A pool's disk, chosen among those that hold it.
struct Winner {
    disk: Candidate,
    /// Whether the disk that its header names may be another, of which nothing was heard.
    may_be_copy: bool,
    /// Whether the pool runs, or ran since the node booted.
    is_bound: bool,
}

/// By the kernel's names. Each set and each pool that is taken into use is written into `decided`.
pub fn decide(
    seen: &[Seen],
    decided: &mut Decided,
    around: &Surroundings,
) -> BTreeMap<String, Verdict> {
    let mut verdicts = BTreeMap::new();
    let winners = choose_among_copies(seen, decided, &around.in_use, &mut verdicts);
    // One that is on several disks of one id, none of which can be used, does not say whose it is either.
    let is_twin = |verdict: &Verdict| matches!(verdict, Verdict::Twin { .. });
    let unknown = around.unknown() || verdicts.values().any(is_twin);
    let headers: Vec<Header> = winners.iter().map(|winner| winner.disk.header).collect();
    if decided.set.is_none() {
        // A disk that does not say what it holds may be this node's: beside it, nobody else's disk
        // becomes this node, and no empty one a new node.
        decided.set = set::choose(&headers, around.machine)
            .filter(|set| !unknown || set::is_at_home(*set, &headers, around.machine));
    }
    note_shown(decided, &around.in_doubt);
    let mut ids = around.ids_in_use.clone();
    ids.extend(winners.iter().map(|winner| winner.disk.id.clone()));
    for winner in winners {
        let Winner {
            disk, may_be_copy, ..
        } = winner;
        let others = Others {
            searching: around.searching,
            in_doubt: &around.in_doubt,
            unopened: decided.unopened.get(&disk.header.uuid),
        };
        let awaited = || original::awaited(&disk.header, may_be_copy, &others);
        let verdict = if decided.set.is_none() {
            Verdict::Wait(Waiting::Unknown)
        } else if decided.set != Some(disk.header.set) {
            Verdict::Leave(set::describe(&disk.header))
        } else if let Some(awaited) = (!winner.is_bound).then(awaited).flatten() {
            let waits = Verdict::Wait(Waiting::Original(awaited));
            // Which of several copies is the one to use is not known either before.
            let alike = seen.iter().filter(|seen| seen.holds(disk.header.uuid));
            verdicts.extend(alike.map(|seen| (seen.name.clone(), waits.clone())));
            continue;
        } else {
            decided.runs_on.insert(disk.header.uuid, disk.id);
            Verdict::Open
        };
        verdicts.insert(disk.name, verdict);
    }
    // A pool made before those that are there are open would be the only one for a while, and be asked
    // for what only they have.
    let opens =
        |verdict: &Verdict| matches!(verdict, Verdict::Open | Verdict::Wait(Waiting::Original(_)));
    let opening = around.opening || verdicts.values().any(opens);
    for disk in seen.iter().filter(|disk| matches!(disk.what, What::Blank)) {
        let verdict = match decided.set {
            // One disk at the end of two cables must not be made a pool twice.
            _ if !ids.insert(disk.id.clone()) => Verdict::Copy(format!(
                "the same as another disk that says that it is {}; both may be one",
                disk.id
            )),
            Some(_) if opening => Verdict::Wait(Waiting::Opening),
            Some(set) => Verdict::Make(set),
            None if unknown => Verdict::Wait(Waiting::Unknown),
            None => {
                decided.begun = true;
                Verdict::Make(*decided.set.insert(Uuid::new_v4()))
            }
        };
        verdicts.insert(disk.name.clone(), verdict);
    }
    verdicts
}

/// Keeps what disks in doubt show of this node's pools, for when they go and may come back, and for when
/// nothing of them can be read any more.
fn note_shown(decided: &mut Decided, in_doubt: &[InDoubt]) {
    for disk in in_doubt {
        if let MayHold::Pool(shown) = disk.may_hold
            && decided.set == Some(shown.set)
        {
            decided.could_not_use(shown.uuid, &disk.id, shown.used);
        }
    }
}

/// One disk of each pool; the others get their verdicts.
fn choose_among_copies(
    seen: &[Seen],
    decided: &Decided,
    in_use: &BTreeSet<Uuid>,
    verdicts: &mut BTreeMap<String, Verdict>,
) -> Vec<Winner> {
    let mut pools: BTreeMap<Uuid, Vec<Candidate>> = BTreeMap::new();
    for disk in seen {
        if let What::Pool { header, generation } = disk.what {
            pools.entry(header.uuid).or_default().push(Candidate {
                name: disk.name.clone(),
                seq: disk.seq,
                id: disk.id.clone(),
                header,
                generation,
            });
        }
    }
    let mut winners = Vec::new();
    for (uuid, mut candidates) in pools {
        let runs_on = decided.runs_on.get(&uuid).map(String::as_str);
        let mut used = runs_on.map(str::to_owned);
        let reason = if in_use.contains(&uuid) {
            format!("is on disk {}", runs_on.unwrap_or("elsewhere"))
        } else {
            match duplicate::choose(&candidates, runs_on, decided.mounted.get(&uuid).copied()) {
                Choice::Use(index) => {
                    let named = candidates[index].header.disk;
                    let is_named = |disk: &Candidate| DiskTag::of(&disk.id) == named;
                    let may_be_copy = !candidates.iter().any(is_named);
                    let disk = candidates.swap_remove(index);
                    let reason = format!("is on disk {}", disk.id);
                    used = Some(disk.id.clone());
                    winners.push(Winner {
                        disk,
                        may_be_copy,
                        is_bound: runs_on.is_some(),
                    });
                    reason
                }
                Choice::None(why) => why,
            }
        };
        for left in candidates {
            let what = describe_unused(&left, &reason, used.as_deref());
            let verdict = match used {
                None if !in_use.contains(&uuid) => Verdict::Twin {
                    what,
                    shown: Shown::by(&left.header),
                },
                _ => Verdict::Copy(what),
            };
            verdicts.insert(left.name, verdict);
        }
    }
    winners
}

/// What a farmer is told of a disk whose pool `reason` says to be elsewhere; it is or was used on the disk
/// of the id `used`.
fn describe_unused(disk: &Candidate, reason: &str, used: Option<&str>) -> String {
    let uuid = disk.header.uuid;
    match used {
        // A copy has taken over since this one was used last.
        Some(used) if used != disk.id && disk.header.disk == DiskTag::of(&disk.id) => format!(
            "what pool {uuid} was on before, which {reason}; only one of the two can be used: to go on with this one, take that one out and restart"
        ),
        _ => format!("a copy of pool {uuid}, which {reason}"),
    }
}

#[cfg(test)]
#[path = "takeover_tests.rs"]
mod tests;
