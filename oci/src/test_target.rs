//! Where a blob goes whose bytes a test looks at.

use crate::{
    digest::Digest,
    transfer::{Target, TransferError},
};

/// Keeps a blob in memory.
#[derive(Debug, Default)]
pub struct Memory {
    pub bytes: Vec<u8>,
    /// How many bytes came.
    pub came: usize,
}

impl Memory {
    /// A part of the blob is here already.
    pub fn with(part: &[u8]) -> Self {
        Self {
            bytes: part.to_vec(),
            came: 0,
        }
    }
}

impl Target for Memory {
    type Error = TransferError;

    fn length(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    async fn append(&mut self, bytes: &[u8]) -> Result<(), TransferError> {
        self.came += bytes.len();
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), TransferError> {
        Ok(())
    }

    async fn restart(&mut self) -> Result<(), TransferError> {
        self.bytes.clear();
        Ok(())
    }
}
