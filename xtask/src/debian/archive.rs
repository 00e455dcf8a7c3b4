//! The Debian archive of this machine: its address comes from apt's own configuration, and apt's
//! own downloader fetches, so proxies, mirrors and credentials are the ones that already work.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, anyhow, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::control;

/// Part of the package `apt`. It is the downloader behind `apt-get`.
const APT_HELPER: &str = "/usr/lib/apt/apt-helper";

/// What the downloader may write beside what it fetches. Bytes.
const OWN_NOTES: u64 = 1 << 20;

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

/// Debian's archives: updates for security have one of their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    #[default]
    Main,
    Security,
}

impl Origin {
    /// For `skip_serializing_if`.
    pub fn is_main(&self) -> bool {
        *self == Self::Main
    }

    /// What its suites' names end in.
    const SECURITY: &str = "-security";

    /// That of the archive which has this suite, if it is one of Debian's.
    fn of(suite: &str) -> Option<Self> {
        let (name, origin) = match suite.strip_suffix(Self::SECURITY) {
            Some(name) => (name, Self::Security),
            None => (suite, Self::Main),
        };
        let name = name
            .strip_suffix("-updates")
            .or_else(|| name.strip_suffix("-backports"))
            .unwrap_or(name);
        SUITES.contains(&name).then_some(origin)
    }
}

/// The archives that apt is set up for, best first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Archive {
    main: Vec<String>,
    security: Vec<String>,
}

/// One file to fetch.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What to call it in a message.
    pub label: String,
    pub origin: Origin,
    /// Below the archive's address, such as `pool/main/...`.
    pub path: String,
    /// Hexadecimal. Only a file signed by other means (`InRelease`) goes without.
    pub sha256: Option<String>,
    /// It has no more bytes than that.
    pub most: u64,
    pub to: PathBuf,
}

impl Archive {
    /// Reads `/etc/apt/sources.list` and `/etc/apt/sources.list.d`.
    pub fn of_this_machine() -> anyhow::Result<Self> {
        ensure!(
            Path::new(APT_HELPER).exists(),
            "{APT_HELPER} is missing: the image is made from Debian packages, fetched by apt; run this on Debian or a system that has apt"
        );
        let mut archive = Self::default();
        for file in source_files(Path::new("/etc/apt"))? {
            let text =
                fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
            let found = if file.extension().is_some_and(|ext| ext == "sources") {
                deb822_addresses(&text)
            } else {
                one_line_addresses(&text)
            };
            archive.add(found);
        }
        ensure!(
            !archive.main.is_empty(),
            "no Debian archive in /etc/apt/sources.list or /etc/apt/sources.list.d: add a source whose suite is one of Debian's and whose components have `main`"
        );
        Ok(archive)
    }

    fn add(&mut self, found: Vec<(Origin, String)>) {
        for (origin, address) in found {
            let addresses = match origin {
                Origin::Main => &mut self.main,
                Origin::Security => &mut self.security,
            };
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }

    /// Each address of this origin alone.
    pub fn each(&self, origin: Origin) -> Vec<Self> {
        let alone = |address: &String| {
            let mut archive = Self::default();
            archive.add(vec![(origin, address.clone())]);
            archive
        };
        self.addresses(origin).iter().map(alone).collect()
    }

    fn addresses(&self, origin: Origin) -> &[String] {
        match origin {
            Origin::Main => &self.main,
            Origin::Security => &self.security,
        }
    }

    /// Fetches every file, from the first archive that has it. Files end up complete or not at all.
    pub fn fetch(&self, wanted: &[Wanted]) -> Result<(), FetchError> {
        for origin in [Origin::Main, Origin::Security] {
            let of_this = wanted.iter().filter(|want| want.origin == origin).collect();
            self.fetch_from(origin, of_this)?;
        }
        Ok(())
    }

    fn fetch_from(&self, origin: Origin, wanted: Vec<&Wanted>) -> Result<(), FetchError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let addresses = self.addresses(origin);
        if addresses.is_empty() {
            return Err(anyhow!(
                "no archive of Debian's updates for security in /etc/apt/sources.list or /etc/apt/sources.list.d: add a source whose suite ends in `-security`, as Debian's installer does"
            )
            .into());
        }
        let mut missing = wanted;
        let mut failures: Vec<Failure> = Vec::new();
        for address in addresses {
            if missing.is_empty() {
                break;
            }
            let said = download(address, &missing)?;
            let mut still_missing = Vec::new();
            for want in missing {
                if let Err(reason) = accept(address, want, &said)? {
                    failures.push(Failure {
                        label: want.label.clone(),
                        reason,
                        said: said.clone(),
                    });
                    still_missing.push(want);
                }
            }
            missing = still_missing;
        }
        // What one archive did not have another may have given.
        failures.retain(|failure| missing.iter().any(|want| want.label == failure.label));
        FetchError::from_failures(failures)
    }
}

