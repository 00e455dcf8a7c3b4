//! What an OCI machine finds inside: read by `loam-guest-init` from `/loam/guest.json` in its
//! initramfs, and what the two ends of its agent port say to each other.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{network::Mac, signal::StopSignal};

/// Where guest init finds its [`GuestConfig`].
pub const CONFIG_PATH: &str = "/loam/guest.json";

/// Name of the virtio-console port between guest init and the VMM (`/sys/class/virtio-ports`).
pub const AGENT_PORT: &str = "loam.agent";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestConfig {
    pub hostname: String,
    /// Serial of the disk with the read-only image (EROFS).
    pub image_disk: String,
    /// Serial of the disk with the writable layer (ext4).
    pub root_disk: String,
    pub mounts: Vec<GuestMount>,
    pub interfaces: Vec<GuestInterface>,
    pub dns: Vec<IpAddr>,
    /// Never empty.
    pub command: Vec<String>,
    /// `NAME=value`, later ones win. What is no such thing is passed over.
    pub env: Vec<String>,
    /// Made if absent. Empty: `/`, from where a relative one is taken.
    pub working_dir: String,
    /// Name or number, optionally `:group`, resolved in the image's `/etc/passwd`. Empty: root.
    pub user: String,
    /// By which the command is asked to end. None: SIGTERM, or for systemd its own.
    pub stop_signal: Option<StopSignal>,
    /// Folders that are made if absent.
    pub volumes: Vec<String>,
    /// Written to `.ssh/authorized_keys` in root's home. Without any, those of an earlier start go.
    pub ssh_keys: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestMount {
    /// Serial of the disk.
    pub disk: String,
    /// Absolute; made if absent.
    pub path: String,
    /// `ext4`, `btrfs`; none: the disk is linked to `path` as a block device.
    pub filesystem: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestInterface {
    /// The guest finds the interface by it.
    pub mac: Mac,
    pub addresses: Vec<IpNet>,
    /// Default routes, one per address family at most.
    pub gateways: Vec<IpAddr>,
    /// What it carries in one packet, in bytes; 1500 if nothing is said.
    #[serde(default)]
    pub mtu: Option<u16>,
}

/// Guest to VMM, one JSON object a line, at most 4 KiB each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum GuestEvent {
    /// The command was started.
    Started,
    /// The command ended; 128 + signal when killed. Power-off follows.
    Exited { status: i32 },
    /// The machine could not be set up; the text says why. Power-off follows.
    Failed { reason: String },
}

/// VMM to guest, one JSON object a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "request")]
pub enum GuestRequest {
    /// End the command (by its stop signal) and power off.
    Stop,
}
