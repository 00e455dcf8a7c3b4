//! Mounting pools, and knowing what is mounted already.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// The device mounted at `target`, if any.
pub fn source_of(target: &Path) -> io::Result<Option<PathBuf>> {
    Ok(find(&fs::read_to_string("/proc/self/mountinfo")?, target))
}

/// Linux `Documentation/filesystems/proc.rst`, section 3.5. The last line wins: it is on top.
fn find(mountinfo: &str, target: &Path) -> Option<PathBuf> {
    mountinfo.lines().rev().find_map(|line| {
        let (place, origin) = line.split_once(" - ")?;
        let mounted_at = place.split(' ').nth(4)?;
        (Path::new(mounted_at) == target).then(|| origin.split(' ').nth(1).map(PathBuf::from))?
    })
}

/// Mounts a pool. Nothing on it is ever executed or a device for this node.
///
/// Discarding freed space and the free space tree are btrfs's own defaults where the disk can.
pub fn btrfs(device: &Path, target: &Path) -> io::Result<()> {
    fs::create_dir_all(target)?;
    let flags = MountFlags::NOATIME | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount(device, target, c"btrfs", flags, None)?)
}

/// Waits until nothing of the file system is left to write.
pub fn unmount_synced(target: &Path) -> io::Result<()> {
    Ok(unmount(target, UnmountFlags::empty())?)
}

/// Takes the mount away even though files on it are open: its disk is gone.
pub fn detach(target: &Path) -> io::Result<()> {
    Ok(unmount(target, UnmountFlags::DETACH)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_mountinfo() {
        let text = "22 1 0:21 / /proc rw,nosuid shared:5 - proc proc rw\n\
                    40 1 0:40 / /pools/a rw,noatime - btrfs /dev/vdb rw,space_cache=v2\n";
        assert_eq!(find(text, Path::new("/pools/a")), Some("/dev/vdb".into()));
        assert_eq!(find(text, Path::new("/pools")), None);
        assert_eq!(source_of(Path::new("/proc")).unwrap(), Some("proc".into()));
    }
}
