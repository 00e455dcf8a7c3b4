//! What an image consists of (OCI image specification 1.1, and Docker's schema 2 before it).
//!
//! Only what is used is read; everything read is checked against the [`limits`].

use serde::Deserialize;

use crate::{
    digest::Digest,
    json::{self, JsonError},
    limits,
    platform::{ARCHITECTURE, Level, OS, Platform},
};

/// For the `Accept` header.
pub const MEDIA_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("the manifest cannot be read: {0}")]
    Json(#[from] JsonError),
    #[error("`{0}` is not an image's manifest or index")]
    Kind(String),
    #[error("the index has no image for {OS}/{ARCHITECTURE} that this node runs; it has {0}")]
    Platform(String),
    #[error("the index leads to more than {limit} others", limit = limits::INDEXES)]
    Indexes,
    #[error("the {what} has {size} bytes; at most {limit} are accepted")]
    Size {
        what: &'static str,
        size: u64,
        limit: u64,
    },
    #[error("the image has {0} layers; at most {limit} are accepted", limit = limits::LAYERS)]
    Layers(usize),
    #[error(
        "layer {layer} is of type `{kind}`, which is not a tar archive that this node can unpack"
    )]
    LayerType {
        /// From 1, the lowest.
        layer: usize,
        kind: String,
    },
}

/// One part of an image: where to ask for it, and how to check it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Absent, `null` and empty are the same.
    media_type: Option<String>,
    pub digest: Digest,
    pub size: u64,
    /// Only in an index, and not always there.
    platform: Option<Platform>,
}

#[derive(Debug)]
pub enum Document {
    Index(Index),
    Manifest(Manifest),
}

/// Images for several platforms, or indexes of them.
#[derive(Debug)]
pub struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
pub struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

impl Document {
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        /// What is of no kind that we know, named by another digest, or simply broken, is one
        /// entry less, and no reason to refuse the others.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Entry {
            Readable(Descriptor),
            Unreadable(serde::de::IgnoredAny),
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Kind {
            media_type: Option<String>,
            manifests: Option<Vec<Entry>>,
            // A document that could be read both ways is read neither way.
            config: Option<serde::de::IgnoredAny>,
        }
        let kind: Kind = json::read(bytes)?;
        match (kind.manifests, kind.config) {
            (Some(entries), None) => {
                let readable = entries.into_iter().filter_map(|entry| match entry {
                    Entry::Readable(descriptor) => Some(descriptor),
                    Entry::Unreadable(_) => None,
                });
                let manifests = readable.collect();
                Ok(Self::Index(Index { manifests }))
            }
            (None, Some(_)) => {
                let manifest: Manifest = json::read(bytes)?;
                manifest.check()?;
                Ok(Self::Manifest(manifest))
            }
            _ => Err(DocumentError::Kind(
                kind.media_type.unwrap_or_else(|| "no type".to_owned()),
            )),
        }
    }
}

impl Index {
    /// What a node of this level may run, the best first, with the level that each needs: as much of the
    /// processor as there is an image for. What says nothing of its platform (it is OPTIONAL) comes
    /// last. Among equals the index's order decides.
    pub fn candidates(&self, level: Level) -> Vec<(&Descriptor, Level)> {
        let mut found: Vec<_> = self
            .manifests
            .iter()
            .filter(|entry| entry.is_document())
            .filter_map(|entry| {
                let needs = match &entry.platform {
                    Some(platform) => Some(platform.level()?),
                    None => None,
                };
                (needs.unwrap_or_default() <= level).then_some((entry, needs))
            })
            .collect();
        found.sort_by_key(|(_, needs)| std::cmp::Reverse(*needs));
        let known = |(entry, needs): (_, Option<Level>)| (entry, needs.unwrap_or_default());
        found.into_iter().map(known).collect()
    }

    /// What it has, for those who miss something.
    pub fn platforms(&self) -> String {
        let platforms = self.manifests.iter().filter_map(|d| d.platform.as_ref());
        let shown = platforms.map(|platform| platform.to_string().chars().take(80).collect());
        let shown: Vec<String> = shown.take(8).collect();
        match shown.as_slice() {
            [] => "none whose platform is known".to_owned(),
            shown => shown.join(", "),
        }
    }
}

impl Descriptor {
    /// Empty if it says none.
    fn media_type(&self) -> &str {
        self.media_type.as_deref().unwrap_or_default()
    }

    /// Whether an image may be behind it: the specification has readers pass over types that they do not
    /// know. Some builders leave the type out.
    fn is_document(&self) -> bool {
        let mut known = MEDIA_TYPES.split(", ");
        self.media_type().is_empty() || known.any(|known| known == self.media_type())
    }

    /// Of a manifest or index that is to be read.
    pub fn check_document(&self) -> Result<(), DocumentError> {
        check_size("manifest", self.size, limits::MANIFEST)
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
        for (number, layer) in self.layers.iter().enumerate() {
            // How it is compressed shows in its first bytes. Docker's types end in `.tar.gzip`,
            // OCI's in `.tar`, `.tar+gzip`, `.tar+zstd`.
            let kind = layer.media_type();
            let readable = [".tar", ".tar+gzip", ".tar+zstd", ".tar.gzip", ".tar.zstd"];
            if !readable.iter().any(|end| kind.ends_with(end)) {
                return Err(DocumentError::LayerType {
                    layer: number + 1,
                    kind: kind.chars().take(120).collect(),
                });
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
