//! A layer to a file: resumed where it was cut, and under its name only when its digest is right.

use std::{
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use sha2::{Digest as _, Sha256};
use tokio::{
    fs::{self, File, OpenOptions},
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, SeekFrom},
};

use super::{
    digest::Digest,
    gate::{Gate, Halted},
    manifest::Descriptor,
    registry::{self, Registry, RegistryError},
    staging::Staging,
};
use crate::{durable, ledger::Full};

/// A connection that breaks is made anew at once for as long as each try brings something.
const TRIES: u32 = 32;

/// What a power cut may cost of a transfer.
const SYNC_EVERY: u64 = 32 << 20;

#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("layer {digest} cannot be kept: {source}")]
    Io { digest: Digest, source: io::Error },
    #[error("layer {digest} has {found} bytes where the manifest says {expected}")]
    Size {
        digest: Digest,
        expected: u64,
        found: u64,
    },
    #[error("layer {expected} came with another digest, {found}")]
    Digest { expected: Digest, found: Digest },
    #[error("no disk has room for layer {digest}: {full}")]
    NoSpace { digest: Digest, full: Full },
    #[error(transparent)]
    Halted(#[from] Halted),
}

/// What layers of one attempt share.
#[derive(Debug)]
pub struct Transfer<'a> {
    pub registry: &'a Registry,
    pub staging: &'a Staging,
    pub gate: &'a Gate,
    /// Rises by each byte, also by those that were there before.
    pub done: &'a AtomicU64,
}

/// Where a layer is once it is here and checked.
pub fn path(folder: &Path, digest: Digest) -> PathBuf {
    folder.join(digest.hex())
}

/// Has the layer in the staging folder.
pub async fn fetch(transfer: &Transfer<'_>, layer: &Descriptor) -> Result<(), BlobError> {
    let folder = transfer.staging.folder();
    let finished = path(&folder, layer.digest);
    if fs::try_exists(&finished)
        .await
        .map_err(|source| io_error(layer, source))?
    {
        transfer.done.fetch_add(layer.size, Ordering::Relaxed);
        return Ok(());
    }
    let partial = partial(&folder, layer.digest);
    complete(transfer, layer, &partial).await?;
    tokio::task::spawn_blocking(move || durable::rename(&partial, &finished))
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(|source| io_error(layer, source))
}

async fn complete(
    transfer: &Transfer<'_>,
    layer: &Descriptor,
    path: &Path,
) -> Result<(), BlobError> {
    let mut partial = Partial::open(path, layer, transfer).await?;
    let mut tries = 0;
    while partial.length < layer.size {
        transfer.gate.open().await?;
        let before = partial.length;
        match partial.append(layer).await {
            Ok(()) => {}
            Err(BlobError::Registry(RegistryError::Http(why)))
                if partial.length > before && tries < TRIES =>
            {
                tries += 1;
                tracing::info!(layer = %layer.digest, have = partial.length, of = layer.size, %why, "a transfer was cut; resuming");
            }
            Err(error) => return Err(error),
        }
    }
    let found = Digest::finish(partial.hasher.clone());
    if found != layer.digest {
        // Resuming would only keep what is wrong.
        partial.restart(layer).await?;
        return Err(BlobError::Digest {
            expected: layer.digest,
            found,
        });
    }
    partial
        .file
        .sync_all()
        .await
        .map_err(|source| io_error(layer, source))
}

/// What is here of a layer.
struct Partial<'a> {
    file: File,
    length: u64,
    hasher: Sha256,
    transfer: &'a Transfer<'a>,
}

impl<'a> Partial<'a> {
    async fn open(
        path: &Path,
        layer: &Descriptor,
        transfer: &'a Transfer<'a>,
    ) -> Result<Self, BlobError> {
        let opened = async {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)
                .await?;
            let mut hasher = Sha256::new();
            let mut length = 0;
            let mut buffer = vec![0; 256 << 10];
            loop {
                let read = file.read(&mut buffer).await?;
                if read == 0 {
                    break;
                }
                hasher.update(&buffer[..read]);
                length += read as u64;
            }
            Ok((file, length, hasher))
        };
        let (file, length, hasher) = opened.await.map_err(|source| io_error(layer, source))?;
        transfer.done.fetch_add(length, Ordering::Relaxed);
        let mut partial = Self {
            file,
            length,
            hasher,
            transfer,
        };
        if length > layer.size {
            partial.restart(layer).await?;
        }
        Ok(partial)
    }

    /// Appends what one answer of the registry brings, as long as the gate is open.
    async fn append(&mut self, layer: &Descriptor) -> Result<(), BlobError> {
        let Transfer { registry, gate, .. } = self.transfer;
        let (mut response, start) = tokio::select! {
            answer = registry.blob(layer.digest, self.length) => answer?,
            () = gate.closed() => return Ok(()),
        };
        if start != self.length {
            // A registry that knows no ranges begins anew.
            self.restart(layer).await?;
            if start != 0 {
                let why = format!("it sends from byte {start} on, unasked");
                return Err(RegistryError::Http(why).into());
            }
        }
        let received: Result<bool, BlobError> = loop {
            let chunk = tokio::select! {
                chunk = response.chunk() => chunk,
                () = gate.closed() => break Ok(false),
            };
            match chunk {
                Ok(Some(chunk)) => {
                    if let Err(error) = self.write(&chunk, layer).await {
                        break Err(error);
                    }
                }
                Ok(None) => break Ok(true),
                Err(error) => break Err(BlobError::Registry(registry::http(error))),
            }
        };
        // What came is worth keeping whatever happens next.
        self.file
            .flush()
            .await
            .map_err(|source| io_error(layer, source))?;
        let ended = received?;
        if ended && self.length < layer.size {
            let (expected, found) = (layer.size, self.length);
            return Err(BlobError::Size {
                digest: layer.digest,
                expected,
                found,
            });
        }
        Ok(())
    }

    async fn write(&mut self, chunk: &[u8], layer: &Descriptor) -> Result<(), BlobError> {
        let length = self.length + chunk.len() as u64;
        if length > layer.size {
            let (expected, found) = (layer.size, length);
            return Err(BlobError::Size {
                digest: layer.digest,
                expected,
                found,
            });
        }
        let claim = self.transfer.staging.claim();
        claim
            .grow(chunk.len() as u64)
            .map_err(|full| BlobError::NoSpace {
                digest: layer.digest,
                full,
            })?;
        self.file
            .write_all(chunk)
            .await
            .map_err(|source| io_error(layer, source))?;
        self.hasher.update(chunk);
        if length / SYNC_EVERY > self.length / SYNC_EVERY {
            self.file
                .sync_data()
                .await
                .map_err(|source| io_error(layer, source))?;
        }
        self.length = length;
        let done = self.transfer.done;
        done.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    async fn restart(&mut self, layer: &Descriptor) -> Result<(), BlobError> {
        let cleared = async {
            self.file.set_len(0).await?;
            self.file.seek(SeekFrom::Start(0)).await
        };
        cleared.await.map_err(|source| io_error(layer, source))?;
        self.transfer.done.fetch_sub(self.length, Ordering::Relaxed);
        self.transfer.staging.claim().shrink_by(self.length);
        self.length = 0;
        self.hasher = Sha256::new();
        Ok(())
    }
}

fn partial(folder: &Path, digest: Digest) -> PathBuf {
    folder.join(format!("{}.partial", digest.hex()))
}

fn io_error(layer: &Descriptor, source: io::Error) -> BlobError {
    BlobError::Io {
        digest: layer.digest,
        source,
    }
}
