//! Tools that the npm registry has: anvil and solc. `xtask/tools/` locks each by hash; npm checks
//! the hashes, and no install script runs.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Need;
use crate::{cache, phase};

/// A package with its lock.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    name: &'static str,
    pub why: &'static str,
    need: Need,
    manifest: &'static str,
    lock: &'static str,
    /// What must be there in the end, below the tool's folder.
    product: &'static str,
}

const TOOLS: [Tool; 2] = [
    Tool {
        name: "anvil",
        why: "is the chain of the demo and the tests",
        need: Need::Demo,
        manifest: include_str!("../../tools/anvil/package.json"),
        lock: include_str!("../../tools/anvil/package-lock.json"),
        product: "node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil",
    },
    Tool {
        name: "solc",
        why: "proves that the checked-in contract is what its source compiles to",
        need: Need::Tests,
        manifest: include_str!("../../tools/solc/package.json"),
        lock: include_str!("../../tools/solc/package-lock.json"),
        product: "node_modules/solc/package.json",
    },
];

/// The tools that are not in the cache.
pub fn missing(need: Need) -> Result<Vec<Tool>> {
    let mut missing = Vec::new();
    for tool in TOOLS.into_iter().filter(|tool| tool.need <= need) {
        if !tool.folder()?.join(tool.product).exists() {
            missing.push(tool);
        }
    }
    Ok(missing)
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
            half.path().join(self.product).exists(),
            "npm has installed {self}, but it has no {}",
            self.product
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
}
