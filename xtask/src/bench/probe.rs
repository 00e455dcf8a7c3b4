//! The program that tells how long its kernel took (`probe_program.rs`), and what it says.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::workspace;

/// What its line begins with; JSON follows.
pub const MARK: &str = "loam-probe ";

/// A kernel, as seen from the first of our own programs on it.
#[derive(Clone, Debug, Deserialize)]
pub struct Probed {
    /// From the kernel's start to the program's.
    pub uptime_seconds: f64,
    /// From the kernel's start to that of its init; none where the kernel's log cannot be read.
    pub run_init_microseconds: Option<u64>,
    pub total_kib: u64,
    pub available_kib: u64,
}

impl Probed {
    /// What the program says on a console, once the whole line is there.
    pub fn find(console: &str) -> Option<Result<Self>> {
        let (_, rest) = console.split_once(MARK)?;
        let (line, _) = rest.split_once('\n')?;
        let probed = serde_json::from_str(line.trim());
        Some(probed.with_context(|| format!("the probe said {line:?}")))
    }

    /// Memory that the kernel could not give to a program any more.
    pub fn used_kib(&self) -> u64 {
        self.total_kib.saturating_sub(self.available_kib)
    }
}

/// Compiles it, static, into `folder`.
pub fn build(folder: &Path) -> Result<PathBuf> {
    let source = folder.join("probe.rs");
    let binary = folder.join("probe");
    fs::write(&source, include_str!("probe_program.rs"))
        .with_context(|| format!("writing {}", source.display()))?;
    let status = Command::new("rustc")
        // The toolchain of this workspace.
        .current_dir(workspace::root())
        .args(["--edition", "2024", "-O", "-C", "strip=symbols"])
        .args(["-C", "target-feature=+crt-static", "-o"])
        .arg(&binary)
        .arg(&source)
        .status()
        .context("running rustc")?;
    ensure!(status.success(), "rustc ended with {status}");
    Ok(binary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_whole_lines_only() {
        let line = "loam-probe {\"uptime_seconds\":1.25,\"run_init_microseconds\":null,\
                    \"total_kib\":100,\"available_kib\":60}";
        assert!(Probed::find(line).is_none());
        let probed = Probed::find(&format!("noise\n{line}\r\n"))
            .unwrap()
            .unwrap();
        assert_eq!(probed.used_kib(), 40);
        assert!((probed.uptime_seconds - 1.25).abs() < 1e-9);
        assert!(Probed::find("loam-probe {}\n").unwrap().is_err());
    }

    #[test]
    fn the_program_compiles_and_speaks() {
        let folder = tempfile::tempdir().unwrap();
        let binary = build(folder.path()).unwrap();
        let mut child = Command::new(binary)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let probed = Probed::find(&line).unwrap().unwrap();
        assert!(probed.uptime_seconds > 0.0 && probed.total_kib > 0);
    }
}
