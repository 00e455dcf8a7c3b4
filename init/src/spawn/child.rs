//! What the child does between `clone3` and `execve`.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_long, c_ulong},
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    ptr,
};

use super::{Confinement, MAX_DESCRIPTORS, Program, Spawn, Step};

/// Standard input, output and error, the descriptors and the program.
const SLOTS: usize = 3 + MAX_DESCRIPTORS + 1;

/// Descriptors wait from this number on until their own is free: above every target, below the
/// smallest usual limit on open files.
pub(super) const PARKING: c_int = 128;

/// The last capability there could be: the kernel keeps them in 64 bits.
const MAX_CAPABILITY: c_ulong = 63;

/// All that the child needs, laid out before it exists.
pub(super) struct Prepared<'a> {
    spawn: &'a Spawn<'a>,
    /// What is to become descriptors 0, 1, 2, ...
    sources: [RawFd; SLOTS],
    count: usize,
    /// Slot of the program, if it is named by descriptor.
    program: Option<RawFd>,
    /// Says what failed; closes by `execve`. At [`PARKING`] or above.
    failure: RawFd,
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    oom_score: CString,
}

type Outcome = Result<(), (Step, c_int)>;

impl<'a> Prepared<'a> {
    pub(super) fn new(spawn: &'a Spawn<'a>, null: BorrowedFd, failure: BorrowedFd) -> Self {
        let mut sources = [-1; SLOTS];
        let mut count = 0;
        let mut add = |fd: RawFd| {
            sources[count] = fd;
            count += 1;
            (count - 1) as RawFd
        };
        add(null.as_raw_fd());
        add(null.as_raw_fd());
        add(spawn.stderr.as_raw_fd());
        for fd in &spawn.descriptors {
            add(fd.as_raw_fd());
        }
        let program = match &spawn.program {
            Program::Path(_) => None,
            Program::File(file) => Some(add(file.as_raw_fd())),
        };
        Self {
            spawn,
            sources,
            count,
            program,
            failure: failure.as_raw_fd(),
            arguments: pointers(&spawn.arguments),
            environment: pointers(&spawn.environment),
            oom_score: CString::new(spawn.oom_score.to_string()).unwrap_or_default(),
        }
    }

    /// Runs in the child, and never returns.
    pub(super) fn run(&self) -> ! {
        let Err((step, errno)) = self.steps();
        let mut said = [0; 5];
        said[0] = step as u8;
        said[1..].copy_from_slice(&errno.to_ne_bytes());
        // SAFETY: `said` is readable for its length.
        unsafe {
            libc::write(self.failure, said.as_ptr().cast(), said.len());
            libc::_exit(127)
        }
    }

    fn steps(&self) -> Result<std::convert::Infallible, (Step, c_int)> {
        reset_signals()?;
        self.join_cgroup()?;
        self.set_oom_score()?;
        self.place_descriptors()?;
        if let Confinement::Machine { empty, .. } = &self.spawn.confinement {
            enter_namespaces()?;
            enter_root(empty)?;
        }
        self.set_limits()?;
        match self.spawn.confinement {
            Confinement::Daemon { capabilities } => keep_capabilities(capabilities)?,
            Confinement::Machine { user, .. } => {
                drop_bounding_set(0)?;
                become_user(user)?;
                set_capabilities(0)?;
            }
        }
        // SAFETY: plain integers.
        let set = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        check(Step::Privileges, set.into())?;
        Err(self.execute())
    }

    /// Not by CLONE_INTO_CGROUP: Linux 6.12 compares that group's count of kills (`cgroup.kill`)
    /// with the one of the parent's group, so that after one kill every such child is killed.
    fn join_cgroup(&self) -> Outcome {
        match &self.spawn.cgroup {
            Some(group) => write_file(Step::Cgroup, group.as_raw_fd(), c"cgroup.procs", b"0"),
            None => Ok(()),
        }
    }

