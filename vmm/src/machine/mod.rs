//! The machine: [`assembly`] puts its parts together, [`running`] keeps them until their end.

pub mod assembly;
pub mod devices;
pub mod running;

use crate::{
    boot::BootError,
    config::Config,
    events::{End, EventPipe, NoticeBoard, Notices},
    seccomp::SeccompError,
    vcpu::VcpuError,
};

#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    #[error("KVM here is of version {0}, not 12")]
    KvmVersion(i32),
    #[error("KVM here lacks {0}; the node's kernel is too old or the descriptor is not /dev/kvm")]
    KvmLacks(&'static str),
    #[error("KVM refuses {what}: {error}")]
    Kvm {
        what: &'static str,
        error: vmm_sys_util::errno::Error,
    },
    #[error(transparent)]
    Memory(#[from] crate::memory::MemoryError),
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    #[error("disk `{serial}`: {error}")]
    Disk {
        serial: String,
        error: std::io::Error,
    },
    #[error("interface {mac}: {error}")]
    Tap {
        mac: loam_node_api::network::Mac,
        error: crate::backend::tap::TapError,
    },
    #[error(transparent)]
    Console(#[from] crate::backend::console_ring::RingError),
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    #[error("{what}: {error}")]
    System {
        what: &'static str,
        error: std::io::Error,
    },
}

pub fn kvm_refuses(what: &'static str) -> impl Fn(vmm_sys_util::errno::Error) -> MachineError {
    move |error| MachineError::Kvm { what, error }
}

pub fn system(what: &'static str) -> impl Fn(std::io::Error) -> MachineError {
    move |error| MachineError::System { what, error }
}

/// Builds the machine and runs it until its end.
pub fn run(
    config: Config,
    notices: &Notices,
    board: &NoticeBoard,
    events: &mut EventPipe,
) -> Result<End, MachineError> {
    let assembled = assembly::assemble(config, notices, board)?;
    running::run(assembled, notices, board, events)
}
