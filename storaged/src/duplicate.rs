//! Which of several disks that claim to be one pool is used: a farmer copied a failing disk to a new
//! one and left both plugged in.
//!
//! At most one is; the others are left alone and named. Decided from what is outside the file system
//! and its superblock, before anything is mounted:
//!
//! 1. The disk on which the pool **runs, or ran since this node booted**. When that disk vanishes,
//!    nobody steps in: the copy has another history, and machines would see their data jump. Of several
//!    of its id, the one by which it is mounted: storaged was restarted, and machines go on using it. That one
//!    is it also if it calls itself otherwise now.
//! 2. The one that was **in use last**, by its header, which notes when it was taken into use and then
//!    each day of a proved clock. A copy shows the same moment as its original until one of them is used;
//!    from then on, that one's history is the pool's. The winner of one start therefore wins the next,
//!    however much was written to the other before.
//! 3. The one with the **higher generation** of its btrfs superblock, which counts what was ever
//!    written: one was written to elsewhere, or the clock stood still.
//! 4. The one that the header **names** as the disk that the pool was used on last: the original.
//! 5. The one with the smaller disk id.
//!
//! Two that even share their id (cheap USB bridges do) cannot be told apart from boot to boot; then
//! none is used. Unless the id is one that no two disks in the world have, and they hold the same: that is
//! one disk at the end of two cables, and any way to it is good.

use std::cmp::Reverse;

use crate::header::{DiskTag, Header};

/// One of the disks that hold the same pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The kernel's name.
    pub name: String,
    /// The kernel's count of the disks that it has seen.
    pub seq: u64,
    pub id: String,
    pub header: Header,
    pub generation: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Of `candidates`, the one at this place.
    Use(usize),
    /// None of them, for the text's reason.
    None(String),
}

/// `candidates` all hold one pool; `runs_on` is the id of the disk that it runs or ran on since this
/// node booted, `mounted` the kernel's count of the disk by which it is or was mounted last.
pub fn choose(candidates: &[Candidate], runs_on: Option<&str>, mounted: Option<u64>) -> Choice {
    let allowed = |candidate: &Candidate| runs_on.is_none_or(|id| candidate.id == id);
    // The kernel counts no two disks alike in one boot, whatever they are called: by two cables the file
    // system is written to between the looks at both, and they differ; and one that was asked for its name in
    // vain was called by its place when it was mounted. (0 is of one that is not counted.)
    let is_mounted = |candidate: &Candidate| {
        runs_on.is_some() && candidate.seq != 0 && mounted == Some(candidate.seq)
    };
    let mut there = (0..candidates.len()).filter(|index| is_mounted(&candidates[*index]));
    if let (Some(index), None) = (there.next(), there.next()) {
        return Choice::Use(index);
    }
    let rank = |candidate: &Candidate| {
        let original = candidate.header.disk == DiskTag::of(&candidate.id);
        (
            candidate.header.used,
            candidate.generation,
            original,
            Reverse(candidate.id.clone()),
        )
    };
    let best = (0..candidates.len())
        .filter(|index| allowed(&candidates[*index]))
        .max_by_key(|index| rank(&candidates[*index]));
    match (best, runs_on) {
        (None, Some(id)) => Choice::None(format!("runs on disk {id} until this node restarts")),
        (None, None) => Choice::None("is nowhere".to_owned()),
        (Some(best), _) => {
            let best = &candidates[best];
            let alike: Vec<usize> = (0..candidates.len())
                .filter(|index| {
                    let other = &candidates[*index];
                    allowed(other) && other.id == best.id
                })
                .collect();
            let is_best = |index: &usize| {
                let other = &candidates[*index];
                (other.header, other.generation) == (best.header, best.generation)
            };
            let one_disk = is_worldwide(&best.id) && alike.iter().all(is_best);
            let first = alike
                .iter()
                .copied()
                .min_by_key(|index| &candidates[*index].name);
            match first {
                Some(first) if alike.len() == 1 || one_disk => Choice::Use(first),
                _ => Choice::None(format!(
                    "is on {} disks that all say that they are {}; detach the copies",
                    alike.len(),
                    best.id
                )),
            }
        }
    }
}

