//! A suite's package index, trusted because the archive's key signed the release that names it.

use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use liblzma::read::XzDecoder;

use super::archive::{Archive, Wanted};
use super::control::{self, Stanza};
use super::lock::Locked;
use super::version;

/// Debian's own keys, from the package `debian-archive-keyring`.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The binary packages of one suite, for amd64.
#[derive(Debug)]
pub struct Index {
    packages: HashMap<String, Offer>,
    /// Virtual names, and who provides them.
    provided: HashMap<String, Vec<String>>,
}

/// What the archive says of one package.
#[derive(Debug, Clone)]
pub struct Offer {
    pub locked: Locked,
    /// `Pre-Depends` and `Depends`: each a list of alternatives, best first, versions left out.
    pub needs: Vec<Vec<String>>,
}

impl Index {
    /// Fetches the suite's index and checks the chain from Debian's key to its last byte.
    pub fn fetch(archive: &Archive, suite: &str) -> Result<Self> {
        let folder = tempfile::tempdir().context("making a temporary folder")?;
        let release = release(archive, suite, folder.path())?;
        let path = "main/binary-amd64/Packages.xz";
        let packages = folder.path().join("Packages.xz");
        archive.fetch(&[Wanted {
            label: format!("the package index of {suite}"),
            path: format!("dists/{suite}/{path}"),
            sha256: Some(sha256_in_release(&release, path)?),
            to: packages.clone(),
        }])?;
        let mut text = String::new();
        XzDecoder::new(fs::File::open(&packages)?)
            .read_to_string(&mut text)
            .context("decompressing the package index")?;
        Self::parse(&text)
    }

    pub fn parse(text: &str) -> Result<Self> {
        let mut index = Self {
            packages: HashMap::new(),
            provided: HashMap::new(),
        };
        for stanza in control::stanzas(text) {
            let offer = offer(&stanza)?;
            let name = offer.locked.name.clone();
            for virtual_name in relations(stanza.get("Provides").unwrap_or_default()).concat() {
                index
                    .provided
                    .entry(virtual_name)
                    .or_default()
                    .push(name.clone());
            }
            let older = index.packages.get(&name).is_some_and(|other| {
                version::compare(&other.locked.version, &offer.locked.version).is_gt()
            });
            if !older {
                index.packages.insert(name, offer);
            }
        }
        Ok(index)
    }

    pub fn get(&self, name: &str) -> Option<&Offer> {
        self.packages.get(name)
    }

    /// The package that stands for `name`: itself, or the only one that provides it.
    pub fn find(&self, name: &str) -> Option<&Offer> {
        self.get(name)
            .or_else(|| match self.provided.get(name).map(Vec::as_slice) {
                Some([only]) => self.get(only),
                _ => None,
            })
    }
}

fn release(archive: &Archive, suite: &str, folder: &Path) -> Result<String> {
    ensure!(
        Path::new(KEYRING).exists(),
        "{KEYRING} is missing: install debian-archive-keyring, whose keys say that an index is Debian's"
    );
    let signed = folder.join("InRelease");
    archive.fetch(&[Wanted {
        label: format!("the release file of {suite}"),
        path: format!("dists/{suite}/InRelease"),
        sha256: None,
        to: signed.clone(),
    }])?;
    let release: PathBuf = folder.join("Release");
    let output = Command::new("gpgv")
        .args(["--quiet", "--keyring", KEYRING, "--output"])
        .args([&release, &signed])
        .output()
        .context("running gpgv (package gpgv), which checks the archive's signature")?;
    ensure!(
        output.status.success(),
        "the release file of {suite} is not signed by Debian:\n{}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    fs::read_to_string(&release).context("reading the checked release file")
}

fn sha256_in_release(release: &str, path: &str) -> Result<String> {
    let stanza = control::stanzas(release).next().unwrap_or_default();
    let hashes = stanza
        .get("SHA256")
        .context("the release file has no SHA256 list")?;
    hashes
        .lines()
        .find_map(
            |line| match line.split_whitespace().collect::<Vec<_>>()[..] {
                [hash, _size, name] if name == path => Some(hash.to_owned()),
                _ => None,
            },
        )
        .with_context(|| format!("the release file does not name {path}"))
}

fn offer(stanza: &Stanza<'_>) -> Result<Offer> {
    let name = stanza
        .get("Package")
        .context("a stanza without a package's name")?;
    let field = |field: &str| {
        stanza
            .get(field)
            .with_context(|| format!("the index says no {field} of {name}"))
    };
    let mut needs = relations(stanza.get("Pre-Depends").unwrap_or_default());
    needs.extend(relations(stanza.get("Depends").unwrap_or_default()));
    Ok(Offer {
        locked: Locked {
            name: name.to_owned(),
            asked: None,
            version: field("Version")?.to_owned(),
            path: field("Filename")?.to_owned(),
            size: field("Size")?
                .parse()
                .with_context(|| format!("the size of {name}"))?,
            sha256: field("SHA256")?.to_owned(),
        },
        needs,
    })
}

/// `a (>= 1) | b:any, c` as `[[a, b], [c]]`. One suite is consistent in itself, so the versions
/// say nothing that choosing from it does not.
fn relations(field: &str) -> Vec<Vec<String>> {
    let name = |alternative: &str| {
        let word = alternative.split_whitespace().next().unwrap_or_default();
        word.split(['(', ':']).next().unwrap_or_default().to_owned()
    };
    field
        .split(',')
        .filter(|relation| !relation.trim().is_empty())
        .map(|relation| relation.split('|').map(name).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_relations() {
        assert_eq!(
            relations("libc6 (>= 2.38), awk | gawk:any (>= 4),\n libzstd1"),
            [vec!["libc6"], vec!["awk", "gawk"], vec!["libzstd1"]]
        );
    }

    #[test]
    fn finds_what_only_one_package_provides() {
        let text = "Package: a\nVersion: 1\nFilename: pool/a.deb\nSize: 1\nSHA256: 00\nProvides: virtual (= 1), shared\n\n\
                    Package: b\nVersion: 1\nFilename: pool/b.deb\nSize: 1\nSHA256: 00\nProvides: shared\n";
        let index = Index::parse(text).unwrap();
        assert_eq!(index.find("virtual").unwrap().locked.name, "a");
        assert!(index.find("shared").is_none());
        assert!(index.find("none").is_none());
    }

    #[test]
    fn takes_the_newest_of_two_versions() {
        let stanza = |version: &str| {
            format!("Package: a\nVersion: {version}\nFilename: pool/a.deb\nSize: 1\nSHA256: 00\n\n")
        };
        for text in [
            stanza("1.9") + &stanza("1.10"),
            stanza("1.10") + &stanza("1.9"),
        ] {
            assert_eq!(
                Index::parse(&text)
                    .unwrap()
                    .get("a")
                    .unwrap()
                    .locked
                    .version,
                "1.10"
            );
        }
    }

    #[test]
    fn finds_a_hash_in_a_release() {
        let release = "Origin: Debian\nSHA256:\n aa 10 main/x\n bb 11 main/y\n";
        assert_eq!(sha256_in_release(release, "main/y").unwrap(), "bb");
        assert!(sha256_in_release(release, "main/z").is_err());
    }
}
