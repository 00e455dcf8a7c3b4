//! What is done with disks that have been looked at: a pure function.
//!
//! It decides for all disks that wait at once, so that what comes of them does not depend on which was
//! looked at first; when the node starts, that is when every disk has been looked at.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::{
    boot::Decided,
    duplicate::{self, Candidate, Choice},
    header::Header,
    machine::Machine,
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
    /// Nothing yet, for the text's reason.
    Wait(String),
}

const UNKNOWN: &str = "waits for a disk that does not say what it holds, for it may be this node's";

const OPENING: &str = "waits until the pools of this node are open";

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
    /// Whether there are disks that do not say what they hold.
    pub unknown: bool,
}

/// By the kernel's names. Each set and each pool that is taken into use is written into `decided`.
pub fn decide(
    seen: &[Seen],
    decided: &mut Decided,
    around: &Surroundings,
) -> BTreeMap<String, Verdict> {
    let mut verdicts = BTreeMap::new();
    let winners = choose_among_copies(seen, decided, &around.in_use, &mut verdicts);
    let headers: Vec<Header> = winners.iter().map(|winner| winner.header).collect();
    if decided.set.is_none() {
        // A disk that does not say what it holds may be this node's: beside it, nobody else's disk
        // becomes this node, and no empty one a new node.
        decided.set = set::choose(&headers, around.machine)
            .filter(|set| !around.unknown || set::is_at_home(*set, &headers, around.machine));
    }
    let mut ids = around.ids_in_use.clone();
    ids.extend(winners.iter().map(|winner| winner.id.clone()));
    for winner in winners {
        let verdict = if decided.set.is_none() {
            Verdict::Wait(UNKNOWN.to_owned())
        } else if decided.set == Some(winner.header.set) {
            decided.runs_on.insert(winner.header.uuid, winner.id);
            Verdict::Open
        } else {
            Verdict::Leave(set::describe(&winner.header))
        };
        verdicts.insert(winner.name, verdict);
    }
    // A pool made before those that are there are open would be the only one for a while, and be asked
    // for what only they have.
    let opening = around.opening || verdicts.values().any(|verdict| *verdict == Verdict::Open);
    for disk in seen.iter().filter(|disk| matches!(disk.what, What::Blank)) {
        let verdict = match decided.set {
            // One disk at the end of two cables must not be made a pool twice.
            _ if !ids.insert(disk.id.clone()) => Verdict::Copy(format!(
                "the same as another disk that says that it is {}; both may be one",
                disk.id
            )),
            Some(_) if opening => Verdict::Wait(OPENING.to_owned()),
            Some(set) => Verdict::Make(set),
            None if around.unknown => Verdict::Wait(UNKNOWN.to_owned()),
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
) -> Vec<Candidate> {
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
        let reason = if in_use.contains(&uuid) {
            format!("is on disk {}", runs_on.unwrap_or("elsewhere"))
        } else {
            match duplicate::choose(&candidates, runs_on) {
                Choice::Use(index) => {
                    let winner = candidates.swap_remove(index);
                    let reason = format!("is on disk {}", winner.id);
                    winners.push(winner);
                    reason
                }
                Choice::None(why) => why,
            }
        };
        for copy in candidates {
            let what = format!("a copy of pool {uuid}, which {reason}");
            verdicts.insert(copy.name, Verdict::Copy(what));
        }
    }
    winners
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
            unknown: true,
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
