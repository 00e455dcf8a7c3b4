use std::cell::RefCell;

use loam_deployment::written;
use loam_oci::test_registry::{Instead, TestRegistry};

use super::*;

/// Two machines of one image, and what else they have.
fn written(image: &str, more: &str) -> Written {
    let machine = |name: &str| {
        format!("[machine.{name}]\nimage = \"{image}\"\ncpus = 1\nmemory = \"64MiB\"\n{more}\n")
    };
    let text = format!("kind = \"workload\"\n{}{}", machine("a"), machine("b"));
    written::read("x.toml", &text, &|_| None).unwrap()
}

/// What is signed for both, or what is wrong; and what was said meanwhile.
async fn pin(image: &str) -> (Result<Vec<String>, String>, Vec<String>) {
    pin_written(written(image, "")).await
}

async fn pin_written(written: Written) -> (Result<Vec<String>, String>, Vec<String>) {
    let said = RefCell::new(Vec::new());
    let say = |line: &str| said.borrow_mut().push(line.to_owned());
    let draft = pinned_by(written, &outside().unwrap(), &say).await;
    let shown = |draft: Draft| images(&draft).values().map(ToString::to_string).collect();
    (
        draft.map(shown).map_err(|error| error.to_string()),
        said.into_inner(),
    )
}

fn amd64(registry: &TestRegistry, tag: &str) -> OciReference {
    let image = registry.image(&[b"layer".to_vec()]);
    registry.tag(tag, &image);
    image
}

#[tokio::test]
async fn a_tag_is_asked_for_once_shown_and_pinned() {
    let registry = TestRegistry::start();
    let digest = amd64(&registry, "1.29").digest();
    let name = format!("{}/test/image:1.29", registry.address);
    let (signed, said) = pin(&name).await;
    let expected = format!("{name}@sha256:{digest}");
    assert_eq!(signed, Ok(vec![expected.clone(), expected.clone()]));
    let asking = format!("asking {} which image {name} is", registry.address);
    assert_eq!(said, [asking, expected]);
    let manifests = registry.requests().into_iter();
    assert_eq!(
        manifests
            .filter(|asked| asked.contains("/manifests/"))
            .count(),
        1
    );
}

#[tokio::test]
async fn nobody_is_asked_for_what_has_a_digest() {
    let registry = TestRegistry::start();
    let image = format!("{}/x:1@sha256:{}", registry.address, "ab".repeat(32));
    let (signed, said) = pin(&image).await;
    assert_eq!(signed, Ok(vec![image.clone(), image]));
    assert!(said.is_empty() && registry.requests().is_empty());
}

#[tokio::test]
async fn an_error_says_where_whom_what_why_and_what_to_do() {
    let registry = TestRegistry::start();
    let (host, name) = (
        registry.address,
        format!("{}/test/image:2", registry.address),
    );
    let (signed, _) = pin(&name).await;
    assert_eq!(
        signed.unwrap_err(),
        format!(
            "x.toml:3: machine.a.image: {host} was asked which image {name} is: the registry has no \
             tag 2. See which tags it has; where none is written, `latest` is meant"
        )
    );
}

#[tokio::test]
async fn a_registry_that_is_busy_is_waited_for_and_the_wait_is_told() {
    let registry = TestRegistry::start();
    amd64(&registry, "1");
    registry.behave(|b| {
        b.instead = Some(Instead {
            of: "/manifests/1",
            times: 1,
            status: "429 Too Many Requests",
            headers: "retry-after: 6\r\n",
        });
    });
    let (signed, said) = pin(&format!("{}/test/image:1", registry.address)).await;
    signed.unwrap();
    let told = "wants to be asked later (429 Too Many Requests); asking again in 6 s";
    assert!(said.iter().any(|line| line.ends_with(told)), "{said:?}");
    assert!(
        said.iter().any(|line| line.contains("still waiting")),
        "{said:?}"
    );
}

#[tokio::test]
async fn one_that_wants_to_be_left_alone_for_long_is_an_error_at_once() {
    let registry = TestRegistry::start();
    registry.behave(|b| {
        b.instead = Some(Instead {
            of: "/manifests/1",
            times: 1,
            status: "429 Too Many Requests",
            headers: "retry-after: 3600\r\n",
        });
    });
    let (signed, _) = pin(&format!("{}/test/image:1", registry.address)).await;
    let error = signed.unwrap_err();
    assert!(error.contains("asked later (it answers 429"), "{error}");
    assert!(error.ends_with("Try again later"), "{error}");
}

#[tokio::test]
async fn a_login_is_told_to_the_registry_and_shown_to_nobody() {
    let registry = TestRegistry::start();
    let digest = amd64(&registry, "1").digest();
    // alice:secret
    registry.behave(|b| (b.account, b.token) = (Some("YWxpY2U6c2VjcmV0"), Some("sesame")));
    let host = registry.address;
    let name = format!("{host}/test/image:1");
    let login = |password: &str| {
        let login = format!(
            "image_login = {{ registry = \"{host}\", sealed_user = \"alice\", sealed_password = \
             \"{password}\" }}"
        );
        written(&name, &login)
    };
    let (signed, said) = pin_written(login("secret")).await;
    assert_eq!(signed.unwrap()[0], format!("{name}@sha256:{digest}"));
    assert!(
        said.iter().any(|line| line.contains("in plain HTTP")),
        "{said:?}"
    );
    let (signed, told) = pin_written(login("guess")).await;
    let error = signed.unwrap_err();
    assert!(error.contains("the login that it was told"), "{error}");
    let all = format!("{said:?} {told:?} {error}");
    assert!(!all.contains("secret") && !all.contains("guess"), "{all}");
    let error = pin(&name).await.0.unwrap_err();
    assert!(error.contains("only to those who log in"), "{error}");
}

#[test]
fn a_registry_that_only_this_machine_has_is_known() {
    for registry in [
        "localhost:5000",
        "localhost",
        "127.0.0.1:5000",
        "[::1]",
        "169.254.169.254",
    ] {
        assert!(is_out_of_reach(registry), "{registry}");
    }
    for registry in [
        "docker.io",
        "10.0.2.2:5000",
        "registry.localhost.example",
        "ghcr.io",
    ] {
        assert!(!is_out_of_reach(registry), "{registry}");
    }
}

#[test]
fn what_an_image_needs_of_a_node_is_told() {
    assert_eq!(needs(Level::V1), "");
    assert!(needs(Level::V3).contains("x86-64-v3"));
}
