use std::sync::Arc;

use loam_deployment::{ImageDigest, payload::OciReference};
use loam_node_api::{clock::Clock, tls};

use super::*;
use crate::{
    address::{Outside, Reach},
    login::Credentials,
    test_registry::{Instead, TestRegistry},
};

async fn look(
    registry: &TestRegistry,
    tag: &str,
    credentials: Option<Credentials>,
) -> Result<Tagged, String> {
    let outside = Outside {
        reach: Reach::Anywhere,
        tls: tls::client_config(tls::public_roots(), Arc::new(Clock::default)).unwrap(),
    };
    let host = registry.address.to_string();
    let client = Registry::new(&host, "test/image", &outside, credentials).unwrap();
    let found = look_up(&client, tag).await;
    found.map_err(|error| error.to_string())
}

fn tagged(image: &OciReference, needs: Level) -> Result<Tagged, String> {
    let digest = Digest::of_manifest(image);
    Ok(Tagged { digest, needs })
}

/// One of an index, for a platform.
fn entry(image: &OciReference, architecture: &str, variant: &str) -> String {
    let ImageDigest(digest) = image.digest();
    let digest = Digest::new(digest);
    format!(
        r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":9,
            "platform":{{"os":"linux","architecture":"{architecture}","variant":"{variant}"}}}}"#
    )
}

fn index(registry: &TestRegistry, entries: &[String]) -> OciReference {
    let index = registry.manifest(format!(r#"{{"manifests":[{}]}}"#, entries.join(",")));
    registry.tag("index", &index);
    index
}

fn amd64(registry: &TestRegistry) -> OciReference {
    registry.image(&[b"layer".to_vec()])
}

fn arm64(registry: &TestRegistry) -> OciReference {
    let config = r#"{"architecture":"arm64","os":"linux","rootfs":{"diff_ids":[]}}"#;
    let size = config.len();
    let config = registry.blob(config.into());
    registry.manifest(format!(
        r#"{{"config":{{"digest":"{config}","size":{size}}},"layers":[]}}"#
    ))
}

#[tokio::test]
async fn a_tag_is_the_digest_of_what_it_names() {
    let registry = TestRegistry::start();
    let image = amd64(&registry);
    registry.tag("1.29", &image);
    assert_eq!(
        look(&registry, "1.29", None).await,
        tagged(&image, Level::V1)
    );
    // It may name another any day.
    let other = registry.image(&[b"another".to_vec()]);
    registry.tag("1.29", &other);
    assert_eq!(
        look(&registry, "1.29", None).await,
        tagged(&other, Level::V1)
    );
}

#[tokio::test]
async fn of_an_index_it_is_the_index_which_a_node_chooses_from() {
    let registry = TestRegistry::start();
    let image = amd64(&registry);
    let entries = [
        entry(&arm64(&registry), "arm64", ""),
        entry(&image, "amd64", "v3"),
        entry(&image, "amd64", ""),
    ];
    let whole = index(&registry, &entries);
    assert_eq!(
        look(&registry, "index", None).await,
        tagged(&whole, Level::V1)
    );
    // Not every node runs what needs more of a processor.
    let newer = index(&registry, &entries[..2]);
    assert_eq!(
        look(&registry, "index", None).await,
        tagged(&newer, Level::V3)
    );
    let asked = registry.requests().split_off(3);
    assert_eq!(asked.len(), 3, "none twice: {asked:?}");
}

#[tokio::test]
async fn what_cannot_be_had_says_nothing_of_the_next_level() {
    let registry = TestRegistry::start();
    let image = amd64(&registry);
    let gone = format!("a/b@{}", Digest::of(b"thrown away"));
    let gone = gone.parse().unwrap();
    let broken = registry.manifest("broken".to_owned());
    for plain in [&gone, &broken] {
        let entries = [entry(plain, "amd64", ""), entry(&image, "amd64", "v3")];
        let whole = index(&registry, &entries);
        let found = look(&registry, "index", None).await;
        assert_eq!(found, tagged(&whole, Level::V3));
    }
    // Why it cannot be had is said, and not that there is nothing for lower levels.
    index(&registry, &[entry(&gone, "amd64", "v3")]);
    let error = look(&registry, "index", None).await.unwrap_err();
    let expected = format!("has no manifest {}", Digest::of_manifest(&gone));
    assert!(error.contains(&expected), "{error}");
}

#[tokio::test]
async fn what_no_node_runs_is_said_with_what_there_is() {
    let registry = TestRegistry::start();
    let arm64 = arm64(&registry);
    registry.tag("alone", &arm64);
    index(&registry, &[entry(&arm64, "arm64", "v8")]);
    for (tag, has) in [("alone", "linux/arm64"), ("index", "linux/arm64/v8")] {
        let error = look(&registry, tag, None).await.unwrap_err();
        let expected = format!("no image for linux/amd64, which is what nodes run; it has {has}");
        assert!(error.contains(&expected), "{error}");
    }
}

#[tokio::test]
async fn an_unknown_tag_is_said_to_be_unknown() {
    let registry = TestRegistry::start();
    registry.tag("1", &amd64(&registry));
    let error = look(&registry, "2", None).await.unwrap_err();
    assert_eq!(error, "the registry has no tag 2");
}

#[tokio::test]
async fn a_tag_is_asked_for_with_a_login() {
    let registry = TestRegistry::start();
    let image = amd64(&registry);
    registry.tag("1", &image);
    // alice:secret
    registry.behave(|b| (b.account, b.token) = (Some("YWxpY2U6c2VjcmV0"), Some("sesame")));
    let alice = |password: &str| Credentials {
        user: "alice".to_owned(),
        password: password.to_owned(),
    };
    let found = look(&registry, "1", Some(alice("secret"))).await;
    assert_eq!(found, tagged(&image, Level::V1));
    let error = look(&registry, "1", Some(alice("guess")))
        .await
        .unwrap_err();
    assert!(error.contains("the login that it was told"), "{error}");
    assert!(!error.contains("guess"), "{error}");
    let error = look(&registry, "1", None).await.unwrap_err();
    assert!(error.contains("only to those who log in"), "{error}");
}

#[tokio::test]
async fn a_registry_that_is_busy_is_asked_again() {
    let registry = TestRegistry::start();
    let image = amd64(&registry);
    registry.tag("1", &image);
    for status in ["429 Too Many Requests", "503 Service Unavailable"] {
        registry.behave(|b| {
            b.instead = Some(Instead {
                of: "/manifests/1",
                times: 1,
                status,
                headers: "retry-after: 0\r\n",
            });
        });
        assert_eq!(look(&registry, "1", None).await, tagged(&image, Level::V1));
    }
}

#[tokio::test]
async fn a_digest_that_the_registry_says_is_the_one_that_came() {
    let registry = TestRegistry::start();
    let image = amd64(&registry);
    registry.tag("1", &image);
    registry.behave(|b| b.said_digest = Some(Digest::of_manifest(&image)));
    assert_eq!(look(&registry, "1", None).await, tagged(&image, Level::V1));
    registry.behave(|b| b.said_digest = Some(Digest::of(b"other")));
    let error = look(&registry, "1", None).await.unwrap_err();
    assert!(error.contains("another digest"), "{error}");
}
