//! From the initramfs to the machine's own root: the image below, the writable layer above.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink},
    path::Path,
};

use anyhow::{Context, Result};
use loam_init::mount::{MountFlags, mount};
use rustix::{
    fs::OFlags,
    mount::{UnmountFlags, mount_move, mount_remount, unmount},
};

use crate::{builtin, disk::Disk};

const IMAGE: &str = "/mnt/image";
const LAYER: &str = "/mnt/layer";
const ROOT: &str = "/mnt/root";

/// What the root is made of, hidden below it once it is the root.
#[derive(Debug)]
pub struct Hidden {
    /// The initramfs's own root folder.
    initramfs: File,
}

/// What guest init itself needs to find disks and ports.
pub fn mount_early() -> Result<()> {
    mount(
        "devtmpfs",
        "/dev",
        "devtmpfs",
        MountFlags::NOSUID,
        "mode=0755",
    )?;
    mount("sysfs", "/sys", "sysfs", hardened(), "")?;
    mount("proc", "/proc", "proc", hardened(), "")
}

/// Mounts the image with the writable layer over it, and makes this the root. What the initramfs
/// held is deleted: it is memory that the machine has paid for.
pub fn enter(image: &Disk, layer: &Disk) -> Result<Hidden> {
    image
        .mount_image(Path::new(IMAGE))
        .context("the image's disk")?;
    layer
        .mount_writable(Path::new(LAYER), "ext4")
        .context("the writable layer's disk")?;
    make_layer(Path::new(IMAGE), Path::new(LAYER)).context("preparing the writable layer")?;
    let layers = format!("lowerdir={IMAGE},upperdir={LAYER}/upper,workdir={LAYER}/work");
    mount("overlay", ROOT, "overlay", MountFlags::empty(), &layers)
        .context("putting the writable layer over the image")?;
    if let Err(error) = builtin::show(Path::new("/"), Path::new(ROOT)) {
        say!("modprobe will not know what is built into the kernel: {error:#}");
    }

    let initramfs = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::DIRECTORY.bits() as i32)
        .open("/")
        .context("opening the initramfs")?;
    for early in ["/proc", "/sys", "/dev"] {
        unmount(early, UnmountFlags::DETACH).with_context(|| format!("unmounting {early}"))?;
    }
    let own = fs::metadata("/").context("reading the initramfs")?.dev();
    empty(Path::new("/"), own);
    std::env::set_current_dir(ROOT).context("entering the root")?;
    mount_move(".", "/").context("moving the root")?;
    rustix::process::chroot(".").context("changing the root")?;
    std::env::set_current_dir("/").context("entering the root")?;
    Ok(Hidden { initramfs })
}

/// Makes the folders that overlayfs needs. A new layer's top folder is the machine's root folder,
/// so it takes owner and mode from the image's.
fn make_layer(image: &Path, layer: &Path) -> io::Result<()> {
    fs::create_dir_all(layer.join("work"))?;
    let upper = layer.join("upper");
    match fs::create_dir(&upper) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(error),
    }
    let root = fs::metadata(image)?;
    chown(&upper, Some(root.uid()), Some(root.gid()))?;
    fs::set_permissions(&upper, fs::Permissions::from_mode(root.mode() & 0o7777))
}

/// Deletes what is in `folder` on the device `own`; other mounts are left alone. Only saves
/// memory, so what cannot be deleted stays.
fn empty(folder: &Path, own: u64) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.dev() != own => {}
            Ok(metadata) if metadata.is_dir() => {
                empty(&path, own);
                let _ = fs::remove_dir(&path);
            }
            _ => {
                let _ = fs::remove_file(&path);
            }
        }
    }
}

