//! Before anything else: mounts, kernel settings, a root that can be made read-only.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use anyhow::Context;
use loam_init::mount::{self, MountFlags};
use loam_node_api::path::{MACHINES, POOLS, RUN};
use rustix::{
    fs::{Mode, OFlags},
    process::{Resource, Rlimit, setrlimit},
};

use crate::machine;

/// What is mounted before the first daemon, in this order. `/pools` holds mount points only, and like each
/// pool (storaged's `folders`) it is closed to all but root.
const MOUNTS: [(&str, &str, MountFlags, &str); 9] = [
    ("proc", "/proc", SEALED, ""),
    ("sysfs", "/sys", SEALED, ""),
    ("devtmpfs", "/dev", NO_SET_ID, "mode=0755"),
    ("devpts", "/dev/pts", NO_EXEC, "mode=0620,ptmxmode=0666"),
    ("tmpfs", "/dev/shm", SEALED, "mode=1777,size=16m"),
    ("tmpfs", "/run", SEALED, "mode=0755,size=64m"),
    ("tmpfs", "/tmp", SEALED, "mode=1777,size=10%"),
    ("tmpfs", POOLS, SEALED, "mode=0700,size=1m"),
    ("cgroup2", crate::cgroup::ROOT, SEALED, ""),
];

const NO_SET_ID: MountFlags = MountFlags::NOSUID;
const NO_EXEC: MountFlags = NO_SET_ID.union(MountFlags::NOEXEC);
pub const SEALED: MountFlags = NO_EXEC.union(MountFlags::NODEV);

/// What the kernel shall do, and why it is not its default.
const SETTINGS: [(&str, &str); 15] = [
    // Nobody is there to look at a node that has crashed.
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    // A processor that does not leave the kernel for a minute (twice this) never will. Less than that happens to a
    // virtual machine whose host is busy.
    ("kernel/watchdog_thresh", "30"),
    ("kernel/softlockup_panic", "1"),
    // A task that waits for a slow disk is to be told of, not to end every machine.
    ("kernel/hung_task_timeout_secs", "120"),
    ("kernel/hung_task_panic", "0"),
    // Modules that the kernel asks for: see `modprobe`.
    ("kernel/modprobe", "/init"),
    // What the kernel says belongs into the log; the console shows the node's screen. Emergencies
    // and panics still appear.
    ("kernel/printk", "2 4 1 7"),
    ("kernel/printk_devkmsg", "on"),
    // A VMM that was taken over learns nothing from the kernel, and reaches less of it.
    ("kernel/kptr_restrict", "2"),
    ("kernel/dmesg_restrict", "1"),
    ("kernel/unprivileged_bpf_disabled", "1"),
    ("kernel/perf_event_paranoid", "3"),
    ("user/max_user_namespaces", "0"),
    ("kernel/sysrq", "0"),
];

/// Init's own: a few descriptors for each machine and connection.
const OPEN_FILES: u64 = 65_536;

/// Mounts, settings, limits. Without these there is no node.
pub fn set_up() -> anyhow::Result<()> {
    stand_on_a_mount()?;
    for (kind, target, flags, options) in MOUNTS {
        mount::mount(kind, target, kind, flags, options)?;
    }
    for folder in [RUN, MACHINES, machine::EMPTY] {
        fs::create_dir_all(folder).with_context(|| format!("making {folder}"))?;
    }
    let limit = Rlimit {
        current: Some(OPEN_FILES),
        maximum: Some(OPEN_FILES),
    };
    setrlimit(Resource::Nofile, limit).context("raising the limit on open files")?;
    // No process may take PID 1 for its memory.
    fs::write("/proc/self/oom_score_adj", "-1000").context("protecting PID 1")?;
    redirect_output()?;
    // ctrl-alt-del becomes SIGINT: an orderly end instead of the kernel's hard one.
    rustix::system::reboot(rustix::system::RebootCommand::CadOff)
        .context("taking over ctrl-alt-del")?;
    rustix::system::sethostname(b"loam").context("setting the host name")
}

/// What a node can do without: told in the log, which exists by now.
pub fn configure() {
    for (name, value) in SETTINGS {
        if let Err(error) = fs::write(Path::new("/proc/sys").join(name), format!("{value}\n")) {
            tracing::warn!(setting = name, value, %error, "kernel setting was not made");
        }
    }
    if has_efi_variables()
        && let Err(error) = mount::mount("efivarfs", EFI_VARIABLES, "efivarfs", SEALED, "")
    {
        tracing::info!(error = format!("{error:#}"), "EFI variables are not there");
    }
}

/// Where the firmware's variables are, if it has any: one that is no BIOS.
const EFI_VARIABLES: &str = "/sys/firmware/efi/efivars";

pub fn has_efi_variables() -> bool {
    Path::new(EFI_VARIABLES).exists()
}

/// The root stays as it is from now on.
pub fn seal_root() -> anyhow::Result<()> {
    mount::read_only("/")
}

/// The initial root (rootfs) has no parent, so that it can be neither pivoted from (`pivot_root(2)`)
/// nor be read-only alone. A bind mount of it over itself can be both.
fn stand_on_a_mount() -> anyhow::Result<()> {
    let over = "/run";
    fs::create_dir_all(over).context("making /run")?;
    rustix::mount::mount_bind("/", over).context("binding the root")?;
    rustix::process::chdir(over).context("entering the bound root")?;
    rustix::mount::mount_move(".", "/").context("moving the bound root")?;
    rustix::process::chroot(".").context("changing the root")?;
    rustix::process::chdir("/").context("entering the new root")
}

/// Standard output and error go to the kernel's log: a panic's message must be seen somewhere.
fn redirect_output() -> anyhow::Result<()> {
    let open = |path: &str, access| -> io::Result<OwnedFd> {
        Ok(rustix::fs::open(
            path,
            access | OFlags::CLOEXEC | OFlags::NOCTTY,
            Mode::empty(),
        )?)
    };
    let null = open("/dev/null", OFlags::RDWR).context("opening /dev/null")?;
    let kernel = open("/dev/kmsg", OFlags::WRONLY).context("opening /dev/kmsg")?;
    rustix::stdio::dup2_stdin(null.as_fd())?;
    rustix::stdio::dup2_stdout(kernel.as_fd())?;
    rustix::stdio::dup2_stderr(kernel.as_fd())?;
    Ok(())
}
