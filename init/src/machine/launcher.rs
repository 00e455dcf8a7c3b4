//! [`Launcher`]: how [`super::Machines`] has processes made, so that its decisions can be tested
//! without any.

use std::{fmt, sync::Arc};

use loam_node_api::{WorkloadId, machine::MachineSpec};
use rustix::process::Pid;

use super::{console::ConsoleRing, lifecycle::Input, resource::DiskIdentity};

/// None of these calls waits for anything: what takes time is told by [`News`] later.
pub trait Launcher: fmt::Debug {
    /// Opens what a process of the machine may use; [`News::Opened`] says that it is done. One at a
    /// time for one id.
    fn open(&mut self, order: Order) -> anyhow::Result<()>;

    /// Nobody needs what is being opened any longer. [`News::Opened`] comes soon, whatever hangs.
    fn give_up(&mut self, id: &WorkloadId);

    /// Makes the process with what was opened. After an error there is none.
    fn launch(&mut self, id: &WorkloadId) -> anyhow::Result<Pid>;

    /// Asks the guest to shut down. If that fails, the end of its grace settles it.
    fn ask_to_stop(&mut self, id: &WorkloadId);

    fn kill(&mut self, pid: Pid);

    /// Gives back all that the machine had of the node. It has no process any longer.
    fn release(&mut self, id: &WorkloadId);
}

/// What is to be opened, and for whom.
#[derive(Clone, Debug)]
pub struct Order {
    pub spec: Arc<MachineSpec>,
    /// As [`super::request::check`] gave it.
    pub guest_config: Arc<[u8]>,
    pub console: Arc<ConsoleRing>,
    /// User and group of the VMM.
    pub user: u32,
    /// Which process of the machine this will be; news of others are old.
    pub launch: u32,
}

/// What becomes of a launch.
#[derive(Debug)]
pub enum News {
    /// What it may use is open; or why not.
    Opened(Result<Vec<DiskIdentity>, String>),
    /// The program runs: the launch has come to its end.
    Executed,
    /// For its lifecycle.
    Life(Input),
}
