//! The typed calls between the daemons of one node, and their transport over UNIX sockets.
//!
//! Each daemon owns one piece of the node's state and offers it here; no logic lives in this crate.
//!
//! | module | who serves it | what it owns |
//! |---|---|---|
//! | [`storage`] | `storaged` | disks, pools, volumes, images, the node's own small secrets |
//! | [`network`] | `netd` | links, uplink, tenants' networks, taps, published ports |
//! | [`machine`] | `init` | machine processes and their consoles, power |
//! | [`clock`] | `clockd` | what is known about the time |
//! | [`status`] | `init` | what noded has to say on the node's own screen |
//! | [`screen`] | `loam-screen` | nothing: it shows what init knows, and hears the keyboard |
//! | [`network_test`] | `loam-noded` | nothing: what a test of the node's network found out |
//! | [`vmm`] | `loam-vmm` | configuration of one VM, its events and its control socket |
//! | [`guest`] | `loam-guest-init` | what an OCI machine finds inside |
//! | [`debug`] | `init` | nothing: it looks in and breaks things, in images for developers |
//! | [`farm`] | | which farm a node joins, and who named it |
//! | [`image`] | | which image, and whose |
//! | [`system`] | | which image a node runs |
//! | [`healthcheck`] | | how programs are asked whether they do their work |
//! | [`window`] | | how large the terminal is at which a console is shown |
//! | [`signal`] | | how programs are asked to end |
//! | [`page`] | | how long lists are told, and when to look again |
//! | `tls` | | how certificates are judged while the time is not known |
//! | [`tenant`] | `noded` | what a tenant may ask the node directly, over the network |

pub mod clock;
pub mod debug;
pub mod farm;
pub mod guest;
pub mod healthcheck;
pub mod id;
pub mod image;
pub mod machine;
pub mod network;
pub mod network_test;
pub mod page;
pub mod path;
pub mod screen;
pub mod signal;
pub mod status;
pub mod storage;
pub mod system;
pub mod tenant;
#[cfg(feature = "tls")]
pub mod tls;
mod told;
pub mod transport;
pub mod vmm;
pub mod window;

pub use id::WorkloadId;
