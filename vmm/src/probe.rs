//! Does KVM work here? `/dev/kvm` may exist and still be useless, so this runs a real guest.
//!
//! A few instructions of real mode: count down, write the answer to a port, halt. The time that
//! the countdown took is part of the answer: some machines offer a KVM that emulates every
//! instruction, and no kernel boots on these.

use std::{
    fmt,
    time::{Duration, Instant},
};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

const CODE_AT: u64 = 0x1000;
const MEMORY: usize = 0x4000;
const ROUNDS: u32 = 1 << 20;
const ANSWER: u8 = 0x2a;
const PORT: u16 = 0x10;

#[derive(Debug)]
pub struct Report {
    pub rounds: u32,
    pub took: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "KVM works: a guest counted to {} in {} ms",
            self.rounds,
            self.took.as_millis()
        )
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("cannot open /dev/kvm: {0}")]
    Open(vmm_sys_util::errno::Error),
    #[error("KVM refuses {what}: {error}")]
    Kvm {
        what: &'static str,
        error: vmm_sys_util::errno::Error,
    },
    #[error("cannot give memory to the probe's guest: {0}")]
    Memory(String),
    #[error("the probe's guest did not count and answer, but left with: {0}")]
    Exit(String),
}

fn refused(what: &'static str) -> impl Fn(vmm_sys_util::errno::Error) -> ProbeError {
    move |error| ProbeError::Kvm { what, error }
}

pub fn run() -> Result<Report, ProbeError> {
    let kvm = Kvm::new().map_err(ProbeError::Open)?;
    let vm = kvm.create_vm().map_err(refused("a VM"))?;
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY)])
        .map_err(|error| ProbeError::Memory(error.to_string()))?;
    let rounds = ROUNDS.to_le_bytes();
    let code = [
        // mov ecx, ROUNDS; dec ecx; jnz back
        &[0x66, 0xb9][..],
        &rounds,
        &[0x66, 0x49, 0x75, 0xfc],
        // mov al, ANSWER; out PORT, al; hlt
        &[0xb0, ANSWER, 0xe6, PORT as u8, 0xf4],
    ]
    .concat();
    let host = memory
        .write_slice(&code, GuestAddress(CODE_AT))
        .and_then(|()| memory.get_host_address(GuestAddress(0)))
        .map_err(|error| ProbeError::Memory(error.to_string()))?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: host as u64,
        flags: 0,
    };
    // SAFETY: the memory outlives the VM, which is dropped first, and nothing borrows from it.
    unsafe { vm.set_user_memory_region(region) }.map_err(refused("memory"))?;
    let mut vcpu = vm.create_vcpu(0).map_err(refused("a virtual CPU"))?;
    let mut system = vcpu.get_sregs().map_err(refused("system registers"))?;
    system.cs.base = 0;
    system.cs.selector = 0;
    vcpu.set_sregs(&system)
        .map_err(refused("system registers"))?;
    let mut general = vcpu.get_regs().map_err(refused("registers"))?;
    general.rip = CODE_AT;
    general.rflags = 2;
    vcpu.set_regs(&general).map_err(refused("registers"))?;

    let start = Instant::now();
    match vcpu.run().map_err(refused("to run"))? {
        VcpuExit::IoOut(PORT, [ANSWER]) => {}
        exit => return Err(ProbeError::Exit(format!("{exit:?}"))),
    }
    let took = start.elapsed();
    match vcpu.run().map_err(refused("to run"))? {
        VcpuExit::Hlt => Ok(Report {
            rounds: ROUNDS,
            took,
        }),
        exit => Err(ProbeError::Exit(format!("{exit:?}"))),
    }
}
