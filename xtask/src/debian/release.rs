//! A suite's release file (`InRelease`), by which Debian's key vouches for all that the suite has:
//! <https://wiki.debian.org/DebianRepository/Format>.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};

use super::archive::{Archive, Origin, Wanted};
use super::control;

/// Debian's own keys, from the package `debian-archive-keyring`.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// No release file has more. Bytes.
const MOST: u64 = 16 << 20;

/// How far this machine's clock may be behind.
const CLOCK: Duration = Duration::from_secs(24 * 3600);

/// A release file whose signature, suite and age are as they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    text: String,
    signed_at: SystemTime,
}

/// A file that a release lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Below the suite's folder.
    pub path: String,
    /// Hexadecimal.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

impl Release {
    /// `seen` is the time of the one that was taken last; `folder` is for files on the way.
    pub fn fetch(
        archive: &Archive,
        origin: Origin,
        suite: &str,
        seen: Option<&str>,
        folder: &Path,
    ) -> Result<Self> {
        ensure!(
            Path::new(KEYRING).exists(),
            "{KEYRING} is missing: install debian-archive-keyring, whose keys say that an index is Debian's"
        );
        let signed = folder.join("InRelease");
        archive.fetch(&[Wanted {
            label: format!("the release file of {suite}"),
            origin,
            path: format!("dists/{suite}/InRelease"),
            sha256: None,
            most: MOST,
            to: signed.clone(),
        }])?;
        let text = verified(&signed, &folder.join("Release"))
            .with_context(|| format!("the release file of {suite}"))?;
        Self::checked(text, suite, seen, SystemTime::now())
    }

    /// Whether what Debian signed is what was asked for, and not older than it may be.
    fn checked(text: String, suite: &str, seen: Option<&str>, now: SystemTime) -> Result<Self> {
        let stanza = control::stanzas(&text).next().unwrap_or_default();
        let names: Vec<&str> = ["Codename", "Suite"]
            .iter()
            .filter_map(|field| stanza.get(field))
            .collect();
        ensure!(
            names.contains(&suite),
            "the archive answers for {suite} with what Debian signed for {}",
            names.join(", ")
        );
        let signed_at = stanza
            .get("Date")
            .context("a release file without a date")?;
        let signed_at = date(signed_at)?;
        let shown = humantime::format_rfc3339_seconds(signed_at);
        ensure!(
            signed_at <= now + CLOCK,
            "{suite} was signed at {shown}, which is to come: is this machine's clock right?"
        );
        if let Some(until) = stanza.get("Valid-Until") {
            ensure!(
                now <= date(until)?,
                "what the archive has of {suite} was valid until {until}: it is an old copy, which has holes that are mended since"
            );
        }
        if let Some(seen) = seen {
            let before = humantime::parse_rfc3339(seen)
                .with_context(|| format!("`{seen}` in image/packages.lock is no time"))?;
            ensure!(
                before <= signed_at,
                "what the archive has of {suite} was signed at {shown}, before what image/packages.lock was chosen from ({seen}): it is an old copy"
            );
        }
        Ok(Self { text, signed_at })
    }

    /// Such as `2026-11-21T08:12:42Z`.
    pub fn signed_at(&self) -> String {
        humantime::format_rfc3339_seconds(self.signed_at).to_string()
    }

    /// A file below the suite's folder. Where the archive keeps files by their hash, its path is that one:
    /// while a mirror takes up a new release, the files of the old one are still there.
    pub fn file(&self, path: &str) -> Result<Listed> {
        let stanza = control::stanzas(&self.text).next().unwrap_or_default();
        let hashes = stanza
            .get("SHA256")
            .context("the release file has no SHA256 list")?;
        for line in hashes.lines() {
            if let [sha256, size, name] = line.split_whitespace().collect::<Vec<_>>()[..]
                && name == path
            {
                let by_hash = stanza.get("Acquire-By-Hash") == Some("yes");
                let path = match path.rsplit_once('/') {
                    Some((folder, _)) if by_hash => format!("{folder}/by-hash/SHA256/{sha256}"),
                    _ => path.to_owned(),
                };
                let size = size.parse();
                return Ok(Listed {
                    path,
                    sha256: sha256.to_owned(),
                    size: size.with_context(|| format!("the size of {name}"))?,
                });
            }
        }
        bail!("the release file does not name {path}")
    }
}

