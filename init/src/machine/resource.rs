//! Opening what a machine's specification names.

use std::{
    ffi::{CStr, CString},
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Component, Path},
};

use anyhow::{Context, bail, ensure};
use loam_node_api::{
    machine::{MachineDisk, MachineInterface},
    path::POOLS,
};
use rustix::{
    fs::{CWD, FileType, MemfdFlags, Mode, OFlags, ResolveFlags, SealFlags},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

/// Which file a disk is, whatever its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskIdentity {
    device: u64,
    inode: u64,
    read_only: bool,
}

impl DiskIdentity {
    #[cfg(test)]
    pub fn of(inode: u64, read_only: bool) -> Self {
        Self {
            device: 1,
            inode,
            read_only,
        }
    }

    /// Two machines may share a file only if neither writes to it.
    pub fn conflicts_with(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
            && !(self.read_only && other.read_only)
    }
}

/// Opens a disk: a regular file on a pool, reached without any symbolic link. Pools are mounted
/// without devices. Waits for the disk, however long that takes.
pub fn open_disk(disk: &MachineDisk) -> anyhow::Result<(OwnedFd, DiskIdentity)> {
    open_disk_below(Path::new(POOLS), disk)
        .with_context(|| format!("opening the disk {}", disk.path.display()))
}

fn open_disk_below(pools: &Path, disk: &MachineDisk) -> anyhow::Result<(OwnedFd, DiskIdentity)> {
    let below = disk.path.strip_prefix(pools).ok().filter(|path| {
        path.components()
            .all(|part| matches!(part, Component::Normal(_)))
    });
    let Some(below) = below else {
        bail!("it is not below {}", pools.display());
    };
    let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let pools = rustix::fs::open(pools, folder, Mode::empty())?;
    let access = if disk.read_only {
        OFlags::RDONLY
    } else {
        OFlags::RDWR
    };
    // Without NONBLOCK a FIFO would never answer; on files it changes nothing.
    let flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let file = rustix::fs::openat2(&pools, below, flags, Mode::empty(), resolve)?;
    let stat = rustix::fs::fstat(&file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        other => bail!("it is a {other:?}, not a file"),
    }
    rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
    let identity = DiskIdentity {
        device: stat.st_dev,
        inode: stat.st_ino,
        read_only: disk.read_only,
    };
    Ok((file, identity))
}

/// Opens `path` for reading; for what the image itself holds.
pub fn open_file(path: &str) -> anyhow::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).with_context(|| format!("opening {path}"))
}

pub fn open_kvm() -> anyhow::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open("/dev/kvm", flags, Mode::empty()).context(
        "opening /dev/kvm; this node's processor has no virtualisation, or its firmware hides it",
    )
}

/// Memory that holds `bytes` and can no longer change, to be read from its start.
pub fn sealed_memory(name: &CStr, bytes: &[u8]) -> anyhow::Result<OwnedFd> {
    let make = || -> io::Result<OwnedFd> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::NOEXEC_SEAL;
        let mut file = File::from(rustix::fs::memfd_create(name, flags)?);
        file.write_all(bytes)?;
        let seals = SealFlags::GROW | SealFlags::SHRINK | SealFlags::WRITE | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals)?;
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
        Ok(file.into())
    };
    make().with_context(|| format!("making the memory file {name:?}"))
}

/// Attaches to the persistent tap that netd made.
pub fn open_tap(interface: &MachineInterface) -> anyhow::Result<OwnedFd> {
    let context = || match &interface.namespace {
        Some(path) => format!("opening the tap {} in {}", interface.tap, path.display()),
        None => format!("opening the tap {}", interface.tap),
    };
    let Some(namespace) = &interface.namespace else {
        return attach(&interface.tap).with_context(context);
    };
    let namespace = open_namespace(namespace).with_context(context)?;
    // A thread of its own changes its namespace and ends; this one never has to find its way back.
    let opened = std::thread::scope(|scope| {
        let inside = std::thread::Builder::new().spawn_scoped(scope, || {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), network)?;
            attach(&interface.tap)
        });
        inside.map(|thread| thread.join())
    });
    match opened.context("making a thread").with_context(context)? {
        Ok(tap) => tap.with_context(context),
        Err(_) => Err(anyhow::anyhow!("the thread that opens it panicked").context(context())),
    }
}

