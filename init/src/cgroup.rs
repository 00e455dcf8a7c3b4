//! [`Group`]: a cgroup (version 2) with its limits.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::Context;
use loam_deployment::Bytes;
use rustix::fs::{Mode, OFlags};

pub const ROOT: &str = "/sys/fs/cgroup";

/// The groups that hold the groups of daemons and machines.
pub const DAEMONS: &str = "daemons";
pub const MACHINES: &str = "machines";

const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "io"];

/// What a group may take. A limit that is absent does not exist.
#[derive(Clone, Copy, Debug, Default)]
pub struct GroupLimits {
    pub memory_max: Option<Bytes>,
    /// 1 to 10000; 100 is usual.
    pub cpu_weight: Option<u32>,
    /// Whole processors' worth of time.
    pub cpus: Option<u32>,
    pub tasks: Option<u32>,
}

#[derive(Debug)]
pub struct Group {
    path: PathBuf,
    folder: OwnedFd,
}

/// Makes the two upper groups, and hands the controllers down to what they will hold.
pub fn prepare() -> anyhow::Result<()> {
    let root = Path::new(ROOT);
    enable_controllers(root);
    let reserve = GroupLimits {
        cpu_weight: Some(1000),
        ..GroupLimits::default()
    };
    for (name, limits) in [(DAEMONS, reserve), (MACHINES, GroupLimits::default())] {
        let group = Group::make(name, limits)?;
        enable_controllers(&group.path);
    }
    Ok(())
}

/// A kernel without one of them limits less; the node is still a node.
fn enable_controllers(path: &Path) {
    for controller in CONTROLLERS {
        let file = path.join("cgroup.subtree_control");
        if let Err(error) = fs::write(&file, format!("+{controller}")) {
            tracing::warn!(controller, group = %path.display(), %error, "cgroup controller is off");
        }
    }
}

/// As long as a killed process takes to leave its group, unless it is stuck in the kernel.
const LEAVING: Duration = Duration::from_millis(20);
const MAX_TRIES: u32 = 50;

fn take_away(path: &Path) -> io::Result<()> {
    let removed = || match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    };
    // What is not there any longer need not be killed.
    let kill = || drop(fs::write(path.join("cgroup.kill"), "1"));
    once_not_busy(removed, kill)
}

fn once_not_busy(
    mut remove: impl FnMut() -> io::Result<()>,
    mut kill: impl FnMut(),
) -> io::Result<()> {
    for _ in 0..MAX_TRIES {
        match remove() {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
            removed => return removed,
        }
        kill();
        thread::sleep(LEAVING);
    }
    remove()
}

impl Group {
    /// Makes the group `name` (a path below the root), or takes the one that is there, and sets
    /// its limits.
    pub fn make(name: &str, limits: GroupLimits) -> anyhow::Result<Self> {
        Self::at(Path::new(ROOT).join(name), limits)
            .with_context(|| format!("making the cgroup {name}"))
    }

    /// The same at any path.
    pub fn at(path: PathBuf, limits: GroupLimits) -> anyhow::Result<Self> {
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&path, flags, Mode::empty()).context("opening it")?;
        let group = Self { path, folder };
        group.limit(limits)?;
        Ok(group)
    }

    pub fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// Kills every process in the group (SIGKILL), also those that are being made.
    pub fn kill(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1")
    }

    /// Removes the group `name` and ends what is still in it. Waits a little for the last process:
    /// that was reaped before the kernel took it off its group.
    pub fn take_away(name: &str) -> io::Result<()> {
        take_away(&Path::new(ROOT).join(name))
    }

    fn limit(&self, limits: GroupLimits) -> anyhow::Result<()> {
        let set = |file: &str, value: Option<String>| match value {
            None => Ok(()),
            Some(value) => fs::write(self.path.join(file), &value)
                .with_context(|| format!("setting {file} of {} to {value}", self.path.display())),
        };
        // Without swap a group that is over its limit has nothing to give back; one process less
        // of a group that belongs together would be worse than none.
        let oom_group = limits.memory_max.map(|_| "1".to_owned());
        set(
            "memory.max",
            limits.memory_max.map(|max| max.get().to_string()),
        )?;
        set("memory.oom.group", oom_group)?;
        set(
            "cpu.weight",
            limits.cpu_weight.map(|weight| weight.to_string()),
        )?;
        set(
            "cpu.max",
            limits
                .cpus
                .map(|cpus| format!("{} 100000", u64::from(cpus) * 100_000)),
        )?;
        set("pids.max", limits.tasks.map(|tasks| tasks.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUSY: io::ErrorKind = io::ErrorKind::ResourceBusy;

    #[test]
    fn a_group_that_is_busy_is_removed_when_it_is_not() {
        let (mut tries, mut kills) = (0, 0);
        let remove = || {
            tries += 1;
            if tries < 3 { Err(BUSY.into()) } else { Ok(()) }
        };
        once_not_busy(remove, || kills += 1).unwrap();
        assert_eq!((tries, kills), (3, 2));
    }

    #[test]
    fn other_errors_are_told_at_once_and_absence_is_none() {
        let denied = io::ErrorKind::PermissionDenied;
        let error = once_not_busy(|| Err(denied.into()), || ()).unwrap_err();
        assert_eq!(error.kind(), denied);
        assert!(take_away(Path::new("/nowhere/at-all")).is_ok());
    }
}
