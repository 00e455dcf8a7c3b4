//! The lists by which `modprobe` learns what the kernel has built in.
//!
//! Container engines, Kubernetes and VPNs ask for modules before they use them, and end when there is
//! no such module. A kernel of ours has all of it built in and no modules; with these lists the question
//! is answered as on any system whose kernel has the same built in.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use loam_init::mount::{MountFlags, mount};
use rustix::mount::mount_remount;

use crate::folder;

/// Below the initramfs's root and the machine's alike (modprobe(8)).
const MODULES: &str = "lib/modules";

/// Shows the lists of the initramfs in the machine's root, where `modprobe` looks for those of the
/// kernel that runs. In memory: the next start may have another kernel.
///
/// An image that brings files for this very kernel keeps them, and one without `/lib` has no modprobe.
pub fn show(initramfs: &Path, root: &Path) -> Result<()> {
    let Some(lists) = lists(&initramfs.join(MODULES)).context("looking for the lists")? else {
        return Ok(());
    };
    let Some(place) = place(root, &lists.release).context("making a place for the lists")? else {
        return Ok(());
    };
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("loam", &place, "tmpfs", flags, "mode=0755")?;
    for file in &lists.files {
        fs::copy(lists.folder.join(file), place.join(file))
            .with_context(|| format!("copying {file}"))?;
    }
    mount_remount(&place, flags | MountFlags::RDONLY, c"").context("making them read-only")
}

#[derive(Debug, PartialEq, Eq)]
struct Lists {
    folder: PathBuf,
    release: String,
    files: Vec<String>,
}

/// Those of the one kernel that the initramfs is for.
fn lists(modules: &Path) -> io::Result<Option<Lists>> {
    let Some(release) = names(modules)?.pop() else {
        return Ok(None);
    };
    let folder = modules.join(&release);
    Ok(Some(Lists {
        files: names(&folder)?,
        folder,
        release,
    }))
}

/// An empty folder in the machine's root, if it may be covered.
fn place(root: &Path, release: &str) -> io::Result<Option<PathBuf>> {
    if fs::symlink_metadata(root.join("lib")).is_err() {
        return Ok(None);
    }
    let place = folder::make(root, &Path::new(MODULES).join(release), 0o755)?;
    Ok(names(&place)?.is_empty().then_some(place))
}

/// None where there is no such folder.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn an_initramfs_of_a_stock_kernel_has_no_lists() {
        let initramfs = tempfile::tempdir().unwrap();
        assert_eq!(lists(&initramfs.path().join(MODULES)).unwrap(), None);
        // Nothing is mounted then.
        show(initramfs.path(), Path::new("/nonexistent")).unwrap();
    }

    #[test]
    fn lists_are_those_of_the_one_kernel() {
        let modules = tempfile::tempdir().unwrap();
        let folder = modules.path().join("6.12-loam");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("modules.dep"), "").unwrap();
        let found = lists(modules.path()).unwrap().unwrap();
        assert_eq!(
            found,
            Lists {
                folder,
                release: "6.12-loam".into(),
                files: vec!["modules.dep".into()],
            }
        );
    }

    #[test]
    fn the_place_is_where_modprobe_looks_and_only_if_nothing_is_there() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert_eq!(place(root, "6.12").unwrap(), None);
        assert!(!root.join("lib").exists(), "nobody asked for it");
        // As in every image of Debian.
        fs::create_dir_all(root.join("usr/lib")).unwrap();
        symlink("usr/lib", root.join("lib")).unwrap();
        let made = root.join("usr/lib/modules/6.12");
        assert_eq!(place(root, "6.12").unwrap(), Some(made.clone()));
        assert_eq!(place(root, "6.12").unwrap(), Some(made.clone()));
        fs::write(made.join("modules.dep"), "").unwrap();
        assert_eq!(place(root, "6.12").unwrap(), None);
    }
}
