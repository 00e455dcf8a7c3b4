//! A blob to where its bytes go: resumed where it was cut, and done only when its digest is right.

use std::time::Duration;

use tokio::time::sleep;

use crate::{
    digest::Digest,
    gate::{Gate, Halted},
    manifest::Descriptor,
    pause::Pauses,
    registry::{self, Registry, RegistryError},
};

/// A connection that breaks is made anew at once for as long as each try brings something; after one that
/// brings nothing, with [`Pauses`].
const TRIES: u32 = 32;

#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("layer {digest} has {found} bytes where the manifest says {expected}")]
    Size {
        digest: Digest,
        expected: u64,
        found: u64,
    },
    #[error("layer {expected} came with another digest, {found}")]
    Digest { expected: Digest, found: Digest },
    #[error(transparent)]
    Halted(#[from] Halted),
}

/// What is here of a blob, and where more of it goes.
pub trait Target: Send {
    type Error: From<TransferError> + Send;

    /// How many bytes are here.
    fn length(&self) -> u64;

    /// Of what is here.
    fn digest(&self) -> Digest;

    /// Never called with more than the blob has.
    fn append(&mut self, bytes: &[u8]) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// After an answer's last byte, whether another follows or none. What was appended stays, then.
    fn flush(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Throws away what is here.
    fn restart(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// Has the whole blob in the target, which may have a part of it. Its digest is the blob's, then; if it
/// turns out to be another, the target is empty again.
pub async fn transfer<T: Target>(
    registry: &Registry,
    gate: &Gate,
    blob: &Descriptor,
    target: &mut T,
) -> Result<(), T::Error> {
    let mut transfer = Transfer {
        registry,
        gate,
        blob,
        target,
    };
    transfer.complete().await
}

struct Transfer<'a, T> {
    registry: &'a Registry,
    gate: &'a Gate,
    blob: &'a Descriptor,
    target: &'a mut T,
}

/// How an answer ended: what has come of it is in the target.
enum Answered {
    /// The blob's end, or the gate was closed.
    Whole,
    Cut(RegistryError),
}

impl<T: Target> Transfer<'_, T> {
    async fn complete(&mut self) -> Result<(), T::Error> {
        let Descriptor { digest, size, .. } = *self.blob;
        let (mut tries, mut pauses) = (0, Pauses::default());
        while self.target.length() < size {
            self.gate.open().await.map_err(TransferError::from)?;
            let before = self.target.length();
            match self.continued().await? {
                Answered::Whole => {}
                Answered::Cut(why) => {
                    let have = self.target.length();
                    let pause = if have > before {
                        pauses = Pauses::default();
                        Some(Duration::ZERO)
                    } else {
                        pauses.next(None)
                    };
                    // One that is busy has been waited for.
                    let is_over = matches!(why, RegistryError::Busy { .. }) || !why.is_passing();
                    let Some(pause) = pause.filter(|_| !is_over && tries < TRIES) else {
                        return Err(TransferError::from(why).into());
                    };
                    tries += 1;
                    tracing::info!(layer = %digest, have, of = size, %why, ?pause, "a transfer was cut; resuming");
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = self.gate.closed() => {}
                    }
                }
            }
        }
        let found = self.target.digest();
        if found != digest || self.target.length() != size {
            // Resuming would only keep what is wrong.
            self.target.restart().await?;
            let expected = digest;
            return Err(TransferError::Digest { expected, found }.into());
        }
        Ok(())
    }

    /// Appends what one answer of the registry brings, as long as the gate is open.
    async fn continued(&mut self) -> Result<Answered, T::Error> {
        let have = self.target.length();
        let answer = tokio::select! {
            answer = self.registry.blob(self.blob.digest, have) => answer,
            () = self.gate.closed() => return Ok(Answered::Whole),
        };
        let (mut response, start) = match answer {
            Ok(answer) => answer,
            Err(error) => return Ok(Answered::Cut(error)),
        };
        if start != have {
            // A registry that knows no ranges begins anew.
            self.target.restart().await?;
            if start != 0 {
                let why = format!("it sends from byte {start} on, unasked");
                return Ok(Answered::Cut(RegistryError::Http(why)));
            }
        }
        let received = loop {
            let chunk = tokio::select! {
                chunk = response.chunk() => chunk,
                () = self.gate.closed() => break Ok(Answered::Whole),
            };
            match chunk {
                Ok(Some(chunk)) => {
                    if let Err(error) = self.append(&chunk).await {
                        break Err(error);
                    }
                }
                Ok(None) if self.target.length() < self.blob.size => {
                    break Err(self.wrong_size(self.target.length()).into());
                }
                Ok(None) => break Ok(Answered::Whole),
                Err(error) => break Ok(Answered::Cut(registry::http(error))),
            }
        };
        // What came is worth keeping whatever happens next.
        self.target.flush().await?;
        received
    }

    async fn append(&mut self, bytes: &[u8]) -> Result<(), T::Error> {
        let length = self.target.length() + bytes.len() as u64;
        if length > self.blob.size {
            return Err(self.wrong_size(length).into());
        }
        self.target.append(bytes).await
    }

    fn wrong_size(&self, found: u64) -> TransferError {
        TransferError::Size {
            digest: self.blob.digest,
            expected: self.blob.size,
            found,
        }
    }
}

#[cfg(test)]
#[path = "transfer_tests.rs"]
mod tests;
