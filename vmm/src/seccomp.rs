//! One system call filter per kind of thread. What a filter does not list kills the process: it
//! is either a bug or an attack, and the VM is the only thing that ends.

use std::sync::Arc;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use crate::backend::tap;

#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    #[error("cannot build a system call filter: {0}")]
    Build(#[from] seccompiler::BackendError),
    #[error("cannot apply a system call filter: {0}")]
    Apply(#[from] seccompiler::Error),
    #[error("cannot give up new privileges: {0}")]
    NoNewPrivileges(std::io::Error),
}

/// The filters, made before any is applied.
#[derive(Clone, Debug)]
pub struct Filters {
    /// The main thread, once everything is set up: control socket and events.
    pub main: Arc<BpfProgram>,
    /// Virtual CPUs.
    pub vcpu: Arc<BpfProgram>,
    /// virtio workers.
    pub device: Arc<BpfProgram>,
}

/// Every thread: memory, waiting, time, logging to stderr, ending.
const COMMON: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    // Keys of hash maps.
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_read,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    // The allocator's, when a thread first needs an arena.
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_write,
];

const MAIN: &[libc::c_long] = &[
    libc::SYS_accept4,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    // Kicks CPUs out of the guest.
    libc::SYS_tgkill,
];

const DEVICE: &[libc::c_long] = &[
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
    libc::SYS_fdatasync,
    // Where a disk's file holds data.
    libc::SYS_lseek,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_writev,
];

/// KVM's ioctls after set-up (linux/kvm.h).
const KVM_RUN: u64 = 0xae80;
const KVM_GET_REGS: u64 = 0x8090_ae81;
const KVM_KVMCLOCK_CTRL: u64 = 0xaead;
const KVM_IRQ_LINE: u64 = 0x4008_ae61;
const KVM_SET_GSI_ROUTING: u64 = 0x4008_ae6a;
const KVM_IOEVENTFD: u64 = 0x4040_ae79;
/// `ioctl(FIONBIO)`, by which the standard library makes sockets non-blocking.
const FIONBIO: u64 = 0x5421;

impl Filters {
    pub fn build() -> Result<Self, SeccompError> {
        Ok(Self {
            main: program(MAIN, &[KVM_IRQ_LINE, FIONBIO])?,
            vcpu: program(
                &[],
                &[
                    KVM_RUN,
                    KVM_GET_REGS,
                    KVM_KVMCLOCK_CTRL,
                    KVM_IRQ_LINE,
                    KVM_SET_GSI_ROUTING,
                    KVM_IOEVENTFD,
                ],
            )?,
            device: program(DEVICE, &[tap::TUNSETOFFLOAD])?,
        })
    }
}

/// The filter that allows `COMMON`, `calls`, and these ioctls.
fn program(calls: &[libc::c_long], ioctls: &[u64]) -> Result<Arc<BpfProgram>, SeccompError> {
    let mut rules: std::collections::BTreeMap<_, Vec<SeccompRule>> = COMMON
        .iter()
        .chain(calls)
        .map(|call| (*call, Vec::new()))
        .collect();
    let ioctls = ioctls
        .iter()
        .map(|request| equals(1, *request))
        .collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_ioctl, ioctls);
    // In debug builds the standard library checks descriptors before it closes them.
    rules.insert(libc::SYS_fcntl, vec![equals(1, libc::F_GETFD as u64)?]);
    // No thread makes memory executable.
    let data_only = SeccompRule::new(vec![SeccompCondition::new(
        2,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64),
        0,
    )?])?;
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![data_only.clone()]);
    }
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?;
    Ok(Arc::new(filter.try_into()?))
}

fn equals(argument: u8, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    let condition =
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?;
    SeccompRule::new(vec![condition])
}

/// To be called before threads are started: they inherit it.
pub fn give_up_new_privileges() -> Result<(), SeccompError> {
    rustix::thread::set_no_new_privs(true)
        .map_err(|error| SeccompError::NoNewPrivileges(error.into()))
}

/// Filters the calling thread; without a filter it stays as it is.
pub fn apply(filter: Option<&BpfProgram>) -> Result<(), SeccompError> {
    match filter {
        Some(filter) => Ok(seccompiler::apply_filter(filter)?),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ioctl_numbers_are_those_of_the_kernel() {
        use vmm_sys_util::ioctl::*;
        let kvm = |direction, number, size: usize| ioctl_expr(direction, 0xae, number, size as u32);
        assert_eq!(kvm(_IOC_NONE, 0x80, 0), KVM_RUN);
        let registers = size_of::<kvm_bindings::kvm_regs>();
        assert_eq!(kvm(_IOC_READ, 0x81, registers), KVM_GET_REGS);
        assert_eq!(kvm(_IOC_NONE, 0xad, 0), KVM_KVMCLOCK_CTRL);
        assert_eq!(kvm(_IOC_WRITE, 0x61, 8), KVM_IRQ_LINE);
        assert_eq!(kvm(_IOC_WRITE, 0x6a, 8), KVM_SET_GSI_ROUTING);
        assert_eq!(kvm(_IOC_WRITE, 0x79, 64), KVM_IOEVENTFD);
    }

    #[test]
    fn filters_can_be_built() {
        let filters = Filters::build().unwrap();
        assert!(filters.vcpu.len() < filters.main.len());
    }
}
