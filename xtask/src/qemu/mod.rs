//! Nodes in QEMU: a computer with UEFI firmware that boots the image from a USB disk, as a
//! farmer's would, with its console, its logs and its power button in our hands. And machines without
//! a node ([`guest`]).

pub mod accel;
pub mod config;
pub mod debug_port;
pub mod disk;
pub mod firmware;
pub mod guest;
pub mod node;
pub mod process;
pub mod qmp;
pub mod transcript;

use anyhow::Result;
use loam_chain::{GridConfig, local::LocalChain};
use loam_deployment::FarmId;

pub use accel::Accel;
pub use config::{Medium, NodeConfig, WatchdogAction};
pub use debug_port::DebugPort;
pub use disk::{Bus, Cache, Disk};
pub use node::Node;
pub use transcript::Transcript;

/// QEMU's own name for the machine we emulate.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// How this machine looks from inside QEMU's user network.
pub const HOST: &str = "10.0.2.2";

/// … and from one without IPv4, as a host in a URL. What is sent there comes to `::1`.
pub const HOST_BY_IPV6: &str = "[fec0::2]";

/// `grid.toml` for a node that joins a chain of this machine, and reaches it at `host` (as in a URL) and
/// `port`.
pub fn grid_toml(chain: &LocalChain, farm: FarmId, host: &str, port: u16) -> Result<String> {
    let config = GridConfig {
        endpoints: vec![format!("http://{host}:{port}")],
        farm: Some(farm),
        ..chain.config()
    };
    Ok(toml::to_string(&config)?)
}
