//! What `init` offers: machine processes, their consoles, power.
//!
//! Machine processes are children of PID 1, so they outlive every daemon.

use std::path::PathBuf;

use loam_deployment::{Bytes, report::Health};
use serde::{Deserialize, Serialize};

use crate::{
    WorkloadId,
    guest::GuestConfig,
    network::Mac,
    page::{Page, Revision},
    status::NodeStatus,
    window::WindowSize,
};

#[tarpc::service]
pub trait Machines {
    /// Returns once something that [`Machines::machines`] shows differs from revision `seen`, other
    /// than ages and console positions, at the latest after [`crate::page::LONGEST_WAIT`]; with the
    /// revision of now.
    async fn changes(seen: Revision) -> Revision;

    /// Whether [`Machines::machine_start`] would take this machine if the one of the same id that
    /// runs now had ended: its values, and the memory budget. Changes nothing.
    async fn machine_check(spec: MachineSpec) -> Result<(), MachineError>;
    /// Starts the machine process. A machine of this id that runs is an error; one that ended is
    /// replaced, and what it wrote to its console stays before what the new one writes.
    async fn machine_start(spec: MachineSpec) -> Result<(), MachineError>;
    /// Asks the guest to shut down and ends it by force after `grace_seconds`. Returns at once;
    /// absent is success.
    async fn machine_stop(id: WorkloadId, grace_seconds: u32) -> Result<(), MachineError>;
    /// In the order of their ids, from the first one behind `after` on.
    async fn machines(after: Option<WorkloadId>) -> Page<Machine>;
    /// Drops the record and the console of a machine that ended; until then it is listed, however
    /// many others have ended (their oldest consoles go). Absent is success.
    async fn machine_forget(id: WorkloadId) -> Result<(), MachineError>;

    /// What the guest wrote to its console, from position `from` on (0: the oldest kept).
    async fn console_read(id: WorkloadId, from: u64) -> Result<ConsoleChunk, MachineError>;
    /// Types into the guest's console.
    async fn console_write(id: WorkloadId, bytes: Vec<u8>) -> Result<(), MachineError>;
    /// Tells the guest how large its console is shown.
    async fn console_resize(id: WorkloadId, size: WindowSize) -> Result<(), MachineError>;

    /// What the node's own screen shall show.
    async fn set_status(status: NodeStatus);
    /// Stops the machines, then the daemons, then the node.
    async fn shutdown(how: Shutdown);
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSpec {
    pub id: WorkloadId,
    /// Made by noded from all that a restart is needed to change; compared, never read.
    pub fingerprint: String,
    /// 1 to 64.
    pub cpus: u32,
    pub memory: Bytes,
    pub boot: Boot,
    pub on_reset: OnReset,
    /// In the order in which the guest sees them.
    pub disks: Vec<MachineDisk>,
    pub interfaces: Vec<MachineInterface>,
}

/// What follows when the guest resets itself: by its own will, or since its kernel panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnReset {
    /// It gets another process, at once or after a while.
    Restart,
    /// The machine has failed.
    End,
}

/// The largest [`GuestConfig`] as JSON. It comes from a deployment, which has 24 KiB, and from what
/// an image says ([`crate::storage::MAX_IMAGE_CONFIG`]).
pub const MAX_GUEST_CONFIG: usize = 512 << 10;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boot {
    /// The node's guest kernel and guest init, which finds this configuration in its initramfs.
    Guest(Box<GuestConfig>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineDisk {
    pub path: PathBuf,
    pub read_only: bool,
    /// At most 20 ASCII characters; the guest finds the disk by it.
    pub serial: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineInterface {
    /// Name of an existing persistent tap.
    pub tap: String,
    /// Path of the network namespace that holds the tap, as netd said; init's own when absent.
    #[serde(default)]
    pub namespace: Option<PathBuf>,
    pub mac: Mac,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub id: WorkloadId,
    pub fingerprint: String,
    pub state: MachineState,
    /// Seconds since the process was started.
    pub age_seconds: u64,
    /// While it runs, if its image has a check.
    pub health: Option<MachineHealth>,
    /// How often the guest restarted itself within this process record.
    pub resets: u32,
    /// How it ended before it was started again.
    pub ends: Option<EarlierEnds>,
    /// Position after the last byte that the guest wrote to its console.
    pub console_position: u64,
}

/// How earlier lives of a machine ended that was started again with the same fingerprint. Lives that
/// were asked to end do not count, nor those that could not begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlierEnds {
    /// At least one.
    pub count: u32,
    /// A text in it has at most [`loam_deployment::limits::DETAIL_BYTES`].
    pub last: Exit,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineHealth {
    pub health: Health,
    /// Of one that is unhealthy: why its last check failed, in the guest's words, without control
    /// characters. At most [`crate::guest::MAX_CHECK_OUTPUT`] bytes.
    pub output: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MachineState {
    /// The process runs; the guest has not yet said that its command was started.
    Booting,
    /// The guest's command was started (or, without a guest init, the kernel was entered).
    Running,
    Paused,
    /// Asked to shut down.
    Stopping,
    /// It has ended so, but its process is still there although it was killed, as the kernel waits
    /// for a disk on its behalf: until it is gone it holds all that the machine had.
    Ending(Exit),
    Exited(Exit),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// The guest powered off. The status of its command (128 + signal when killed), if it said so.
    PoweredOff { status: Option<i32> },
    /// Ended by force after it was asked to stop.
    Killed,
    /// It has run, and the VMM failed or the guest could not be set up; the text says why.
    Failed(String),
    /// There was no VMM that could have run it: a file of it could not be opened, or the like; the
    /// text says why.
    NotStarted(String),
}

impl Exit {
    /// Of one that failed.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Failed(reason) | Self::NotStarted(reason) => Some(reason),
            Self::PoweredOff { .. } | Self::Killed => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleChunk {
    /// Position of the first byte of `bytes`; above the asked one if older bytes were dropped.
    pub start: u64,
    /// At most 64 KiB.
    pub bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shutdown {
    PowerOff,
    Reboot,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum MachineError {
    #[error("there is no machine {0} here")]
    Unknown(WorkloadId),
    #[error("machine {0} is already here")]
    Exists(WorkloadId),
    #[error("machine {0} still runs")]
    Runs(WorkloadId),
    #[error("machine {id}: {what}")]
    Launch { id: WorkloadId, what: String },
    #[error("the node is shutting down")]
    ShuttingDown,
}
