//! Nodes in QEMU: a computer with UEFI firmware that boots the image from a USB disk, as a
//! farmer's would, with its console, its logs and its power button in our hands.

pub mod accel;
pub mod debug_port;
pub mod firmware;
pub mod node;
pub mod process;
pub mod qmp;
pub mod transcript;

pub use accel::Accel;
pub use debug_port::DebugPort;
pub use node::{Bus, Disk, Node, NodeConfig};
pub use transcript::Transcript;

/// QEMU's own name for the machine we emulate.
pub const PROGRAM: &str = "qemu-system-x86_64";
