//! The system calls that a program that reads strangers' bytes does without.
//!
//! By the kernel's records alone gigabytes are allocated in an instant, and all but a block of them freed
//! again, so that the file that holds them seems to take nothing: no look at the disk is often enough then.
//! What has to be written takes its time.

use std::io;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// What allocates without writing. None of them is needed: `mkfs.erofs` frees the few bytes that fill a file's
/// last block by `fallocate`, and writes zeroes if it cannot.
const REFUSED: [libc::c_long; 3] = [
    libc::SYS_fallocate,
    // `FS_IOC_RESVSP` and its like are `fallocate` (`fs/ioctl.c`).
    libc::SYS_ioctl,
    // Does what a filter never sees, `fallocate` included.
    libc::SYS_io_uring_setup,
];

/// The same kernel may have them a second time (`__X32_SYSCALL_BIT`), `ioctl` by another number
/// (`arch/x86/entry/syscalls/syscall_64.tbl`). What comes by a third way, as a call of 32 bits, is killed.
const X32: libc::c_long = 0x4000_0000;
const X32_IOCTL: libc::c_long = X32 + 514;

/// To be made before a fork, as it takes memory.
pub fn filter() -> io::Result<BpfProgram> {
    let again = REFUSED.map(|call| call + X32);
    let calls = REFUSED.into_iter().chain(again).chain([X32_IOCTL]);
    SeccompFilter::new(
        calls.map(|call| (call, Vec::new())).collect(),
        SeccompAction::Allow,
        // As of a file system that cannot: each caller has another way then.
        SeccompAction::Errno(libc::EOPNOTSUPP as u32),
        TargetArch::x86_64,
    )
    .and_then(BpfProgram::try_from)
    .map_err(io::Error::other)
}

/// For the calling thread and all that it starts or becomes; with it goes the way to more rights
/// (`no_new_privs`). Takes no memory.
pub fn apply(filter: &BpfProgram) -> io::Result<()> {
    // The text of an error would not come out of a fork.
    seccompiler::apply_filter(filter).map_err(|_| io::Error::last_os_error())
}
