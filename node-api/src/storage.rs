//! What `storaged` offers: disks, pools, volumes, images, the node's own small secrets.
//!
//! Every call is idempotent, and returns at once: what takes long (a pull) goes on in the daemon
//! and shows in the state of a later call.

use std::{fmt, path::PathBuf};

use loam_deployment::{
    Bytes,
    payload::{Filesystem, Media, OciReference},
};
use serde::{Deserialize, Serialize};

use crate::WorkloadId;

#[tarpc::service]
pub trait Storage {
    /// Every disk that the kernel shows, used or not.
    async fn disks() -> Vec<Disk>;
    async fn pools() -> Vec<Pool>;

    /// Makes the volume exist with this size; grows it if it is smaller. Never shrinks.
    async fn volume_ensure(key: VolumeKey, spec: VolumeSpec) -> Result<Volume, StorageError>;
    async fn volumes() -> Vec<Volume>;
    /// Removes the volume and its data. Absent is success.
    async fn volume_delete(key: VolumeKey) -> Result<(), StorageError>;

    /// Starts to fetch the image unless it is here or being fetched, and says how far it is.
    /// A failed fetch starts again, no sooner than its back-off allows.
    async fn image_ensure(image: OciReference) -> ImageStatus;
    async fn images() -> Vec<ImageStatus>;
    /// Removes every image that is not named, and ends the fetches of those.
    async fn images_retain(used: Vec<OciReference>) -> Result<(), StorageError>;

    /// Small secrets of the node itself (its identity), kept on a pool. At most 4 KiB each.
    async fn secret_load(name: String) -> Result<Option<Vec<u8>>, StorageError>;
    /// Durable before it returns.
    async fn secret_store(name: String, secret: Vec<u8>) -> Result<(), StorageError>;
}

/// What a volume is for; its file's name on the pool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeKey {
    /// A tenant's volume.
    Data(WorkloadId),
    /// The writable layer of a machine over one image; another image means another layer.
    Root { machine: WorkloadId, image: String },
}

impl fmt::Display for VolumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(id) => write!(f, "volume {id}"),
            Self::Root { machine, .. } => write!(f, "root layer of {machine}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    pub size: Bytes,
    pub media: Media,
    pub filesystem: Filesystem,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    pub key: VolumeKey,
    pub spec: VolumeSpec,
    /// The file to hand to a machine as its disk.
    pub path: PathBuf,
    /// Space that its data takes now.
    pub used: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Stable across boots: WWID, else model and serial number. What a farmer names to have it wiped.
    pub id: String,
    /// `/dev/vda`.
    pub device: PathBuf,
    pub size: Bytes,
    /// Never [`Media::Any`].
    pub media: Media,
    pub state: DiskState,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskState {
    /// Holds the pool with this file system UUID.
    Pool(String),
    /// Holds something that is not ours; never written. The text says what was found.
    Foreign(String),
    /// Could not be read or made a pool; the text says why.
    Failed(String),
    /// Not fit for a pool: removable, read-only or too small. The text says which.
    Unfit(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// File system UUID.
    pub id: String,
    pub media: Media,
    pub size: Bytes,
    /// Promised to volumes.
    pub reserved: Bytes,
    /// Free for new data now.
    pub free: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageStatus {
    pub image: OciReference,
    pub state: ImageState,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageState {
    Fetching {
        done: Bytes,
        /// Known once the manifest is here.
        total: Option<Bytes>,
    },
    Ready {
        /// The read-only EROFS file to hand to a machine as its disk.
        path: PathBuf,
        config: ImageConfig,
    },
    /// Tried again on a later [`Storage::image_ensure`].
    Failed(String),
}

/// What an image says about how to run it (OCI image configuration, `config`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    pub working_dir: String,
    /// As in the image: name or number, optionally `:group`.
    pub user: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum StorageError {
    #[error("no pool of the media asked for has {wanted} free; most free on one: {free}")]
    NoSpace { wanted: Bytes, free: Bytes },
    #[error("no disk is ready; attach an empty one")]
    NoPool,
    #[error("{key} has {has}, which is more than {wanted}; a volume may grow but never shrink")]
    Shrink {
        key: VolumeKey,
        has: Bytes,
        wanted: Bytes,
    },
    #[error("{key} cannot change from {has} to {wanted}")]
    Changed {
        key: VolumeKey,
        has: String,
        wanted: String,
    },
    #[error("{0}")]
    Io(String),
}
