//! What an image says about itself: its configuration (OCI image specification 1.1, and Docker's schema 2
//! before it).
//!
//! Only what is used is read; everything read is checked against its limit.

use std::collections::BTreeMap;

use loam_node_api::{
    signal::NoSignal,
    storage::{ImageConfig, MAX_IMAGE_CONFIG},
};
use loam_oci::{
    digest::Digest,
    json::{self, JsonError},
    platform::{ARCHITECTURE, OS},
};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::Value;

use super::healthcheck;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the configuration cannot be read: {0}")]
    Json(#[from] JsonError),
    #[error("the image is for {0}; this node runs {OS}/{ARCHITECTURE}")]
    WrongPlatform(String),
    #[error(
        "what the image says about how to run it takes {size} bytes, most of them `{field}`; at \
         most {limit} are accepted",
        limit = MAX_IMAGE_CONFIG
    )]
    RunConfig { field: &'static str, size: usize },
    #[error("the image's `{field}` cannot be used: {what}")]
    RunField { field: String, what: String },
    #[error("the image has {layers} layers but names the contents of {diff_ids}")]
    Mismatch { layers: usize, diff_ids: usize },
}

#[derive(Debug)]
pub struct Config {
    pub run: ImageConfig,
    /// Digests of the layers unpacked, lowest first.
    pub diff_ids: Vec<Digest>,
}

impl Config {
    /// `layers` is how many the manifest names.
    pub fn parse(bytes: &[u8], layers: usize) -> Result<Self, ConfigError> {
        // As builders read them: what is not UTF-8 is replaced, and fails nothing that does not need it.
        let text = String::from_utf8_lossy(bytes);
        let file: ConfigFile = json::read(text.as_bytes())?;
        if file.os != OS || file.architecture != ARCHITECTURE {
            return Err(ConfigError::WrongPlatform(format!(
                "{}/{}",
                file.os, file.architecture
            )));
        }
        let diff_ids = file.rootfs.diff_ids;
        if diff_ids.len() != layers {
            return Err(ConfigError::Mismatch {
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
fn check_run(run: &ImageConfig) -> Result<(), ConfigError> {
    fn json(value: &impl serde::Serialize) -> usize {
        serde_json::to_vec(value).map_or(usize::MAX, |json| json.len())
    }
    let size = json(run);
    if size <= MAX_IMAGE_CONFIG {
        return Ok(());
    }
    let fields = [
        ("Env", json(&run.env)),
        ("Cmd", json(&run.cmd)),
        ("Entrypoint", json(&run.entrypoint)),
        ("User", json(&run.user)),
        ("WorkingDir", json(&run.working_dir)),
        ("Volumes", json(&run.volumes)),
        ("Healthcheck", json(&run.healthcheck)),
    ];
    let largest = fields.into_iter().max_by_key(|(_, size)| *size);
    let field = largest.map_or("Env", |(field, _)| field);
    Err(ConfigError::RunConfig { field, size })
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
    healthcheck: Option<Value>,
    shell: Option<Value>,
}

impl RunConfig {
    fn read(self) -> Result<ImageConfig, ConfigError> {
        let mut entrypoint: Vec<String> = field("Entrypoint", self.entrypoint)?;
        // How a builder writes that the entry point of the image below is not wanted.
        if entrypoint == [""] {
            entrypoint.clear();
        }
        let volumes: BTreeMap<String, IgnoredAny> = field("Volumes", self.volumes)?;
        let check: healthcheck::Written = field("Healthcheck", self.healthcheck)?;
        let stop_signal: String = field("StopSignal", self.stop_signal)?;
        Ok(ImageConfig {
            entrypoint,
            cmd: field("Cmd", self.cmd)?,
            env: field("Env", self.env)?,
            working_dir: field("WorkingDir", self.working_dir)?,
            user: field("User", self.user)?,
            stop_signal: match stop_signal.as_str() {
                "" => None,
                name => Some(name.parse().map_err(|error| ConfigError::RunField {
                    field: "StopSignal".to_owned(),
                    what: NoSignal::to_string(&error),
                })?),
            },
            volumes: volumes.into_keys().collect(),
            healthcheck: check.read(|| field("Shell", self.shell))?,
        })
    }
}

/// A field that is not of its type is named.
fn field<T: Default + DeserializeOwned>(
    field: &'static str,
    value: Option<Value>,
) -> Result<T, ConfigError> {
    let value = value.map(json::read_part).transpose();
    let value = value.map_err(|error| {
        let JsonError { place, what } = error.below(field);
        ConfigError::RunField { field: place, what }
    })?;
    Ok(value.unwrap_or_default())
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
