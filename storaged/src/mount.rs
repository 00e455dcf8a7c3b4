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

/// Where a device is mounted below `folder`.
pub fn targets_of(device: &Path, folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
    let targets = parse(&mountinfo)
        .filter(|(target, source)| *source == device && target.starts_with(folder))
        .map(|(target, _)| target.to_owned());
    Ok(targets.collect())
}

/// The last line wins: it is on top.
fn find(mountinfo: &str, target: &Path) -> Option<PathBuf> {
    parse(mountinfo)
        .filter(|(mounted_at, _)| *mounted_at == target)
        .last()
        .map(|(_, source)| source.to_owned())
}

/// Targets and sources (Linux `Documentation/filesystems/proc.rst`, section 3.5).
fn parse(mountinfo: &str) -> impl Iterator<Item = (&Path, &Path)> {
    mountinfo.lines().filter_map(|line| {
        let (place, origin) = line.split_once(" - ")?;
        let target = place.split(' ').nth(4)?;
        let source = origin.split(' ').nth(1)?;
        Some((Path::new(target), Path::new(source)))
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
        let above = format!("{text}\n41 40 0:41 / /pools/a rw - btrfs /dev/vdc rw");
        assert_eq!(find(&above, Path::new("/pools/a")), Some("/dev/vdc".into()));
        assert_eq!(source_of(Path::new("/proc")).unwrap(), Some("proc".into()));
    }
}
