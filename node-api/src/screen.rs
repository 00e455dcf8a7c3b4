//! What PID 1 tells the process that draws the node's screen, and what that one asks of it: lines of JSON over a
//! socket, [`Facts`] one way and [`Request`]s the other.
//!
//! The process has a user of its own and nothing but this socket and the consoles, for it shows what strangers wrote.

use std::time::Duration;

use loam_deployment::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    clock::{Clock, UnixTime},
    network_test::NetworkTest,
    status::NodeStatus,
};

/// The descriptor of the socket; those of the consoles follow, in the order of the arguments, which name them.
pub const SOCKET_FD: i32 = 3;

/// All that the screen shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Which image runs.
    pub image: String,
    /// How the boot before ended, if that was not well.
    pub last_boot: Option<String>,
    pub uptime: Duration,
    pub cpus: usize,
    /// Percent, over the last seconds.
    pub busy: u64,
    pub memory_total: Bytes,
    pub memory_used: Bytes,
    pub machines: usize,
    /// Promised to machines that run, and what may be promised at most.
    pub machines_memory: Bytes,
    pub machines_budget: Bytes,
    pub links: Vec<Link>,
    /// The kernel's clock, and what is known about it.
    pub now: UnixTime,
    pub clock: Clock,
    pub daemons: Vec<Daemon>,
    /// What noded told last; none since the boot.
    pub status: Option<NodeStatus>,
    /// What keeps the machine from being a node, and what to do, whatever noded says.
    pub trouble: Option<String>,
    pub warnings: Vec<String>,
    /// What the node does instead of its work, such as shutting down.
    pub phase: Option<String>,
    /// The last test of the network, if one was asked for since the boot.
    pub network_test: Option<NetworkTest>,
    /// The last lines of the log, oldest first, while they are asked for.
    pub log: Vec<String>,
}

/// A network interface of the machine's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub name: String,
    /// Whether there is something at the other end.
    pub carrier: bool,
    /// Megabits a second, where the driver knows.
    pub speed: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    pub name: String,
    /// `running`, `restarting`, ...
    pub state: String,
    pub runs: bool,
}

/// What whoever sits at the keyboard wants, and that the process is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// The facts have come: a process that is silent about them hangs.
    Seen,
    /// From now on, with the log or without.
    Log(bool),
    /// Begin a test of the network, unless one runs.
    TestNetwork,
    Reboot,
    PowerOff,
}
