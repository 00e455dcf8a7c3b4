//! Debian's programs of the image, run on this machine: its own may be years older.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

use super::programs::{LIBRARIES, Pool};
use super::spec::Spec;
use super::stage::Key;
use super::tree::{Entry, Tree};
use crate::debian::lock::{self, Lock};

/// The loader of Debian's programs for amd64.
const LOADER: &str = "usr/lib64/ld-linux-x86-64.so.2";

/// Runs the program at `path` of the image, which has no leading slash, with the image's libraries.
pub fn command(path: &str) -> Result<Command> {
    let folder = folder()?;
    let mut command = Command::new(folder.join(LOADER));
    command
        .arg("--library-path")
        .arg(folder.join(LIBRARIES))
        .arg(folder.join(path));
    Ok(command)
}

/// The root in which the image's programs and their libraries are at the image's places.
pub fn folder() -> Result<PathBuf> {
    let (spec, lock) = super::inputs();
    let (spec, lock) = (Spec::read(&spec)?, Lock::read(&lock)?);
    let packages = super::program_packages(&spec, &lock);
    let mut key = Key::new(include_str!("programs.rs")).with(format!("{:?}", spec.debian));
    for package in &packages {
        key = key.with(&package.sha256);
    }
    let parent = super::folder().join("programs");
    fs::create_dir_all(&parent).with_context(|| format!("making {}", parent.display()))?;
    // Tests run at the same time, each in a process of its own.
    let held = fs::File::create(parent.join("lock")).context("locking the programs")?;
    flock(&held, FlockOperation::LockExclusive).context("locking the programs")?;
    let folder = parent.join(key.hex());
    if folder.exists() {
        return Ok(folder);
    }
    let files = packages
        .iter()
        .map(|package| Ok((package.name.clone(), lock::verified(package)?)))
        .collect::<Result<Vec<_>>>()?;
    let (tree, _) = Pool::read(&files)?.closure(&spec.debian)?;
    let half = parent.join("unfinished");
    // What an interrupted run left.
    let _ = fs::remove_dir_all(&half);
    write(&tree, &half).with_context(|| format!("writing {}", half.display()))?;
    fs::rename(&half, &folder).with_context(|| format!("making {}", folder.display()))?;
    Ok(folder)
}

fn write(tree: &Tree, folder: &Path) -> Result<()> {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    fs::create_dir(folder)?;
    for (path, entry) in tree.entries() {
        let path = folder.join(path);
        match entry {
            Entry::Folder => fs::create_dir(path)?,
            Entry::File { mode, bytes } => {
                fs::write(&path, bytes)?;
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode))?;
            }
            Entry::Symlink(target) => symlink(target, path)?,
        }
    }
    Ok(())
}
