//! What `storaged` offers: disks, pools, volumes, images, the node's own small secrets.
//!
//! Every call is idempotent, and returns at once: what takes long (a pull) goes on in the daemon
//! and shows in the state of a later call. Lists come in pages (see [`crate::page`]), and
//! [`Storage::changes`] says when to look again.

use std::{fmt, path::PathBuf};

use loam_deployment::{
    Bytes, ContractId, ImageDigest, NodeKey, Version,
    payload::{Filesystem, Media},
};
use serde::{Deserialize, Serialize};

use crate::{
    WorkloadId,
    healthcheck::Healthcheck,
    image::{Image, ImageRequest},
    page::{Page, Revision},
    signal::StopSignal,
};

#[tarpc::service]
pub trait Storage {
    /// Returns once something that the lists of this trait show differs from revision `seen`, at
    /// the latest after [`crate::page::LONGEST_WAIT`]; with the revision of now. How far a fetch is
    /// does not count as a change, its end does.
    async fn changes(seen: Revision) -> Revision;

    /// Every disk that the kernel shows, used or not.
    async fn disks() -> Vec<Disk>;
    async fn pools() -> Vec<Pool>;

    /// Makes the volume exist with this size; grows it if it is smaller. Never shrinks. Notes
    /// `version` as the newest deployment that named the volume, if it is newer than the one noted.
    async fn volume_ensure(
        key: VolumeKey,
        spec: VolumeSpec,
        version: Version,
    ) -> Result<Volume, StorageError>;
    /// In the order of their keys, from the first one behind `after` on. Also those that cannot be
    /// used now: they can be deleted.
    async fn volumes(after: Option<VolumeKey>) -> Page<Volume>;
    /// Removes the volume and its data. Absent is success. A volume is never removed because
    /// nothing names it: the caller says what allows it, and what the record of the volume
    /// contradicts is refused.
    async fn volume_delete(key: VolumeKey, why: Deletion) -> Result<(), StorageError>;

    /// Starts to fetch the image unless it is here or being fetched, and says how far it is.
    /// A failed fetch starts again, no sooner than its back-off allows, or with another login. The
    /// next try is with the login that was named last.
    async fn image_ensure(request: ImageRequest) -> ImageStatus;
    /// Attempts by their images, and what is ready, each under one of the names of its content; in
    /// the order of the images, from the first one behind `after` on.
    async fn images(after: Option<Image>) -> Page<ImageStatus>;
    /// What a ready image says about how to run it.
    async fn image_config(image: Image) -> Result<ImageConfig, StorageError>;
    /// Ends the attempt at this image; removes what is ready by its content. Absent is success.
    async fn image_delete(image: Image) -> Result<(), StorageError>;

    /// Says who this node is, so that the marks on its pools name it to another node.
    async fn node_is(node: NodeKey) -> Result<(), StorageError>;

    /// Small secrets of the node itself (its identity), kept on a pool. At most 4 KiB each.
    async fn secret_load(name: String) -> Result<Option<Vec<u8>>, StorageError>;
    /// Durable before it returns.
    async fn secret_store(name: String, secret: Vec<u8>) -> Result<(), StorageError>;
}

/// What allows a volume to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deletion {
    /// A verified deployment of this version, newer than any that named the volume, does not.
    Unnamed { by: Version },
    /// The chain has the contract's record, and its state is cancelled.
    Cancelled,
}

/// What a volume is for; its file's name on the pool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeKey {
    /// A tenant's volume.
    Data(WorkloadId),
    /// The writable layer of a machine over one image; another image means another layer.
    Root {
        machine: WorkloadId,
        image: ImageDigest,
    },
}

impl VolumeKey {
    pub fn contract(&self) -> ContractId {
        match self {
            Self::Data(id) => id.contract,
            Self::Root { machine, .. } => machine.contract,
        }
    }
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
    /// The file to hand to a machine as its disk. None while it cannot be used;
    /// [`Storage::volume_ensure`] says why.
    pub path: Option<PathBuf>,
    /// Space that its data takes now.
    pub used: Bytes,
    /// The newest deployment that named it.
    pub version: Version,
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
    /// Holds something that is not ours; never written. The text says what was found: for a pool of
    /// another node that node's key, for a copy of a pool in use that pool.
    Foreign(String),
    /// Could not be read or made a pool, or has not answered for a while; the text says why.
    Failed(String),
    /// Not fit for a pool: removable, read-only or too small. The text says which.
    Unfit(String),
}

/// What [`DiskState::Unfit`] says of a disk that can be pulled out, such as the one that the node boots from.
pub const REMOVABLE: &str = "removable";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// File system UUID.
    pub id: String,
    /// Where it is mounted; each path that storaged gives is below one of these.
    pub root: PathBuf,
    /// Another one when the pool is mounted anew, since its disk was away. What a machine had open
    /// then is lost to it for good.
    pub mount: MountId,
    pub media: Media,
    pub size: Bytes,
    /// Promised to volumes.
    pub reserved: Bytes,
    /// Free for new data now.
    pub free: Bytes,
}

/// The kernel's number of a mount (`statx(2)`, `STATX_MNT_ID_UNIQUE`), never given twice in one boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MountId(pub u64);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageStatus {
    pub image: Image,
    pub state: ImageState,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageState {
    Fetching {
        done: Bytes,
        /// Known once the manifest is here.
        total: Option<Bytes>,
        /// Why nothing comes for now: the registry wants to be asked later, and will be, or others' images come
        /// first.
        waits_for: Option<String>,
        /// Why the try before this one failed.
        failed_before: Option<String>,
    },
    Ready {
        /// The read-only EROFS file to hand to a machine as its disk.
        path: PathBuf,
    },
    /// Tried again on a later [`Storage::image_ensure`].
    Failed(String),
}

/// The largest [`ImageConfig`] as JSON. The other half of what a guest can be told is left to its
/// deployment, which is never as large.
pub const MAX_IMAGE_CONFIG: usize = crate::machine::MAX_GUEST_CONFIG / 2;

/// What an image says about how to run it (OCI image configuration, `config`). At most
/// [`MAX_IMAGE_CONFIG`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    pub working_dir: String,
    /// As in the image: name or number, optionally `:group`.
    pub user: String,
    /// None: the image does not say. (So do the records of images that were kept before this was
    /// read, as for the next one.)
    #[serde(default)]
    pub stop_signal: Option<StopSignal>,
    /// Folders that the image wants to be there.
    #[serde(default)]
    pub volumes: Vec<String>,
    #[serde(default)]
    pub healthcheck: Option<Healthcheck>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum StorageError {
    #[error("no pool of the media asked for has {wanted} free; most free on one: {free}")]
    NoSpace { wanted: Bytes, free: Bytes },
    #[error("no disk is ready; attach an empty one")]
    NoPool,
    #[error("{key} has {has}, which is more than {wanted}; a volume may grow but never shrink")]
    Shrink {
        key: Box<VolumeKey>,
        has: Bytes,
        wanted: Bytes,
    },
    #[error("{key} cannot change from {has} to {wanted}")]
    Changed {
        key: Box<VolumeKey>,
        has: String,
        wanted: String,
    },
    #[error("image {0} is not here")]
    NoImage(Box<Image>),
    #[error("{key} was named by version {named} of its deployment, so version {by} cannot drop it")]
    StillNamed {
        key: Box<VolumeKey>,
        named: Version,
        by: Version,
    },
    /// The disk that it would be on does not answer.
    #[error("pool {0} does not answer; its disk hangs")]
    Hangs(String),
    #[error("{0}")]
    Io(String),
}
