//! Whether a pool that was used last on another disk may be used on this one.
//!
//! A pool's header names the disk that it was used on last. One that names another disk than it is on
//! was copied there, or its disk calls itself otherwise than before, as in another slot or behind another
//! bridge; nothing tells the two apart. A copy stands still from when it was made. If it were used while
//! its original is only late or silent, machines would see their data jump back, and what is written from
//! then on would be lost when the original is used again. So such a pool waits, alone, for what may be
//! its original, and is used when nothing may be:
//!
//! | among the other disks | it waits |
//! |---|---|
//! | some may yet come: the first [search](crate::search) is not over | until it is |
//! | one is being looked at, and may hang | until it has answered, or is pulled |
//! | one answers with errors, has no size or cannot be opened | five minutes, until it is given up |
//! | the same, and it calls itself as the header does | until it is read or pulled |
//! | one cannot be used, and its own header shows this pool | until it is read or pulled |
//! | one holds a pool of another Loam's format | until it is pulled |
//! | one cannot be used, and its own header shows another pool | not for that one |
//! | the disk that the header names was read, and holds this pool | not at all: [`crate::duplicate`] has chosen |
//! | one cannot be used, and its own header shows this pool, used later, or did so in this boot | until it is used, read or pulled |
//! | that one is gone | ten seconds, in which the kernel may be resetting its link |
//! | all others were read, or there is none | not at all: the farmer replaced the disk by this one |
//!
//! What was used later is waited for by every disk of a pool that has not run since the node booted, also by
//! the one that its header names: an original that was left in when a copy took over names itself for ever.
//! To have the older one used, the farmer takes the later one out.
//!
//! Two things nobody can tell. An original that shows itself only when the search is over comes too late;
//! it is left alone then, and named. And such an original is used at a later start if the copy is late then,
//! or nothing of it could be read since the node booted.

use std::{collections::BTreeMap, fmt};

use uuid::Uuid;

use crate::header::{DiskTag, Header};

/// A disk that does not say what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InDoubt {
    /// Stable across boots.
    pub id: String,
    pub may_hold: MayHold,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MayHold {
    Anything,
    /// Nothing has been read of it for so long that nobody else waits for it.
    GivenUp,
    /// Its header was read.
    Pool(Shown),
}

/// What the header of a disk says that is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    pub uuid: Uuid,
    pub set: Uuid,
    /// When it was used last, as in [`Header::used`].
    pub used: u64,
}

impl Shown {
    pub fn by(header: &Header) -> Self {
        Self {
            uuid: header.uuid,
            set: header.set,
            used: header.used,
        }
    }
}

/// What a pool waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// Disks that may yet come.
    Late,
    /// The disk of this id.
    Disk(String),
    /// The disk of this id, which was used later.
    Later(String),
    /// A disk that was used later, and is not there.
    Gone,
}

/// What a pool that has not run since the node booted may wait for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Others<'a> {
    /// Whether disks may yet come that were there when the node started, or went a moment ago.
    pub searching: bool,
    pub in_doubt: &'a [InDoubt],
    /// When the pool was used last on each disk on which it could not be used in this boot, by ids.
    pub unopened: Option<&'a BTreeMap<String, u64>>,
}

impl Others<'_> {
    /// When the pool was used last on a disk, as far as that was read in this boot. What was read once
    /// counts for as long as the disk is in doubt, whatever it says now, or nothing.
    fn used_on(&self, disk: &InDoubt, pool: &Header) -> Option<u64> {
        let noted = self.unopened.and_then(|disks| disks.get(&disk.id).copied());
        let shown = match disk.may_hold {
            MayHold::Pool(shown) if shown.uuid == pool.uuid => Some(shown.used),
            _ => None,
        };
        noted.max(shown)
    }
}

