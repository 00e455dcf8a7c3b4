//! [`Mirrors`]: other hosts that have what a registry has, and are asked before it.
//!
//! Whoever answers, an image is what its digest says: a mirror can only fail to answer. It learns who asks
//! for what, as the registry does, so no login is ever told to it: what only one may read is asked of the
//! registry that is in its name.

use std::collections::BTreeMap;

use loam_deployment::payload::OciReference;
use serde::Deserialize;

use crate::host;

/// So many hosts are asked for an image before its registry; a list that is longer is a mistake.
const MOST: usize = 4;

/// By a registry's name as people write it, such as `docker.io`: hosts, each with the path below which it has
/// the registry's repositories, if there is one (`host:port/path`), in the order in which they are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeMap<String, Vec<String>>")]
pub struct Mirrors(BTreeMap<String, Vec<Mirror>>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mirror {
    host: String,
    /// Before a repository's name; with a slash at its end if it is not empty.
    path: String,
}

/// Where an image may be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub host: String,
    pub repository: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MirrorsError {
    #[error("`{0}` is no host of a mirror, nor one with a path")]
    Mirror(String),
    #[error("`{registry}` has {found} mirrors, and at most {MOST} are asked")]
    TooMany { registry: String, found: usize },
}

impl Mirrors {
    /// Those of the image's registry, which is not among them.
    pub fn sources(&self, image: &OciReference) -> Vec<Source> {
        let (_, repository) = host::asked(image.registry(), image.repository());
        let mirrors = self.0.get(image.registry());
        mirrors
            .into_iter()
            .flatten()
            .map(|mirror| Source {
                host: mirror.host.clone(),
                repository: format!("{}{repository}", mirror.path),
            })
            .collect()
    }
}

impl TryFrom<BTreeMap<String, Vec<String>>> for Mirrors {
    type Error = MirrorsError;

    fn try_from(written: BTreeMap<String, Vec<String>>) -> Result<Self, MirrorsError> {
        let mut mirrors = BTreeMap::new();
        for (registry, hosts) in written {
            if hosts.len() > MOST {
                let found = hosts.len();
                return Err(MirrorsError::TooMany { registry, found });
            }
            let hosts: Result<_, _> = hosts.iter().map(|text| mirror(text)).collect();
            mirrors.insert(registry, hosts?);
        }
        Ok(Self(mirrors))
    }
}

/// A host and a path are what a reference has before its digest, but for the repository's own name.
fn mirror(text: &str) -> Result<Mirror, MirrorsError> {
    let refused = || MirrorsError::Mirror(text.to_owned());
    let image = format!("{text}/image@sha256:{}", "0".repeat(64));
    let image: OciReference = image.parse().map_err(|_| refused())?;
    let path = image
        .repository()
        .strip_suffix("image")
        .ok_or_else(refused)?;
    Ok(Mirror {
        host: image.registry().to_owned(),
        path: path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirrors(written: &[(&str, &[&str])]) -> Result<Mirrors, MirrorsError> {
        let written = written.iter().map(|(registry, hosts)| {
            let hosts = hosts.iter().map(|&host| host.to_owned()).collect();
            ((*registry).to_owned(), hosts)
        });
        BTreeMap::from_iter(written).try_into()
    }

    fn asked(mirrors: &Mirrors, image: &str) -> Vec<String> {
        let image = format!("{image}@sha256:{}", "ab".repeat(32));
        let sources = mirrors.sources(&image.parse().unwrap());
        let shown = |source: Source| format!("{} {}", source.host, source.repository);
        sources.into_iter().map(shown).collect()
    }

    #[test]
    fn a_registrys_mirrors_are_asked_by_the_names_that_it_is_asked_by() {
        let mirrors = mirrors(&[
            ("docker.io", &["one.example:5000", "two.example/hub/proxy"]),
            ("quay.io", &["10.0.2.2:5000"]),
        ])
        .unwrap();
        assert_eq!(
            asked(&mirrors, "docker.io/nginx"),
            [
                "one.example:5000 library/nginx",
                "two.example hub/proxy/library/nginx"
            ]
        );
        assert_eq!(
            asked(&mirrors, "docker.io/user/x:1.2"),
            ["one.example:5000 user/x", "two.example hub/proxy/user/x"]
        );
        assert_eq!(asked(&mirrors, "quay.io/x"), ["10.0.2.2:5000 x"]);
        assert_eq!(asked(&mirrors, "ghcr.io/x/y"), [""; 0]);
    }

    #[test]
    fn what_is_no_mirror_is_refused_by_its_name() {
        for text in [
            "",
            "/",
            "one.example/",
            "one.example//x",
            "one example",
            "https://one.example",
        ] {
            let refused = mirrors(&[("docker.io", &[text])]).unwrap_err();
            assert_eq!(refused, MirrorsError::Mirror(text.to_owned()), "{text}");
        }
        let many = [
            "a.example",
            "b.example",
            "c.example",
            "d.example",
            "e.example",
        ];
        let refused = mirrors(&[("docker.io", &many)]).unwrap_err().to_string();
        assert_eq!(
            refused,
            "`docker.io` has 5 mirrors, and at most 4 are asked"
        );
        mirrors(&[("docker.io", &many[..4])]).unwrap();
    }
}
