//! [`ImageName`]: which image people mean.
//!
//! Read as `docker pull` reads it (github.com/distribution/reference, `normalize.go`):
//!
//! | written | means |
//! |---|---|
//! | `nginx` | `docker.io/library/nginx:latest` |
//! | `user/name:1.2` | `docker.io/user/name:1.2` |
//! | `ghcr.io/x/y`, `localhost/x`, `localhost:5000/x` | what is before the first slash is a host: it has a dot or a colon, or is `localhost` |
//! | `index.docker.io/nginx` | `docker.io/library/nginx:latest` |
//! | `nginx@sha256:...` | the digest alone; a tag before it is for people |

use std::{fmt, str::FromStr};

use crate::{
    host::is_registry,
    image_digest::ImageDigest,
    oci_reference::{OciReference, is_repository, is_tag},
};

const HUB: &str = "docker.io";

/// An image as people name it, with what they leave out filled in. Shown in full.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName {
    registry: String,
    repository: String,
    /// There is one if there is no digest.
    tag: Option<String>,
    digest: Option<ImageDigest>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not an image: {why}; write it as for `docker pull`, as nginx, user/name:tag or \
     registry.example/name@sha256:<64 hexadecimal digits>"
)]
pub struct ImageNameError {
    /// As much of it as can be shown.
    text: String,
    why: &'static str,
}

impl ImageName {
    /// Host, with the port if there is one.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    pub fn repository(&self) -> &str {
        &self.repository
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest that it was written with.
    pub fn digest(&self) -> Option<ImageDigest> {
        self.digest
    }

    /// What can be signed: this image, by the digest that its tag names now.
    pub fn pinned(&self, digest: ImageDigest) -> OciReference {
        OciReference {
            registry: self.registry.clone(),
            repository: self.repository.clone(),
            digest,
            tag: self.tag.clone(),
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match self.digest {
            Some(digest) => write!(f, "@sha256:{digest}"),
            None => Ok(()),
        }
    }
}

impl FromStr for ImageName {
    type Err = ImageNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|why| ImageNameError {
            text: text.chars().take(120).collect(),
            why,
        })
    }
}

/// The registry that is meant by this host: Docker Hub has a name more.
pub(crate) fn registry(host: &str) -> String {
    match host.to_ascii_lowercase() {
        host if host == "index.docker.io" => HUB.to_owned(),
        host => host,
    }
}

fn parse(text: &str) -> Result<ImageName, &'static str> {
    if text.contains("://") {
        return Err("an image is named without `docker://` or `https://`");
    }
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => {
            let digest = digest.strip_prefix("sha256:");
            let digest = digest.and_then(|digits| digits.parse().ok());
            (name, Some(digest.ok_or("its digest is no sha256")?))
        }
        None => (text, None),
    };
    let (host, path) = match name.split_once('/') {
        Some((first, rest)) if is_meant_as_host(first) => (registry(first), rest),
        _ => (HUB.to_owned(), name),
    };
    let (path, tag) = match path.split_once(':') {
        Some((path, tag)) => (path, Some(tag.to_owned())),
        None => (path, None),
    };
    if !is_registry(&host) {
        return Err("what is before the first slash is no host");
    }
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("its name has upper case letters, which no registry has");
    }
    let repository = match path {
        "" => return Err("it has no name"),
        // Images without a user are Docker's own.
        _ if host == HUB && !path.contains('/') => format!("library/{path}"),
        _ => path.to_owned(),
    };
    if !is_repository(&repository) {
        return Err("its name has characters or an order of them that no registry has");
    }
    if !tag.as_deref().is_none_or(is_tag) {
        return Err("what is behind the colon is no tag");
    }
    let latest = || digest.is_none().then(|| "latest".to_owned());
    Ok(ImageName {
        registry: host,
        repository,
        tag: tag.or_else(latest),
        digest,
    })
}

fn is_meant_as_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':'])
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "@sha256:abababababababababababababababababababababababababababababababab";

    fn shown(text: &str) -> String {
        text.parse::<ImageName>().expect(text).to_string()
    }

    #[test]
    fn what_is_left_out_is_filled_in_as_docker_does() {
        for (written, meant) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.29", "docker.io/library/nginx:1.29"),
            ("user/name", "docker.io/user/name:latest"),
            ("user/name:tag", "docker.io/user/name:tag"),
            ("a/b/c", "docker.io/a/b/c:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("docker.io/library/nginx:1", "docker.io/library/nginx:1"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
            ("ghcr.io/x/y:tag", "ghcr.io/x/y:tag"),
            ("GHCR.io/x/y:Tag", "ghcr.io/x/y:Tag"),
            ("quay.io/x", "quay.io/x:latest"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
            ("localhost", "docker.io/library/localhost:latest"),
            ("registry:5000/x/y", "registry:5000/x/y:latest"),
            ("10.0.2.2:5000/x", "10.0.2.2:5000/x:latest"),
            ("[fd00::1]:5000/x:y", "[fd00::1]:5000/x:y"),
            ("docker.io:443/x", "docker.io:443/x:latest"),
            (
                "registry.example:5000",
                "docker.io/library/registry.example:5000",
            ),
        ] {
            assert_eq!(shown(written), meant, "{written}");
        }
        for (written, meant) in [
            ("nginx", "docker.io/library/nginx"),
            ("user/name", "docker.io/user/name"),
            ("name:tag", "docker.io/library/name:tag"),
            ("docker.io/library/nginx", "docker.io/library/nginx"),
            ("ghcr.io/x/y:1", "ghcr.io/x/y:1"),
        ] {
            let name: ImageName = format!("{written}{DIGEST}").parse().expect(written);
            assert_eq!(name.to_string(), format!("{meant}{DIGEST}"));
            let digest = name.digest().expect("one was written");
            assert_eq!(name.pinned(digest).to_string(), name.to_string());
        }
    }

    #[test]
    fn what_names_no_image_is_refused_with_its_reason() {
        for (written, why) in [
            ("", "no name"),
            ("ghcr.io/", "no name"),
            (":tag", "no name"),
            ("docker://nginx", "without `docker://`"),
            ("https://ghcr.io/x/y", "without `docker://`"),
            ("Nginx", "upper case"),
            ("ghcr.io/x/Y", "upper case"),
            ("User/name", "upper case"),
            ("nginx:", "no tag"),
            ("nginx:-x", "no tag"),
            ("nginx:a:b", "no tag"),
            ("a.org:x/y", "no host"),
            ("a.org:0/y", "no host"),
            ("-a.org/y", "no host"),
            ("nginx@sha256:abab", "no sha256"),
            ("nginx@sha512:abab", "no sha256"),
            ("nginx@", "no sha256"),
            ("ng inx", "no registry has"),
            (" nginx", "no registry has"),
            ("a//b", "no registry has"),
            ("/a", "no registry has"),
            ("a..b/c..d", "no host"),
            ("é", "no registry has"),
        ] {
            let error = written.parse::<ImageName>().expect_err(written).to_string();
            assert!(error.contains(why), "{written}: {error}");
        }
        let long = "x".repeat(10_000);
        let error = long.parse::<ImageName>().expect_err("too long").to_string();
        assert!(error.len() < 400, "{error}");
    }
}
