//! Debian's chrony, unpacked into the cache. Installed, it would take the place of the machine's own time
//! service, and AppArmor would keep it from the tests' files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::apt;
use crate::{cache, phase};

pub const WHY: &str = "is the time server that clockd is tried against";

/// Where a machine has it that serves the time by it.
const INSTALLED: &str = "/usr/sbin/chronyd";

/// The one in the cache, else the machine's own; none if neither is there and runs.
pub fn find() -> Result<Option<PathBuf>> {
    let places = [unpacked()?, INSTALLED.into()];
    Ok(places.into_iter().find(|program| version(program).is_ok()))
}

fn unpacked() -> Result<PathBuf> {
    Ok(folder()?.join("usr/sbin/chronyd"))
}

fn folder() -> Result<PathBuf> {
    Ok(cache::tools()?.join("chrony"))
}

pub fn install() -> Result<()> {
    phase::run("chrony", |_| {
        let parent = cache::tools()?;
        fs::create_dir_all(&parent).with_context(|| format!("making {}", parent.display()))?;
        // Made beside its place and moved there whole, so that half a tool is never found.
        let half = tempfile::tempdir_in(&parent).context("making a temporary folder")?;
        if let Err(refused) = download(half.path()) {
            // This machine may have no index yet.
            let Some(prefix) = apt::privilege() else {
                return Err(refused.context(
                    "Debian's chrony cannot be downloaded; `sudo apt-get update` may help",
                ));
            };
            apt::update(prefix)?;
            download(half.path())?;
        }
        let deb = fs::read_dir(half.path())?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|end| end == "deb"))
            .context("apt-get has downloaded chrony, but left no .deb")?;
        let unpacked = half.path().join("chrony");
        run(Command::new("dpkg-deb")
            .arg("--extract")
            .arg(&deb)
            .arg(&unpacked))?;
        let version = version(&unpacked.join("usr/sbin/chronyd"))
            .context("Debian's chronyd does not run here; `apt-get install chrony` brings what it needs, and takes the place of this machine's time service")?;
        let folder = folder()?;
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("removing {}", folder.display()))?;
        }
        fs::rename(&unpacked, &folder).with_context(|| format!("keeping {}", folder.display()))?;
        Ok(((), version))
    })
}

fn download(into: &Path) -> Result<()> {
    run(Command::new("apt-get")
        .args(["download", "-q", "chrony"])
        .current_dir(into))
    .map(drop)
}

fn version(program: &Path) -> Result<String> {
    let told = run(Command::new(program).arg("--version"))?;
    // `chronyd (chrony) version 4.3 (+NTS ...)`
    let (version, _) = told.split_once(" (+").unwrap_or((&told, ""));
    Ok(version.to_owned())
}

/// Gives what it prints.
fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().display().to_string();
    let output = command
        .output()
        .with_context(|| format!("running {program}"))?;
    ensure!(
        output.status.success(),
        "{program} ended with {}:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
