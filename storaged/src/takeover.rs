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
    original::{self, Awaited, InDoubt, MayHold},
    set,
};

/// A disk that waits.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The kernel's name.
    pub name: String,
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
    /// What may be the original of this pool.
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
}

/// By the kernel's names. Each set and each pool that is taken into use is written into `decided`.
pub fn decide(
    seen: &[Seen],
    decided: &mut Decided,
    around: &Surroundings,
) -> BTreeMap<String, Verdict> {
    let mut verdicts = BTreeMap::new();
    let winners = choose_among_copies(seen, decided, &around.in_use, &mut verdicts);
    let headers: Vec<Header> = winners.iter().map(|winner| winner.disk.header).collect();
    if decided.set.is_none() {
        // A disk that does not say what it holds may be this node's: beside it, nobody else's disk
        // becomes this node, and no empty one a new node.
        decided.set = set::choose(&headers, around.machine)
            .filter(|set| !around.unknown() || set::is_at_home(*set, &headers, around.machine));
    }
    let mut ids = around.ids_in_use.clone();
    ids.extend(winners.iter().map(|winner| winner.disk.id.clone()));
    for Winner { disk, may_be_copy } in winners {
        let awaited = || original::awaited(&disk.header, around.searching, &around.in_doubt);
        let verdict = if decided.set.is_none() {
            Verdict::Wait(Waiting::Unknown)
        } else if decided.set != Some(disk.header.set) {
            Verdict::Leave(set::describe(&disk.header))
        } else if let Some(awaited) = may_be_copy.then(awaited).flatten() {
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
            None if around.unknown() => Verdict::Wait(Waiting::Unknown),
            None => {
                decided.begun = true;
                Verdict::Make(*decided.set.insert(Uuid::new_v4()))
            }
        };
        verdicts.insert(disk.name.clone(), verdict);
    }
    verdicts
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
            match duplicate::choose(&candidates, runs_on) {
                Choice::Use(index) => {
                    let named = candidates[index].header.disk;
                    let is_named = |disk: &Candidate| DiskTag::of(&disk.id) == named;
                    let may_be_copy = runs_on.is_none() && !candidates.iter().any(is_named);
                    let disk = candidates.swap_remove(index);
                    let reason = format!("is on disk {}", disk.id);
                    used = Some(disk.id.clone());
                    winners.push(Winner { disk, may_be_copy });
                    reason
                }
                Choice::None(why) => why,
            }
        };
        for left in candidates {
            let what = describe_unused(&left, &reason, used.as_deref());
            verdicts.insert(left.name, Verdict::Copy(what));
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
mod tests {
    use loam_deployment::NodeKey;

    use super::*;
    use crate::header::DiskTag;

    const HERE: Option<Machine> = Some(Machine([1; 16]));

    fn pool(name: &str, uuid: u128, set: u128) -> Seen {
        let header = Header {
            uuid: Uuid::from_u128(uuid),
            node: Some(NodeKey([set as u8; 32])),
            machine: if set == 1 { HERE } else { None },
            ..Header::for_disk(1 << 30, Uuid::from_u128(set), DiskTag::of(&id(name)))
        };
        Seen {
            name: name.to_owned(),
            id: id(name),
            what: What::Pool {
                header,
                generation: 7,
            },
        }
    }

    fn id(name: &str) -> String {
        format!("id-of-{name}")
    }

    fn blank(name: &str) -> Seen {
        Seen {
            name: name.to_owned(),
            id: id(name),
            what: What::Blank,
        }
    }

    /// A byte copy, on another disk.
    fn copy(name: &str, of: &Seen) -> Seen {
        Seen {
            name: name.to_owned(),
            id: id(name),
            what: of.what,
        }
    }

    fn here() -> Surroundings {
        Surroundings {
            machine: HERE,
            ..Surroundings::default()
        }
    }

    fn left(verdict: &Verdict, why: &str) -> bool {
        matches!(verdict, Verdict::Leave(what) | Verdict::Copy(what) if what.contains(why))
    }

    #[test]
    fn a_fresh_node_makes_one_set_of_all_its_disks() {
        let mut decided = Decided::default();
        let verdicts = decide(&[blank("a"), blank("b")], &mut decided, &here());
        let set = decided.set.unwrap();
        assert_eq!(verdicts["a"], Verdict::Make(set));
        assert_eq!(verdicts["b"], Verdict::Make(set));
        // A further disk, later, joins it.
        let verdicts = decide(&[blank("c")], &mut decided, &here());
        assert_eq!(verdicts["c"], Verdict::Make(set));
        assert!(decided.begun);
        // Nothing to do is no decision.
        let mut decided = Decided::default();
        assert!(decide(&[], &mut decided, &here()).is_empty());
        assert_eq!(decided, Decided::default());
    }

    #[test]
    fn a_blank_disk_that_is_seen_twice_is_made_a_pool_once() {
        let again = Seen {
            id: id("a"),
            ..blank("b")
        };
        let both = [blank("a"), again.clone()];
        let mut decided = Decided::default();
        let verdicts = decide(&both, &mut decided, &here());
        assert!(matches!(verdicts["a"], Verdict::Make(_)));
        assert!(matches!(verdicts["b"], Verdict::Copy(_)));
        // Nor when the other came first.
        let in_use = Surroundings {
            ids_in_use: BTreeSet::from([id("a")]),
            ..here()
        };
        let verdicts = decide(std::slice::from_ref(&again), &mut decided, &in_use);
        assert!(matches!(verdicts["b"], Verdict::Copy(_)));
        // Or is a pool that is about to be opened.
        let disks = [pool("a", 10, 1), again];
        let verdicts = decide(&disks, &mut Decided::default(), &here());
        assert_eq!(verdicts["a"], Verdict::Open);
        assert!(matches!(verdicts["b"], Verdict::Copy(_)));
    }

    #[test]
    fn a_blank_disk_joins_the_pools_that_are_there() {
        let mut decided = Decided::default();
        let verdicts = decide(&[blank("a"), pool("b", 10, 1)], &mut decided, &here());
        assert_eq!(verdicts["b"], Verdict::Open);
        // Once they are open.
        assert!(matches!(verdicts["a"], Verdict::Wait(_)));
        let opening = Surroundings {
            opening: true,
            ..here()
        };
        let verdicts = decide(&[blank("a")], &mut decided, &opening);
        assert!(matches!(verdicts["a"], Verdict::Wait(_)));
        let verdicts = decide(&[blank("a")], &mut decided, &here());
        assert_eq!(verdicts["a"], Verdict::Make(Uuid::from_u128(1)));
        assert_eq!(decided.runs_on[&Uuid::from_u128(10)], id("b"));
        assert!(!decided.begun);
    }

    #[test]
    fn beside_a_disk_that_does_not_answer_no_new_node_is_made() {
        let mut decided = Decided::default();
        let around = Surroundings {
            searching: true,
            ..here()
        };
        let verdicts = decide(&[blank("a")], &mut decided, &around);
        assert!(matches!(verdicts["a"], Verdict::Wait(_)));
        assert_eq!(decided.set, None);
        // Nor does another node's disk become this node.
        let verdicts = decide(&[blank("a"), pool("b", 20, 2)], &mut decided, &around);
        assert!(
            verdicts
                .values()
                .all(|verdict| matches!(verdict, Verdict::Wait(_)))
        );
        assert_eq!(decided, Decided::default());
        // With a pool of ours there, it may join.
        let verdicts = decide(&[blank("a"), pool("b", 10, 1)], &mut decided, &around);
        assert_eq!(verdicts["b"], Verdict::Open);
        let verdicts = decide(&[blank("a")], &mut decided, &around);
        assert_eq!(verdicts["a"], Verdict::Make(Uuid::from_u128(1)));
    }

    #[test]
    fn a_pool_of_another_node_is_named_and_left_alone() {
        let disks = [pool("a", 10, 1), pool("b", 20, 2), pool("c", 21, 2)];
        let key = NodeKey([2; 32]).to_string();
        let mut decided = Decided::default();
        let verdicts = decide(&disks, &mut decided, &here());
        assert_eq!(verdicts["a"], Verdict::Open);
        assert!(left(&verdicts["b"], &key) && left(&verdicts["c"], &key));
        assert_eq!(decided.runs_on.len(), 1);
        // Also while the node runs, and though nothing of its own is left.
        let verdicts = decide(&disks[1..], &mut decided, &here());
        assert!(left(&verdicts["b"], &key));
        // In another machine, alone, it is that machine's node.
        let verdicts = decide(&disks[1..], &mut Decided::default(), &here());
        assert_eq!(verdicts["b"], Verdict::Open);
    }

    #[test]
    fn one_of_two_copies_is_used_and_the_other_says_of_which() {
        let original = pool("z", 10, 1);
        let both = [copy("a", &original), original.clone()];
        let mut decided = Decided::default();
        let verdicts = decide(&both, &mut decided, &here());
        assert_eq!(verdicts["z"], Verdict::Open);
        assert!(left(&verdicts["a"], "copy of pool") && left(&verdicts["a"], &id("z")));

        // While it runs, and when its disk is gone, a copy that comes is left alone.
        let in_use = Surroundings {
            in_use: BTreeSet::from([Uuid::from_u128(10)]),
            ..here()
        };
        for around in [in_use.clone(), here()] {
            let verdicts = decide(&both[..1], &mut decided, &around);
            assert!(left(&verdicts["a"], &id("z")), "{verdicts:?}");
        }
        // Even one that calls itself by the same id, as long as the other is there.
        let same_id = Seen {
            id: id("z"),
            ..copy("q", &original)
        };
        let verdicts = decide(std::slice::from_ref(&same_id), &mut decided, &in_use);
        assert!(matches!(&verdicts["q"], Verdict::Copy(what) if what.contains(&id("z"))));
        // It is that disk under another name, seen before the kernel let the old one go.
        let verdicts = decide(&[same_id], &mut decided.clone(), &here());
        assert_eq!(verdicts["q"], Verdict::Open);
        // The disk itself comes back.
        let verdicts = decide(&both, &mut decided, &here());
        assert_eq!(verdicts["z"], Verdict::Open);
        assert!(left(&verdicts["a"], &id("z")));
    }

    fn in_doubt(id: &str, may_hold: MayHold) -> Surroundings {
        Surroundings {
            in_doubt: vec![InDoubt {
                id: id.to_owned(),
                may_hold,
            }],
            ..here()
        }
    }

    #[test]
    fn a_copy_is_not_used_while_its_original_may_yet_be_heard_of() {
        let original = pool("z", 10, 1);
        let disks = [
            copy("a", &original),
            copy("b", &original),
            pool("c", 11, 1),
            blank("d"),
        ];
        let searching = Surroundings {
            searching: true,
            ..here()
        };
        let silent = in_doubt("x", MayHold::Anything);
        let dead = in_doubt(&id("z"), MayHold::GivenUp);
        for around in [&searching, &silent, &dead] {
            let mut decided = Decided::default();
            let verdicts = decide(&disks, &mut decided, around);
            for name in ["a", "b"] {
                let waits = matches!(verdicts[name], Verdict::Wait(Waiting::Original(_)));
                assert!(waits, "{verdicts:?}");
            }
            // It waits alone; what it has is not asked of a new pool, though.
            assert_eq!(verdicts["c"], Verdict::Open);
            let verdicts = decide(&disks[..1], &mut decided.clone(), around);
            assert!(matches!(verdicts["a"], Verdict::Wait(_)));
            let verdicts = decide(&[disks[0].clone(), blank("d")], &mut decided, around);
            assert_eq!(verdicts["d"], Verdict::Wait(Waiting::Opening));
            assert_eq!(decided.runs_on.len(), 1);
            // Its original comes, and is used at once.
            let all = [disks[0].clone(), disks[1].clone(), original.clone()];
            let verdicts = decide(&all, &mut decided, around);
            assert_eq!(verdicts["z"], Verdict::Open);
            for name in ["a", "b"] {
                assert!(left(&verdicts[name], &id("z")), "{verdicts:?}");
            }
        }
        // Nothing is left that may be it: the farmer has replaced the disk.
        for around in [here(), in_doubt("x", MayHold::GivenUp)] {
            let verdicts = decide(&disks, &mut Decided::default(), &around);
            assert_eq!(verdicts["a"], Verdict::Open);
            assert!(left(&verdicts["b"], &id("a")), "{verdicts:?}");
        }
    }

    #[test]
    fn a_pool_on_its_own_disk_waits_for_no_other() {
        let disks = [pool("z", 10, 1)];
        let searching = Surroundings {
            searching: true,
            ..here()
        };
        for around in [searching, in_doubt("x", MayHold::Anything)] {
            let verdicts = decide(&disks, &mut Decided::default(), &around);
            assert_eq!(verdicts["z"], Verdict::Open);
            // Nor one that ran on its disk since the node booted, though that could not be noted there.
            let moved = [copy("a", &disks[0])];
            let mut decided = Decided {
                set: Some(Uuid::from_u128(1)),
                runs_on: BTreeMap::from([(Uuid::from_u128(10), id("a"))]),
                ..Decided::default()
            };
            let verdicts = decide(&moved, &mut decided, &around);
            assert_eq!(verdicts["a"], Verdict::Open);
        }
    }

    #[test]
    fn an_original_that_comes_after_its_copy_was_used_says_so() {
        let original = pool("z", 10, 1);
        let mut decided = Decided::default();
        let verdicts = decide(&[copy("a", &original)], &mut decided, &here());
        assert_eq!(verdicts["a"], Verdict::Open);
        let in_use = Surroundings {
            in_use: BTreeSet::from([Uuid::from_u128(10)]),
            ..here()
        };
        for around in [in_use, here()] {
            let disks = [original.clone(), copy("b", &original)];
            let verdicts = decide(&disks, &mut decided, &around);
            assert!(left(&verdicts["z"], "was on before"), "{verdicts:?}");
            assert!(left(&verdicts["z"], &id("a")), "{verdicts:?}");
            assert!(left(&verdicts["b"], "a copy of pool"), "{verdicts:?}");
        }
    }

    #[test]
    fn a_copy_does_not_count_as_a_second_pool_of_its_set() {
        // Two copies of a pool of a set without a machine, against one pool of another.
        let theirs = pool("b", 20, 3);
        let disks = [pool("a", 10, 2), theirs.clone(), copy("c", &theirs)];
        let verdicts = decide(&disks, &mut Decided::default(), &here());
        assert_eq!(verdicts["a"], Verdict::Open);
        assert!(left(&verdicts["b"], "pool of node") && left(&verdicts["c"], "copy of pool"));
    }
}