    fn set_oom_score(&self) -> Outcome {
        let path = c"/proc/self/oom_score_adj";
        write_file(
            Step::OomScore,
            libc::AT_FDCWD,
            path,
            self.oom_score.as_bytes(),
        )
    }

    /// Moves every source to the number that is its place, and closes all others.
    fn place_descriptors(&self) -> Outcome {
        let mut parked = [-1; SLOTS];
        for (parked, source) in parked.iter_mut().zip(self.sources).take(self.count) {
            // SAFETY: plain integers; the parent keeps every source open until this child runs.
            *parked = unsafe { libc::fcntl(source, libc::F_DUPFD_CLOEXEC, PARKING) };
            check(Step::Descriptors, (*parked).into())?;
        }
        for (target, parked) in parked.into_iter().enumerate().take(self.count) {
            let target = target as RawFd;
            let flags = if Some(target) == self.program {
                libc::O_CLOEXEC
            } else {
                0
            };
            // SAFETY: plain integers.
            let placed = unsafe { libc::dup3(parked, target, flags) };
            check(Step::Descriptors, placed.into())?;
        }
        let failure = self.failure as u32;
        for (first, last) in [(self.count as u32, failure - 1), (failure + 1, u32::MAX)] {
            // SAFETY: plain integers; nothing that is closed here is used again.
            let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
            check(Step::Descriptors, closed)?;
        }
        Ok(())
    }

    fn set_limits(&self) -> Outcome {
        let limits = self.spawn.limits;
        for (resource, value) in [
            (libc::RLIMIT_CORE, 0),
            (libc::RLIMIT_NOFILE, limits.open_files),
            (libc::RLIMIT_MEMLOCK, limits.locked_memory),
        ] {
            let limit = libc::rlimit {
                rlim_cur: value,
                rlim_max: value,
            };
            // SAFETY: `limit` is a valid rlimit for the time of the call.
            let set = unsafe { libc::setrlimit(resource, &limit) };
            check(Step::Limits, set.into())?;
        }
        Ok(())
    }

    fn execute(&self) -> (Step, c_int) {
        let (folder, path, flags) = match (&self.spawn.program, self.program) {
            (Program::Path(path), _) => (libc::AT_FDCWD, path.as_ptr(), 0),
            (Program::File(_), slot) => (slot.unwrap_or(-1), c"".as_ptr(), libc::AT_EMPTY_PATH),
        };
        // SAFETY: path, arguments and environment are NUL-terminated strings that `spawn` owns, in
        // lists that end with a null pointer.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                folder,
                path,
                self.arguments.as_ptr(),
                self.environment.as_ptr(),
                flags,
            );
        }
        (Step::Execute, errno())
    }
}

fn write_file(step: Step, folder: RawFd, path: &CStr, text: &[u8]) -> Outcome {
    // SAFETY: the path ends with NUL, the text is readable for its length.
    unsafe {
        let file = libc::openat(folder, path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        check(step, file.into())?;
        check(
            step,
            libc::write(file, text.as_ptr().cast(), text.len()) as c_long,
        )?;
        libc::close(file);
    }
    Ok(())
}

/// Handlers go by `execve`, but ignored signals (Rust ignores SIGPIPE) and the mask would stay.
fn reset_signals() -> Outcome {
    // SAFETY: the set is initialised by sigemptyset before it is read; SIG_DFL is a valid handler.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        check(
            Step::Signals,
            libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut()).into(),
        )?;
        // A session of its own: no terminal can send it signals.
        check(Step::Signals, libc::setsid().into())
    }
}

fn enter_namespaces() -> Outcome {
    let flags = libc::CLONE_NEWNS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    // SAFETY: plain integers.
    check(Step::Namespaces, unsafe { libc::unshare(flags) }.into())
}

