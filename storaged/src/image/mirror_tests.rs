//! Mirrors: who is asked, and that a bad one costs nobody an image.

use std::collections::{BTreeMap, HashMap};

use loam_node_api::image::ImageLogin;
use loam_oci::test_registry::Behaviour;

use super::*;

/// How a mirror is bad.
type Badness = (&'static str, fn(&mut Behaviour));

/// A node that asks these before the registry.
fn node(registry: &TestRegistry, mirrors: &[&TestRegistry]) -> Node {
    let mut node = Node::new();
    let hosts = mirrors.iter().map(|mirror| mirror.address.to_string());
    let hosts = BTreeMap::from([(registry.address.to_string(), hosts.collect())]);
    let pools = vec![node.pool.clone()];
    let means = Means {
        mirrors: Arc::new(hosts.try_into().unwrap()),
        ..means(node.builds.clone(), anywhere())
    };
    node.images = Images::with(Arc::new(move || pools.clone()), means, node.changes.clone());
    node
}

#[tokio::test]
async fn a_mirror_that_has_an_image_is_asked_alone() {
    let ([registry, mirror], [image, _]) = two_registries();
    let node = node(&registry, &[&mirror]);
    let found = contents(&fs::read(node.ready(&image).await).unwrap());
    assert_eq!(found["bin/hello"], "file:two");
    assert_eq!(registry.requests(), [""; 0]);
    // It is still called what its deployment calls it.
    assert_eq!(node.images.list()[0].image, image.into());
}

#[tokio::test]
async fn whatever_mirrors_do_the_registry_is_asked_after_them() {
    let other = [gzip(&Layer::default().file("evil", b"").tar())];
    let bad: [Badness; 4] = [
        ("is down", |b| b.down = true),
        ("has an error", |b| {
            b.instead = Some(Instead {
                of: "manifests",
                times: 100,
                status: "500 Internal Server Error",
                headers: "",
            });
        }),
        ("wants a login", |b| b.account = Some("alice:secret")),
        ("cuts all that it sends", |b| b.cut = Some((100, 1000))),
    ];
    for (what, behave) in bad {
        let ([registry, mirror], [image, _]) = two_registries();
        // One has nothing at all.
        let empty = TestRegistry::start();
        mirror.behave(behave);
        let node = node(&registry, &[&empty, &mirror]);
        node.ready(&image).await;
        assert!(!empty.requests().is_empty(), "{what}");
        assert!(!registry.requests().is_empty(), "{what}");
    }

    let ([registry, mirror], [image, _]) = two_registries();
    let layers: Vec<_> = layers().iter().map(|tar| Digest::of(&gzip(tar))).collect();
    let swapped = HashMap::from_iter(layers.into_iter().map(|layer| (layer, other[0].clone())));
    mirror.behave(|b| b.swapped = swapped);
    let node = node(&registry, &[&mirror]);
    let found = contents(&fs::read(node.ready(&image).await).unwrap());
    assert!(!found.contains_key("evil"), "{found:?}");
}

#[tokio::test]
async fn what_nobody_has_is_what_the_registry_says() {
    let ([registry, mirror], [image, _]) = two_registries();
    mirror.behave(|b| b.down = true);
    registry.behave(|b| b.account = Some("alice:secret"));
    let node = node(&registry, &[&mirror]);
    let ImageState::Failed(reason) = node.fetched(&image).await else {
        panic!("it is there");
    };
    assert!(reason.contains("log in"), "{reason}");
}

#[tokio::test]
async fn what_is_fetched_with_a_login_is_asked_of_no_mirror() {
    let ([registry, mirror], [image, _]) = two_registries();
    let node = node(&registry, &[&mirror]);
    let login = ImageLogin {
        contract: ContractId(7),
        user: "alice".to_owned(),
        password: "secret".to_owned(),
    };
    let request = ImageRequest {
        reference: image,
        login: Some(login),
    };
    let state = node.fetched_as(&request).await;
    assert!(matches!(state, ImageState::Ready { .. }), "{state:?}");
    assert_eq!(mirror.requests(), [""; 0]);
}
