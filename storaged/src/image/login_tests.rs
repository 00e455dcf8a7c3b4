//! Images that a registry shows only to those who log in.

use loam_node_api::image::ImageLogin;

use super::*;

/// `alice:secret`, as `Basic` has it.
const ALICE: &str = "YWxpY2U6c2VjcmV0";
/// `bob:hunter2`.
const BOB: &str = "Ym9iOmh1bnRlcjI=";

/// One that lets in this account alone.
fn registry(account: &'static str) -> (TestRegistry, OciReference) {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    only(&registry, account);
    (registry, image)
}

fn only(registry: &TestRegistry, account: &'static str) {
    registry.behave(|b| {
        b.account = Some(account);
        b.challenges = vec!["Basic realm=\"x\""];
    });
}

fn login(contract: u64, user: &str, password: &str) -> Option<ImageLogin> {
    Some(ImageLogin {
        contract: ContractId(contract),
        user: user.to_owned(),
        password: password.to_owned(),
    })
}

fn alice(contract: u64) -> Option<ImageLogin> {
    login(contract, "alice", "secret")
}

fn request(image: &OciReference, login: Option<ImageLogin>) -> ImageRequest {
    ImageRequest {
        reference: image.clone(),
        login,
    }
}

impl Node {
    async fn ready_as(&self, request: &ImageRequest) -> PathBuf {
        match self.fetched_as(request).await {
            ImageState::Ready { path } => path,
            other => panic!("{other:?}"),
        }
    }

    async fn failed_as(&self, request: &ImageRequest) -> String {
        match self.fetched_as(request).await {
            ImageState::Failed(why) => why,
            other => panic!("{other:?}"),
        }
    }

    /// What is ready, in the order of the lists.
    fn listed(&self) -> Vec<Image> {
        let all = self.images.list().into_iter();
        all.filter(|status| matches!(status.state, ImageState::Ready { .. }))
            .map(|status| status.image)
            .collect()
    }
}

#[tokio::test]
async fn an_image_fetched_with_a_login_is_its_contract_s_alone() {
    let (registry, image) = registry(ALICE);
    let node = Node::new();
    let own = request(&image, alice(7));
    let path = node.ready_as(&own).await;
    let asked = registry.requests().len();

    // Without a login, and with those that the registry does not take, also by another name.
    let denied = node.failed(&image).await;
    assert!(denied.contains("refuses (401"), "{denied}");
    let mirror = image.to_string().replace("127.0.0.1", "localhost");
    let mirror: OciReference = mirror.parse().unwrap();
    for stranger in [
        request(&image, login(8, "alice", "guess")),
        request(&image, login(8, "mallory", "")),
        request(&mirror, login(9, "alice", "guess")),
    ] {
        let denied = node.failed_as(&stranger).await;
        assert!(denied.contains("`image_login`"), "{denied}");
        let unknown = node.images.config(&stranger.image()).await.unwrap_err();
        assert_eq!(unknown, StorageError::NoImage(Box::new(stranger.image())));
    }
    assert!(registry.requests().len() > asked);
    assert_eq!(node.listed(), [own.image()]);
    assert_eq!(node.ready_as(&own).await, path);
    let config = node.images.config(&own.image()).await.unwrap();
    assert_eq!(config.cmd, ["/bin/hello"]);
}

