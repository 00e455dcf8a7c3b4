//! Where this workspace is, and where its builds go.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// The root of the workspace that this xtask was compiled from.
pub fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// Cargo's target folder: `$CARGO_TARGET_DIR`, else `target/` of the workspace.
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// The cargo that runs us, on this workspace.
pub fn cargo() -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    tool(program.as_ref())
}

/// A program that builds or tests this workspace, free of what the outer cargo put in our
/// environment for this package alone.
pub fn tool(program: &Path) -> Command {
    let mut tool = Command::new(program);
    tool.current_dir(root()).env("CARGO_TARGET_DIR", target());
    for (name, value) in env::vars_os() {
        let text = name.to_string_lossy();
        // Build scripts of dependencies watch some of these, and would rebuild for nothing.
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            tool.env_remove(name);
        } else if text == "LOAM_CACHE" {
            tool.env(name, absolute(value));
        }
    }
    tool
}

/// Removes a folder, with all that an earlier run left in it, if it is there.
pub fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// A relative folder is one of ours: cargo runs tests in the folders of their packages.
fn absolute(folder: OsString) -> OsString {
    // None is made of an empty one, which stands for no folder.
    std::path::absolute(&folder).map_or(folder, PathBuf::into_os_string)
}

/// All that is below a folder and is no folder itself. Links are not followed.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    collect(folder, &mut files)?;
    Ok(files)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let reading = || format!("reading {}", folder.display());
    for entry in fs::read_dir(folder).with_context(reading)? {
        let entry = entry.with_context(reading)?;
        match entry.file_type().with_context(reading)?.is_dir() {
            true => collect(&entry.path(), files)?,
            false => files.push(entry.path()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The features of every crate that the packages bring along.
    fn features(packages: &[&str]) -> BTreeMap<String, String> {
        let mut tree = cargo();
        tree.args([
            "tree",
            "--offline",
            "--prefix",
            "none",
            "--format",
            "{p}|{f}",
        ])
        .args(packages);
        let output = tree.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        let text = String::from_utf8(output.stdout).unwrap();
        let crates = text.lines().filter_map(|line| line.split_once('|'));
        crates
            .map(|(name, features)| (name.to_owned(), features.replace(" (*)", "")))
            .collect()
    }

    #[test]
    fn a_relative_cache_is_the_same_for_tests() {
        let here = env::current_dir().unwrap();
        assert_eq!(absolute("c".into()), here.join("c").as_os_str());
        assert_eq!(absolute("/c".into()), "/c");
        assert_eq!(absolute(OsString::new()), "");
    }

    /// Else cargo builds a crate, and all above it, for `cargo xtask` and once more for the tests.
    #[test]
    fn xtask_is_built_with_the_features_of_the_workspace() {
        let all = features(&["--workspace", "--edges", "normal,build,dev"]);
        let ours = features(&["--package", "xtask", "--edges", "normal,build"]);
        assert!(ours.len() > 100, "{ours:?}");
        for (name, features) in ours {
            let asked = &all[&name];
            assert_eq!(
                &features, asked,
                "in the workspace {name} has the features on the right: name them in xtask/Cargo.toml"
            );
        }
    }
}
