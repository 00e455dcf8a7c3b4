//! [`FetchError`]: why an image is not here, and what that means for the next try.

use std::{io, time::Duration};

use loam_deployment::Bytes;
use loam_oci::{
    digest::Digest, manifest::DocumentError, registry::RegistryError, transfer::TransferError,
};

use super::{
    answering::Hangs, blob::BlobError, config::ConfigError, erofs::TooLarge, tarball::TarError,
    tree::TreeError,
};
use crate::ledger::Full;

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("the registry takes too long to send the image's manifest or configuration")]
    SlowDocument,
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("the layers come too slowly; at least {0} a second are expected")]
    Slow(Bytes),
    #[error("the layers have been coming for {0} hours")]
    TooLong(u64),
    #[error("layer {}: {source}", .layer + 1)]
    Tar { layer: usize, source: TarError },
    #[error("layer {}: {source}", .layer + 1)]
    Tree { layer: usize, source: TreeError },
    #[error("layer {} unpacks to {found}; the configuration says {expected}", .layer + 1)]
    DiffId {
        layer: usize,
        expected: Digest,
        found: Digest,
    },
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    #[error("its layers were not read after {0:?}")]
    Unread(Duration),
    #[error("no disk is ready; attach an empty one")]
    NoPool,
    #[error("no disk has room for it: {0}")]
    NoSpace(#[from] Full),
    #[error("{what}: {source}")]
    Io {
        what: &'static str,
        source: io::Error,
    },
    #[error(transparent)]
    Hangs(#[from] Hangs),
    #[error("it is no longer wanted")]
    Stopped,
}

impl FetchError {
    /// Whether what has come is of use for the next try: the registry was at fault, and it may
    /// answer better; or the login, of which there may be a better one. All others would find the
    /// same, or have filled the disk.
    pub fn keeps_layers(&self) -> bool {
        match (self, self.registry()) {
            (_, Some(RegistryError::Status(_) | RegistryError::LoginDenied(_))) => true,
            (_, Some(error)) => error.is_passing(),
            (Self::SlowDocument | Self::Slow(_) | Self::Hangs(_), None) => true,
            _ => false,
        }
    }

    /// How long to leave the registry alone, if all that is wrong is that it wants that, or that it fails in a
    /// way that may pass and has not done so too often: `passing` says whether it may once more.
    pub fn wait(&self, passing: bool) -> Option<Duration> {
        match self.registry() {
            Some(RegistryError::Busy { wait, .. }) => Some(wait.unwrap_or_default()),
            Some(error) if passing && error.is_passing() => Some(Duration::ZERO),
            None if passing && matches!(self, Self::SlowDocument | Self::Slow(_)) => {
                Some(Duration::ZERO)
            }
            _ => None,
        }
    }

    /// Whether who was asked is at fault, so that another who has the image may do better.
    pub fn is_registrys(&self) -> bool {
        match self {
            Self::Registry(_) | Self::SlowDocument | Self::Slow(_) => true,
            Self::Blob(BlobError::Transfer(error)) => !matches!(error, TransferError::Halted(_)),
            _ => false,
        }
    }

    /// What the registry was at fault for.
    fn registry(&self) -> Option<&RegistryError> {
        match self {
            Self::Registry(error)
            | Self::Blob(BlobError::Transfer(TransferError::Registry(error))) => Some(error),
            _ => None,
        }
    }

    /// Whether it held the place where images are built for as long as any may: that costs all others their turn,
    /// as a death of storaged does.
    pub fn is_death(&self) -> bool {
        matches!(self, Self::Unread(_))
    }

    /// Whether the image is at fault, whoever serves it.
    pub fn is_flaw(&self) -> bool {
        matches!(
            self,
            Self::Document(_)
                | Self::Config(_)
                | Self::Tar { .. }
                | Self::Tree { .. }
                | Self::DiffId { .. }
                | Self::TooLarge(_)
        )
    }

    /// In a list of many, none may be long.
    pub fn shown(&self) -> String {
        self.to_string().chars().take(500).collect()
    }
}

pub fn io(what: &'static str) -> impl Fn(io::Error) -> FetchError {
    move |source| FetchError::Io { what, source }
}
