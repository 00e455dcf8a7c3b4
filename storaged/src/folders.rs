//! The folders of a pool, and what they must be like.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
    path::Path,
};

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

/// Puts them right, as far as that can be done on a disk that is full or failing: the first error, when all
/// has been tried. Nothing is written where all is right.
pub fn make(root: &Path) -> io::Result<()> {
    let mut first = set_mode(root, 0o700);
    for (folder, mode) in [
        ("volumes", 0o700),
        ("elsewhere", 0o700),
        ("given-up", 0o700),
        ("images", 0o700),
        ("images/attempts", 0o700),
        ("images/fetch", 0o700),
        ("images/build", 0o700),
        ("secrets", 0o700),
    ] {
        let path = root.join(folder);
        let made = DirBuilder::new().mode(mode).recursive(true).create(path);
        first = first.and(made);
    }
    first = first.and(keep(&root.join("images/build")));
    first.and(overwrite_in_place(&root.join("volumes")))
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    match fs::metadata(path)?.permissions().mode() & 0o7777 == mode {
        true => Ok(()),
        false => fs::set_permissions(path, Permissions::from_mode(mode)),
    }
}

/// In older pools the folder was its builder's, a user without rights.
fn keep(path: &Path) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    // In tests run by others than root the folder is theirs.
    if rustix::process::geteuid().is_root() && (metadata.uid(), metadata.gid()) != (0, 0) {
        chown(path, Some(0), Some(0))?;
    }
    set_mode(path, 0o700)
}

/// Turns copy-on-write off for the files that will be made in `folder`.
///
/// A guest that rewrites its volume at random would otherwise hold, through half-dead extents, much
/// more than its size, and so take the space promised to others. (It costs btrfs's checksums of
/// volumes; guests' file systems bring their own.) It says nothing about `fallocate`, which makes new
/// extents in any case: see the VMM's `DiskFile::write_zeroes`.
fn overwrite_in_place(folder: &Path) -> io::Result<()> {
    let folder = File::open(folder)?;
    match ioctl_getflags(&folder) {
        Ok(flags) if flags.contains(IFlags::NOCOW) => Ok(()),
        Ok(flags) => match ioctl_setflags(&folder, flags | IFlags::NOCOW) {
            // Not btrfs: only in unit tests.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL) => Ok(()),
            other => Ok(other?),
        },
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOTTY) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
