//! A blob to where its bytes go: resumed where it was cut, and done only when its digest is right.

use std::time::Duration;

use reqwest::Response;
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
        failed_ranges: 0,
    };
    transfer.complete().await
}

struct Transfer<'a, T> {
    registry: &'a Registry,
    gate: &'a Gate,
    blob: &'a Descriptor,
    target: &'a mut T,
    /// How many ranges in a row the registry failed at.
    failed_ranges: u32,
}

/// A registry that has failed at so many is asked for the whole: it may fail at ranges alone.
const RANGES: u32 = 2;

/// How an answer ended: what has come of it is in the target.
enum Answered {
    /// The blob's end, or the gate was closed.
    Whole,
    Cut(RegistryError),
    /// It is not the blob.
    Wrong(TransferError),
}

impl<T: Target> Transfer<'_, T> {
    async fn complete(&mut self) -> Result<(), T::Error> {
        let had = self.target.length() > 0;
        let mut wrong = self.completed().await?;
        if had && wrong.is_some() {
            // What was here before, perhaps from another host, may be at fault.
            wrong = self.completed().await?;
        }
        wrong.map_or(Ok(()), |wrong| Err(wrong.into()))
    }

    /// Has as many bytes as the blob has; gives what is wrong with them, which are thrown away then, since to
    /// resume would only keep them.
    async fn completed(&mut self) -> Result<Option<TransferError>, T::Error> {
        let Descriptor {
            digest: expected,
            size,
            ..
        } = *self.blob;
        let (mut tries, mut pauses) = (0, Pauses::default());
        while self.target.length() < size {
            self.gate.open().await.map_err(TransferError::from)?;
            let before = self.target.length();
            match self.continued().await? {
                Answered::Whole => {}
                Answered::Wrong(wrong) => {
                    self.target.restart().await?;
                    return Ok(Some(wrong));
                }
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
                    tracing::info!(layer = %expected, have, of = size, %why, ?pause, "a transfer was cut; resuming");
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = self.gate.closed() => {}
                    }
                }
            }
        }
        let found = self.target.digest();
        if found == expected && self.target.length() == size {
            return Ok(None);
        }
        self.target.restart().await?;
        Ok(Some(TransferError::Digest { expected, found }))
    }

    /// Asks for what is not here; the answer says where it begins.
    async fn asked(&mut self) -> Result<(Response, u64), RegistryError> {
        let have = self.target.length();
        let rest = || self.registry.blob(self.blob.digest, have);
        let fails = |error: &RegistryError| matches!(error, RegistryError::Status(_));
        if self.failed_ranges < RANGES {
            let answer = rest().await;
            let failed = have > 0 && answer.as_ref().is_err_and(fails);
            self.failed_ranges = if failed { self.failed_ranges + 1 } else { 0 };
            return answer;
        }
        self.failed_ranges = 0;
        let whole = self.registry.blob(self.blob.digest, 0).await?;
        // It may be well again, and what is here is worth another question.
        match rest().await {
            Err(error) if fails(&error) => Ok(whole),
            answer => answer,
        }
    }

    /// Appends what one answer of the registry brings, as long as the gate is open.
    async fn continued(&mut self) -> Result<Answered, T::Error> {
        let (gate, have) = (self.gate, self.target.length());
        let answer = tokio::select! {
            answer = self.asked() => answer,
            () = gate.closed() => return Ok(Answered::Whole),
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
            let length = self.target.length();
            match chunk {
                Ok(Some(chunk)) => {
                    let longer = length + chunk.len() as u64;
                    if longer > self.blob.size {
                        break Ok(Answered::Wrong(self.wrong_size(longer)));
                    }
                    if let Err(error) = self.target.append(&chunk).await {
                        break Err(error);
                    }
                }
                Ok(None) if length == self.blob.size => break Ok(Answered::Whole),
                // The end of a part, or of a connection that was the only sign of the end. Where two answers
                // end, there is no more.
                Ok(None) if length != have => {
                    let why = "it sent less than was asked for".to_owned();
                    break Ok(Answered::Cut(RegistryError::Http(why)));
                }
                Ok(None) => break Ok(Answered::Wrong(self.wrong_size(length))),
                Err(error) => break Ok(Answered::Cut(registry::http(error))),
            }
        };
        // What came is worth keeping whatever happens next.
        self.target.flush().await?;
        received
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