/// The kernel's filesystems, as every container has them.
pub fn mount_kernel_filesystems() -> Result<()> {
    let nothing_runs = hardened();
    for target in ["/proc", "/sys", "/dev"] {
        make_way(Path::new(target)).with_context(|| format!("making {target} a folder"))?;
    }
    mount("proc", "/proc", "proc", nothing_runs, "")?;
    mount("sysfs", "/sys", "sysfs", nothing_runs, "")?;
    mount(
        "cgroup2",
        "/sys/fs/cgroup",
        "cgroup2",
        nothing_runs,
        "nsdelegate",
    )?;
    mount(
        "devtmpfs",
        "/dev",
        "devtmpfs",
        MountFlags::NOSUID,
        "mode=0755",
    )?;
    let terminals = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount(
        "devpts",
        "/dev/pts",
        "devpts",
        terminals,
        "gid=5,mode=0620,ptmxmode=0666",
    )?;
    mount(
        "tmpfs",
        "/dev/shm",
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        "mode=1777",
    )?;
    mount("mqueue", "/dev/mqueue", "mqueue", nothing_runs, "")?;
    for (target, link) in [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ] {
        match symlink(target, link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("making {link}"));
            }
            _ => {}
        }
    }
    for device in ["/dev/fuse", "/dev/net/tun"] {
        // As udev leaves them. Either is there only if the kernel has it.
        let _ = fs::set_permissions(device, fs::Permissions::from_mode(0o666));
    }
    Ok(())
}

/// Removes what is at `target` and no folder: a link would have the kernel's file system mounted
/// elsewhere, where no program looks.
fn make_way(target: &Path) -> io::Result<()> {
    match fs::symlink_metadata(target) {
        Ok(data) if data.is_dir() => Ok(()),
        Ok(_) => fs::remove_file(target),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn hardened() -> MountFlags {
    MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC
}

/// Writes everything to the disks and lets go of them. No process but this one may run any more.
///
/// A filesystem that cannot be unmounted is made read-only, and one that refuses even that is
/// whole after its journal is replayed; so nothing here is an error.
pub fn leave(hidden: Option<&Hidden>) {
    rustix::fs::sync();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // Later mounts lie on earlier ones.
    for target in mount_points(&mounts).iter().rev() {
        let ours = ["/proc", "/sys", "/dev"]
            .iter()
            .any(|own| Path::new(target).starts_with(own));
        if target != "/" && !ours && unmount(target, UnmountFlags::NOFOLLOW).is_err() {
            let _ = mount_remount(target, MountFlags::RDONLY, c"");
        }
    }
    let _ = mount_remount("/", MountFlags::RDONLY, c"");
    if let Some(hidden) = hidden
        && rustix::process::fchdir(&hidden.initramfs).is_ok()
    {
        // Relative: this path does not lead through the root that lies over the initramfs.
        let _ = mount_remount(LAYER.trim_start_matches('/'), MountFlags::RDONLY, c"");
    }
    rustix::fs::sync();
}

/// Mount points in the order in which they were mounted (proc(5), `/proc/pid/mountinfo`).
fn mount_points(mountinfo: &str) -> Vec<String> {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
        .collect()
}

/// The kernel writes blanks and backslashes as three octal digits.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                plain.push(code.into());
                plain.push_str(&part[3..]);
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_as_the_kernel_writes_them() {
        let text = "21 1 0:20 / / rw - overlay overlay rw\n\
                    22 21 254:32 / /with\\040blank\\134 rw - ext4 /dev/vdc rw\n\
                    broken\n\
                    23 22 0:5 / /a\\9b\\ rw - x y z\n";
        assert_eq!(mount_points(text), ["/", "/with blank\\", "/a\\9b\\"]);
    }

    #[test]
    fn what_stands_in_a_mount_point_s_place_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir_all(at("folder/in")).unwrap();
        fs::write(at("file"), "").unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        symlink("folder", at("link")).unwrap();
        for name in ["folder", "file", "dangling", "link", "absent"] {
            make_way(&at(name)).unwrap();
            let gone = fs::symlink_metadata(at(name)).is_err();
            assert_eq!(gone, name != "folder", "{name}");
        }
        assert!(at("folder/in").is_dir());
    }

    #[test]
    fn emptying_takes_links_not_what_they_lead_to() {
        let kept = tempfile::tempdir().unwrap();
        fs::write(kept.path().join("file"), "").unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::write(folder.path().join("a/b/file"), "").unwrap();
        symlink(kept.path(), folder.path().join("link")).unwrap();
        empty(folder.path(), fs::metadata(folder.path()).unwrap().dev());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(kept.path().join("file").exists());
    }
}