/// Why one archive did not give one file.
#[derive(Debug)]
struct Failure {
    label: String,
    reason: Reason,
    said: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    /// The archive answers, and does not have it.
    Gone,
    /// The archive does not answer as one does.
    Unreachable,
    /// It has other bytes under this name.
    Altered,
}

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(
        "{labels}: the bytes that came are not those that were expected. Somebody may have altered them on the way or in the archive: use another network or mirror, and do not update the lock to make this go away\n{apt}"
    )]
    Altered { labels: String, apt: String },
    #[error("{labels}: the archive cannot be reached\n{apt}")]
    Unreachable { labels: String, apt: String },
    #[error("the archive does not have {labels} (any more)\n{apt}")]
    Gone { labels: String, apt: String },
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

impl FetchError {
    /// The worst of all decides: bytes that differ are never explained by a file that is gone.
    fn from_failures(failures: Vec<Failure>) -> Result<(), Self> {
        let Some(worst) = failures.iter().map(|failure| failure.reason).max() else {
            return Ok(());
        };
        let worst_ones = || failures.iter().filter(|failure| failure.reason == worst);
        let mut names: Vec<&str> = worst_ones().map(|failure| failure.label.as_str()).collect();
        names.dedup();
        let labels = names.join(", ");
        let apt = worst_ones().next_back().map(|failure| failure.said.clone());
        let apt = apt.unwrap_or_default();
        Err(match worst {
            Reason::Altered => Self::Altered { labels, apt },
            Reason::Unreachable => Self::Unreachable { labels, apt },
            Reason::Gone => Self::Gone { labels, apt },
        })
    }
}

