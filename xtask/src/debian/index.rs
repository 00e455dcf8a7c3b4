//! A suite's package index, trusted because the archive's key signed the release that names it.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Read as _;

use anyhow::{Context, Result, anyhow};
use liblzma::read::XzDecoder;

use super::archive::{Archive, Origin, Wanted};
use super::component::Component;
use super::control::{self, Stanza};
use super::lock::Locked;
use super::release::Release;
use super::version;

/// The binary packages of one suite, for amd64: as it was released, with its updates and those for security.
#[derive(Debug, Default)]
pub struct Index {
    packages: HashMap<String, Offer>,
    /// Those of `non-free-firmware`, apart: nothing free is ever replaced or satisfied by one.
    firmware: HashMap<String, Offer>,
    /// Virtual names, and who provides them.
    provided: HashMap<String, Vec<String>>,
    /// When each part was signed.
    pub released: BTreeMap<String, String>,
}

/// What the archive says of one package.
#[derive(Debug, Clone)]
pub struct Offer {
    pub locked: Locked,
    /// `Pre-Depends` and `Depends`: each a list of alternatives, best first, versions left out.
    pub needs: Vec<Vec<String>>,
}

impl Index {
    /// Fetches the suite's indexes of these components, and checks the chain from Debian's key to their last bytes. None may be
    /// older than in `seen`, which has the time of each.
    pub fn fetch(
        archive: &Archive,
        suite: &str,
        components: &[Component],
        seen: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let mut index = Self::default();
        for (origin, end) in [
            (Origin::Main, ""),
            (Origin::Main, "-updates"),
            (Origin::Security, "-security"),
        ] {
            let suite = format!("{suite}{end}");
            let mut refused = Vec::new();
            let seen = seen.get(&suite).map(String::as_str);
            for archive in archive.each(origin) {
                match index.add_suite(&archive, origin, &suite, components, seen) {
                    Ok(()) => break,
                    Err(error) => refused.push(error),
                }
            }
            // The last address is as good as the first, so the first's error is told.
            if !index.released.contains_key(&suite) {
                return Err(refused
                    .into_iter()
                    .next()
                    .unwrap_or_else(|| anyhow!("no archive of {suite} in apt's sources: add one, as Debian's installer does")));
            }
        }
        Ok(index)
    }

    fn add_suite(
        &mut self,
        archive: &Archive,
        origin: Origin,
        suite: &str,
        components: &[Component],
        seen: Option<&str>,
    ) -> Result<()> {
        let folder = tempfile::tempdir().context("making a temporary folder")?;
        let release = Release::fetch(archive, origin, suite, seen, folder.path())?;
        for &component in components {
            let name = component.folder();
            let listed = release.file(&format!("{name}/binary-amd64/Packages.xz"))?;
            let packages = folder.path().join(format!("{name}.xz"));
            archive.fetch(&[Wanted {
                label: format!("the package index of {suite} ({name})"),
                origin,
                path: format!("dists/{suite}/{}", listed.path),
                sha256: Some(listed.sha256),
                most: listed.size,
                to: packages.clone(),
            }])?;
            let mut text = String::new();
            XzDecoder::new_multi_decoder(fs::File::open(&packages)?)
                .read_to_string(&mut text)
                .context("decompressing the package index")?;
            self.add(origin, component, &text)?;
        }
        self.released.insert(suite.to_owned(), release.signed_at());
        Ok(())
    }

    /// All that the index of a component lists. Of two versions the newer one stays.
    pub fn add(&mut self, origin: Origin, component: Component, text: &str) -> Result<()> {
        for stanza in control::stanzas(text) {
            let offer = offer(origin, component, &stanza)?;
            let name = offer.locked.name.clone();
            let known = match component {
                Component::Main => &mut self.packages,
                Component::NonFreeFirmware => &mut self.firmware,
            };
            let older = known.get(&name).is_some_and(|other| {
                version::compare(&other.locked.version, &offer.locked.version).is_ge()
            });
            if !older {
                known.insert(name.clone(), offer);
            }
            if !component.is_main() {
                continue;
            }
            for virtual_name in relations(stanza.get("Provides").unwrap_or_default()).concat() {
                let providers = self.provided.entry(virtual_name).or_default();
                if !providers.contains(&name) {
                    providers.push(name.clone());
                }
            }
        }
        Ok(())
    }

    pub fn get(&self, name: &str) -> Option<&Offer> {
        self.packages.get(name)
    }

    /// One of `non-free-firmware`.
    pub fn firmware(&self, name: &str) -> Option<&Offer> {
        self.firmware.get(name)
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

fn offer(origin: Origin, component: Component, stanza: &Stanza<'_>) -> Result<Offer> {
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
            origin,
            component,
            path: field("Filename")?.to_owned(),
            size: field("Size")?
                .parse()
                .with_context(|| format!("the size of {name}"))?,
            sha256: field("SHA256")?.to_owned(),
        },
        needs,
    })
}

/// `a (>= 1) | b:any, c` as `[[a, b], [c]]`. A suite with all its updates is consistent in itself, so the
/// versions say nothing that choosing from it does not.
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

    fn index(text: &str) -> Index {
        let mut index = Index::default();
        index.add(Origin::Main, Component::Main, text).unwrap();
        index
    }

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
        let index = index(text);
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
            assert_eq!(index(&text).get("a").unwrap().locked.version, "1.10");
        }
    }

    #[test]
    fn the_newer_of_two_archives_wins_and_comes_from_its_own() {
        let stanza = |version: &str, pool: &str| {
            format!("Package: a\nVersion: {version}\nFilename: {pool}\nSize: 1\nSHA256: 00\n\n")
        };
        let chosen = |main: &str, security: &str| {
            let mut index = Index::default();
            let add =
                |index: &mut Index, origin, text: &str| index.add(origin, Component::Main, text);
            add(&mut index, Origin::Main, &stanza(main, "pool/a")).unwrap();
            let text = stanza(security, "pool/updates/a");
            add(&mut index, Origin::Security, &text).unwrap();
            let locked = &index.get("a").unwrap().locked;
            (locked.origin, locked.version.clone(), locked.path.clone())
        };
        assert_eq!(
            chosen("6.12.107-1", "6.12.118-1"),
            (
                Origin::Security,
                "6.12.118-1".into(),
                "pool/updates/a".into()
            )
        );
        assert_eq!(
            chosen("6.12.120-1", "6.12.118-1"),
            (Origin::Main, "6.12.120-1".into(), "pool/a".into())
        );
        // Both have it: a point release took it up.
        assert_eq!(chosen("2", "2").0, Origin::Main);
    }

    #[test]
    fn what_is_not_free_takes_no_place_of_what_is() {
        let stanza = |name: &str, version: &str| {
            format!(
                "Package: {name}\nVersion: {version}\nFilename: pool/{name}\nSize: 1\nSHA256: 00\nProvides: virtual\n\n"
            )
        };
        let mut index = index(&stanza("a", "1"));
        for (origin, version) in [(Origin::Main, "3"), (Origin::Security, "2")] {
            let text = stanza("a", version) + &stanza("blob", version);
            let component = Component::NonFreeFirmware;
            index.add(origin, component, &text).unwrap();
        }
        assert_eq!(index.get("a").unwrap().locked.version, "1");
        assert_eq!(index.find("virtual").unwrap().locked.name, "a");
        assert!(index.find("blob").is_none());
        let blob = &index.firmware("blob").unwrap().locked;
        assert_eq!(
            (blob.version.as_str(), blob.origin, blob.component),
            ("3", Origin::Main, Component::NonFreeFirmware)
        );
    }
}
