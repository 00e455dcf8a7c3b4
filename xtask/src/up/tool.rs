//! The real `loam`, as a user would call it.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

/// How often it is asked whether to go on, while it says nothing.
const LOOK: Duration = Duration::from_secs(1);

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
        self.ask_with(arguments, &[], |_| {}, || Ok(()))
    }

    /// As [`Loam::ask`], with environment variables; `hear` is told what it says meanwhile, and it is
    /// ended when `goes_on` says that waiting has become vain.
    pub fn ask_with<T: DeserializeOwned>(
        &self,
        arguments: &[&str],
        environment: &[(&str, &str)],
        hear: impl Fn(&str),
        goes_on: impl Fn() -> Result<()>,
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
        // Read beside each other, so that neither pipe fills up.
        let answer = thread::spawn(move || std::io::read_to_string(stdout));
        let (line_came, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                if line_came.send(line).is_err() {
                    break;
                }
            }
        });
        let mut said = String::new();
        loop {
            match lines.recv_timeout(LOOK) {
                Ok(line) => {
                    let line = line?;
                    hear(&line);
                    said.push_str(&line);
                    said.push('\n');
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    if let Err(error) = goes_on() {
                        child.kill()?;
                        child.wait()?;
                        return Err(error.context(format!("loam {}", arguments.join(" "))));
                    }
                }
            }
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

    /// What a user's shell must know to call it by its name alone, from the root of the workspace.
    pub fn exports(&self, root: &Path) -> String {
        let short = |path: &Path| {
            path.strip_prefix(root)
                .unwrap_or(path)
                .display()
                .to_string()
        };
        let folder = self.binary.parent().unwrap_or(root);
        format!(
            "export PATH=\"$PWD/{}:$PATH\"\nexport LOAM_CONFIG=\"{}\" LOAM_KEY=\"{}\"",
            short(folder),
            short(&self.config),
            short(&self.key)
        )
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn loam(script: &str, folder: &Path) -> Loam {
        let binary = folder.join("loam");
        fs::write(&binary, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
        Loam {
            binary,
            config: "config".into(),
            key: "key".into(),
        }
    }

    #[test]
    fn a_shell_in_the_workspace_finds_it() {
        let loam = Loam {
            binary: "/a clone/target/release/loam".into(),
            config: "/a clone/target/up/config.toml".into(),
            key: "/a clone/target/up/tenant.key".into(),
        };
        assert_eq!(
            loam.exports(Path::new("/a clone")),
            "export PATH=\"$PWD/target/release:$PATH\"\n\
             export LOAM_CONFIG=\"target/up/config.toml\" LOAM_KEY=\"target/up/tenant.key\""
        );
    }

    #[test]
    fn does_not_wait_for_what_cannot_come() {
        let folder = tempfile::tempdir().unwrap();
        let loam = loam("echo waiting >&2; exec tail -f /dev/null", folder.path());
        let ended = || bail!("QEMU ended");
        let asked = loam.ask_with::<u64>(&["deploy"], &[], |_| {}, ended);
        assert_eq!(
            format!("{:#}", asked.unwrap_err()),
            "loam deploy: QEMU ended"
        );
    }

    #[test]
    fn hears_what_is_said_and_takes_the_answer() {
        let folder = tempfile::tempdir().unwrap();
        let loam = loam("echo one >&2; echo two >&2; echo 7", folder.path());
        let heard = std::cell::RefCell::new(Vec::new());
        let hear = |line: &str| heard.borrow_mut().push(line.to_owned());
        let answer: u64 = loam.ask_with(&["x"], &[], hear, || Ok(())).unwrap();
        assert_eq!(
            (answer, heard.take()),
            (7, vec!["one".into(), "two".into()])
        );
    }
}
