//! Which host is asked for what people write: the same, but for Docker Hub.
//!
//! | what is written | what is asked | source |
//! |---|---|---|
//! | `docker.io`, `index.docker.io` | `registry-1.docker.io` | github.com/distribution/reference, `normalize.go` (both names); github.com/moby/moby, `registry/config.go` (the host) |
//! | `docker.io/NAME` | its `library/NAME` | `normalize.go`: images without a user are Docker's own |
//!
//! The other large registries (`ghcr.io`, `quay.io`, `gcr.io`, `registry.k8s.io`, `public.ecr.aws`,
//! `mcr.microsoft.com`, ...) answer at the host that is in their names.

use std::borrow::Cow;

const HUB_NAMES: [&str; 2] = ["docker.io", "index.docker.io"];
const HUB: &str = "registry-1.docker.io";

/// Host, with its port if there is one, and repository, as they are to be asked for.
pub fn asked<'a>(registry: &'a str, repository: &'a str) -> (&'a str, Cow<'a, str>) {
    if !HUB_NAMES.contains(&registry) {
        return (registry, repository.into());
    }
    if repository.contains('/') {
        (HUB, repository.into())
    } else {
        (HUB, format!("library/{repository}").into())
    }
}

#[cfg(test)]
mod tests {
    use loam_deployment::payload::OciReference;

    use super::*;

    #[test]
    fn docker_hub_is_asked_where_it_answers_and_others_where_they_are_named() {
        for (written, host, repository) in [
            ("docker.io/library/x", "registry-1.docker.io", "library/x"),
            ("docker.io/x:1.29", "registry-1.docker.io", "library/x"),
            ("docker.io/user/x", "registry-1.docker.io", "user/x"),
            ("index.docker.io/x", "registry-1.docker.io", "library/x"),
            (
                "registry-1.docker.io/library/x",
                "registry-1.docker.io",
                "library/x",
            ),
            ("docker.io:443/x", "docker.io:443", "x"),
            ("docker.io.example.org/x", "docker.io.example.org", "x"),
            ("ghcr.io/x/y", "ghcr.io", "x/y"),
            ("quay.io/x", "quay.io", "x"),
            ("10.0.2.2:5000/x", "10.0.2.2:5000", "x"),
        ] {
            let image: OciReference = format!("{written}@sha256:{}", "ab".repeat(32))
                .parse()
                .unwrap();
            let asked = asked(image.registry(), image.repository());
            assert_eq!(asked, (host, repository.into()), "{written}");
            // What it is called stays.
            assert!(image.to_string().starts_with(written), "{image}");
        }
    }
}
