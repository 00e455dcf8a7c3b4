//! What an OCI machine finds inside: read by `loam-guest-init` from `/loam/guest.json` in its
//! initramfs, and what the two ends of its agent port say to each other.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{healthcheck::Healthcheck, network::Mac, signal::StopSignal, window::WindowSize};

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
    /// What is run beside the command, to see whether it is healthy.
    pub healthcheck: Option<Healthcheck>,
    /// Folders that are made if absent.
    pub volumes: Vec<String>,
    /// Written to `.ssh/authorized_keys` in root's home. Without any, those of an earlier start go.
    pub ssh_keys: Vec<String>,
}

impl GuestConfig {
    /// A machine with what none can be without, and nothing else: what it has besides is the caller's to add.
    /// noded, which has a deployment and an image to think of, states every field.
    pub fn bare(hostname: &str, image_disk: &str, root_disk: &str, command: &[&str]) -> Self {
        Self {
            hostname: hostname.to_owned(),
            image_disk: image_disk.to_owned(),
            root_disk: root_disk.to_owned(),
            mounts: Vec::new(),
            interfaces: Vec::new(),
            dns: Vec::new(),
            command: command.iter().map(|&part| part.to_owned()).collect(),
            env: Vec::new(),
            working_dir: String::new(),
            user: String::new(),
            stop_signal: None,
            healthcheck: None,
            volumes: Vec::new(),
            ssh_keys: Vec::new(),
        }
    }
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
    /// The kernel has come as far as guest init, which sets the machine up now.
    Booted,
    /// The command was started.
    Started,
    /// The command ended; 128 + signal when killed. Power-off follows.
    Exited { status: i32 },
    /// The machine could not be set up; the text says why. Power-off follows.
    Failed { reason: String },
    /// What the checks of the command say now; told when it differs, and at most once in
    /// [`HEALTH_PAUSE`]. Before the first one of a life nothing is known yet.
    Health {
        healthy: bool,
        /// Of one that is not: why the last check failed, with the end of what it wrote. At most
        /// [`MAX_CHECK_OUTPUT`] bytes.
        output: String,
    },
}

/// A node writes changes of health to the chain, and a machine that changes all the time says
/// nothing that its owner could use.
pub const HEALTH_PAUSE: Duration = Duration::from_secs(60);

/// Fits a report beside a few words (`loam_deployment::limits::DETAIL_BYTES`).
pub const MAX_CHECK_OUTPUT: usize = 200;

/// VMM to guest, one JSON object a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "request")]
pub enum GuestRequest {
    /// End the command (by its stop signal) and power off.
    Stop,
    /// The console is shown at a terminal of this size.
    ///
    /// virtio-console has a message for it (virtio 1.2, 5.3.6.2, `VIRTIO_CONSOLE_RESIZE`), but kernels
    /// differ on whether columns or rows come first in it.
    ConsoleSize { size: WindowSize },
}