/// What one of Debian's keys signed. Others may have signed it, too: Debian changes its keys by and by.
fn verified(signed: &Path, plain: &Path) -> Result<String> {
    let output = Command::new("gpgv")
        .args([
            "--quiet",
            "--keyring",
            KEYRING,
            "--status-fd",
            "1",
            "--output",
        ])
        .args([plain, signed])
        .output()
        .context("running gpgv (package gpgv), which checks the archive's signature")?;
    let status = String::from_utf8_lossy(&output.stdout);
    ensure!(
        is_signed(&status),
        "it is not signed by Debian:\n{}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    fs::read_to_string(plain).context("reading the checked release file")
}

/// By what gpgv says (`doc/DETAILS` of GnuPG).
fn is_signed(status: &str) -> bool {
    let says = |what: &str| {
        let words = status
            .lines()
            .filter_map(|line| line.strip_prefix("[GNUPG:] "));
        words
            .into_iter()
            .any(|line| line.split(' ').next() == Some(what))
    };
    says("VALIDSIG") && !says("BADSIG")
}

/// `Sat, 21 Nov 2026 08:12:42 UTC`.
fn date(text: &str) -> Result<SystemTime> {
    let text = text.trim();
    // HTTP has the same dates, and calls their zone by another name.
    let http = text.replace(" UTC", " GMT");
    httpdate::parse_http_date(&http)
        .with_context(|| format!("`{text}` is no date of a release file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
Origin: Debian
Suite: stable
Codename: trixie
Date: Sat, 21 Nov 2026 08:12:42 UTC
Valid-Until: Sat, 28 Nov 2026 08:12:42 UTC
Acquire-By-Hash: yes
SHA256:
 aa 10 main/x
 bb 11 main/binary-amd64/Packages.xz
";

    fn at(text: &str) -> SystemTime {
        humantime::parse_rfc3339(text).unwrap()
    }

    fn checked(text: &str, suite: &str, seen: Option<&str>, now: &str) -> Result<Release, String> {
        Release::checked(text.to_owned(), suite, seen, at(now)).map_err(|error| error.to_string())
    }

    #[test]
    fn takes_what_was_asked_for_in_time() {
        for suite in ["trixie", "stable"] {
            for seen in [
                None,
                Some("2026-11-20T00:00:00Z"),
                Some("2026-11-21T08:12:42Z"),
            ] {
                let release = checked(TEXT, suite, seen, "2026-11-22T00:00:00Z").unwrap();
                assert_eq!(release.signed_at(), "2026-11-21T08:12:42Z");
            }
        }
        let without = TEXT.replace("Valid-Until", "X");
        assert!(checked(&without, "trixie", None, "2030-01-01T00:00:00Z").is_ok());
    }

    #[test]
    fn refuses_another_suite_and_old_copies() {
        let refused = |suite, seen, now, words: &str| {
            let error = checked(TEXT, suite, seen, now).unwrap_err();
            assert!(error.contains(words), "{error}");
        };
        refused(
            "bookworm",
            None,
            "2026-11-22T00:00:00Z",
            "signed for trixie, stable",
        );
        refused(
            "trixie-security",
            None,
            "2026-11-22T00:00:00Z",
            "signed for trixie",
        );
        refused("trixie", None, "2026-11-28T08:12:43Z", "valid until");
        refused("trixie", None, "2026-11-20T08:00:00Z", "to come");
        refused(
            "trixie",
            Some("2026-11-21T08:12:43Z"),
            "2026-11-22T00:00:00Z",
            "an old copy",
        );
        refused("trixie", Some("soon"), "2026-11-22T00:00:00Z", "is no time");
        let undated = TEXT.replace("Date:", "Day:");
        assert!(checked(&undated, "trixie", None, "2026-11-22T00:00:00Z").is_err());
        let odd = TEXT.replace("Sat, 21 Nov", "21 November");
        let error = checked(&odd, "trixie", None, "2026-11-22T00:00:00Z").unwrap_err();
        assert!(error.contains("no date"), "{error}");
    }

    #[test]
    fn finds_files_by_their_hash_where_the_archive_has_them() {
        let release = checked(TEXT, "trixie", None, "2026-11-22T00:00:00Z").unwrap();
        assert_eq!(
            release.file("main/binary-amd64/Packages.xz").unwrap(),
            Listed {
                path: "main/binary-amd64/by-hash/SHA256/bb".into(),
                sha256: "bb".into(),
                size: 11,
            }
        );
        assert!(release.file("main/z").is_err());
        let plain = TEXT.replace("Acquire-By-Hash: yes", "Acquire-By-Hash: no");
        let plain = checked(&plain, "trixie", None, "2026-11-22T00:00:00Z").unwrap();
        assert_eq!(plain.file("main/x").unwrap().path, "main/x");
    }

    #[test]
    fn one_valid_signature_is_enough_unless_another_is_bad() {
        let valid = "[GNUPG:] NEWSIG\n[GNUPG:] VALIDSIG 4D64 2026-11-21\n";
        let unknown = "[GNUPG:] ERRSIG 1 1 8 01 1 9 B7\n[GNUPG:] NO_PUBKEY B7\n";
        assert!(is_signed(valid));
        assert!(is_signed(&format!("{unknown}{valid}{unknown}")));
        assert!(!is_signed(unknown));
        assert!(!is_signed(""));
        assert!(!is_signed(&format!("{valid}[GNUPG:] BADSIG B7 Debian\n")));
        assert!(!is_signed("gpgv: VALIDSIG 4D64\n"));
    }
}
