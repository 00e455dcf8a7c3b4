//! [`Scratch`]: a copy of the workspace that may be broken, and what is built of it.
//!
//! Only files that differ are written, so that cargo builds again what a mutant changed, and what
//! the one before had changed.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::workspace;

#[derive(Debug)]
pub struct Scratch {
    /// The workspace that is copied.
    root: PathBuf,
    /// The copy.
    tree: PathBuf,
    /// Cargo's target folder of the copy.
    target: PathBuf,
}

impl Scratch {
    /// In `folder`, from what was left there if it was used before.
    pub fn new(root: PathBuf, folder: &Path) -> Self {
        Self {
            root,
            tree: folder.join("tree"),
            target: folder.join("target"),
        }
    }

    /// Makes the copy equal to the workspace, with what is not committed yet.
    pub fn renew(&self) -> Result<()> {
        fs::create_dir_all(&self.tree)?;
        let wanted = files(&self.root)?;
        for file in left_over(&self.tree, &wanted)? {
            fs::remove_file(self.tree.join(&file))?;
        }
        for file in &wanted {
            copy_if_different(&self.root.join(file), &self.tree.join(file))
                .with_context(|| format!("copying {}", file.display()))?;
        }
        Ok(())
    }

    /// Whether the patch applied; if not, nothing was changed, and git's words are the error.
    pub fn apply(&self, patch: &Path) -> Result<Result<(), String>> {
        let output = Command::new("git")
            .args(["apply", "--whitespace=nowarn"])
            .arg(patch)
            .current_dir(&self.tree)
            // The copy may lie within the repository, to which the patch shall not be applied.
            .env(
                "GIT_CEILING_DIRECTORIES",
                self.tree.parent().unwrap_or(&self.tree),
            )
            .output()
            .context("running git")?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Ok(if output.status.success() {
            Ok(())
        } else {
            Err(said)
        })
    }

    /// cargo on the copy.
    pub fn cargo(&self) -> Command {
        let mut cargo = workspace::cargo();
        cargo
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", &self.target);
        cargo
    }

    /// `cargo xtask` of the copy.
    pub fn xtask(&self, arguments: &[&str]) -> Command {
        let mut xtask = self.cargo();
        xtask.arg("xtask").args(arguments);
        xtask
    }
}

/// What git knows of, and what is new and not ignored; relative to `root`.
fn files(root: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root)
        .output()
        .context("running git")?;
    ensure!(
        output.status.success(),
        "git ls-files: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let names = String::from_utf8(output.stdout).context("a file's name is not UTF-8")?;
    Ok(names
        .split_terminator('\0')
        .map(PathBuf::from)
        // A file that was deleted is known until that is committed.
        .filter(|file| root.join(file).symlink_metadata().is_ok())
        .collect())
}

/// The files below `tree` that are not `wanted`.
fn left_over(tree: &Path, wanted: &BTreeSet<PathBuf>) -> Result<Vec<PathBuf>> {
    let mut left = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(tree.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if !wanted.contains(&path) {
                left.push(path);
            }
        }
    }
    Ok(left)
}

fn copy_if_different(from: &Path, to: &Path) -> io::Result<()> {
    // A link's own text is not worth a case of its own: the workspace has none that a build needs.
    let (bytes, permissions) = (fs::read(from)?, fs::metadata(from)?.permissions());
    if fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(to, bytes)?;
    fs::set_permissions(to, permissions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(folder: &Path, arguments: &[&str]) {
        let status = Command::new("git")
            .args(arguments)
            .current_dir(folder)
            .status()
            .unwrap();
        assert!(status.success(), "git {arguments:?}");
    }

    /// A repository with one committed file, one that is new, one that is ignored, and a copy.
    fn repository() -> (tempfile::TempDir, Scratch) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_owned();
        git(&root, &["init", "-q"]);
        fs::create_dir(root.join("src")).unwrap();
        fs::write(root.join("src/known.rs"), "one\ntwo\nthree\n").unwrap();
        fs::write(root.join(".gitignore"), "/target\n").unwrap();
        git(&root, &["add", "."]);
        fs::write(root.join("new.rs"), "new\n").unwrap();
        fs::create_dir(root.join("target")).unwrap();
        fs::write(root.join("target/ignored"), "").unwrap();
        let scratch = Scratch::new(root.clone(), &root.join("target/mutants"));
        (folder, scratch)
    }

    const PATCH: &str = "What: x.\n\ndiff --git a/src/known.rs b/src/known.rs\n\
        --- a/src/known.rs\n+++ b/src/known.rs\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n";

    #[test]
    fn the_copy_has_what_is_not_committed_and_forgets_what_is_gone() {
        let (folder, scratch) = repository();
        scratch.renew().unwrap();
        let copied = files(folder.path()).unwrap();
        assert_eq!(copied.len(), 3);
        for file in &copied {
            assert!(scratch.tree.join(file).exists(), "{}", file.display());
        }
        fs::remove_file(folder.path().join("new.rs")).unwrap();
        scratch.renew().unwrap();
        assert!(!scratch.tree.join("new.rs").exists());
    }

    #[test]
    fn what_is_equal_is_not_written_again() {
        let (folder, scratch) = repository();
        scratch.renew().unwrap();
        let changed = |file: &str| fs::metadata(scratch.tree.join(file)).unwrap().modified();
        let before = changed("src/known.rs").unwrap();
        fs::write(folder.path().join("new.rs"), "newer\n").unwrap();
        scratch.renew().unwrap();
        assert_eq!(changed("src/known.rs").unwrap(), before);
        assert_eq!(
            fs::read_to_string(scratch.tree.join("new.rs")).unwrap(),
            "newer\n"
        );
    }

    #[test]
    fn a_patch_changes_the_copy_alone_until_it_is_renewed() {
        let (folder, scratch) = repository();
        scratch.renew().unwrap();
        let patch = folder.path().join("target/x.patch");
        fs::write(&patch, PATCH).unwrap();
        scratch.apply(&patch).unwrap().unwrap();
        let read = |root: &Path| fs::read_to_string(root.join("src/known.rs")).unwrap();
        assert_eq!(read(&scratch.tree), "one\n2\nthree\n");
        assert_eq!(read(folder.path()), "one\ntwo\nthree\n");
        let again = scratch.apply(&patch).unwrap().unwrap_err();
        assert!(again.contains("patch does not apply"), "{again}");
        scratch.renew().unwrap();
        assert_eq!(read(&scratch.tree), "one\ntwo\nthree\n");
    }
}
