//! Network namespaces, kept alive by a bind mount of their file, like `ip netns` does.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    thread,
};

use rustix::{
    fs::statfs,
    mount::{UnmountFlags, mount_bind, unmount},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

/// `NSFS_MAGIC`: a file of this kind of file system is a namespace.
const NSFS: i64 = 0x6e73_6673;

/// A network namespace at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    path: PathBuf,
}

impl Namespace {
    /// Makes it unless it is there.
    pub fn ensure(folder: &Path, name: &str) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let path = folder.join(name);
        if !is_namespace(&path)? {
            // A file that is not a namespace is what a crash between these two steps left.
            File::create(&path)?;
            thread::scope(|scope| scope.spawn(|| mount_new(&path)).join()).map_err(panicked)??;
        }
        Ok(Self { path })
    }

    /// None when there is none at the path.
    pub fn find(folder: &Path, name: &str) -> io::Result<Option<Self>> {
        let path = folder.join(name);
        Ok(is_namespace(&path)?.then_some(Self { path }))
    }

    /// The names of all in `folder` that begin with `prefix`, and of remains of such.
    pub fn list(folder: &Path, prefix: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with(prefix) {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Unmounts and removes the file. The namespace itself ends with its last user: a machine's
    /// process that still holds a tap of it. Absent is success.
    pub fn delete(folder: &Path, name: &str) -> io::Result<()> {
        let path = folder.join(name);
        // More than once when two made it at a time.
        while is_namespace(&path)? {
            unmount(&path, UnmountFlags::DETACH)?;
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    pub fn open(&self) -> io::Result<File> {
        File::open(&self.path)
    }

    /// Moves the calling thread in. A thread that does so belongs to its work and ends with it.
    pub fn enter(&self) -> io::Result<()> {
        enter(&self.open()?)
    }
}

/// The calling thread's own, to come back to.
pub fn current() -> io::Result<File> {
    File::open("/proc/thread-self/ns/net")
}

/// Moves the calling thread in.
pub fn enter(namespace: &File) -> io::Result<()> {
    let network = Some(LinkNameSpaceType::Network);
    Ok(move_into_link_name_space(namespace.as_fd(), network)?)
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> io::Error {
    io::Error::other("the thread in the namespace panicked")
}

fn mount_new(path: &Path) -> io::Result<()> {
    // SAFETY: this unshares the calling thread's network namespace only, which no Rust code
    // relies on; the thread ends right after.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    Ok(mount_bind("/proc/thread-self/ns/net", path)?)
}

fn is_namespace(path: &Path) -> io::Result<bool> {
    match statfs(path) {
        Ok(found) => Ok(found.f_type == NSFS),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
