use std::collections::HashSet;

use futures::FutureExt;
use proptest::prelude::*;

use super::*;

fn origin(name: &str) -> Origin {
    let reference = format!("{name}@sha256:{}", "ab".repeat(32));
    Origin::of(&reference.parse().unwrap())
}

fn queue(all: usize, of_one_site: usize) -> Queue {
    Queue::new(Places { all, of_one_site })
}

/// The turns that come at once, one after the other, each given back before the next.
fn order(queue: &Queue, names: &[&str]) -> Vec<String> {
    let held = queue.turn(origin("first/x")).now_or_never().unwrap();
    let mut waiting: Vec<_> = names
        .iter()
        .map(|name| (name.to_string(), Box::pin(queue.turn(origin(name)))))
        .collect();
    for (_, turn) in &mut waiting {
        assert!(turn.as_mut().now_or_never().is_none());
    }
    drop(held);
    let mut order = Vec::new();
    while !waiting.is_empty() {
        let at = waiting
            .iter_mut()
            .position(|(_, turn)| turn.as_mut().now_or_never().is_some())
            .unwrap();
        order.push(waiting.remove(at).0);
    }
    order
}

#[test]
fn a_registry_belongs_to_a_site() {
    for (name, site, part) in [
        ("docker.io/library/debian", "docker.io", "library"),
        ("a.b.evil.org:5000/x", "evil.org", "x"),
        ("c.evil.org/x/y", "evil.org", "x"),
        ("10.0.2.2:5000/x", "10.0.2.2", "x"),
        ("10.1.2.2/x", "10.1.2.2", "x"),
        ("[fd00::1]:5000/x", "[fd00::1]", "x"),
        ("[fd00::1]/x", "[fd00::1]", "x"),
        ("registry/x", "registry", "x"),
    ] {
        let origin = origin(name);
        assert_eq!((origin.site.as_str(), origin.part.as_str()), (site, part));
    }
}

#[test]
fn sites_take_turns_then_their_parts_then_who_came_first() {
    let many = [
        "a.evil.org/1/x",
        "b.evil.org/2/x",
        "c.evil.org/2/y",
        "evil.org/1/y",
    ];
    let mut names = many.to_vec();
    names.extend(["good.org/x", "good.org/y", "fair.org/x"]);
    assert_eq!(
        order(&queue(1, 1), &names),
        [
            "a.evil.org/1/x",
            "good.org/x",
            "fair.org/x",
            "b.evil.org/2/x",
            "good.org/y",
            "evil.org/1/y",
            "c.evil.org/2/y",
        ]
    );
}

#[test]
fn one_site_never_has_all_places() {
    let queue = queue(3, 2);
    let turn = |name| queue.turn(origin(name)).now_or_never();
    let first = turn("a.org/x").unwrap();
    let _second = turn("b.a.org/x").unwrap();
    let mut third = Box::pin(queue.turn(origin("a.org/x")));
    assert!(third.as_mut().now_or_never().is_none());
    // Nobody else wants it, but of its own site one waits.
    assert!(first.is_wanted());
    let other = turn("b.org/x").unwrap();
    // That site is at its limit, so a place of another would not help it.
    assert!(!other.is_wanted());
    drop(first);
    assert!(third.as_mut().now_or_never().is_some());
}

#[test]
fn whoever_goes_away_holds_nobody_up() {
    let queue = queue(1, 1);
    let held = queue.turn(origin("a.org/x")).now_or_never().unwrap();
    assert!(!held.is_wanted());
    let mut gone = Box::pin(queue.turn(origin("b.org/x")));
    assert!(gone.as_mut().now_or_never().is_none());
    assert!(held.is_wanted());
    let mut waits = Box::pin(queue.turn(origin("c.org/x")));
    assert!(waits.as_mut().now_or_never().is_none());
    // Its turn comes, and it never hears of it.
    drop(held);
    drop(gone);
    let turn = waits.as_mut().now_or_never().unwrap();
    let mut late = Box::pin(queue.turn(origin("d.org/x")));
    assert!(late.as_mut().now_or_never().is_none());
    drop(late);
    assert!(!turn.is_wanted());
    drop(turn);
    let state = queue.lock();
    assert!(state.taken.is_empty() && state.waiting.is_empty());
    assert!(state.last_of_site.is_empty() && state.last_of_part.is_empty());
}

#[test]
fn nobody_gains_by_coming_again() {
    let queue = queue(1, 1);
    let mut held = queue.turn(origin("victim.org/x")).now_or_never().unwrap();
    // The victim had a turn, and wants another.
    let mut victim = Box::pin(queue.turn(origin("victim.org/x")));
    assert!(victim.as_mut().now_or_never().is_none());
    let mut passed = 0;
    loop {
        let mut evil = Box::pin(queue.turn(origin("evil.org/x")));
        assert!(evil.as_mut().now_or_never().is_none());
        drop(held);
        if victim.as_mut().now_or_never().is_some() {
            break;
        }
        passed += 1;
        assert!(passed <= 1, "the victim is passed again and again");
        held = evil.now_or_never().unwrap();
    }
}

proptest! {
    /// However turns are asked for, given up and given back: never more than there are places, and
    /// each site and part passes one who waits once at most.
    #[test]
    fn places_are_kept_to_and_nobody_starves(
        steps in prop::collection::vec((0..3u8, 0..4u8, 0..3u8, any::<prop::sample::Index>()), 1..80),
    ) {
        let queue = queue(3, 2);
        let mut waiting = Vec::new();
        let mut turns: Vec<Turn> = Vec::new();
        for (what, site, part, which) in steps {
            match what {
                0 => {
                    let origin = origin(&format!("s{site}.org/p{part}"));
                    let turn = queue.turn(origin.clone());
                    waiting.push((origin, Box::pin(turn)));
                }
                1 if !turns.is_empty() => drop(turns.swap_remove(which.index(turns.len()))),
                2 if !waiting.is_empty() => drop(waiting.swap_remove(which.index(waiting.len()))),
                _ => {}
            }
            let mut still = Vec::new();
            for (origin, mut turn) in waiting {
                match turn.as_mut().now_or_never() {
                    Some(turn) => turns.push(turn),
                    None => still.push((origin, turn)),
                }
            }
            waiting = still;
            prop_assert!(turns.len() <= 3);
            for turn in &turns {
                let of_site = turns.iter().filter(|t| t.origin.site == turn.origin.site).count();
                prop_assert!(of_site <= 2);
            }
            // A place is free only if nobody may have it.
            for (origin, _) in &waiting {
                let of_site = turns.iter().filter(|t| t.origin.site == origin.site).count();
                prop_assert!(turns.len() == 3 || of_site == 2);
            }
        }
    }

    /// While nobody of its own origin waits before it, one who waits is passed by each other site
    /// once at most.
    #[test]
    fn passed_once_by_each_site(others in prop::collection::vec(0..5u8, 1..60)) {
        let queue = queue(1, 1);
        let mut held = queue.turn(origin("s0.org/x")).now_or_never().unwrap();
        let mut victim = Box::pin(queue.turn(origin("victim.org/x")));
        prop_assert!(victim.as_mut().now_or_never().is_none());
        let mut passed = HashSet::new();
        for site in others {
            let mut other = Box::pin(queue.turn(origin(&format!("s{site}.org/x"))));
            prop_assert!(other.as_mut().now_or_never().is_none());
            drop(held);
            if victim.as_mut().now_or_never().is_some() {
                return Ok(());
            }
            held = other.now_or_never().unwrap();
            prop_assert!(passed.insert(site));
        }
        drop(held);
        prop_assert!(victim.now_or_never().is_some());
    }
}
