//! Which pools are this node's.
//!
//! Pools that belong together carry the id of one **set**: it is drawn when a node makes its first
//! pool, and each further disk that the node formats joins it. A pool of another set is another
//! node's: it is never mounted, so that its volumes are never listed, its secrets never read, and
//! nothing is ever written to it. While a node runs, its set does not change.
//!
//! When the node starts, every disk is looked at before the first pool is opened. If pools of
//! several sets are there (a farmer carried disks from one machine to another, or put back one from
//! a drawer), this node's set is, the first rule that tells them apart deciding:
//!
//! 1. one that **has a node's key**: a set that never got one holds nobody's data, for nothing is
//!    deployed to a node without a key;
//! 2. one that was used last **in this machine** (see [`crate::machine`]): so disks that are put into a
//!    running node's machine do not take it over, and when only they are there (a new mainboard),
//!    they are taken;
//! 3. one that was used in **more than the boot in which it was begun**: a set that never was may have
//!    been begun only since the other's disks came too late for that boot, and the node that was there
//!    before comes back with the next. Once it has outlived a reboot, it is the node of this machine,
//!    and an older one's disk that is put back from a drawer does not take it over;
//! 4. the one that was **taken into use last**;
//! 5. the one of which **more pools** are here;
//! 6. the one whose **id** is smaller, so that the choice is the same at the next start.
//!
//! While a disk does not answer, it may be this node's own: then only a set that was used last in this
//! machine is chosen, and none is begun.
//!
//! The pools of one set may disagree, when one was away; the one that was used last speaks for all.

use std::{cmp::Reverse, collections::BTreeMap};

use uuid::Uuid;

use crate::{header::Header, machine::Machine};

/// This node's set, if there is any pool. Of copies of one pool, only one may be in `pools`.
pub fn choose<'a>(
    pools: impl IntoIterator<Item = &'a Header>,
    here: Option<Machine>,
) -> Option<Uuid> {
    let mut sets: BTreeMap<Uuid, Vec<&Header>> = BTreeMap::new();
    for pool in pools {
        sets.entry(pool.set).or_default().push(pool);
    }
    sets.into_iter()
        .filter_map(|(set, pools)| {
            let newest = pools.iter().max_by_key(|pool| (pool.used, pool.uuid))?;
            let named = pools.iter().any(|pool| pool.node.is_some());
            let at_home = is_at_home(set, pools.iter().copied(), here);
            let grown = !is_of_one_boot(&pools);
            Some((
                named,
                at_home,
                grown,
                newest.used,
                pools.len(),
                Reverse(set),
            ))
        })
        .max()
        .map(|(.., Reverse(set))| set)
}

/// Whether the set was used last in this machine, as far as is known.
pub fn is_at_home<'a>(
    set: Uuid,
    pools: impl IntoIterator<Item = &'a Header>,
    here: Option<Machine>,
) -> bool {
    let pools = pools.into_iter().filter(|pool| pool.set == set);
    pools
        .max_by_key(|pool| (pool.used, pool.uuid))
        .is_some_and(|newest| newest.machine.is_some() && newest.machine == here)
}

/// Whether a set was begun in the boot in which it was used last.
fn is_of_one_boot(pools: &[&Header]) -> bool {
    let of_one = |pool: &&Header| pool.first_boot.is_some() && pool.first_boot == pool.last_boot;
    pools.iter().all(of_one)
}

/// What a farmer is told of a pool of another set.
pub fn describe(header: &Header) -> String {
    match header.node {
        Some(node) => format!("a pool of node {node}"),
        None => format!("pool {} of another node, which has no key yet", header.uuid),
    }
}

#[cfg(test)]
mod tests {
    use loam_deployment::NodeKey;
    use proptest::prelude::*;

    use super::*;
    use crate::header::{DiskTag, Use};

    const HERE: Option<Machine> = Some(Machine([1; 16]));
    const ELSEWHERE: Option<Machine> = Some(Machine([2; 16]));