/// What it waits for, if for anything. `may_be_copy` says that its header names another disk than it is on,
/// and that nothing was heard of that one.
pub fn awaited(pool: &Header, may_be_copy: bool, others: &Others<'_>) -> Option<Awaited> {
    for disk in others.in_doubt {
        if others.used_on(disk, pool) > Some(pool.used) {
            return Some(Awaited::Later(disk.id.clone()));
        }
    }
    let mut unopened = others.unopened.into_iter().flatten();
    if others.searching && unopened.any(|(_, used)| *used > pool.used) {
        return Some(Awaited::Gone);
    }
    let may_be_it = |disk: &&InDoubt| match disk.may_hold {
        MayHold::Anything => true,
        MayHold::GivenUp => DiskTag::of(&disk.id) == pool.disk,
        MayHold::Pool(shown) => shown.uuid == pool.uuid,
    };
    match others.in_doubt.iter().find(may_be_it) {
        _ if !may_be_copy => None,
        Some(disk) => Some(Awaited::Disk(disk.id.clone())),
        None => others.searching.then_some(Awaited::Late),
    }
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const WHY: &str = "was used last on another disk, which it may be a copy of; waits for";
        match self {
            Self::Late => write!(f, "{WHY} disks that come late"),
            Self::Disk(id) => write!(
                f,
                "{WHY} disk {id}, which does not say what it holds; to use this one, take that one out"
            ),
            Self::Later(id) => write!(
                f,
                "was used later on disk {id}, which cannot be used now, and what is here is older; to go on \
                 with this one all the same, take that one out"
            ),
            Self::Gone => write!(
                f,
                "was used later on another disk, which went, and what is here is older; waits a while for \
                 that one to come back"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMED: &str = "named";
    const OTHER: &str = "other";

    fn pool() -> Header {
        Header::for_disk(1 << 30, Uuid::from_u128(1), DiskTag::of(NAMED))
    }

    /// Every state that one other disk can be in, and whether the pool waits for it.
    fn states(pool: &Header) -> Vec<(Option<InDoubt>, bool)> {
        let show = |uuid| {
            MayHold::Pool(Shown {
                uuid,
                ..Shown::by(pool)
            })
        };
        let states = [
            // The disk that the header names, and any other.
            (MayHold::Anything, true, true),
            (MayHold::GivenUp, true, false),
            (show(pool.uuid), true, true),
            (show(Uuid::from_u128(99)), false, false),
        ];
        let disk = |id: &str, may_hold| {
            Some(InDoubt {
                id: id.to_owned(),
                may_hold,
            })
        };
        let mut all = vec![(None, false)];
        for (may_hold, named, other) in states {
            all.push((disk(NAMED, may_hold), named));
            all.push((disk(OTHER, may_hold), other));
        }
        all
    }

    #[test]
    fn it_waits_for_what_may_be_its_original_and_for_nothing_else() {
        let pool = pool();
        for (one, waits_for_one) in states(&pool) {
            for (two, waits_for_two) in states(&pool) {
                let in_doubt: Vec<InDoubt> = one.iter().chain(&two).cloned().collect();
                let waits_for = [(&one, waits_for_one), (&two, waits_for_two)]
                    .into_iter()
                    .find(|(_, waits)| *waits)
                    .and_then(|(disk, _)| disk.clone());
                let disk = waits_for.map(|disk| Awaited::Disk(disk.id));
                // A copy with holes, which was never taken into use.
                let unopened = BTreeMap::from([(OTHER.to_owned(), pool.used)]);
                let waits = |may_be_copy, searching| {
                    let others = Others {
                        searching,
                        in_doubt: &in_doubt,
                        unopened: Some(&unopened),
                    };
                    awaited(&pool, may_be_copy, &others)
                };
                assert_eq!(waits(true, false), disk, "{in_doubt:?}");
                let late = disk.or(Some(Awaited::Late));
                assert_eq!(waits(true, true), late, "{in_doubt:?}");
                for searching in [false, true] {
                    assert_eq!(waits(false, searching), None, "{in_doubt:?}");
                }
            }
        }
    }

    #[test]
    fn every_disk_of_a_pool_waits_for_one_that_shows_it_and_was_used_later() {
        let pool = Header { used: 7, ..pool() };
        let later = |uuid, used| InDoubt {
            id: OTHER.to_owned(),
            may_hold: MayHold::Pool(Shown {
                uuid,
                used,
                ..Shown::by(&pool)
            }),
        };
        for may_be_copy in [false, true] {
            let waits = |others: Others<'_>| awaited(&pool, may_be_copy, &others);
            let it = Some(Awaited::Later(OTHER.to_owned()));
            let used_at = |used| BTreeMap::from([(OTHER.to_owned(), used)]);
            let (seven, eight) = (used_at(7), used_at(8));
            for searching in [false, true] {
                let in_doubt = [
                    later(Uuid::from_u128(99), 9),
                    later(pool.uuid, 7),
                    later(pool.uuid, 8),
                ];
                let others = Others {
                    searching,
                    in_doubt: &in_doubt,
                    unopened: None,
                };
                assert_eq!(waits(others), it);
                // It was seen to be so, and says nothing now, or less.
                for may_hold in [
                    MayHold::Anything,
                    MayHold::GivenUp,
                    MayHold::Pool(Shown::by(&pool)),
                ] {
                    let in_doubt = [InDoubt {
                        id: OTHER.to_owned(),
                        may_hold,
                    }];
                    let others = Others {
                        searching,
                        in_doubt: &in_doubt,
                        unopened: Some(&eight),
                    };
                    assert_eq!(waits(others), it);
                    let others = Others {
                        unopened: Some(&seven),
                        ..others
                    };
                    assert_ne!(waits(others), it);
                }
            }
            // It is gone: for good once it has not come back.
            let gone = |searching, unopened| {
                waits(Others {
                    searching,
                    in_doubt: &[],
                    unopened: Some(unopened),
                })
            };
            assert_eq!(gone(true, &eight), Some(Awaited::Gone));
            let late = may_be_copy.then_some(Awaited::Late);
            assert_eq!(gone(true, &seven), late);
            assert_eq!(gone(false, &eight), None);
        }
    }

    #[test]
    fn the_farmer_is_told_for_which_disk_and_what_to_do() {
        let why = Awaited::Disk(NAMED.to_owned()).to_string();
        assert!(why.contains("disk named") && why.contains("take that one out"));
        assert!(Awaited::Late.to_string().contains("come late"));
        let why = Awaited::Later(NAMED.to_owned()).to_string();
        assert!(why.contains("later on disk named") && why.contains("take that one out"));
        assert!(Awaited::Gone.to_string().contains("come back"));
    }
}
