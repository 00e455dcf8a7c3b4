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
//! | all others were read, or there is none | not at all: the farmer replaced the disk by this one |
//!
//! Two things nobody can tell. An original that shows itself only when the search is over comes too late;
//! it is left alone then, and named. And once a copy has taken over, its original names itself in its
//! header for ever: if the farmer leaves it in, and the copy is late at a later start, it is used.

use std::fmt;

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
    Pool {
        uuid: Uuid,
        set: Uuid,
    },
}

/// What a pool waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// Disks that may yet come.
    Late,
    /// The disk of this id.
    Disk(String),
}

/// What a pool whose header names another disk than it is on waits for, if for anything. `searching`
/// says whether disks may yet come that were there when the node started.
pub fn awaited(pool: &Header, searching: bool, in_doubt: &[InDoubt]) -> Option<Awaited> {
    let may_be_it = |disk: &&InDoubt| match disk.may_hold {
        MayHold::Anything => true,
        MayHold::GivenUp => DiskTag::of(&disk.id) == pool.disk,
        MayHold::Pool { uuid, .. } => uuid == pool.uuid,
    };
    match in_doubt.iter().find(may_be_it) {
        Some(disk) => Some(Awaited::Disk(disk.id.clone())),
        None => searching.then_some(Awaited::Late),
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
        let show = |uuid| MayHold::Pool {
            uuid,
            set: pool.set,
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
                assert_eq!(awaited(&pool, false, &in_doubt), disk, "{in_doubt:?}");
                let late = disk.or(Some(Awaited::Late));
                assert_eq!(awaited(&pool, true, &in_doubt), late, "{in_doubt:?}");
            }
        }
    }

    #[test]
    fn the_farmer_is_told_for_which_disk_and_what_to_do() {
        let why = Awaited::Disk(NAMED.to_owned()).to_string();
        assert!(why.contains("disk named") && why.contains("take that one out"));
        assert!(Awaited::Late.to_string().contains("come late"));
    }
}
