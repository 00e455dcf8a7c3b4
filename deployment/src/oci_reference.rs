//! [`OciReference`]: which image, exactly.

use serde::{Deserialize, Serialize};

use crate::{host::is_registry, image_digest::ImageDigest};

/// An OCI reference pinned to a digest: `registry/repository@sha256:<64 hex digits>`, or
/// `registry/repository:tag@sha256:...`. The digest decides; the tag is what people call it by.
///
/// This is what is signed: what stands before the first slash is a host, whatever it looks like. What
/// people write is an [`ImageName`](crate::ImageName).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OciReference {
    /// Host, with the port if there is one: `registry.example`, `10.0.2.2:5000`.
    pub(crate) registry: String,
    /// `library/debian`.
    pub(crate) repository: String,
    pub(crate) digest: ImageDigest,
    /// Shown, and asked of nobody: by now it may name another image.
    pub(crate) tag: Option<String>,
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

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an image; expected registry/repository@sha256:<64 hexadecimal digits>, with a tag before the @ or without"
)]
pub struct OciReferenceError(String);

impl std::fmt::Display for OciReference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            registry,
            repository,
            digest,
            tag,
        } = self;
        write!(f, "{registry}/{repository}")?;
        if let Some(tag) = tag {
            write!(f, ":{tag}")?;
        }
        write!(f, "@sha256:{digest}")
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
    let (registry, path) = name.split_once('/')?;
    let (repository, tag) = match path.split_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (path, None),
    };
    let repository_ok = is_repository(repository);
    if !is_registry(registry) || !repository_ok || !tag.is_none_or(is_tag) {
        return None;
    }
    Some(OciReference {
        registry: registry.to_owned(),
        repository: repository.to_owned(),
        digest: digest_text.parse().ok()?,
        tag: tag.map(str::to_owned),
    })
}

/// OCI distribution specification, "Pulling manifests": components of lower case letters and digits,
/// with separators only inside: a dot, one or two underscores, or hyphens.
pub(crate) fn is_repository(text: &str) -> bool {
    let component_ok = |component: &str| {
        component.replace("__", "_").split(['.', '_']).all(|part| {
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            let ends = part.starts_with('-') || part.ends_with('-');
            !part.is_empty() && !ends && part.bytes().all(plain)
        })
    };
    text.len() <= 255 && text.split('/').all(component_ok)
}

/// As above: at most 128 characters.
pub(crate) fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let starts_well = text.bytes().next().is_some_and(word);
    let plain = |b: u8| word(b) || b == b'.' || b == b'-';
    starts_well && text.len() <= 128 && text.bytes().all(plain)
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
    fn a_tag_stays_beside_the_digest() {
        for (name, tag) in [
            ("a.org/b:1", "1"),
            ("a.org/b:latest", "latest"),
            ("10.0.2.2:5000/a/b:1.29-Alpine_3", "1.29-Alpine_3"),
            ("[fd00::1]:5000/a:_", "_"),
            (&*format!("a/b:{}", "x".repeat(128)), &*"x".repeat(128)),
        ] {
            let reference = parse(name).expect(name);
            assert_eq!(reference.tag(), Some(tag));
            assert!(!reference.repository().contains(':'), "{name}");
            let text = reference.to_string();
            assert!(text.starts_with(&format!("{name}@sha256:abab")), "{text}");
            assert_eq!(text.parse(), Ok(reference));
        }
        assert_eq!(parse("a:5000/b").unwrap().tag(), None);
        for name in [
            "a/b:",
            "a/b:.x",
            "a/b:-x",
            "a/b:x:y",
            "a/b:x/y",
            "a/b:x@y",
            "a/:x",
            "a/b:ü",
            &*format!("a/b:{}", "x".repeat(129)),
        ] {
            assert!(parse(name).is_err(), "{name}");
        }
        // Without a digest it may be anything tomorrow.
        assert!("a.org/b:1".parse::<OciReference>().is_err());
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
