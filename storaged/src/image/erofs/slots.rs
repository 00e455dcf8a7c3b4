//! [`Slots`]: where inodes go.
//!
//! What is inside of an inode must not go over the end of a block (the data that is kept with it may not, by the
//! kernel's `erofs_map_blocks`), so blocks are left with gaps. Later inodes that are shorter fill them.

use super::format::{BLOCK, SLOT};

/// So many gaps are remembered: the folder's other files are near then, and it is soon seen which one fits.
const GAPS: usize = 64;

#[derive(Debug)]
pub struct Slots {
    /// Where the next block begins.
    end: u64,
    gaps: Vec<Gap>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gap {
    at: u64,
    room: u64,
}

impl Slots {
    /// From this block on, all are free.
    pub fn from(block: u64) -> Self {
        Self {
            end: block * BLOCK,
            gaps: Vec::new(),
        }
    }

    /// The place of so many bytes, at a multiple of [`SLOT`]. In one block if that is possible at all.
    pub fn place(&mut self, size: u64) -> u64 {
        let size = size.next_multiple_of(SLOT);
        let fitting = (0..self.gaps.len()).filter(|index| self.gaps[*index].room >= size);
        if let Some(best) = fitting.min_by_key(|index| self.gaps[*index].room) {
            let Gap { at, room } = self.gaps[best];
            if room == size {
                self.gaps.remove(best);
            } else {
                self.gaps[best] = Gap {
                    at: at + size,
                    room: room - size,
                };
            }
            return at;
        }
        let at = self.end;
        self.end += size.next_multiple_of(BLOCK);
        self.remember(Gap {
            at: at + size,
            room: self.end - at - size,
        });
        at
    }

    /// What has been given is in so many blocks, those before the first included.
    pub fn blocks(&self) -> u64 {
        self.end / BLOCK
    }

    fn remember(&mut self, gap: Gap) {
        if gap.room == 0 {
            return;
        }
        self.gaps.push(gap);
        if self.gaps.len() > GAPS {
            let smallest = (0..self.gaps.len()).min_by_key(|at| self.gaps[*at].room);
            self.gaps.swap_remove(smallest.unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_gap_that_fits_best_is_filled_first() {
        let mut slots = Slots::from(1);
        assert_eq!(slots.place(4000), 4096);
        assert_eq!(slots.place(3000), 8192);
        assert_eq!(slots.place(64), 8096);
        assert_eq!(slots.place(64), 8192 + 3008);
        assert_eq!(slots.place(1024), 8192 + 3072);
        assert_eq!(slots.blocks(), 3);
        assert_eq!(slots.place(32), 8160);
        assert_eq!(slots.place(1), 12288);
    }

    #[test]
    fn what_is_longer_than_a_block_begins_one() {
        let mut slots = Slots::from(1);
        slots.place(64);
        assert_eq!(slots.place(4097), 8192);
        assert_eq!(slots.blocks(), 4);
        assert_eq!(slots.place(3968), 4160);
        assert_eq!(slots.place(4064), 8192 + 4128);
        assert_eq!(slots.place(4096), 16384);
        assert_eq!(slots.blocks(), 5);
    }

    #[test]
    fn of_too_many_gaps_the_smallest_is_forgotten() {
        let mut slots = Slots::from(0);
        for _ in 0..=GAPS {
            slots.place(4000);
        }
        assert_eq!(slots.gaps.len(), GAPS);
        slots.place(96);
        slots.place(3968);
        assert!(slots.gaps.iter().all(|gap| gap.room > 0));
        assert!(slots.gaps.iter().any(|gap| gap.room == 128));
        // One that is filled is none, nor is what a whole block leaves.
        assert_eq!(slots.gaps.len(), GAPS);
        slots.place(4096);
        assert_eq!(slots.gaps.len(), GAPS);
    }

    proptest! {
        #[test]
        fn none_is_over_another_or_over_the_end_of_a_block(
            sizes in prop::collection::vec(prop_oneof![1u64..300, 1u64..4096, 1u64..20_000], 1..300)
        ) {
            let mut slots = Slots::from(1);
            let mut places: Vec<_> = sizes.iter().map(|size| (slots.place(*size), *size)).collect();
            places.sort_unstable();
            let mut end = BLOCK;
            for (at, size) in places {
                prop_assert!(at >= end && at % SLOT == 0);
                end = at + size;
                prop_assert!(size > BLOCK || at / BLOCK == (end - 1) / BLOCK);
            }
            prop_assert!(end <= slots.blocks() * BLOCK);
        }
    }
}
