//! Finding disks by their virtio-blk serial, mounting them, and letting their filesystems grow.

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use loam_init::mount::{MountFlags, mount};
use loam_node_api::guest::GuestMount;

use rustix::fs::XattrFlags;

use crate::{
    folder::{self, ImageFolders},
    patience,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// `vda`.
    name: String,
}

impl Disk {
    /// Waits for the disk with this serial.
    pub fn find(serial: &str) -> Result<Self> {
        patience::until(patience::DEVICE_LIMIT, || {
            with_serial(Path::new("/sys/block"), serial)
        })
        .with_context(|| format!("no disk with the serial `{serial}` appeared"))
    }

    pub fn device(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    /// In bytes.
    fn size(&self) -> Result<u64> {
        let path = Path::new("/sys/block").join(&self.name).join("size");
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        // The kernel counts in 512-byte sectors whatever the disk's own sectors are.
        let sectors: u64 = text
            .trim_end()
            .parse()
            .context("the disk's size is no number")?;
        sectors
            .checked_mul(512)
            .context("the disk's size is no number")
    }

    /// Mounts the read-only image.
    pub fn mount_image(&self, target: &Path) -> Result<()> {
        mount(
            &self.device().to_string_lossy(),
            target,
            "erofs",
            MountFlags::RDONLY,
            "",
        )
    }

    /// Mounts a writable filesystem and lets it fill its disk.
    pub fn mount_writable(&self, target: &Path, filesystem: &str) -> Result<()> {
        mount(
            &self.device().to_string_lossy(),
            target,
            filesystem,
            MountFlags::empty(),
            "",
        )?;
        if let Some(errors) = errors(Path::new("/sys/fs"), filesystem, &self.name) {
            say!(
                "the file system at {} has had {errors} errors and may lose more: copy what matters \
                 elsewhere",
                target.display()
            );
        }
        // The disk may have grown since; a filesystem that cannot follow is still a filesystem.
        if let Err(error) = self.grow(target, filesystem) {
            say!("{} stays at its size: {error:#}", target.display());
        }
        Ok(())
    }

    fn grow(&self, target: &Path, filesystem: &str) -> Result<()> {
        let folder = File::open(target).with_context(|| format!("opening {}", target.display()))?;
        match filesystem {
            "ext4" => {
                let block = rustix::fs::fstatfs(&folder)?.f_bsize;
                let block = u64::try_from(block).ok().filter(|size| *size > 0);
                let blocks = self.size()? / block.context("the filesystem has no block size")?;
                grow_ext4(&folder, blocks).context("growing ext4")
            }
            "btrfs" => grow_btrfs(&folder).context("growing btrfs"),
            _ => Ok(()),
        }
    }
}

/// What ext4 keeps on the disk of the errors that it has met, until it is checked
/// (`Documentation/ABI/testing/sysfs-fs-ext4`). None: no errors, or nobody counts them.
fn errors(sys: &Path, filesystem: &str, name: &str) -> Option<u64> {
    let count = sys.join(filesystem).join(name).join("errors_count");
    let count = fs::read_to_string(count).ok()?.trim_end().parse().ok()?;
    (count > 0).then_some(count)
}

fn with_serial(block: &Path, serial: &str) -> Option<Disk> {
    fs::read_dir(block).ok()?.flatten().find_map(|entry| {
        let found = fs::read_to_string(entry.path().join("serial")).ok()?;
        let name = entry.file_name().into_string().ok()?;
        (found.trim_end() == serial).then_some(Disk { name })
    })
}

/// `EXT4_IOC_RESIZE_FS` of `fs/ext4/ext4.h`: `_IOW('f', 16, __u64)`, the new size in blocks.
const EXT4_IOC_RESIZE_FS: libc::c_ulong = 0x4008_6610;

fn grow_ext4(folder: &File, blocks: u64) -> io::Result<()> {
    // SAFETY: the request reads 8 bytes from the pointer, which points to a live u64.
    let result = unsafe { libc::ioctl(folder.as_raw_fd(), EXT4_IOC_RESIZE_FS as _, &blocks) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// `BTRFS_IOC_RESIZE` of `include/uapi/linux/btrfs.h`: `_IOW(0x94, 3, struct btrfs_ioctl_vol_args)`.
const BTRFS_IOC_RESIZE: libc::c_ulong = 0x5000_9403;

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct VolumeArguments {
    fd: i64,
    name: [u8; 4088],
}

fn grow_btrfs(folder: &File) -> io::Result<()> {
    let mut arguments = VolumeArguments {
        fd: 0,
        name: [0; 4088],
    };
    arguments.name[..3].copy_from_slice(b"max");
    // SAFETY: the request reads a `btrfs_ioctl_vol_args`, which `arguments` is in size and layout.
    let result = unsafe { libc::ioctl(folder.as_raw_fd(), BTRFS_IOC_RESIZE as _, &arguments) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Mounts the machine's volumes; paths are those of the new root, which is the root by now.
pub fn mount_volumes(mounts: &[GuestMount], image: &ImageFolders) -> Result<()> {
    let mut mounts: Vec<_> = mounts.iter().collect();
    // A volume below another one's path is mounted after it.
    mounts.sort_by_key(|mount| Path::new(&mount.path).components().count());
    for mount in mounts {
        mount_volume(mount, image).with_context(|| format!("volume at {}", mount.path))?;
    }
    Ok(())
}

fn mount_volume(mount: &GuestMount, image: &ImageFolders) -> Result<()> {
    let path = Path::new(&mount.path);
    if !path.is_absolute() || path.parent().is_none() {
        bail!("the path must be absolute and not the root");
    }
    let disk = Disk::find(&mount.disk)?;
    let root = Path::new("/");
    match mount.filesystem.as_deref() {
        Some(filesystem @ ("ext4" | "btrfs")) => {
            let path = image.make(root, path).context("making its folder")?;
            let covered = fs::metadata(&path).context("looking at its folder")?;
            disk.mount_writable(&path, filesystem)?;
            adopt_fresh(&path, &covered).context("preparing the new volume")
        }
        Some(other) => bail!("the filesystem {other} is not known"),
        None => link(root, &disk.device(), path, image),
    }
}

/// Set on a volume's root when it was first used. Only root sees it.
const USED: &str = "trusted.loam.used";

/// Gives a volume at its first use the owner and mode of the folder that it covers, as container
/// engines do, so that an image whose user is not root can write to it. Also removes `lost+found`:
/// databases refuse a folder that is not empty, and e2fsck makes it again. What the tenant changes
/// later stays, also while nothing is in it.
fn adopt_fresh(path: &Path, covered: &fs::Metadata) -> io::Result<()> {
    if rustix::fs::getxattr(path, USED, &mut [0; 1]).is_ok() {
        return Ok(());
    }
    let mut names = fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.file_name()));
    let (first, second) = (names.next().transpose()?, names.next());
    let fresh = match (first, second) {
        (None, _) => true,
        (Some(name), None) if name == "lost+found" => {
            fs::remove_dir(path.join(name))?;
            true
        }
        _ => false,
    };
    if fresh {
        folder::liken(path, covered)?;
    }
    // A full volume may have no room for it. Then the next start looks again.
    let _ = rustix::fs::setxattr(path, USED, b"1", XattrFlags::empty());
    Ok(())
}

/// Links `path` to the device, over an older link but over nothing else.
fn link(root: &Path, device: &Path, path: &Path, image: &ImageFolders) -> Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        bail!("the path has no last part");
    };
    let folder = image
        .make(root, folder)
        .with_context(|| format!("making {}", folder.display()))?;
    let path = folder.join(name);
    if path.is_symlink() {
        fs::remove_file(&path).context("removing the old link")?;
    }
    std::os::unix::fs::symlink(device, &path).context("linking the block device")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn disks_are_found_by_serial() {
        let block = tempfile::tempdir().unwrap();
        for (name, serial) in [("vda", "image"), ("vdb", "root\n"), ("vdc", "root2")] {
            fs::create_dir(block.path().join(name)).unwrap();
            fs::write(block.path().join(name).join("serial"), serial).unwrap();
        }
        fs::create_dir(block.path().join("loop0")).unwrap();
        let found = |serial: &str| with_serial(block.path(), serial).map(|disk| disk.device());
        assert_eq!(found("root"), Some("/dev/vdb".into()));
        assert_eq!(found("image"), Some("/dev/vda".into()));
        assert_eq!(found("roo"), None);
        assert_eq!(found(""), None);
    }

    #[test]
    fn errors_of_a_file_system_are_found_where_the_kernel_counts_them() {
        let sys = tempfile::tempdir().unwrap();
        for (name, count) in [("vda", "0\n"), ("vdb", "3\n"), ("vdc", "?\n")] {
            let folder = sys.path().join("ext4").join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("errors_count"), count).unwrap();
        }
        let found = |filesystem, name| errors(sys.path(), filesystem, name);
        assert_eq!(found("ext4", "vdb"), Some(3));
        for name in ["vda", "vdc", "vdd"] {
            assert_eq!(found("ext4", name), None);
        }
        assert_eq!(found("btrfs", "vdb"), None);
    }

