//! What a developer's image answers on the virtio port [`PORT`]: looking in, and breaking things.
//!
//! Only an image that says `allow_grid_override = true` opens the port, and only the one who runs
//! the virtual machine around the node holds its other end: a hypervisor could do all this anyway.
//! The tests that boot the image kill daemons and look for left-overs by it.

use serde::{Deserialize, Serialize};

/// Name of the port (`/sys/class/virtio-ports/*/name`).
pub const PORT: &str = "loam.debug";

/// One JSON object a line, answered by one [`DebugResponse`] each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "request")]
pub enum DebugRequest {
    /// SIGKILL to the daemon of this name (`noded`, `netd`, `storaged`).
    Kill { service: String },
    /// The names in a folder, sorted; links are not followed.
    List { path: String },
    /// A file's bytes, 64 KiB at most.
    Read { path: String },
    /// How many bytes a file has; links are not followed.
    Length { path: String },
    /// Has the kernel panic, as a broken driver would. Answered, if at all, only when it does not.
    Panic,
    /// Has PID 1 stand still, as one that is stuck in the kernel would. Never answered.
    Freeze,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "response")]
pub enum DebugResponse {
    Killed { pid: i32 },
    Names { names: Vec<String> },
    Bytes { bytes: Vec<u8> },
    Length { length: u64 },
    Error { reason: String },
}