#[tokio::test]
async fn two_contracts_and_everybody_else_have_each_their_own_copy() {
    let (registry, image) = registry(ALICE);
    let mut node = Node::new();
    let [seven, eight] = [7, 8].map(|contract| request(&image, alice(contract)));
    let one = node.ready_as(&seven).await;
    let blobs = |registry: &TestRegistry| {
        let requests = registry.requests();
        requests.iter().filter(|r| r.contains("/blobs/")).count()
    };
    let fetched = blobs(&registry);
    let two = node.ready_as(&eight).await;
    assert_eq!(blobs(&registry), 2 * fetched);
    // What anybody may have does not stand for what was asked for with a login, nor the other way round.
    registry.behave(|b| b.account = None);
    let shared = node.ready(&image).await;
    assert_eq!(blobs(&registry), 3 * fetched);
    let nine = request(&image, alice(9));
    let three = node.ready_as(&nine).await;
    assert_eq!(blobs(&registry), 4 * fetched);
    let paths = [&shared, &one, &two, &three];
    for (index, path) in paths.iter().enumerate() {
        assert!(!paths[..index].contains(path), "{paths:?}");
        assert_eq!(contents(&fs::read(path).unwrap())["bin/hello"], "file:two");
    }
    let everybody = Image::from(image.clone());
    let all = [
        everybody.clone(),
        seven.image(),
        eight.image(),
        nine.image(),
    ];
    assert_eq!(node.listed(), all);
    node.assert_true_claims();

    // So it stays when nothing is known but what is on the pool.
    node.restart();
    assert_eq!(node.listed(), all);
    let asked = registry.requests().len();
    for (request, path) in [(&seven, &one), (&eight, &two), (&nine, &three)] {
        assert_eq!(node.ready_as(request).await, *path);
    }
    assert_eq!(node.ready(&image).await, shared);
    assert_eq!(registry.requests().len(), asked);

    node.images.delete(&seven.image());
    node.quiet().await;
    assert!(!one.exists() && two.exists() && shared.exists());
    assert_eq!(node.listed(), [everybody, eight.image(), nine.image()]);
    node.delete(&image).await;
    assert!(!shared.exists() && two.exists() && three.exists());
    for request in [&eight, &nine] {
        node.images.delete(&request.image());
    }
    node.quiet().await;
    node.assert_empty();
}

#[tokio::test]
async fn a_login_that_was_wrong_is_mended_without_a_pause() {
    let (registry, image) = registry(ALICE);
    let node = Node::new();
    let wrong = request(&image, login(7, "alice", "guess"));
    for _ in 0..6 {
        let denied = node.failed_as(&wrong).await;
        assert!(denied.contains("`image_login`"), "{denied}");
        node.forgive();
    }
    node.failed_as(&wrong).await;
    let asked = registry.requests().len();
    node.failed_as(&wrong).await;
    assert_eq!(registry.requests().len(), asked, "it has a back-off");
    // Another wrong one is tried at once too, and its pauses begin anew.
    node.failed_as(&request(&image, login(7, "bob", "hunter2")))
        .await;
    assert!(registry.requests().len() > asked);
    let failures = match &node.images.lock().attempts[&wrong.image()] {
        Attempt::Failed(failure) => failure.record.failures,
        other => panic!("{other:?}"),
    };
    assert_eq!(failures, 1);
    node.ready_as(&request(&image, alice(7))).await;
    node.assert_true_claims();
}

/// An image that kills storaged is not built more often for it.
#[tokio::test]
async fn another_login_does_not_excuse_the_image() {
    let (_registry, image) = registry(ALICE);
    let mut node = Node::new();
    let request = request(&image, alice(7));
    let record = Record {
        building: true,
        ..Record::new(request.image())
    };
    drop(Staging::begin(&node.pool, record).unwrap());
    node.restart();
    let why = node.failed_as(&request).await;
    assert!(why.contains("while it built"), "{why}");
    node.forgive();
    node.ready_as(&request).await;
}

#[tokio::test]
async fn what_has_come_is_gone_on_with_when_a_login_is_withdrawn_and_another_named() {
    let (registry, image) = registry(ALICE);
    let mut node = Node::new();
    // The account is let in four times: for manifest, configuration and both layers, of which one is cut.
    registry.behave(|b| (b.cut, b.token_lasts) = (Some((100_000, 1)), Some(4)));
    let own = request(&image, alice(7));
    let denied = node.failed_as(&own).await;
    assert!(denied.contains("`image_login`"), "{denied}");
    let kept = node.taken();
    assert!(kept >= 100_000, "{kept}");
    node.assert_true_claims();
    only(&registry, BOB);
    registry.behave(|b| b.token_lasts = None);
    let asked = registry.requests().len();

    // A restart forgets the login, and what has come is still there.
    node.restart();
    assert_eq!(node.taken(), kept);
    assert_eq!(node.listed(), []);
    let again = request(&image, login(7, "bob", "hunter2"));
    node.ready_as(&again).await;
    // Of one layer nothing may have come, and all of the other: both were on their way.
    let asked = &registry.requests()[asked..];
    let there = layers().into_iter().map(|layer| {
        let layer = gzip(&layer);
        let digest = Digest::of(&layer).to_string();
        match asked.iter().find(|request| request.contains(&digest)) {
            None => layer.len() as u64,
            Some(request) => {
                let from = request.split_once("bytes=");
                from.map_or(0, |(_, from)| from.trim_end_matches('-').parse().unwrap())
            }
        }
    });
    assert_eq!(there.sum::<u64>(), kept, "{asked:?}");
    node.assert_true_claims();
}

