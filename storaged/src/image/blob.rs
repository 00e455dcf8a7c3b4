//! A layer to a file of a pool's, its space claimed as it comes, and under its name only when its digest is
//! right.

use std::{
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use loam_oci::{
    digest::Digest,
    gate::Gate,
    manifest::Descriptor,
    registry::Registry,
    transfer::{Target, TransferError, transfer},
};
use sha2::{Digest as _, Sha256};
use tokio::{
    fs::{self, File, OpenOptions},
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, SeekFrom},
};

use super::staging::Staging;
use crate::{durable, ledger::Full};

/// What a power cut may cost of a transfer.
const SYNC_EVERY: u64 = 32 << 20;

#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error("layer {digest} cannot be kept: {source}")]
    Io { digest: Digest, source: io::Error },
    #[error("no disk has room for layer {digest}: {full}")]
    NoSpace { digest: Digest, full: Full },
}

/// What layers of one attempt share.
#[derive(Debug)]
pub struct Layers<'a> {
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
pub async fn fetch(layers: &Layers<'_>, layer: &Descriptor) -> Result<(), BlobError> {
    let failed = io_error(layer.digest);
    let folder = layers.staging.folder();
    let finished = path(&folder, layer.digest);
    if fs::try_exists(&finished).await.map_err(&failed)? {
        layers.done.fetch_add(layer.size, Ordering::Relaxed);
        return Ok(());
    }
    let partial = folder.join(format!("{}.partial", layer.digest.hex()));
    let mut target = Partial::open(&partial, layer, layers).await?;
    transfer(layers.registry, layers.gate, layer, &mut target).await?;
    target.file.sync_all().await.map_err(&failed)?;
    tokio::task::spawn_blocking(move || durable::rename(&partial, &finished))
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(&failed)
}

/// What is handed to the file at once: a registry sends some kilobytes at a time, and each write to a file goes
/// by way of another thread.
const PIECE: usize = 256 << 10;

/// What is here of a layer.
struct Partial<'a> {
    file: File,
    /// The last of what is here, not yet in the file.
    pending: Vec<u8>,
    /// With what is pending.
    length: u64,
    hasher: Sha256,
    digest: Digest,
    layers: &'a Layers<'a>,
}

impl<'a> Partial<'a> {
    async fn open(
        path: &Path,
        layer: &Descriptor,
        layers: &'a Layers<'a>,
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
        let (file, length, hasher) = opened.await.map_err(io_error(layer.digest))?;
        layers.done.fetch_add(length, Ordering::Relaxed);
        let mut partial = Self {
            file,
            pending: Vec::with_capacity(PIECE),
            length,
            hasher,
            digest: layer.digest,
            layers,
        };
        if length > layer.size {
            partial.restart().await?;
        }
        Ok(partial)
    }
}

impl Partial<'_> {
    async fn write_pending(&mut self) -> Result<(), BlobError> {
        let written = self.file.write_all(&self.pending).await;
        self.pending.clear();
        written.map_err(io_error(self.digest))
    }
}

impl Target for Partial<'_> {
    type Error = BlobError;

    fn length(&self) -> u64 {
        self.length
    }

    fn digest(&self) -> Digest {
        Digest::finish(self.hasher.clone())
    }

    async fn append(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        let failed = io_error(self.digest);
        let length = self.length + bytes.len() as u64;
        let claim = self.layers.staging.claim();
        claim
            .grow(bytes.len() as u64)
            .map_err(|full| BlobError::NoSpace {
                digest: self.digest,
                full,
            })?;
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= PIECE {
            self.write_pending().await?;
        }
        self.hasher.update(bytes);
        if length / SYNC_EVERY > self.length / SYNC_EVERY {
            self.write_pending().await?;
            self.file.sync_data().await.map_err(&failed)?;
        }
        self.length = length;
        let done = self.layers.done;
        done.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), BlobError> {
        self.write_pending().await?;
        self.file.flush().await.map_err(io_error(self.digest))
    }

    async fn restart(&mut self) -> Result<(), BlobError> {
        self.pending.clear();
        let cleared = async {
            self.file.set_len(0).await?;
            self.file.seek(SeekFrom::Start(0)).await
        };
        cleared.await.map_err(io_error(self.digest))?;
        self.layers.done.fetch_sub(self.length, Ordering::Relaxed);
        self.layers.staging.claim().shrink_by(self.length);
        self.length = 0;
        self.hasher = Sha256::new();
        Ok(())
    }
}

fn io_error(digest: Digest) -> impl Fn(io::Error) -> BlobError {
    move |source| BlobError::Io { digest, source }
}
