//! What an image says about itself: its configuration (OCI image specification 1.1, and Docker's schema 2
//! before it).
//!
//! Only what is used is read; everything read is checked against its limit.

use loam_node_api::storage::{ImageConfig, MAX_IMAGE_CONFIG};
use loam_oci::{
    digest::Digest,
    platform::{ARCHITECTURE, OS},
};
use serde::Deserialize;

#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("the {what} cannot be read: {source}")]
    Json {
        what: &'static str,
        source: serde_json::Error,
    },
    #[error("the image is for {0}; this node runs {OS}/{ARCHITECTURE}")]
    WrongPlatform(String),
    #[error(
        "what the image says about how to run it takes {size} bytes, most of them `{field}`; at \
         most {limit} are accepted",
        limit = MAX_IMAGE_CONFIG
    )]
    RunConfig { field: &'static str, size: usize },
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
    pub fn parse(bytes: &[u8], layers: usize) -> Result<Self, ManifestError> {
        let json = |source| ManifestError::Json {
            what: "configuration",
            source,
        };
        let file: ConfigFile = serde_json::from_slice(bytes).map_err(json)?;
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
        let run = file.config.unwrap_or_default();
        let run = ImageConfig {
            entrypoint: run.entrypoint.unwrap_or_default(),
            cmd: run.cmd.unwrap_or_default(),
            env: run.env.unwrap_or_default(),
            working_dir: run.working_dir.unwrap_or_default(),
            user: run.user.unwrap_or_default(),
        };
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

/// Builders write `null` for what is empty.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RunConfig {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