    #[test]
    fn a_raw_volume_replaces_a_link_but_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let link = |device: &str, path: &str| {
            let image = ImageFolders::default();
            link(folder.path(), Path::new(device), Path::new(path), &image)
        };
        std::os::unix::fs::symlink("/far/away", folder.path().join("a")).unwrap();
        link("/dev/vdb", "/a/disk").unwrap();
        link("/dev/vdc", "/a/disk").unwrap();
        let path = folder.path().join("far/away/disk");
        assert_eq!(fs::read_link(&path).unwrap(), Path::new("/dev/vdc"));
        let file = folder.path().join("file");
        fs::write(&file, "mine").unwrap();
        link("/dev/vdb", "/file").unwrap_err();
        assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    }

    #[test]
    fn only_a_fresh_volume_takes_the_mode_of_what_it_covers() {
        let image = tempfile::tempdir().unwrap();
        fs::set_permissions(image.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        let covered = fs::metadata(image.path()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;

        let fresh = tempfile::tempdir().unwrap();
        fs::create_dir(fresh.path().join("lost+found")).unwrap();
        adopt_fresh(fresh.path(), &covered).unwrap();
        assert_eq!(mode(fresh.path()), 0o1777);
        assert_eq!(fs::read_dir(fresh.path()).unwrap().count(), 0);

        // What the tenant makes of it stays, though it is empty.
        fs::set_permissions(fresh.path(), fs::Permissions::from_mode(0o700)).unwrap();
        adopt_fresh(fresh.path(), &covered).unwrap();
        assert_eq!(mode(fresh.path()), 0o700);

        let used = tempfile::tempdir().unwrap();
        fs::create_dir(used.path().join("lost+found")).unwrap();
        fs::write(used.path().join("data"), "").unwrap();
        let before = mode(used.path());
        adopt_fresh(used.path(), &covered).unwrap();
        assert_eq!(mode(used.path()), before);
        assert_eq!(fs::read_dir(used.path()).unwrap().count(), 2);
        // And one that was used before this was noted is not fresh once it is empty.
        fs::remove_dir(used.path().join("lost+found")).unwrap();
        fs::remove_file(used.path().join("data")).unwrap();
        adopt_fresh(used.path(), &covered).unwrap();
        assert_eq!(mode(used.path()), before);
    }

    #[test]
    fn a_volume_needs_a_proper_path() {
        for path in ["", "data", "/", "../data"] {
            let mount = GuestMount {
                disk: "d".into(),
                path: path.into(),
                filesystem: Some("ext4".into()),
            };
            let error = mount_volumes(&[mount], &ImageFolders::default()).unwrap_err();
            assert!(
                format!("{error:#}").contains("must be absolute"),
                "{error:#}"
            );
        }
    }
}
