//! The real `loam`, as a user would call it.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

use crate::phase::Phase;

/// `loam` with a configuration and a key.
#[derive(Clone, Debug)]
pub struct Loam {
    pub binary: PathBuf,
    pub config: PathBuf,
    pub key: PathBuf,
}

impl Loam {
    /// Runs it with `--json` and gives what it answers.
    pub fn ask<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        self.ask_with(arguments, &[], None)
    }

    /// As [`Loam::ask`], with environment variables; what it says meanwhile becomes the phase's note.
    pub fn ask_with<T: DeserializeOwned>(
        &self,
        arguments: &[&str],
        environment: &[(&str, &str)],
        phase: Option<&Phase>,
    ) -> Result<T> {
        let mut child = Command::new(&self.binary)
            .arg("--config")
            .arg(&self.config)
            .arg("--key")
            .arg(&self.key)
            .arg("--json")
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} cannot be run", self.binary.display()))?;
        let stderr = child.stderr.take().context("a pipe was asked for")?;
        let stdout = child.stdout.take().context("a pipe was asked for")?;
        // Read beside the other, so that neither pipe fills up.
        let answer = thread::spawn(move || std::io::read_to_string(stdout));
        let mut said = String::new();
        for line in BufReader::new(stderr).lines() {
            let line = line?;
            if let Some(phase) = phase {
                phase.note(line.clone());
            }
            said.push_str(&line);
            said.push('\n');
        }
        let status = child.wait()?;
        let answer = answer
            .join()
            .map_err(|_| anyhow::anyhow!("reading its answer failed"))??;
        if !status.success() {
            bail!("loam {}: {status}\n{said}{answer}", arguments.join(" "));
        }
        serde_json::from_str(&answer)
            .with_context(|| format!("loam {} answered {answer:?}", arguments.join(" ")))
    }

    /// How a user types it, from the root of the workspace.
    pub fn typed(&self, root: &Path) -> String {
        let short = |path: &Path| {
            path.strip_prefix(root)
                .unwrap_or(path)
                .display()
                .to_string()
        };
        format!(
            "{} --config {} --key {}",
            short(&self.binary),
            short(&self.config),
            short(&self.key)
        )
    }
}