/// Whether a disk has this id from a registry (SCSI SPC-5, designators of types 2 and 3), and not from
/// what a bridge makes up.
fn is_worldwide(id: &str) -> bool {
    ["naa.", "eui."].iter().any(|kind| id.starts_with(kind))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn disk(id: &str, generation: u64, made_on: &str) -> Candidate {
        Candidate {
            name: format!("sd-{id}"),
            seq: 1,
            id: id.to_owned(),
            header: Header::for_disk(1 << 30, Uuid::nil(), DiskTag::of(made_on)),
            generation,
        }
    }

    fn used(candidates: &[Candidate], runs_on: Option<&str>) -> Option<String> {
        match choose(candidates, runs_on, None) {
            Choice::Use(index) => Some(candidates[index].id.clone()),
            Choice::None(_) => None,
        }
    }

    #[test]
    fn an_exact_copy_yields_to_the_original_and_so_ever_after() {
        let (original, copy) = (disk("zeta", 7, "zeta"), disk("alpha", 7, "zeta"));
        let zeta = Some("zeta".to_owned());
        assert_eq!(used(&[original.clone(), copy.clone()], None), zeta);
        assert_eq!(used(&[copy.clone(), original.clone()], None), zeta);
        // By the next boot the original was written to.
        assert_eq!(used(&[copy.clone(), disk("zeta", 8, "zeta")], None), zeta);
        assert_eq!(used(&[copy], None), Some("alpha".to_owned()));
    }

    #[test]
    fn the_copy_that_replaced_the_original_stays_in_use_when_it_comes_back() {
        // The copy was used alone, so its header names it and its generation went on.
        let (original, copy) = (disk("zeta", 7, "zeta"), disk("alpha", 90, "alpha"));
        assert_eq!(used(&[original, copy], None), Some("alpha".to_owned()));
    }

    #[test]
    fn what_was_used_last_stays_in_use_however_much_the_other_wrote_before() {
        let at = |used, disk: Candidate| Candidate {
            header: Header {
                used,
                ..disk.header
            },
            ..disk
        };
        // The original was written to after the copy was made, and then the copy was used alone.
        let original = at(5, disk("zeta", 90, "zeta"));
        let copy = at(6, disk("alpha", 8, "alpha"));
        assert_eq!(used(&[original, copy], None), Some("alpha".to_owned()));
    }

    #[test]
    fn nobody_steps_in_while_the_node_runs() {
        let copy = disk("alpha", 99, "alpha");
        assert_eq!(used(std::slice::from_ref(&copy), Some("zeta")), None);
        let both = [copy, disk("zeta", 1, "zeta")];
        assert_eq!(used(&both, Some("zeta")), Some("zeta".to_owned()));
        let Choice::None(why) = choose(&both[..1], Some("zeta"), None) else {
            panic!("used")
        };
        assert!(why.contains("disk zeta until"), "{why}");
    }

    #[test]
    fn two_of_one_name_are_both_left_alone() {
        let twins = [disk("usb", 7, "usb"), disk("usb", 8, "usb")];
        assert_eq!(used(&twins, None), None);
        assert_eq!(used(&twins, Some("usb")), None);
        assert_eq!(used(&twins[..1], Some("usb")), Some("usb".to_owned()));
        // Another copy that cannot win changes nothing about that.
        let three = [
            disk("usb", 7, "usb"),
            disk("usb", 8, "usb"),
            disk("z", 1, "z"),
        ];
        assert_eq!(used(&three, None), None);
        let three = [
            disk("usb", 7, "usb"),
            disk("usb", 8, "usb"),
            disk("z", 9, "z"),
        ];
        assert_eq!(used(&three, None), Some("z".to_owned()));
    }

    #[test]
    fn one_disk_at_the_end_of_two_cables_is_used_by_the_first() {
        let id = "naa.5000c500a1b2c3d4";
        let way = |name: &str| Candidate {
            name: name.to_owned(),
            ..disk(id, 7, id)
        };
        let header = way("sda").header;
        let ways = [way("sdb"), way("sda")].map(|way| Candidate { header, ..way });
        assert_eq!(choose(&ways, None, None), Choice::Use(1));
        assert_eq!(choose(&ways, Some(id), None), Choice::Use(1));
        // What differs are two disks, whatever they say.
        let mut copies = ways;
        copies[0].generation = 8;
        assert_eq!(used(&copies, None), None);
    }

    #[test]
    fn of_two_cables_the_one_that_is_mounted_is_used_again_after_a_restart() {
        for id in ["naa.5000c500a1b2c3d4", "usb"] {
            let way = |seq, generation| Candidate {
                name: format!("sd{seq}"),
                seq,
                ..disk(id, generation, id)
            };
            // The file system was written to between the two reads.
            let ways = [way(3, 7), way(4, 8)];
            for (index, seq) in [(0, 3), (1, 4)] {
                assert_eq!(choose(&ways, Some(id), Some(seq)), Choice::Use(index));
                // Not from before it was found that no disk of it can be used.
                let choice = choose(&ways, None, Some(seq));
                assert!(matches!(choice, Choice::None(_)), "{choice:?}");
            }
            // That one was pulled.
            let choice = choose(&ways, Some(id), Some(2));
            assert!(matches!(choice, Choice::None(_)), "{choice:?}");
        }
    }

    #[test]
    fn what_is_mounted_is_used_again_after_a_restart_though_it_has_another_name() {
        let named = |seq| {
            [Candidate {
                seq,
                ..disk("virtio-S", 7, "path-x")
            }]
        };
        let choose = |seq, mounted| choose(&named(seq), Some("path-x"), Some(mounted));
        assert_eq!(choose(5, 5), Choice::Use(0));
        assert!(matches!(choose(5, 4), Choice::None(_)));
        // Of disks that the kernel does not count, none is known by that.
        assert!(matches!(choose(0, 0), Choice::None(_)));
    }

    #[test]
    fn without_any_other_sign_the_smaller_id_wins() {
        let copies = [disk("b", 7, "x"), disk("a", 7, "x"), disk("c", 7, "x")];
        assert_eq!(used(&copies, None), Some("a".to_owned()));
    }

    proptest! {
        #[test]
        fn the_order_of_the_disks_never_matters(
            disks in prop::collection::vec(("[a-c]", 0..3u64, "[a-c]", 0..2u64), 1..5),
            turn in any::<prop::sample::Index>(),
            runs_on in prop::option::of("[a-d]"),
        ) {
            let disks: Vec<_> = disks
                .iter()
                .map(|(id, n, on, at)| {
                    let mut disk = disk(id, *n, on);
                    disk.header.used = *at;
                    disk
                })
                .collect();
            let mut turned = disks.clone();
            turned.rotate_left(turn.index(disks.len()));
            let runs_on = runs_on.as_deref();
            prop_assert_eq!(used(&disks, runs_on), used(&turned, runs_on));
        }
    }
}
