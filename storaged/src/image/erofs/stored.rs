//! [`Stored`]: where the data of one file of a layer is, before it is in an image.

/// In what was put aside of its layer ([`super::super::aside`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// The first of its blocks.
    pub first: u32,
    /// How many there are; holes have none.
    pub blocks: u32,
    pub shape: Shape,
}

/// Which part of the file its blocks are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// All of it.
    #[default]
    Plain,
    /// All but what does not fill a block, which is among what is beside the blocks, from this byte on.
    Tail { at: u64 },
    /// The runs of data that are beside the blocks from this byte on.
    Holes(Holes),
}

/// A file that has more blocks than data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holes {
    /// Where its runs are.
    pub at: u64,
    pub runs: u32,
    /// Each run begins and ends where this power of two divides its block's number, but for the file's end.
    pub chunk: u8,
}

/// Blocks of data in a file, one behind the other. It has so many, from this one on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub first: u32,
    pub blocks: u32,
}

impl Run {
    /// Of one that is kept beside the blocks.
    pub const SIZE: usize = 8;

    pub fn bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..4].copy_from_slice(&self.first.to_le_bytes());
        bytes[4..].copy_from_slice(&self.blocks.to_le_bytes());
        bytes
    }

    pub fn read(bytes: [u8; Self::SIZE]) -> Self {
        let [a, b, c, d, rest @ ..] = bytes;
        Self {
            first: u32::from_le_bytes([a, b, c, d]),
            blocks: u32::from_le_bytes(rest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_read_as_it_was_kept() {
        let run = Run {
            first: 0x0102_0304,
            blocks: 0xf506_0708,
        };
        assert_eq!(run.bytes(), [4, 3, 2, 1, 8, 7, 6, 0xf5]);
        assert_eq!(Run::read(run.bytes()), run);
    }
}
