//! What `loam-vmm` is told, what it tells, and its control socket.
//!
//! The VMM holds descriptors, not paths: the launcher passes open descriptors, and the
//! configuration names them by number.

use loam_deployment::Bytes;
use serde::{Deserialize, Serialize};

use crate::{network::Mac, window::WindowSize};

/// The descriptor on which `loam-vmm` finds its [`VmmConfig`] as JSON (read to the end).
pub const CONFIG_FD: i32 = 3;

/// Number of an open descriptor of the VMM process, 4 or above.
pub type Fd = i32;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmmConfig {
    /// For messages only.
    pub name: String,
    /// 1 to 64.
    pub cpus: u32,
    pub memory: Bytes,
    /// `/dev/kvm`.
    pub kvm: Fd,
    /// bzImage or ELF vmlinux.
    pub kernel: Fd,
    /// Loaded one after the other, each padded to 4 bytes, as the kernel's initramfs.
    pub initrds: Vec<Fd>,
    pub command_line: String,
    pub disks: Vec<DiskConfig>,
    pub interfaces: Vec<InterfaceConfig>,
    /// A shared memory file of [`console::SIZE`] bytes that keeps the guest's last output.
    pub console: Fd,
    /// Receives [`VmmEvent`]s, one JSON object a line (a pipe's writing end).
    pub events: Fd,
    /// A listening UNIX stream socket; each connection speaks [`ControlRequest`] and
    /// [`ControlResponse`], one JSON object a line.
    pub control: Fd,
    /// Whether to apply seccomp filters; off only for debugging.
    pub seccomp: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskConfig {
    pub file: Fd,
    pub read_only: bool,
    /// At most 20 ASCII characters.
    pub serial: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceConfig {
    /// A tap with `IFF_NO_PI | IFF_VNET_HDR`.
    pub tap: Fd,
    pub mac: Mac,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum VmmEvent {
    /// The first virtual CPU was entered.
    Started,
    /// The guest's init said that it sets the machine up.
    GuestBooted,
    /// The guest's init said that its command was started.
    GuestStarted,
    /// The guest's init said that its command ended with this status.
    GuestExited { status: i32 },
    /// The guest's init said that it could not set the machine up.
    GuestFailed { reason: String },
    /// The guest's init said what the checks of its command say (`guest::GuestEvent::Health`).
    GuestHealth { healthy: bool, output: String },
    /// The guest powered off; the process ends with status 0.
    PoweredOff,
    /// The guest asked for a reset; the process ends with status 0 and is to be started again.
    Reset,
    /// The VM cannot go on; the process ends with status 1.
    Failed { reason: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "request")]
pub enum ControlRequest {
    State,
    Pause,
    Resume,
    /// Asks the guest to shut down: by the agent port if guest init listens there, else by the
    /// ACPI power button.
    Stop,
    /// Types into the guest's console.
    ConsoleInput {
        bytes: Vec<u8>,
    },
    /// Tells guest init how large the console is shown, now or as soon as it listens.
    ConsoleSize {
        size: WindowSize,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "response")]
pub enum ControlResponse {
    Done,
    State { state: VmState },
    Error { reason: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmState {
    Running,
    Paused,
    Stopping,
}

/// Layout of the shared memory file that keeps the guest's last console output.
///
/// The launcher makes it (sealed against resizing) and outlives the VMM, so that a tenant can read
/// what a machine wrote before it died.
///
/// | offset | bytes | what |
/// |---|---|---|
/// | 0 | 8 | `position`, little-endian: how many bytes were ever written; stored (release) after the bytes |
/// | 4096 | [`RING`](console::RING) | the bytes: byte `n` ever written is at `n % RING` |
pub mod console {
    pub const RING_OFFSET: usize = 4096;
    pub const RING: usize = 1 << 20;
    pub const SIZE: usize = RING_OFFSET + RING;
}