    fn pool(set: u128, named: bool, machine: Option<Machine>, used: u64) -> Header {
        Header {
            node: named.then_some(NodeKey([set as u8; 32])),
            machine,
            used,
            ..Header::for_disk(1 << 30, Uuid::from_u128(set), DiskTag::of("a"))
        }
    }

    /// Begun in the first of these boots, used last in the second.
    fn in_boots(pool: Header, first: u128, last: u128) -> Header {
        Header {
            first_boot: Some(Uuid::from_u128(first)),
            last_boot: Some(Uuid::from_u128(last)),
            ..pool
        }
    }

    fn chosen(pools: &[Header], here: Option<Machine>) -> Option<u128> {
        choose(pools, here).map(|set| set.as_u128())
    }

    #[test]
    fn a_single_set_is_ours_wherever_it_was() {
        assert_eq!(chosen(&[], HERE), None);
        for machine in [HERE, ELSEWHERE, None] {
            for here in [HERE, None] {
                let pools = [pool(5, true, machine, 9), pool(5, false, ELSEWHERE, 3)];
                assert_eq!(chosen(&pools, here), Some(5));
            }
        }
    }

    #[test]
    fn disks_carried_in_from_another_node_do_not_take_over() {
        let ours = pool(9, true, HERE, 10);
        let theirs = [pool(2, true, ELSEWHERE, 99), pool(2, true, ELSEWHERE, 99)];
        assert_eq!(chosen(&[ours, theirs[0], theirs[1]], HERE), Some(9));
        // The same the other way round: in their machine, ours are the strangers.
        assert_eq!(chosen(&[ours, theirs[0], theirs[1]], ELSEWHERE), Some(2));
    }

    #[test]
    fn a_set_without_a_key_is_worth_nothing_beside_one_with_one() {
        let fresh = pool(1, false, HERE, 99);
        assert_eq!(chosen(&[fresh, pool(2, true, ELSEWHERE, 1)], HERE), Some(2));
        assert_eq!(chosen(&[fresh, pool(2, true, None, 1)], HERE), Some(2));
    }

    #[test]
    fn of_two_that_ran_here_the_later_counts() {
        // One lay in a drawer while the other was made and used.
        let pools = [pool(1, true, HERE, 5), pool(2, true, HERE, 6)];
        assert_eq!(chosen(&pools, HERE), Some(2));
        // A machine without a name knows nobody again.
        assert_eq!(chosen(&pools, None), Some(2));
        let pools = [pool(1, true, None, 7), pool(2, true, None, 6)];
        assert_eq!(chosen(&pools, None), Some(1));
    }

    #[test]
    fn a_node_begun_while_the_disks_of_an_older_were_late_gives_way_at_the_next_boot() {
        let older = in_boots(pool(2, true, HERE, 5), 11, 12);
        // Made before headers told of boots.
        let ancient = pool(2, true, HERE, 5);
        let beside = in_boots(pool(1, true, HERE, 99), 13, 13);
        for was_here in [older, ancient] {
            assert_eq!(chosen(&[was_here, beside], HERE), Some(2));
            // Its own disk may have been late again, for longer: then it stays what it is.
            let grown = in_boots(beside, 13, 14);
            assert_eq!(chosen(&[was_here, grown], HERE), Some(1));
            // One that joined it later shows the same.
            let joined = Header {
                first_boot: None,
                ..beside
            };
            assert_eq!(chosen(&[was_here, beside, joined], HERE), Some(1));
        }
        // The older one is named, and of this machine.
        assert_eq!(chosen(&[pool(2, false, HERE, 5), beside], HERE), Some(1));
        let strange = in_boots(pool(2, true, ELSEWHERE, 5), 11, 12);
        assert_eq!(chosen(&[strange, beside], HERE), Some(1));
    }

