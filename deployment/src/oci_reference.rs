//! [`OciReference`]: which image, exactly.

use serde::{Deserialize, Serialize};

use crate::{
    host::{is_address, is_host},
    image_digest::ImageDigest,
};

/// An OCI reference pinned to a digest: `registry/repository@sha256:<64 hex digits>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OciReference {
    /// Host, with the port if there is one: `registry.example`, `10.0.2.2:5000`.
    registry: String,
    /// `library/debian`.
    repository: String,
    digest: ImageDigest,
}

impl OciReference {
    pub fn registry(&self) -> &str {
        &self.registry
    }

    pub fn repository(&self) -> &str {
        &self.repository
    }

    pub fn digest(&self) -> ImageDigest {
        self.digest
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an image; expected registry/repository@sha256:<64 hexadecimal digits>")]
pub struct OciReferenceError(String);

impl std::fmt::Display for OciReference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            registry,
            repository,
            digest,
        } = self;
        write!(f, "{registry}/{repository}@sha256:{digest}")
    }
}

impl std::str::FromStr for OciReference {
    type Err = OciReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_reference(text).ok_or_else(|| OciReferenceError(text.to_owned()))
    }
}

fn parse_reference(text: &str) -> Option<OciReference> {
    let (name, digest_text) = text.split_once("@sha256:")?;
    let (registry, repository) = name.split_once('/')?;
    let host_ok = is_host(registry) || is_address(registry);
    // OCI distribution specification, "Pulling manifests": components of lower case letters and
    // digits, with separators only inside: a dot, one or two underscores, or hyphens.
    let component_ok = |component: &str| {
        component.replace("__", "_").split(['.', '_']).all(|part| {
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            let ends = part.starts_with('-') || part.ends_with('-');
            !part.is_empty() && !ends && part.bytes().all(plain)
        })
    };
    if !host_ok || repository.len() > 255 || !repository.split('/').all(component_ok) {
        return None;
    }
    Some(OciReference {
        registry: registry.to_owned(),
        repository: repository.to_owned(),
        digest: digest_text.parse().ok()?,
    })
}

impl TryFrom<String> for OciReference {
    type Error = OciReferenceError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<OciReference> for String {
    fn from(reference: OciReference) -> Self {
        reference.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str) -> Result<OciReference, OciReferenceError> {
        format!("{name}@sha256:{}", "ab".repeat(32)).parse()
    }

    #[test]
    fn written_and_read_back() {
        for name in [
            "a/b",
            "10.0.2.2:5000/a",
            "[fd00::1]:5000/a/b",
            "x.org/a-b/c__d/e.f/g--h",
        ] {
            let reference = parse(name).expect(name);
            let text = reference.to_string();
            assert!(text.starts_with(&format!("{name}@sha256:abab")), "{text}");
            let parts = format!("{}/{}", reference.registry(), reference.repository());
            assert_eq!(parts, name);
            assert!(!reference.registry().contains('/'), "{name}");
        }
    }

    #[test]
    fn refuses_what_names_no_image_exactly() {
        for name in [
            "", "a", "/a", "a/", "a//b", "A/b", "a/B", "a/-b", "a/b-", "a/b..c", "a/___",
        ] {
            assert!(parse(name).is_err(), "{name}");
        }
        let long = |length| format!("a/{}", "b".repeat(length));
        assert!(parse(&long(255)).is_ok());
        assert!(parse(&long(256)).is_err());
        for digest in [
            "",
            "ab",
            &"AB".repeat(32),
            &"gg".repeat(32),
            &"ab".repeat(33),
        ] {
            let text = format!("registry.example/a@sha256:{digest}");
            assert!(text.parse::<OciReference>().is_err(), "{text}");
        }
    }
}
