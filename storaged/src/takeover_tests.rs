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
        seq: 1,
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
        seq: 1,
        id: id(name),
        what: What::Blank,
    }
}

/// A byte copy, on another disk.
fn copy(name: &str, of: &Seen) -> Seen {
    Seen {
        name: name.to_owned(),
        seq: 1,
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
    match verdict {
        Verdict::Leave(what) | Verdict::Copy(what) | Verdict::Twin { what, .. } => {
            what.contains(why)
        }
        Verdict::Open | Verdict::Make(_) | Verdict::Wait(_) => false,
    }
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
fn a_copy_that_was_written_to_since_does_not_wait_beside_its_original() {
    let original = pool("z", 10, 1);
    let What::Pool { header, generation } = original.what else {
        panic!("no pool")
    };
    let later = Seen {
        what: What::Pool {
            header,
            generation: generation + 1,
        },
        ..copy("a", &original)
    };
    let around = in_doubt("x", MayHold::Anything);
    let verdicts = decide(&[later, original], &mut Decided::default(), &around);
    assert_eq!(verdicts["a"], Verdict::Open);
    assert!(left(&verdicts["z"], "was on before"), "{verdicts:?}");
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

#[test]
fn beside_two_disks_of_one_id_no_new_node_is_made() {
    let original = pool("z", 10, 1);
    let twin = Seen {
        name: "q".to_owned(),
        ..original.clone()
    };
    let disks = [original, twin, blank("b"), pool("c", 20, 2)];
    let mut decided = Decided::default();
    let verdicts = decide(&disks, &mut decided, &here());
    for name in ["z", "q"] {
        assert!(left(&verdicts[name], "detach the copies"), "{verdicts:?}");
    }
    // Nor does another node's disk become this node.
    for name in ["b", "c"] {
        assert_eq!(verdicts[name], Verdict::Wait(Waiting::Unknown));
    }
    assert_eq!(decided, Decided::default());
    // One of the two is taken out.
    let verdicts = decide(&disks[1..3], &mut decided, &here());
    assert_eq!(verdicts["q"], Verdict::Open);
}

#[test]
fn after_a_restart_the_way_that_is_mounted_is_opened() {
    let What::Pool { header, .. } = pool("z", 10, 1).what else {
        panic!("no pool")
    };
    let way = |name: &str, seq, generation| Seen {
        name: name.to_owned(),
        seq,
        id: "naa.5000c500a1b2c3d4".to_owned(),
        what: What::Pool { header, generation },
    };
    // Written to between the two reads.
    let ways = [way("sda", 3, 7), way("sdb", 4, 8)];
    let mut decided = Decided {
        set: Some(header.set),
        runs_on: BTreeMap::from([(header.uuid, ways[0].id.clone())]),
        mounted: BTreeMap::from([(header.uuid, 3)]),
        ..Decided::default()
    };
    let verdicts = decide(&ways, &mut decided, &here());
    assert_eq!(verdicts["sda"], Verdict::Open);
    assert!(matches!(verdicts["sdb"], Verdict::Copy(_)), "{verdicts:?}");
}

fn used(at: u64, disk: Seen) -> Seen {
    let What::Pool { header, generation } = disk.what else {
        panic!("no pool")
    };
    let header = Header { used: at, ..header };
    Seen {
        what: What::Pool { header, generation },
        ..disk
    }
}

fn shows(of: &Seen, used: u64) -> MayHold {
    let What::Pool { header, .. } = of.what else {
        panic!("no pool")
    };
    MayHold::Pool(Shown {
        used,
        ..Shown::by(&header)
    })
}

#[test]
fn an_original_that_was_left_in_is_not_used_while_its_later_copy_is_in_doubt() {
    let original = used(7, pool("z", 10, 1));
    let disks = [original.clone(), blank("b")];
    let later = in_doubt("copy", shows(&original, 9));
    let mut decided = Decided::default();
    let verdicts = decide(&disks, &mut decided, &later);
    let Verdict::Wait(waiting @ Waiting::Original(Awaited::Later(_))) = &verdicts["z"] else {
        panic!("{verdicts:?}")
    };
    assert!(waiting.to_string().contains("disk copy"), "{waiting}");
    assert_eq!(verdicts["b"], Verdict::Wait(Waiting::Opening));
    assert!(decided.runs_on.is_empty());
    // It comes back after all.
    let copy = used(9, copy("copy", &original));
    let verdicts = decide(&[original.clone(), copy], &mut decided.clone(), &here());
    assert_eq!(verdicts["copy"], Verdict::Open);
    assert!(left(&verdicts["z"], "was on before"), "{verdicts:?}");
    // Its link is reset.
    assert_waits_for_what_went(&disks, &mut decided);
    // The farmer takes it out.
    let verdicts = decide(&disks, &mut decided, &here());
    assert_eq!(verdicts["z"], Verdict::Open);
    // While the node runs, the one that it runs on is used, whatever shows itself.
    let verdicts = decide(&disks[..1], &mut decided, &later);
    assert_eq!(verdicts["z"], Verdict::Open);
}

/// Disk `z`, while a link is reset.
fn assert_waits_for_what_went(disks: &[Seen], decided: &mut Decided) {
    let away = Surroundings {
        searching: true,
        ..here()
    };
    assert_eq!(
        decide(disks, decided, &away)["z"],
        Verdict::Wait(Waiting::Original(Awaited::Gone))
    );
}

#[test]
fn a_copy_that_was_not_used_later_holds_its_original_not_up() {
    let original = used(7, pool("z", 10, 1));
    for at in [6, 7] {
        let around = Surroundings {
            searching: true,
            ..in_doubt("copy", shows(&original, at))
        };
        let mut decided = Decided::default();
        decided.could_not_use(Uuid::from_u128(10), "copy", at);
        let disks = std::slice::from_ref(&original);
        let verdicts = decide(disks, &mut decided, &around);
        assert_eq!(verdicts["z"], Verdict::Open);
    }
}

#[test]
fn an_original_waits_a_while_for_the_later_copy_that_could_not_be_used_and_went() {
    let disks = [used(7, pool("z", 10, 1))];
    let mut decided = Decided::default();
    decided.could_not_use(Uuid::from_u128(10), "copy", 9);
    assert_waits_for_what_went(&disks, &mut decided);
    let verdicts = decide(&disks, &mut decided, &here());
    assert_eq!(verdicts["z"], Verdict::Open);
}

#[test]
fn an_original_waits_for_its_later_copy_of_which_nothing_can_be_read_any_more() {
    let original = used(7, pool("z", 10, 1));
    let disks = std::slice::from_ref(&original);
    // Known from when no other disk of the pool was there.
    let mut decided = Decided {
        set: Some(Uuid::from_u128(1)),
        ..Decided::default()
    };
    decide(&[], &mut decided, &in_doubt("copy", shows(&original, 9)));
    for may_hold in [MayHold::Anything, MayHold::GivenUp] {
        let around = in_doubt("copy", may_hold);
        let mut decided = decided.clone();
        let verdicts = decide(disks, &mut decided, &around);
        let waits = Waiting::Original(Awaited::Later("copy".to_owned()));
        assert_eq!(verdicts["z"], Verdict::Wait(waits));
        // Another disk is no reason to wait, as before.
        let verdicts = decide(disks, &mut decided, &in_doubt("other", may_hold));
        assert_eq!(verdicts["z"], Verdict::Open);
    }
    // Of another node's pools, nothing is missing here.
    let theirs = used(7, pool("y", 20, 2));
    decide(&[], &mut decided, &in_doubt("copy", shows(&theirs, 9)));
    assert_eq!(decided.unopened.len(), 1);
}
