//! Our own programs, built static: the image has no C library of ours to share.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal};

use super::programs::Linkage;
use crate::workspace;

/// glibc, linked in: Rust's own standard library is built for it, and no musl is needed.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What runs beside a node: the command line and the demo's server. Built in one go with the
/// daemons, as cargo chooses other features, and so builds all again, for another set of packages.
const BESIDE: [&str; 2] = ["loam", "hello"];

/// How they are compiled: a profile of `Cargo.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Quickly, for work.
    Work,
    /// For farmers: as small as they get.
    Release,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Work => "release",
            Self::Release => "image",
        }
    }
}

/// Where the binaries are once [`build`] has made them.
pub fn folder(profile: Profile) -> PathBuf {
    workspace::target().join(TARGET).join(profile.name())
}

/// Builds the packages for work and returns the folder with their binaries.
pub fn build(packages: &[&str]) -> Result<PathBuf> {
    build_telling(packages, None, |_| {}, &AtomicBool::new(false))
}

/// The same; `progress` hears what cargo is busy with. It ends soon after `in_vain` has been set. `release`: for
/// farmers, and what the programs that run beside a node call theirs.
pub fn build_telling(
    packages: &[&str],
    release: Option<&str>,
    progress: impl Fn(&str),
    in_vain: &AtomicBool,
) -> Result<PathBuf> {
    let profile = match release {
        Some(_) => Profile::Release,
        None => Profile::Work,
    };
    let mut cargo = command(packages, profile);
    match release {
        Some(version) => cargo.env("LOAM_VERSION", version),
        None => cargo.env_remove("LOAM_VERSION"),
    };
    cargo.stderr(Stdio::piped());
    let mut child = cargo.spawn().context("running cargo")?;
    let mut complaints = String::new();
    for line in child
        .stderr
        .take()
        .into_iter()
        .flat_map(|out| BufReader::new(out).lines())
    {
        let line = line.context("reading what cargo says")?;
        if in_vain.load(Ordering::Relaxed) {
            // So that cargo ends its compilers.
            rustix::process::kill_process(Pid::from_child(&child), Signal::TERM)?;
            child.wait()?;
            bail!("stopped, since another part of the image failed");
        }
        if is_progress(&line) {
            progress(line.trim());
        } else {
            complaints.push_str(&line);
            complaints.push('\n');
        }
    }
    ensure!(
        child.wait()?.success(),
        "building {} failed:\n{complaints}",
        packages.join(", ")
    );
    Ok(folder(profile))
}

/// The cargo that builds the packages. What is built beside them with the same packages and flags shares all
/// that they stand on.
pub fn command(packages: &[&str], profile: Profile) -> Command {
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--locked", "--target", TARGET]);
    cargo.args(["--profile", profile.name()]);
    for package in packages.iter().chain(&BESIDE) {
        cargo.args(["-p", package]);
    }
    // These would replace the flags below, or be added to them.
    cargo
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", flags());
    cargo
}

/// Cargo's own lines, such as `   Compiling serde v1.0.2`: a verb set to the right.
fn is_progress(line: &str) -> bool {
    let verb = line.trim_start().split(' ').next().unwrap_or_default();
    let verbs = [
        "Compiling",
        "Downloading",
        "Downloaded",
        "Updating",
        "Locking",
        "Blocking",
        "Finished",
    ];
    line.starts_with(' ') && verbs.contains(&verb)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_progress_from_complaints() {
        assert!(is_progress("   Compiling serde v1.0.2"));
        assert!(!is_progress("error[E0308]: mismatched types"));
        assert!(!is_progress("  --> src/main.rs:1:1"));
    }

    #[test]
    fn refuses_a_program_that_needs_a_loader() {
        let own = std::env::current_exe().unwrap();
        let name = own.file_name().unwrap().to_str().unwrap();
        let error = read_static(own.parent().unwrap(), name).unwrap_err();
        assert!(error.to_string().contains("not static"), "{error}");
    }
}
