//! Tools that the npm registry has: anvil and solc. `xtask/tools/` locks each by hash; npm checks
//! the hashes, and no install script runs.

use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Need;
use crate::image::stage::Key;
use crate::{cache, phase, workspace};

/// A package with its lock.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    name: &'static str,
    pub why: &'static str,
    need: Need,
    manifest: &'static str,
    lock: &'static str,
    /// Of all that npm installs ([`contents`]), which is looked at before each use: it is run as whoever builds.
    sha256: &'static str,
}

const TOOLS: [Tool; 2] = [
    Tool {
        name: "anvil",
        why: "is the chain of the demo and the tests",
        need: Need::Demo,
        manifest: include_str!("../../tools/anvil/package.json"),
        lock: include_str!("../../tools/anvil/package-lock.json"),
        sha256: "f322dd410c3149fdc557cdb3b5ac3ff70aca4500f960dcf40771097d576126c3",
    },
    Tool {
        name: "solc",
        why: "proves that the checked-in contract is what its source compiles to",
        need: Need::Tests,
        manifest: include_str!("../../tools/solc/package.json"),
        lock: include_str!("../../tools/solc/package-lock.json"),
        sha256: "7e952e535f8bb5008f8f7bcc0677a961cae394e4bc30f0f84a6003e086bc8b4d",
    },
];

/// The tools that are not in the cache as they were made.
pub fn missing(need: Need) -> Result<Vec<Tool>> {
    let mut missing = Vec::new();
    for tool in TOOLS.into_iter().filter(|tool| tool.need <= need) {
        if !tool.is_whole(&tool.folder()?) {
            missing.push(tool);
        }
    }
    Ok(missing)
}

/// A hash of all files below a folder: their names, bytes, and whether they are programs. What npm notes for itself
/// beside the packages does not count.
fn contents(folder: &Path) -> Result<String> {
    let mut files: Vec<(Vec<u8>, PathBuf)> = workspace::files(folder)?
        .into_iter()
        .map(|file| {
            Ok((
                file.strip_prefix(folder)?.as_os_str().as_bytes().to_vec(),
                file,
            ))
        })
        .collect::<Result<_>>()?;
    files.retain(|(name, _)| !name.starts_with(b".bin/") && name != b".package-lock.json");
    files.sort();
    let mut key = Key::new("");
    for (name, file) in files {
        let reading = || format!("reading {}", file.display());
        let data = fs::symlink_metadata(&file).with_context(reading)?;
        ensure!(data.is_file(), "{} is no file", file.display());
        let is_program = data.permissions().mode() & 0o100 != 0;
        key = key
            .with(name)
            .with(if is_program { "x" } else { "-" })
            .with(fs::read(&file).with_context(reading)?);
    }
    Ok(key.hex())
}

pub fn install(tools: &[Tool]) -> Result<()> {
    for tool in tools {
        phase::run(&tool.to_string(), |_| tool.install())?;
    }
    Ok(())
}

impl Tool {
    /// `<cache>/tools/anvil-1.7.1`
    fn folder(&self) -> Result<PathBuf> {
        Ok(cache::tools()?.join(format!("{}-{}", self.name, self.version()?)))
    }

    fn is_whole(&self, folder: &Path) -> bool {
        contents(&folder.join("node_modules")).is_ok_and(|found| found == self.sha256)
    }

    fn version(&self) -> Result<String> {
        let manifest: Value = serde_json::from_str(self.manifest)?;
        manifest["dependencies"]
            .as_object()
            .and_then(|packages| packages.values().next())
            .and_then(Value::as_str)
            .map(str::to_owned)
            .with_context(|| format!("the manifest of {} names no version", self.name))
    }

    fn install(&self) -> Result<((), String)> {
        let folder = self.folder()?;
        let parent = cache::tools()?;
        fs::create_dir_all(&parent).with_context(|| format!("making {}", parent.display()))?;
        // Made beside its place and moved there whole, so that half a tool is never found.
        let half = tempfile::tempdir_in(&parent).context("making a temporary folder")?;
        fs::write(half.path().join("package.json"), self.manifest)?;
        fs::write(half.path().join("package-lock.json"), self.lock)?;
        npm_ci(half.path()).with_context(|| format!("installing {self}"))?;
        ensure!(
            self.is_whole(half.path()),
            "npm has installed {self}, but it is not what its hash in xtask/src/setup/npm.rs says"
        );
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("removing {}", folder.display()))?;
        }
        fs::rename(half.keep(), &folder)
            .with_context(|| format!("keeping {}", folder.display()))?;
        Ok(((), folder.display().to_string()))
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}",
            self.name,
            self.version().map_err(|_| fmt::Error)?
        )
    }
}

fn npm_ci(folder: &Path) -> Result<()> {
    let output = Command::new("npm")
        .args([
            "ci",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
        ])
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .context("running npm")?;
    ensure!(
        output.status.success(),
        "npm ci failed:\n{}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_is_locked_by_hash_and_by_no_address() {
        for tool in TOOLS {
            assert!(tool.version().unwrap().split('.').count() == 3);
            let lock: Value = serde_json::from_str(tool.lock).unwrap();
            for (name, package) in lock["packages"].as_object().unwrap() {
                if name.is_empty() {
                    continue;
                }
                assert!(
                    package["integrity"]
                        .as_str()
                        .unwrap()
                        .starts_with("sha512-"),
                    "{name}"
                );
                assert!(package.get("resolved").is_none(), "{name} names a registry");
            }
        }
    }

    #[test]
    fn a_byte_a_name_or_a_mode_more_is_another_tool() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        fs::create_dir_all(file("a/b")).unwrap();
        fs::write(file("a/b/program"), "bytes").unwrap();
        let mut found = vec![contents(folder.path()).unwrap()];
        // npm's own.
        fs::create_dir(file(".bin")).unwrap();
        fs::write(file(".bin/program"), "").unwrap();
        fs::write(file(".package-lock.json"), "").unwrap();
        assert_eq!(contents(folder.path()).unwrap(), found[0]);
        let mut look = || found.push(contents(folder.path()).unwrap());
        fs::write(file("a/b/program"), "bytez").unwrap();
        look();
        fs::set_permissions(file("a/b/program"), fs::Permissions::from_mode(0o755)).unwrap();
        look();
        fs::write(file("a/more"), "").unwrap();
        look();
        fs::rename(file("a/more"), file("more")).unwrap();
        look();
        for (at, hash) in found.iter().enumerate() {
            assert_eq!(found.iter().position(|other| other == hash), Some(at));
        }
        std::os::unix::fs::symlink("more", file("link")).unwrap();
        assert!(contents(folder.path()).is_err());
        assert!(contents(&file("none")).is_err());
    }

    #[test]
    fn what_the_chain_looks_for_is_what_is_installed() {
        let version = |name: &str| {
            let tool = TOOLS.iter().find(|tool| tool.name == name).unwrap();
            tool.version().unwrap()
        };
        assert_eq!(version("anvil"), loam_chain::tool::ANVIL_VERSION);
        assert_eq!(version("solc"), loam_chain::tool::SOLC_VERSION);
    }
}
