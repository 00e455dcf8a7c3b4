//! Early mounts.

use std::{ffi::CString, path::Path};

use anyhow::Context;
pub use rustix::mount::MountFlags;

/// Makes the folder `target` if it is absent and mounts on it.
pub fn mount(
    source: &str,
    target: impl AsRef<Path>,
    filesystem: &str,
    flags: MountFlags,
    data: &str,
) -> anyhow::Result<()> {
    let target = target.as_ref();
    std::fs::create_dir_all(target).with_context(|| format!("making {}", target.display()))?;
    let data = CString::new(data).context("mount options hold a NUL")?;
    rustix::mount::mount(source, target, filesystem, flags, data.as_c_str())
        .with_context(|| format!("mounting {filesystem} on {}", target.display()))
}

/// Makes the mount at `target` read-only; what is mounted below keeps its own flags.
pub fn read_only(target: impl AsRef<Path>) -> anyhow::Result<()> {
    let target = target.as_ref();
    rustix::mount::mount_remount(target, MountFlags::BIND | MountFlags::RDONLY, c"")
        .with_context(|| format!("making {} read-only", target.display()))
}