#[tokio::test]
async fn what_a_restart_left_goes_on_once_it_is_asked_for_with_its_login() {
    let (registry, image) = registry(ALICE);
    let mut node = Node::new();
    let request = request(&image, alice(7));
    let record = Record {
        failures: 9,
        ..Record::new(request.image())
    };
    let staging = Staging::begin(&node.pool, record).unwrap();
    let layer = gzip(&layers()[0]);
    let partial = format!("{}.partial", Digest::of(&layer).hex());
    fs::write(staging.folder().join(partial), &layer[..70_000]).unwrap();
    node.restart();
    // Nobody asks the registry without the login, and nothing of it is given up.
    let listed = node.images.list();
    assert!(matches!(&listed[..], [one] if one.image == request.image()));
    assert_eq!((registry.requests().len(), node.claimed()), (0, 70_000));
    // Somebody else's wish for the image does not touch it.
    node.failed(&image).await;
    assert_eq!(node.claimed(), 70_000);
    node.ready_as(&request).await;
    let asked = registry.requests();
    assert!(
        asked.iter().any(|r| r.ends_with("bytes=70000-")),
        "{asked:?}"
    );
    node.assert_true_claims();
}

// The registry is looked at while it answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_is_named_while_one_is_tried_is_the_next_to_be_tried() {
    let (registry, image) = registry(BOB);
    registry.behave(|b| b.hold = true);
    let node = Node::new();
    let wrong = request(&image, login(7, "bob", "hunter2"));
    node.images.ensure(wrong);
    while !registry
        .requests()
        .iter()
        .any(|r| r.contains("/manifests/"))
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    node.images.ensure(request(&image, alice(7)));
    only(&registry, ALICE);
    registry.behave(|b| b.hold = false);
    // Nobody asks again.
    let own = request(&image, alice(7)).image();
    let ready = async {
        while node.listed() != [own.clone()] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let ready = tokio::time::timeout(Duration::from_secs(60), ready).await;
    assert!(ready.is_ok(), "{:?}", node.images.list());
}

#[tokio::test]
async fn no_disk_and_no_list_is_told_a_password() {
    const PASSWORD: &str = "correct-horse-battery-staple";
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    // alice:correct-horse-battery-staple
    only(
        &registry,
        "YWxpY2U6Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5LXN0YXBsZQ==",
    );
    let mut node = Node::new();
    let nowhere = |node: &Node| {
        let told = format!("{:?} {:?}", node.images, node.images.list());
        assert!(!told.contains(PASSWORD) && !told.contains("YWxpY2U6Y29ycmVj"));
        let mut open = vec![node.pool.root().to_owned()];
        let mut files = 0;
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
                if entry.metadata().unwrap().is_dir() {
                    open.push(entry.path());
                    continue;
                }
                let bytes = fs::read(entry.path()).unwrap();
                for secret in [PASSWORD, "YWxpY2U6Y29ycmVj"] {
                    let mut windows = bytes.windows(secret.len());
                    assert!(!windows.any(|w| w == secret.as_bytes()), "{entry:?}");
                }
                files += 1;
            }
        }
        files
    };
    let own = request(&image, login(7, "alice", PASSWORD));
    // It ends before it is done.
    registry.behave(|b| (b.cut, b.token_lasts) = (Some((100_000, 1)), Some(4)));
    node.failed_as(&own).await;
    assert!(nowhere(&node) > 1);
    registry.behave(|b| b.token_lasts = None);
    node.forgive();
    node.ready_as(&own).await;
    assert!(nowhere(&node) > 1);
    node.restart();
    node.ready_as(&own).await;
    let other = request(&image, login(8, "mallory", PASSWORD));
    node.failed_as(&other).await;
    nowhere(&node);
}