/// Mounts an empty file system over `empty`, makes it the root and lets go of the old one.
fn enter_root(empty: &CStr) -> Outcome {
    const SEALED: c_ulong = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let mount =
        |source: *const c_char, target: &CStr, kind: *const c_char, flags, data: *const c_char| {
            // SAFETY: every pointer is null or a NUL-terminated string.
            check(
                Step::Root,
                unsafe { libc::mount(source, target.as_ptr(), kind, flags, data.cast()) }.into(),
            )
        };
    let nothing = ptr::null();
    mount(
        nothing,
        c"/",
        nothing,
        libc::MS_REC | libc::MS_PRIVATE,
        nothing,
    )?;
    let tmpfs = c"tmpfs".as_ptr();
    mount(
        tmpfs,
        empty,
        tmpfs,
        SEALED,
        c"size=4k,nr_inodes=2,mode=0555".as_ptr(),
    )?;
    // SAFETY: NUL-terminated strings. With "." for both, the old root ends up mounted over the new
    // one and is the topmost, so that umount2 takes it away (pivot_root(2), "pivot_root(".", ".")").
    unsafe {
        check(Step::Root, libc::chdir(empty.as_ptr()).into())?;
        check(
            Step::Root,
            libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()),
        )?;
        check(
            Step::Root,
            libc::umount2(c".".as_ptr(), libc::MNT_DETACH).into(),
        )?;
        check(Step::Root, libc::chdir(c"/".as_ptr()).into())?;
    }
    mount(
        nothing,
        c"/",
        nothing,
        libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | SEALED,
        nothing,
    )
}

/// Raw calls: glibc's own would signal threads that exist only in the parent.
fn become_user(user: u32) -> Outcome {
    // SAFETY: plain integers and an empty list.
    unsafe {
        check(
            Step::Privileges,
            libc::syscall(libc::SYS_setgroups, 0, ptr::null::<u32>()),
        )?;
        check(
            Step::Privileges,
            libc::syscall(libc::SYS_setresgid, user, user, user),
        )?;
        check(
            Step::Privileges,
            libc::syscall(libc::SYS_setresuid, user, user, user),
        )
    }
}

fn keep_capabilities(kept: u64) -> Outcome {
    drop_bounding_set(kept)?;
    set_capabilities(kept)
}

fn drop_bounding_set(kept: u64) -> Outcome {
    for capability in 0..=MAX_CAPABILITY {
        if kept & (1 << capability) != 0 {
            continue;
        }
        // SAFETY: plain integers.
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        if dropped < 0 {
            // The first number that the kernel does not know ends the list.
            return if errno() == libc::EINVAL {
                Ok(())
            } else {
                Err((Step::Privileges, errno()))
            };
        }
    }
    Ok(())
}

/// Sets the permitted and effective sets to what is both kept and still had; none is inheritable.
fn set_capabilities(kept: u64) -> Outcome {
    /// `struct __user_cap_header_struct` and two of `__user_cap_data_struct` (linux/capability.h).
    #[repr(C)]
    struct Header {
        version: u32,
        pid: c_int,
    }
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut sets = [Data::default(); 2];
    // SAFETY: both structures have the kernel's layout for version 3.
    unsafe {
        check(
            Step::Privileges,
            libc::syscall(libc::SYS_capget, &raw const header, sets.as_mut_ptr()),
        )?;
        for (set, kept) in sets.iter_mut().zip([kept as u32, (kept >> 32) as u32]) {
            let both = set.permitted & kept;
            *set = Data {
                effective: both,
                permitted: both,
                inheritable: 0,
            };
        }
        check(
            Step::Privileges,
            libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()),
        )
    }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|s| s.as_ptr())
        .chain([ptr::null()])
        .collect()
}

fn check(step: Step, result: c_long) -> Outcome {
    if result < 0 {
        Err((step, errno()))
    } else {
        Ok(())
    }
}

fn errno() -> c_int {
    // SAFETY: glibc's location of this thread's errno is always valid.
    unsafe { *libc::__errno_location() }
}
