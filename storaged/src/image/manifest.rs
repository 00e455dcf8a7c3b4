//! What an image consists of (OCI image specification 1.1, and Docker's schema 2 before it).
//!
//! Only what is used is read; everything read is checked against the [`limits`].

use std::collections::BTreeMap;

use loam_node_api::{
    signal::NoSignal,
    storage::{ImageConfig, MAX_IMAGE_CONFIG},
};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::Value;

use super::{digest::Digest, limits};

/// For the `Accept` header.
pub const MEDIA_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// What nodes run.
const OS: &str = "linux";
const ARCHITECTURE: &str = "amd64";

#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("the {what} cannot be read: {source}")]
    Json {
        what: &'static str,
        source: serde_json::Error,
    },
    #[error("`{0}` is not an image's manifest or index")]
    Kind(String),
    #[error("the index has no image for {OS}/{ARCHITECTURE}; it has {0}")]
    Platform(String),
    #[error("the image is for {0}; this node runs {OS}/{ARCHITECTURE}")]
    WrongPlatform(String),
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
    #[error(
        "what the image says about how to run it takes {size} bytes, most of them `{field}`; at \
         most {limit} are accepted",
        limit = MAX_IMAGE_CONFIG
    )]
    RunConfig { field: &'static str, size: usize },
    #[error("the image's `{field}` cannot be used: {what}")]
    RunField { field: &'static str, what: String },
    #[error("the image has {layers} layers but names the contents of {diff_ids}")]
    Mismatch { layers: usize, diff_ids: usize },
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

#[derive(Debug)]
pub struct Config {
    pub run: ImageConfig,
    /// Digests of the layers unpacked, lowest first.
    pub diff_ids: Vec<Digest>,
}

impl Document {
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Kind {
            media_type: Option<String>,
            manifests: Option<Vec<Descriptor>>,
            // A document that could be read both ways is read neither way.
            config: Option<IgnoredAny>,
        }
        let json = |source| ManifestError::Json {
            what: "manifest",
            source,
        };
        let kind: Kind = serde_json::from_slice(bytes).map_err(json)?;
        match (kind.manifests, kind.config) {
            (Some(manifests), None) => choose(manifests).map(Self::Index),
            (None, Some(_)) => {
                let manifest: Manifest = serde_json::from_slice(bytes).map_err(json)?;
                manifest.check()?;
                Ok(Self::Manifest(manifest))
            }
            _ => Err(ManifestError::Kind(
                kind.media_type.unwrap_or_else(|| "no type".to_owned()),
            )),
        }
    }
}

fn choose(manifests: Vec<Descriptor>) -> Result<Descriptor, ManifestError> {
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
            Err(ManifestError::Platform(others.join(", ")))
        }
    }
}

impl Manifest {
    /// What the layers come to as the registry serves them.
    pub fn compressed(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }

    fn check(&self) -> Result<(), ManifestError> {
        check_size("configuration", self.config.size, limits::CONFIG)?;
        if self.layers.len() > limits::LAYERS {
            return Err(ManifestError::Layers(self.layers.len()));
        }
        let mut total = 0u64;
        for layer in &self.layers {
            // How it is compressed shows in its first bytes. Docker's types end in `.tar.gzip`,
            // OCI's in `.tar`, `.tar+gzip`, `.tar+zstd`.
            let kind = &layer.media_type;
            let readable = [".tar", ".tar+gzip", ".tar+zstd", ".tar.gzip", ".tar.zstd"];
            if !readable.iter().any(|end| kind.ends_with(end)) {
                return Err(ManifestError::LayerType(kind.chars().take(120).collect()));
            }
            total = total.saturating_add(layer.size);
        }
        check_size("image", total, limits::COMPRESSED)
    }
}

fn check_size(what: &'static str, size: u64, limit: u64) -> Result<(), ManifestError> {
    if size > limit {
        return Err(ManifestError::Size { what, size, limit });
    }
    Ok(())
}

