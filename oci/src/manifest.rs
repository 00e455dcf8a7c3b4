//! What an image consists of (OCI image specification 1.1, and Docker's schema 2 before it).
//!
//! Only what is used is read; everything read is checked against the [`limits`].

use serde::Deserialize;

use crate::{digest::Digest, limits};

/// For the `Accept` header.
pub const MEDIA_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// What nodes run.
pub const OS: &str = "linux";
pub const ARCHITECTURE: &str = "amd64";

#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("the manifest cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    #[error("`{0}` is not an image's manifest or index")]
    Kind(String),
    #[error("the index has no image for {OS}/{ARCHITECTURE}; it has {0}")]
    Platform(String),
    #[error("the {what} has {size} bytes; at most {limit} are accepted")]
    Size {
        what: &'static str,
        size: u64,
        limit: u64,
    },
    #[error("the image has {0} layers; at most {limit} are accepted", limit = limits::LAYERS)]
    Layers(usize),
    #[error("a layer is of type `{0}`, which is not a tar archive that this node can unpack")]
    LayerType(String),
}

/// One part of an image: where to ask for it, and how to check it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    platform: Option<Platform>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Debug)]
pub enum Document {
    /// Images for several platforms; the one for nodes.
    Index(Descriptor),
    Manifest(Manifest),
}

#[derive(Debug, Deserialize)]
pub struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

impl Document {
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Kind {
            media_type: Option<String>,
            manifests: Option<Vec<Descriptor>>,
            // A document that could be read both ways is read neither way.
            config: Option<serde::de::IgnoredAny>,
        }
        let kind: Kind = serde_json::from_slice(bytes)?;
        match (kind.manifests, kind.config) {
            (Some(manifests), None) => choose(manifests).map(Self::Index),
            (None, Some(_)) => {
                let manifest: Manifest = serde_json::from_slice(bytes)?;
                manifest.check()?;
                Ok(Self::Manifest(manifest))
            }
            _ => Err(DocumentError::Kind(
                kind.media_type.unwrap_or_else(|| "no type".to_owned()),
            )),
        }
    }
}

fn choose(manifests: Vec<Descriptor>) -> Result<Descriptor, DocumentError> {
    let fits = |d: &Descriptor| {
        d.platform
            .as_ref()
            .is_some_and(|p| p.os == OS && p.architecture == ARCHITECTURE)
    };
    match manifests.iter().find(|d| fits(d)) {
        Some(found) => {
            check_size("manifest", found.size, limits::MANIFEST)?;
            Ok(found.clone())
        }
        None => {
            let others: Vec<_> = manifests
                .iter()
                .filter_map(|d| d.platform.as_ref())
                .map(|p| format!("{}/{}", p.os, p.architecture))
                .take(8)
                .collect();
            Err(DocumentError::Platform(others.join(", ")))
        }
    }
}

impl Manifest {
    /// What the layers come to as the registry serves them.
    pub fn compressed(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }

    fn check(&self) -> Result<(), DocumentError> {
        check_size("configuration", self.config.size, limits::CONFIG)?;
        if self.layers.len() > limits::LAYERS {
            return Err(DocumentError::Layers(self.layers.len()));
        }
        let mut total = 0u64;
        for layer in &self.layers {
            // How it is compressed shows in its first bytes. Docker's types end in `.tar.gzip`,
            // OCI's in `.tar`, `.tar+gzip`, `.tar+zstd`.
            let kind = &layer.media_type;
            let readable = [".tar", ".tar+gzip", ".tar+zstd", ".tar.gzip", ".tar.zstd"];
            if !readable.iter().any(|end| kind.ends_with(end)) {
                return Err(DocumentError::LayerType(kind.chars().take(120).collect()));
            }
            total = total.saturating_add(layer.size);
        }
        check_size("image", total, limits::COMPRESSED)
    }
}

fn check_size(what: &'static str, size: u64, limit: u64) -> Result<(), DocumentError> {
    if size > limit {
        return Err(DocumentError::Size { what, size, limit });
    }
    Ok(())
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