    #[test]
    fn a_node_that_outlived_a_reboot_is_not_taken_over_from_a_drawer() {
        let older = in_boots(pool(2, true, HERE, 5), 11, 12);
        let boot = |pool: Header, boot, now, set_is_new| {
            pool.taken_into_use(&Use {
                machine: HERE,
                disk: DiskTag::of("a"),
                now,
                instead_of: 0,
                boot: Some(Uuid::from_u128(boot)),
                set_is_new,
            })
        };
        // Begun, and storaged was restarted since.
        let begun = boot(pool(1, true, None, 0), 13, 50, true);
        let begun = boot(begun, 13, 51, true);
        assert_eq!(chosen(&[older, begun], HERE), Some(2));
        // It started anew without the other's disks.
        let grown = boot(begun, 14, 60, false);
        assert_eq!(chosen(&[older, grown], HERE), Some(1));
        // A disk that joins a set of an earlier boot is of no boot.
        let joined = boot(pool(1, true, None, 0), 14, 60, false);
        assert_eq!(joined.first_boot, None);
    }

    #[test]
    fn else_the_larger_and_else_always_the_same() {
        let one = pool(1, true, HERE, 5);
        let two = pool(2, true, HERE, 5);
        assert_eq!(chosen(&[one, two], HERE), Some(1));
        assert_eq!(chosen(&[two, one], HERE), Some(1));
        assert_eq!(chosen(&[two, one, two], HERE), Some(2));
    }

    #[test]
    fn the_pool_that_was_used_last_speaks_for_its_set() {
        // One disk of set 1 lay in a drawer while the rest moved to another machine.
        let stayed = pool(1, true, HERE, 5);
        let moved = pool(1, true, ELSEWHERE, 50);
        let other = pool(2, true, HERE, 20);
        assert_eq!(chosen(&[stayed, moved, other], HERE), Some(2));
        assert_eq!(chosen(&[stayed, moved, other], ELSEWHERE), Some(1));
    }

    #[test]
    fn strangers_are_named() {
        let named = describe(&pool(3, true, None, 0));
        assert_eq!(named, format!("a pool of node {}", NodeKey([3; 32])));
        assert!(describe(&pool(3, false, None, 0)).contains("no key yet"));
    }

    fn any_pool() -> impl Strategy<Value = Header> {
        let machine = prop_oneof![Just(HERE), Just(ELSEWHERE), Just(None)];
        (
            1..4u128,
            any::<bool>(),
            machine,
            0..3u64,
            1..3u128,
            1..3u128,
        )
            .prop_map(|(set, named, machine, used, first, last)| {
                in_boots(pool(set, named, machine, used), first, last)
            })
    }

    proptest! {
        /// All combinations: the order in which disks are found never matters, a set that is there
        /// is chosen whenever any is, and none beats it by the rules above.
        #[test]
        fn the_choice_is_the_first_rule_that_tells_apart(
            pools in prop::collection::vec(any_pool(), 1..6),
            shuffle in any::<prop::sample::Index>(),
            unknown: bool,
        ) {
            let here = if unknown { None } else { HERE };
            let mut turned = pools.clone();
            turned.rotate_left(shuffle.index(pools.len()));
            let set = choose(&pools, here).unwrap();
            prop_assert_eq!(choose(&turned, here), Some(set));
            let of = |set| pools.iter().filter(move |pool| pool.set == set);
            prop_assert!(of(set).next().is_some());
            let newest = |set| of(set).max_by_key(|pool| (pool.used, pool.uuid)).unwrap();
            let named = |set| of(set).any(|pool| pool.node.is_some());
            let home = |set| newest(set).machine.is_some() && newest(set).machine == here;
            let grown = |set| of(set).any(|pool| pool.first_boot != pool.last_boot);
            for other in pools.iter().map(|pool| pool.set).filter(|other| *other != set) {
                let tells = [
                    named(set).cmp(&named(other)),
                    home(set).cmp(&home(other)),
                    grown(set).cmp(&grown(other)),
                    newest(set).used.cmp(&newest(other).used),
                    of(set).count().cmp(&of(other).count()),
                    other.cmp(&set),
                ];
                let first = tells.into_iter().find(|order| order.is_ne());
                prop_assert_eq!(first, Some(std::cmp::Ordering::Greater));
            }
        }
    }
}
