//! `image/image.toml`, as its comments describe it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Debian's suite that packages are chosen from when the lock is renewed.
    pub suite: String,
    /// The kernel's command line.
    pub command_line: String,
    pub allow_grid_override: bool,
    /// Becomes `/etc/loam/grid.toml`.
    pub grid: Option<toml::Table>,
    /// Becomes `/etc/loam/time.toml`: which servers are asked for the time.
    pub time: Option<toml::Table>,
    /// Becomes `/etc/loam/mirrors.toml`: who is asked for images before their registries.
    pub mirrors: Option<toml::Table>,
    pub stub: Stub,
    pub kernel: Kernel,
    pub guest: Guest,
    pub ours: Vec<Ours>,
    pub debian: Vec<Debian>,
}

/// The EFI program that starts the kernel out of the UKI.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stub {
    pub package: String,
    pub file: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    pub package: String,
    /// Modules that init loads at boot, in order.
    pub load: Vec<String>,
    /// Modules that are loaded when their hardware is found.
    pub modules: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// Debian's package of the kernel's source.
    pub source: String,
    /// What is built in: a configuration's lines, in a file beside `image.toml`.
    pub config: String,
    /// A binary of the package `loam-init`.
    pub init: String,
    pub debian: DebianGuest,
}

/// A stock kernel that machines boot in a test and a benchmark.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DebianGuest {
    pub package: String,
    /// Loaded in every machine.
    pub modules: Vec<String>,
    /// Loaded where a volume has this file system; one that is built in needs no entry.
    #[serde(default)]
    pub filesystems: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ours {
    pub package: String,
    pub binary: String,
    pub path: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Debian {
    pub package: String,
    /// Where in the image, and which file of the package.
    pub files: BTreeMap<String, String>,
}

impl Spec {
    pub fn read(file: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        Self::parse(&text).with_context(|| format!("{}", file.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let spec: Self = toml::from_str(text)?;
        let places = spec
            .ours
            .iter()
            .map(|ours| &ours.path)
            .chain(spec.debian.iter().flat_map(|debian| debian.files.keys()));
        for place in places {
            ensure!(
                place.starts_with('/') && !place.split('/').any(|part| part == ".."),
                "`{place}` is no absolute path in the image"
            );
        }
        ensure!(
            spec.ours.iter().any(|ours| ours.path == "/init"),
            "none of `ours` goes to /init, which the kernel starts"
        );
        Ok(spec)
    }

    /// Those of this workspace that the image's programs are from.
    pub fn packages(&self) -> Vec<&str> {
        let mut packages: Vec<&str> = self.ours.iter().map(|ours| ours.package.as_str()).collect();
        packages.sort_unstable();
        packages.dedup();
        packages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: &str = include_str!("../../../image/image.toml");

    #[test]
    fn reads_the_image_of_this_repository() {
        let spec = Spec::parse(IMAGE).unwrap();
        assert!(spec.kernel.load.contains(&"btrfs".to_owned()));
    }

    #[test]
    fn refuses_unknown_fields_and_relative_places() {
        let unknown = format!("colour = 'red'\n{IMAGE}");
        assert!(Spec::parse(&unknown).is_err());
        let relative = IMAGE.replace("\"/usr/bin/loam-vmm\"", "\"usr/bin/loam-vmm\"");
        assert!(
            Spec::parse(&relative)
                .unwrap_err()
                .to_string()
                .contains("usr/bin/loam-vmm")
        );
    }
}
