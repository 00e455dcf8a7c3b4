//! Debian packages unpacked into the cache in place of installed: those of daemons, which would start
//! with the machine, take the place of its own services, and be held to their paths by AppArmor.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::apt;
use crate::{cache, phase, program::run};

/// Programs that belong together, in a folder of the cache.
pub struct Unpacked {
    pub folder: &'static str,
    pub packages: &'static [&'static str],
    pub why: &'static str,
    /// Whether what is in the folder runs here.
    pub check: fn(&Path) -> Result<()>,
}

impl Unpacked {
    /// The folder, if what is in it runs here.
    pub fn find(&self) -> Result<Option<PathBuf>> {
        let folder = self.folder()?;
        Ok((self.check)(&folder).is_ok().then_some(folder))
    }

    fn folder(&self) -> Result<PathBuf> {
        Ok(cache::tools()?.join(self.folder))
    }

    pub fn install(&self) -> Result<()> {
        phase::run(self.folder, |_| {
            let parent = cache::tools()?;
            fs::create_dir_all(&parent).with_context(|| format!("making {}", parent.display()))?;
            // Made beside its place and moved there whole, so that half a tool is never found.
            let half = tempfile::tempdir_in(&parent).context("making a temporary folder")?;
            if let Err(refused) = self.download(half.path()) {
                // This machine may have no index yet.
                let Some(prefix) = apt::privilege() else {
                    let names = self.packages.join(", ");
                    return Err(refused.context(format!(
                        "Debian's {names} cannot be downloaded; `sudo apt-get update` may help"
                    )));
                };
                apt::update(prefix)?;
                self.download(half.path())?;
            }
            let unpacked = half.path().join("unpacked");
            for entry in fs::read_dir(half.path())? {
                let deb = entry?.path();
                if deb.extension().is_some_and(|end| end == "deb") {
                    run(Command::new("dpkg-deb")
                        .arg("--extract")
                        .arg(&deb)
                        .arg(&unpacked))?;
                }
            }
            (self.check)(&unpacked).with_context(|| {
                let names = self.packages.join(", ");
                format!("Debian's {names}, unpacked into the cache, do not run here")
            })?;
            let folder = self.folder()?;
            if folder.exists() {
                fs::remove_dir_all(&folder)
                    .with_context(|| format!("removing {}", folder.display()))?;
            }
            fs::rename(&unpacked, &folder)
                .with_context(|| format!("keeping {}", folder.display()))?;
            Ok(((), self.packages.join(" ")))
        })
    }

    /// The packages, and of what they depend on the part that this machine lacks.
    fn download(&self, into: &Path) -> Result<()> {
        let simulated = run(Command::new("apt-get")
            .args(["install", "--simulate", "--no-install-recommends"])
            .args(self.packages))?;
        let mut names = self.packages.to_vec();
        names.extend(new(&simulated).filter(|name| !self.packages.contains(name)));
        run(Command::new("apt-get")
            .args(["download", "-q"])
            .args(names)
            .current_dir(into))
        .map(drop)
    }
}

/// The packages that come anew, by what `apt-get --simulate` says: `Inst NAME (VERSION ...`. Those with
/// `[OLD VERSION]` are here already, and a second C library beside the machine's would serve nobody.
fn new(simulated: &str) -> impl Iterator<Item = &str> {
    simulated.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
        rest.starts_with('(').then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_is_depended_on_only_what_is_missing_comes_along() {
        let simulated = "\
Reading package lists...
The following NEW packages will be installed:
  kea-common kea-dhcp4-server liblog4cplus-2.0.5
Inst libssl3 [3.0.16-1~deb12u1] (3.0.17-1~deb12u2 Debian:12.11/stable [amd64])
Inst liblog4cplus-2.0.5 (2.0.8-1 Debian:12.11/stable [amd64])
Inst kea-common (2.2.0-6 Debian:12.11/stable [amd64])
Conf kea-common (2.2.0-6 Debian:12.11/stable [amd64])
";
        let names: Vec<&str> = new(simulated).collect();
        assert_eq!(names, ["liblog4cplus-2.0.5", "kea-common"]);
    }
}