/// Whether `path` is a network namespace shows when it is entered.
fn open_namespace(path: &Path) -> anyhow::Result<OwnedFd> {
    ensure!(path.is_absolute(), "the namespace's path is not absolute");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let resolve = ResolveFlags::NO_SYMLINKS;
    Ok(rustix::fs::openat2(
        CWD,
        path,
        flags,
        Mode::empty(),
        resolve,
    )?)
}

fn attach(name: &str) -> anyhow::Result<OwnedFd> {
    const IFF_PERSIST: libc::c_short = 0x0800;
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let tun = rustix::fs::open("/dev/net/tun", flags, Mode::empty())
        .context("opening /dev/net/tun (module tun)")?;
    // SAFETY: an ifreq is plain data, for which all zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let bytes = CString::new(name)?.into_bytes_with_nul();
    ensure!(
        bytes.len() <= request.ifr_name.len(),
        "its name is too long"
    );
    for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags =
        (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq.
    if unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error()).context("attaching to it");
    }
    // SAFETY: TUNGETIFF writes one ifreq.
    if unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNGETIFF, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error()).context("reading its flags");
    }
    // TUNSETIFF makes what does not exist; such a tap goes away as `tun` is closed.
    // SAFETY: TUNGETIFF filled in the flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    ensure!(flags & IFF_PERSIST != 0, "there is no such tap");
    Ok(tun)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn disk(path: PathBuf, read_only: bool) -> MachineDisk {
        MachineDisk {
            path,
            read_only,
            serial: "a".into(),
        }
    }

    #[test]
    fn disks_are_files_below_the_pools_reached_without_links() {
        let pools = tempfile::tempdir().unwrap();
        let pools = pools.path();
        let file = pools.join("uuid/file");
        std::fs::create_dir(pools.join("uuid")).unwrap();
        std::fs::write(&file, "x").unwrap();
        std::os::unix::fs::symlink(&file, pools.join("uuid/link")).unwrap();
        std::os::unix::fs::symlink("uuid", pools.join("folder-link")).unwrap();
        let open = |path: &str| open_disk_below(pools, &disk(pools.join(path), true));

        assert!(open("uuid/file").is_ok());
        let fifo = pools.join("uuid/fifo");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let error = format!("{:#}", open("uuid/fifo").unwrap_err());
        assert!(error.contains("not a file"), "{error}");
        for path in [
            "uuid/link",
            "folder-link/file",
            "uuid",
            "uuid/none",
            "uuid/../uuid/file",
        ] {
            assert!(open(path).is_err(), "{path}");
        }
        assert!(open_disk_below(pools, &disk("/etc/passwd".into(), true)).is_err());
    }

    #[test]
    fn a_file_has_one_writer() {
        let pools = tempfile::tempdir().unwrap();
        let path = pools.path().join("file");
        std::fs::write(&path, "x").unwrap();
        let open = |read_only| {
            open_disk_below(pools.path(), &disk(path.clone(), read_only))
                .unwrap()
                .1
        };
        assert!(!open(true).conflicts_with(&open(true)));
        assert!(open(false).conflicts_with(&open(true)));
        assert!(open(true).conflicts_with(&open(false)));
        assert!(open(false).conflicts_with(&open(false)));
    }

    #[test]
    fn sealed_memory_is_read_from_its_start_and_never_written() {
        let file = sealed_memory(c"test", b"hello").unwrap();
        assert!(rustix::io::pwrite(&file, b"x", 0).is_err());
        let mut text = String::new();
        io::Read::read_to_string(&mut File::from(file), &mut text).unwrap();
        assert_eq!(text, "hello");
    }
}
