//! Debian's programs of the image, run on this machine: its own may be years older.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::programs::{self, LIBRARIES};
use super::spec::Spec;
use super::tree::{Entry, Tree};
use crate::cache::Shelf;
use crate::debian::lock::Lock;

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
    // Tests run at the same time, each in a process of its own.
    Shelf::new(super::folder().join("programs"))?.get(
        &programs::key(&spec.debian, &packages),
        |folder| {
            let tree = programs::tree(&spec.debian, &packages)?;
            write(&tree, folder).with_context(|| format!("writing {}", folder.display()))
        },
    )
}

fn write(tree: &Tree, folder: &Path) -> Result<()> {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
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