impl Config {
    /// `layers` is how many the manifest names.
    pub fn parse(bytes: &[u8], layers: usize) -> Result<Self, ManifestError> {
        let json = |source| ManifestError::Json {
            what: "configuration",
            source,
        };
        // As builders read them: what is not UTF-8 is replaced, and fails nothing that does not need it.
        let text = String::from_utf8_lossy(bytes);
        let file: ConfigFile = serde_json::from_str(&text).map_err(json)?;
        if file.os != OS || file.architecture != ARCHITECTURE {
            return Err(ManifestError::WrongPlatform(format!(
                "{}/{}",
                file.os, file.architecture
            )));
        }
        let diff_ids = file.rootfs.diff_ids;
        if diff_ids.len() != layers {
            return Err(ManifestError::Mismatch {
                layers,
                diff_ids: diff_ids.len(),
            });
        }
        let run = file.config.unwrap_or_default().read()?;
        check_run(&run)?;
        Ok(Self { run, diff_ids })
    }
}

/// As the guest will be told it: as JSON, in which some bytes take six.
fn check_run(run: &ImageConfig) -> Result<(), ManifestError> {
    fn json(value: &impl serde::Serialize) -> Result<usize, ManifestError> {
        let json = serde_json::to_vec(value).map_err(|source| ManifestError::Json {
            what: "configuration",
            source,
        })?;
        Ok(json.len())
    }
    let size = json(run)?;
    if size <= MAX_IMAGE_CONFIG {
        return Ok(());
    }
    let fields = [
        ("Env", json(&run.env)?),
        ("Cmd", json(&run.cmd)?),
        ("Entrypoint", json(&run.entrypoint)?),
        ("User", json(&run.user)?),
        ("WorkingDir", json(&run.working_dir)?),
        ("Volumes", json(&run.volumes)?),
    ];
    let largest = fields.into_iter().max_by_key(|(_, size)| *size);
    let field = largest.map_or("Env", |(field, _)| field);
    Err(ManifestError::RunConfig { field, size })
}

#[derive(Deserialize)]
struct ConfigFile {
    architecture: String,
    os: String,
    config: Option<RunConfig>,
    rootfs: RootFs,
}

/// Builders write `null` for what is empty. What is read of each field, what is refused and what is
/// ignored stands in `docs/oci.md`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RunConfig {
    entrypoint: Option<Value>,
    cmd: Option<Value>,
    env: Option<Value>,
    working_dir: Option<Value>,
    user: Option<Value>,
    stop_signal: Option<Value>,
    volumes: Option<Value>,
}

impl RunConfig {
    fn read(self) -> Result<ImageConfig, ManifestError> {
        let mut entrypoint: Vec<String> = field("Entrypoint", self.entrypoint)?;
        // How a builder writes that the entry point of the image below is not wanted.
        if entrypoint == [""] {
            entrypoint.clear();
        }
        let volumes: BTreeMap<String, IgnoredAny> = field("Volumes", self.volumes)?;
        let stop_signal: String = field("StopSignal", self.stop_signal)?;
        Ok(ImageConfig {
            entrypoint,
            cmd: field("Cmd", self.cmd)?,
            env: field("Env", self.env)?,
            working_dir: field("WorkingDir", self.working_dir)?,
            user: field("User", self.user)?,
            stop_signal: match stop_signal.as_str() {
                "" => None,
                name => Some(name.parse().map_err(|error| ManifestError::RunField {
                    field: "StopSignal",
                    what: NoSignal::to_string(&error),
                })?),
            },
            volumes: volumes.into_keys().collect(),
        })
    }
}

/// A field that is not of its type is named.
fn field<T: Default + DeserializeOwned>(
    field: &'static str,
    value: Option<Value>,
) -> Result<T, ManifestError> {
    let value = value.map(serde_json::from_value).transpose();
    let value = value.map_err(|error| ManifestError::RunField {
        field,
        // It repeats what is there.
        what: error.to_string().chars().take(200).collect(),
    })?;
    Ok(value.unwrap_or_default())
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
