//! `image/packages.lock`: the exact Debian packages that the image's files come from.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::archive::{Archive, FetchError, Origin, Wanted};
use super::component::Component;
use crate::cache;

const HEADER: &str = "\
# The Debian packages that the image is made from, by hash.
# Written by `cargo xtask image --update-lock`; not meant to be edited by hand.
";

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// The suite whose index the packages were chosen from.
    pub suite: String,
    /// When each index that they were chosen from was signed, such as `2026-11-21T08:12:42Z`, by the name of
    /// its suite: none is taken later that is older.
    #[serde(default)]
    pub released: BTreeMap<String, String>,
    /// Sorted by name.
    #[serde(rename = "package")]
    pub packages: Vec<Locked>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locked {
    pub name: String,
    /// The name in `image.toml`, where that is a metapackage that stands for the newest kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
    pub version: String,
    /// Whose archive has it.
    #[serde(default, skip_serializing_if = "Origin::is_main")]
    pub origin: Origin,
    #[serde(default, skip_serializing_if = "Component::is_main")]
    pub component: Component,
    /// Below the archive's address.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Hexadecimal.
    pub sha256: String,
}

impl Lock {
    pub fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).with_context(|| {
            format!(
                "reading {}; `cargo xtask image --update-lock` makes it",
                file.display()
            )
        })?;
        toml::from_str(&text).with_context(|| format!("reading {}", file.display()))
    }

    pub fn write(&self, file: &Path) -> Result<()> {
        let text = format!("{HEADER}{}", toml::to_string(self)?);
        fs::write(file, text).with_context(|| format!("writing {}", file.display()))
    }

    /// The package that `image.toml` calls `name`.
    pub fn get(&self, name: &str) -> Result<&Locked> {
        self.packages
            .iter()
            .find(|package| package.is(name))
            .with_context(|| {
                format!("image/packages.lock does not have {name}: run `cargo xtask image --update-lock`")
            })
    }
}

impl Locked {
    /// Whether `image.toml` calls it `name`.
    pub fn is(&self, name: &str) -> bool {
        self.asked.as_deref() == Some(name) || self.name == name
    }

    /// Where the package's bytes are kept.
    pub fn file(&self) -> Result<PathBuf> {
        Ok(cache::debs()?.join(format!("{}.deb", self.sha256)))
    }
}

/// Makes sure that every package is in the cache; returns how many bytes had to be fetched.
/// What is there already was checked when it came; [`verified`] checks it again before use.
pub fn fetch(
    archive: impl FnOnce() -> Result<Archive>,
    packages: &[&Locked],
) -> Result<u64, FetchError> {
    let mut wanted = Vec::new();
    let mut bytes = 0;
    for package in packages {
        let to = package.file()?;
        if !to.exists() {
            bytes += package.size;
            wanted.push(Wanted {
                label: format!("{} {}", package.name, package.version),
                origin: package.origin,
                path: package.path.clone(),
                sha256: Some(package.sha256.clone()),
                most: package.size,
                to,
            });
        }
    }
    if wanted.is_empty() {
        return Ok(0);
    }
    archive()?.fetch(&wanted)?;
    Ok(bytes)
}

/// The cached package, its bytes checked against the lock just now.
pub fn verified(package: &Locked) -> Result<PathBuf> {
    let file = package.file()?;
    let bytes = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
    if hex::encode(Sha256::digest(&bytes)) != package.sha256 {
        fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
        anyhow::bail!(
            "{} was damaged in the cache and is removed now; run the command again to fetch it",
            package.name
        );
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str) -> Locked {
        Locked {
            name: name.into(),
            asked: None,
            version: "1-1".into(),
            origin: Origin::Main,
            component: Component::Main,
            path: format!("pool/{name}.deb"),
            size: 3,
            sha256: "00".into(),
        }
    }

    #[test]
    fn round_trips() {
        let mut kernel = package("linux-image-6.12");
        kernel.asked = Some("linux-image-amd64".into());
        kernel.origin = Origin::Security;
        let mut microcode = package("microcode");
        microcode.component = Component::NonFreeFirmware;
        let lock = Lock {
            suite: "trixie".into(),
            released: [("trixie".to_owned(), "2026-11-21T08:12:42Z".to_owned())].into(),
            packages: vec![package("a"), kernel.clone(), microcode],
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("packages.lock");
        lock.write(&file).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text.matches("component").count(), 1);
        assert!(text.contains("component = \"non-free-firmware\""), "{text}");
        let again = Lock::read(&file).unwrap();
        assert_eq!(again, lock);
        assert_eq!(again.get("linux-image-amd64").unwrap(), &kernel);
        assert!(
            again
                .get("b")
                .unwrap_err()
                .to_string()
                .contains("--update-lock")
        );
    }
}
