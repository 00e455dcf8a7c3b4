//! The command's PID namespace: it is process 1 there, as in every container.
//!
//! systemd, s6-overlay and their like run as nothing else. What the kernel makes of process 1
//! (`pid_namespaces(7)`) comes along: it inherits orphans, is sent no signal that it does not
//! handle, and all others are killed when it ends.

use std::{
    io,
    process::{Child, Command},
    thread,
};

use anyhow::{Context, Result, anyhow};
use loam_init::reap::End;
use rustix::{
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
    thread::{UnshareFlags, unshare_unsafe},
};

/// Starts `command` as process 1 of a new PID namespace. The inner error is of the command itself.
pub fn spawn_first(mut command: Command) -> Result<io::Result<Child>> {
    // On a thread that ends with it: one whose children go elsewhere can make no more threads.
    let thread = thread::Builder::new().name("spawn".into()).spawn(move || {
        // SAFETY: no Rust code relies on which PID namespace this thread's children are in.
        unsafe { unshare_unsafe(UnshareFlags::NEWPID) }
            .context("making a PID namespace for the command")?;
        Ok(command.spawn())
    })?;
    thread
        .join()
        .map_err(|_| anyhow!("the thread that starts the command panicked"))?
}

/// Gives process 1 a mount namespace in which `/proc` shows its own PID namespace. Runs in the
/// child, before it becomes its user.
pub fn mount_own_proc() -> io::Result<()> {
    // SAFETY: the child has one thread, and shares its folder and umask with nobody.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    // Nothing that is mounted or unmounted in here reaches guest init, which unmounts the machine's
    // disks at its end. The kernel's default, but not that of whoever tests this.
    let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    mount_change(c"/", private)?;
    unmount(c"/proc", UnmountFlags::DETACH)?;
    let hardened = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(c"proc", c"/proc", c"proc", hardened, None)?;
    Ok(())
}

/// What a process in the namespace has asked the kernel for by `reboot(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerRequest {
    /// Power off or halt.
    Off,
    Reset,
}

/// The kernel does nothing of it in here but to end process 1 by one of two signals, and nothing else
/// ends it by these: sent to it they count for nothing, unless it handles them.
pub fn power_request(end: End) -> Option<PowerRequest> {
    match end {
        End::Signalled(libc::SIGINT) => Some(PowerRequest::Off),
        End::Signalled(libc::SIGHUP) => Some(PowerRequest::Reset),
        End::Signalled(_) | End::Exited(_) => None,
    }
}
