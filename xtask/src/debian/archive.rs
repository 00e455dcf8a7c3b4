//! The Debian archive of this machine: its address comes from apt's own configuration, and apt's
//! own downloader fetches, so proxies, mirrors and credentials are the ones that already work.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

use super::control;

/// Part of the package `apt`. It is the downloader behind `apt-get`.
const APT_HELPER: &str = "/usr/lib/apt/apt-helper";

/// Suites that Debian's main archive has. Other vendors' archives use other names.
const SUITES: [&str; 10] = [
    "stable",
    "oldstable",
    "testing",
    "unstable",
    "sid",
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
];

/// The archives that apt is set up for, best first.
#[derive(Debug)]
pub struct Archive {
    addresses: Vec<String>,
}

/// One file to fetch.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What to call it in a message.
    pub label: String,
    /// Below the archive's address, such as `pool/main/...`.
    pub path: String,
    /// Hexadecimal. Only a file signed by other means (`InRelease`) goes without.
    pub sha256: Option<String>,
    pub to: PathBuf,
}

impl Archive {
    /// Reads `/etc/apt/sources.list` and `/etc/apt/sources.list.d`.
    pub fn of_this_machine() -> Result<Self> {
        ensure!(
            Path::new(APT_HELPER).exists(),
            "{APT_HELPER} is missing: the image is made from Debian packages, fetched by apt; run this on Debian or a system that has apt"
        );
        let mut addresses = Vec::new();
        for file in source_files(Path::new("/etc/apt"))? {
            let text =
                fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
            let found = if file.extension().is_some_and(|ext| ext == "sources") {
                deb822_addresses(&text)
            } else {
                one_line_addresses(&text)
            };
            for address in found {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        ensure!(
            !addresses.is_empty(),
            "no Debian archive in /etc/apt/sources.list or /etc/apt/sources.list.d: add a source whose suite is one of Debian's and whose components have `main`"
        );
        Ok(Self { addresses })
    }

    /// Fetches every file, from the first archive that has it. Files end up complete or not at all.
    pub fn fetch(&self, wanted: &[Wanted]) -> Result<()> {
        let mut missing: Vec<&Wanted> = wanted.iter().collect();
        let mut last_error = String::new();
        for address in &self.addresses {
            last_error = download(address, &missing)?;
            let mut still_missing = Vec::new();
            for want in missing {
                if !accept(want)? {
                    still_missing.push(want);
                }
            }
            missing = still_missing;
            if missing.is_empty() {
                return Ok(());
            }
        }
        let labels: Vec<&str> = missing.iter().map(|want| want.label.as_str()).collect();
        bail!(Missing {
            labels: labels.join(", "),
            apt: last_error
        });
    }
}

/// What no archive had.
#[derive(Debug, thiserror::Error)]
#[error("the archive does not have {labels}\n{apt}")]
pub struct Missing {
    pub labels: String,
    pub apt: String,
}

/// Runs apt's downloader on all files; returns what it complained about. A file that could not be
/// fetched is told by its absence, since one failure must not hide the others' success.
fn download(address: &str, wanted: &[&Wanted]) -> Result<String> {
    let mut helper = Command::new(APT_HELPER);
    // As root, apt would drop to a user that cannot write into our cache, and warn about it.
    helper.args(["-q", "-o", "APT::Sandbox::User=root", "download-file"]);
    for want in wanted {
        if let Some(folder) = want.to.parent() {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        helper
            .arg(format!("{address}/{}", want.path))
            .arg(partial(want));
        helper.arg(match &want.sha256 {
            Some(hash) => format!("SHA256:{hash}"),
            None => String::new(),
        });
    }
    let output = helper
        .output()
        .with_context(|| format!("running {APT_HELPER}"))?;
    Ok(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

fn accept(want: &Wanted) -> Result<bool> {
    let partial = partial(want);
    if !partial.exists() {
        return Ok(false);
    }
    if let Some(expected) = &want.sha256 {
        let bytes = fs::read(&partial).with_context(|| format!("reading {}", partial.display()))?;
        if hex::encode(Sha256::digest(&bytes)) != *expected {
            fs::remove_file(&partial)?;
            return Ok(false);
        }
    }
    fs::rename(&partial, &want.to).with_context(|| format!("keeping {}", want.to.display()))?;
    Ok(true)
}

fn partial(want: &Wanted) -> PathBuf {
    let mut name = want.to.clone().into_os_string();
    // Two builds at once share the cache; each has its own half-written file.
    name.push(format!(".partial-{}", std::process::id()));
    PathBuf::from(name)
}

fn source_files(apt: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let list = apt.join("sources.list");
    if list.exists() {
        files.push(list);
    }
    let folder = apt.join("sources.list.d");
    if folder.is_dir() {
        let mut more: Vec<PathBuf> = fs::read_dir(&folder)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<std::io::Result<_>>()?;
        more.retain(|file| {
            file.extension()
                .is_some_and(|ext| ext == "list" || ext == "sources")
        });
        more.sort();
        files.append(&mut more);
    }
    Ok(files)
}

/// Lines like `deb [signed-by=/k.gpg] http://archive/debian bookworm main`.
fn one_line_addresses(text: &str) -> Vec<String> {
    let mut addresses = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line.strip_prefix("deb ") else {
            continue;
        };
        let rest = rest.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']').map_or("", |(_, after)| after),
            None => rest,
        };
        let mut words = rest.split_whitespace();
        let (Some(address), Some(suite)) = (words.next(), words.next()) else {
            continue;
        };
        if is_debian(suite) && words.any(|component| component == "main") {
            addresses.push(address.trim_end_matches('/').to_owned());
        }
    }
    addresses
}

fn deb822_addresses(text: &str) -> Vec<String> {
    let mut addresses = Vec::new();
    for stanza in control::stanzas(text) {
        let enabled = stanza.get("Enabled").is_none_or(|value| value != "no");
        let binary = stanza.words("Types").any(|kind| kind == "deb");
        let main = stanza
            .words("Components")
            .any(|component| component == "main");
        if enabled && binary && main && stanza.words("Suites").any(is_debian) {
            addresses.extend(
                stanza
                    .words("URIs")
                    .map(|address| address.trim_end_matches('/').to_owned()),
            );
        }
    }
    addresses
}

/// The security archive is another one, with `-security` in its suites.
fn is_debian(suite: &str) -> bool {
    let name = suite
        .strip_suffix("-updates")
        .or_else(|| suite.strip_suffix("-backports"))
        .unwrap_or(suite);
    SUITES.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_debian_main_from_one_line_sources() {
        let text = "deb [arch=amd64 signed-by=/k] http://a.example/debian/ bookworm main contrib # x\n\
                    deb http://s.example/security bookworm-security main\n\
                    # deb http://c.example/debian bookworm main\n\
                    deb-src http://d.example/debian bookworm main\n\
                    deb http://vendor.example/apt cloud main\n";
        assert_eq!(one_line_addresses(text), ["http://a.example/debian"]);
    }

    #[test]
    fn takes_debian_main_from_deb822_sources() {
        let text = "Types: deb\nURIs: https://a.example/debian\nSuites: trixie trixie-updates\nComponents: main\n\n\
                    Types: deb\nURIs: https://n.example/node\nSuites: nodistro\nComponents: main\n\n\
                    Types: deb\nEnabled: no\nURIs: https://b.example/debian\nSuites: trixie\nComponents: main\n";
        assert_eq!(deb822_addresses(text), ["https://a.example/debian"]);
    }
}