/// Runs apt's downloader on all files; returns what it complained about. A file that could not be
/// fetched is told by its absence, since one failure must not hide the others' success.
fn download(address: &str, wanted: &[&Wanted]) -> anyhow::Result<String> {
    // Whoever answers has no more of this disk than the largest file may take.
    let most = wanted.iter().map(|want| want.most).max();
    let most = most.unwrap_or_default().max(OWN_NOTES);
    let mut helper = Command::new("prlimit");
    helper.arg(format!("--fsize={most}")).arg(APT_HELPER);
    // As root, apt would drop to a user that cannot write into our cache, and warn about it.
    helper.args(["-q", "-o", "APT::Sandbox::User=root", "download-file"]);
    for want in wanted {
        if let Some(folder) = want.to.parent() {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        helper.arg(url(address, want)).arg(partial(want));
        helper.arg(match &want.sha256 {
            Some(hash) => format!("SHA256:{hash}"),
            None => String::new(),
        });
    }
    let output = helper
        .env("LC_ALL", "C")
        .output()
        .with_context(|| format!("running {APT_HELPER}"))?;
    Ok(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

fn url(address: &str, want: &Wanted) -> String {
    format!("{address}/{}", want.path)
}

/// Keeps the file if it has come and is right; else tells why not, by what apt has left and said.
fn accept(address: &str, want: &Wanted, said: &str) -> anyhow::Result<Result<(), Reason>> {
    let partial = partial(want);
    let mut failed = partial.clone().into_os_string();
    failed.push(".FAILED");
    let failed = PathBuf::from(failed);
    if failed.exists() {
        fs::remove_file(&failed).with_context(|| format!("removing {}", failed.display()))?;
        return Ok(Err(Reason::Altered));
    }
    if !partial.exists() {
        // Each message of apt's is `E: Failed to fetch URL  STATUS  REASON`.
        let gone = format!("{}  404 ", url(address, want));
        let reason = if said.contains(&gone) {
            Reason::Gone
        } else {
            Reason::Unreachable
        };
        return Ok(Err(reason));
    }
    if let Some(expected) = &want.sha256 {
        let bytes = fs::read(&partial).with_context(|| format!("reading {}", partial.display()))?;
        if hex::encode(Sha256::digest(&bytes)) != *expected {
            fs::remove_file(&partial)?;
            return Ok(Err(Reason::Altered));
        }
    }
    fs::rename(&partial, &want.to).with_context(|| format!("keeping {}", want.to.display()))?;
    Ok(Ok(()))
}

fn partial(want: &Wanted) -> PathBuf {
    let mut name = want.to.clone().into_os_string();
    // Two builds at once share the cache; each has its own half-written file.
    name.push(format!(".partial-{}", std::process::id()));
    PathBuf::from(name)
}

fn source_files(apt: &Path) -> anyhow::Result<Vec<PathBuf>> {
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
fn one_line_addresses(text: &str) -> Vec<(Origin, String)> {
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
        if let Some(origin) = Origin::of(suite)
            && words.any(|component| component == "main")
        {
            addresses.push((origin, address.trim_end_matches('/').to_owned()));
        }
    }
    addresses
}

fn deb822_addresses(text: &str) -> Vec<(Origin, String)> {
    let mut addresses = Vec::new();
    for stanza in control::stanzas(text) {
        let enabled = stanza.get("Enabled").is_none_or(|value| value != "no");
        let binary = stanza.words("Types").any(|kind| kind == "deb");
        let main = stanza
            .words("Components")
            .any(|component| component == "main");
        if !(enabled && binary && main) {
            continue;
        }
        for origin in stanza.words("Suites").filter_map(Origin::of) {
            let uris = stanza.words("URIs");
            addresses.extend(uris.map(|uri| (origin, uri.trim_end_matches('/').to_owned())));
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn takes_debian_main_from_one_line_sources() {
        let text = "deb [arch=amd64 signed-by=/k] http://a.example/debian/ bookworm main contrib # x\n\
                    deb http://s.example/security bookworm-security main\n\
                    # deb http://c.example/debian bookworm main\n\
                    deb-src http://d.example/debian bookworm main\n\
                    deb http://vendor.example/apt cloud main\n";
        assert_eq!(
            archive_of(one_line_addresses(text)),
            Archive {
                main: vec!["http://a.example/debian".into()],
                security: vec!["http://s.example/security".into()],
            }
        );
    }

    #[test]
    fn takes_debian_main_from_deb822_sources() {
        let text = "Types: deb\nURIs: https://a.example/debian\nSuites: trixie trixie-updates\nComponents: main\n\n\
                    Types: deb\nURIs: https://n.example/node\nSuites: nodistro\nComponents: main\n\n\
                    Types: deb\nURIs: https://s.example/security\nSuites: trixie-security\nComponents: main\n\n\
                    Types: deb\nEnabled: no\nURIs: https://b.example/debian\nSuites: trixie\nComponents: main\n";
        assert_eq!(
            archive_of(deb822_addresses(text)),
            Archive {
                main: vec!["https://a.example/debian".into()],
                security: vec!["https://s.example/security".into()],
            }
        );
    }

    fn archive_of(found: Vec<(Origin, String)>) -> Archive {
        let mut archive = Archive::default();
        archive.add(found);
        archive
    }

    /// Answers each request for a name in `files` with its bytes, for others 404.
    fn serve(files: &'static [(&str, &str)]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut lines = BufReader::new(stream.unwrap());
                let mut request = String::new();
                // Several requests may come by one connection.
                while lines.read_line(&mut request).is_ok_and(|length| length > 0) {
                    if !request.ends_with("\r\n\r\n") {
                        continue;
                    }
                    let path = request.split(' ').nth(1).unwrap().trim_start_matches('/');
                    let file = files.iter().find(|(name, _)| *name == path);
                    let (status, body) = file.map_or(("404 Not Found", ""), |(_, b)| ("200 OK", b));
                    let length = body.len();
                    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n");
                    lines.get_mut().write_all(head.as_bytes()).unwrap();
                    lines.get_mut().write_all(body.as_bytes()).unwrap();
                    request.clear();
                }
            }
        });
        address
    }

    fn want(folder: &Path, name: &str, content: &str) -> Wanted {
        Wanted {
            label: name.into(),
            path: name.into(),
            origin: Origin::Main,
            sha256: Some(hex::encode(Sha256::digest(content))),
            most: content.len() as u64,
            to: folder.join(name),
        }
    }

    fn archive(addresses: &[&str]) -> Archive {
        Archive {
            main: addresses
                .iter()
                .map(|&address| address.to_owned())
                .collect(),
            security: Vec::new(),
        }
    }

    #[test]
    fn tells_altered_gone_and_unreachable_apart() {
        let folder = tempfile::tempdir().unwrap();
        let server = serve(&[("good", "right"), ("bad", "wrong")]);
        let good = want(folder.path(), "good", "right");
        let bad = want(folder.path(), "bad", "right");
        let gone = want(folder.path(), "gone", "right");

        let served = archive(&[&server]);
        let error = served.fetch(&[good.clone(), gone.clone()]).unwrap_err();
        assert!(
            matches!(&error, FetchError::Gone { labels, .. } if labels == "gone"),
            "{error}"
        );
        let error = served.fetch(&[gone.clone(), bad]).unwrap_err();
        assert!(
            matches!(&error, FetchError::Altered { labels, .. } if labels == "bad"),
            "{error}"
        );
        assert!(error.to_string().contains("do not update the lock"));
        let error = archive(&["http://127.0.0.1:1"]).fetch(&[gone]).unwrap_err();
        assert!(matches!(error, FetchError::Unreachable { .. }), "{error}");

        // What is right is there, and nothing else is.
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        assert_eq!(fs::read(&good.to).unwrap(), b"right");
    }

    #[test]
    fn who_has_no_archive_for_security_can_fetch_all_else() {
        let folder = tempfile::tempdir().unwrap();
        let served = archive(&[&serve(&[("good", "right")])]);
        let good = want(folder.path(), "good", "right");
        served.fetch(std::slice::from_ref(&good)).unwrap();
        let update = Wanted {
            origin: Origin::Security,
            ..good
        };
        let error = served.fetch(&[update]).unwrap_err().to_string();
        assert!(error.contains("-security"), "{error}");
    }

    #[test]
    fn what_one_archive_lacks_another_may_have() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (serve(&[("bad", "wrong")]), serve(&[("bad", "right")]));
        let bad = want(folder.path(), "bad", "right");
        archive(&[&first, &second])
            .fetch(std::slice::from_ref(&bad))
            .unwrap();
        assert_eq!(fs::read(&bad.to).unwrap(), b"right");
    }
}
