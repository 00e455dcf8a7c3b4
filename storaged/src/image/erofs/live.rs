//! [`Live`]: which of a layer's data an image takes, and where it has it.
//!
//! A layer's data is in the image as it was put aside: btrfs shares the blocks then, and nothing is written a
//! second time. But an extent of a btrfs is free only when none of its blocks is referred to, and the ledger counts
//! what an image's file is long. So an image either has all of a layer's data, of which layers above may hide some,
//! or a copy of what shows, with space of its own.

use super::TooLarge;

/// At most this part of what is in an image may be hidden: it is dearer to keep than to copy what is not.
const HIDDEN: u64 = 8;

/// Blocks that go from a layer to the image, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// In the layer.
    pub from: u32,
    pub blocks: u32,
    /// In the image.
    pub to: u32,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Live {
    /// The image has all of it.
    Whole(Extent),
    /// The image has copies of these, in the order in which the layer has them.
    Parts(Vec<Extent>),
}

impl Live {
    /// `files`: first block and number of blocks of each file that shows, none over another. `all`: of the layer.
    /// In the image they begin at block `to`.
    pub fn new(mut files: Vec<(u32, u32)>, all: u32, to: u32) -> Result<Self, TooLarge> {
        let shown: u64 = files.iter().map(|(_, blocks)| u64::from(*blocks)).sum();
        let hidden = u64::from(all).saturating_sub(shown);
        if shown > 0 && hidden * HIDDEN <= u64::from(all) {
            let blocks = all;
            let from = 0;
            end(to, blocks)?;
            return Ok(Self::Whole(Extent { from, blocks, to }));
        }
        files.sort_unstable();
        let mut parts: Vec<Extent> = Vec::new();
        let mut to = to;
        for (from, blocks) in files {
            match parts.last_mut() {
                Some(last) if last.from + last.blocks == from => last.blocks += blocks,
                _ => parts.push(Extent { from, blocks, to }),
            }
            to = end(to, blocks)?;
        }
        Ok(Self::Parts(parts))
    }

    /// How many it takes of the image.
    pub fn blocks(&self) -> u64 {
        self.extents().iter().map(|e| u64::from(e.blocks)).sum()
    }

    pub fn extents(&self) -> &[Extent] {
        match self {
            Self::Whole(all) => std::slice::from_ref(all),
            Self::Parts(parts) => parts,
        }
    }

    /// Where the image has the layer's block `from`, which is one that shows.
    pub fn in_image(&self, from: u32) -> u32 {
        let extents = self.extents();
        let behind = extents.partition_point(|extent| extent.from <= from);
        let extent = behind.checked_sub(1).map(|at| extents[at]);
        extent.map_or(0, |extent| extent.to + (from - extent.from))
    }
}

fn end(to: u32, blocks: u32) -> Result<u32, TooLarge> {
    to.checked_add(blocks).ok_or(TooLarge("blocks of data"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(from: u32, blocks: u32, to: u32) -> Extent {
        Extent { from, blocks, to }
    }

    #[test]
    fn a_layer_of_which_little_is_hidden_is_taken_whole() {
        let live = Live::new(vec![(0, 60), (68, 4)], 72, 10).unwrap();
        assert_eq!(live, Live::Whole(extent(0, 72, 10)));
        assert_eq!((live.blocks(), live.in_image(68)), (72, 78));
        let whole = Live::new(vec![(0, 7)], 8, 0).unwrap();
        assert_eq!(whole, Live::Whole(extent(0, 8, 0)));
    }

    #[test]
    fn of_one_of_which_more_is_hidden_parts_are_taken() {
        let live = Live::new(vec![(70, 2), (0, 20), (20, 40)], 72, 10).unwrap();
        let parts = vec![extent(0, 60, 10), extent(70, 2, 70)];
        assert_eq!(live, Live::Parts(parts));
        assert_eq!(live.blocks(), 62);
        let places = [0, 19, 20, 59, 70, 71].map(|from| live.in_image(from));
        assert_eq!(places, [10, 29, 30, 69, 70, 71]);
    }

    #[test]
    fn a_layer_that_is_hidden_or_has_no_data_gives_nothing() {
        for all in [0, 9] {
            let live = Live::new(Vec::new(), all, 10).unwrap();
            assert_eq!((live.blocks(), live), (0, Live::Parts(Vec::new())));
        }
    }

    #[test]
    fn blocks_beyond_the_format_s_numbers_are_an_error() {
        let end = u32::MAX - 10;
        Live::new(vec![(0, 10)], 10, end).unwrap();
        Live::new(vec![(0, 11)], 11, end).unwrap_err();
        Live::new(vec![(5, 10)], 100, end).unwrap();
        Live::new(vec![(0, 5), (7, 6)], 100, end).unwrap_err();
    }
}
