//! Our own programs, built static: the image has no C library of ours to share.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::programs::Linkage;
use crate::workspace;

/// glibc, linked in: Rust's own standard library is built for it, and no musl is needed.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the packages in release and returns the folder with their binaries.
pub fn build(packages: &[&str]) -> Result<PathBuf> {
    let mut cargo = workspace::cargo();
    cargo.args([
        "build",
        "--release",
        "--locked",
        "--quiet",
        "--target",
        TARGET,
    ]);
    for package in packages {
        cargo.args(["-p", package]);
    }
    // These would replace the flags below, or be added to them.
    cargo
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", flags());
    let status = cargo.status().context("running cargo")?;
    ensure!(
        status.success(),
        "building {} failed; `cargo build -p PACKAGE` shows the same errors faster",
        packages.join(", ")
    );
    Ok(workspace::target().join(TARGET).join("release"))
}

/// The bytes of a binary, once it is known to be static.
pub fn read_static(folder: &Path, binary: &str) -> Result<Vec<u8>> {
    let file = folder.join(binary);
    let bytes = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
    let linkage = Linkage::of(&bytes).with_context(|| format!("reading {}", file.display()))?;
    ensure!(
        linkage.is_static(),
        "{binary} is not static, so it could not run on the node: it asks for {:?} {:?}",
        linkage.interpreter,
        linkage.libraries
    );
    Ok(bytes)
}

/// Static, and free of the paths of whoever builds it, which panics would show and which would
/// make two people's images differ.
fn flags() -> String {
    let mut flags = String::from("-C target-feature=+crt-static");
    for (folder, name) in [(Some(workspace::root()), "/loam"), (cargo_home(), "/cargo")] {
        if let Some(folder) = folder.as_deref().and_then(Path::to_str)
            && !folder.contains(' ')
        {
            flags.push_str(&format!(" --remap-path-prefix={folder}={name}"));
        }
    }
    flags
}

fn cargo_home() -> Option<PathBuf> {
    match std::env::var_os("CARGO_HOME") {
        Some(home) => Some(PathBuf::from(home)),
        None => std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")),
    }
}
