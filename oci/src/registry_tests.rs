use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    thread,
    time::UNIX_EPOCH,
};

use loam_deployment::payload::OciReference;
use loam_node_api::{
    clock::{Clock, UnixTime},
    tls,
};
use loam_test_authority::Authority;
use rustls::{RootCertStore, ServerConnection, StreamOwned};

use super::*;
use crate::test_registry::{Instead, TestRegistry};

fn of(
    image: &OciReference,
    outside: &Outside,
    credentials: Option<Credentials>,
) -> Result<Registry, RegistryError> {
    Registry::new(image.registry(), image.repository(), outside, credentials)
}

/// 2021 and 2022: long over by the clock of whoever runs this.
const BEGIN: u64 = 1_609_459_200;
const END: u64 = 1_640_995_200;

/// A registry on this machine that has one manifest, and whose certificate ended in 2022. It answers
/// `connections` times.
fn expired_registry(manifest: &'static [u8], connections: usize) -> (OciReference, RootCertStore) {
    let at = |time| UNIX_EPOCH + Duration::from_secs(time);
    let authority = Authority::generate();
    let certified = authority.certify("registry.localhost", at(BEGIN)..at(END));
    let config = certified.server();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for _ in 0..connections {
            let (socket, _) = listener.accept().unwrap();
            let tls = ServerConnection::new(config.clone()).unwrap();
            let mut stream = StreamOwned::new(tls, socket);
            // A client that refuses the certificate says so instead.
            if matches!(stream.read(&mut [0; 4096]), Ok(length) if length > 0) {
                let length = manifest.len();
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
                )
                .unwrap();
                stream.write_all(manifest).unwrap();
                stream.flush().unwrap();
            }
        }
    });
    let image = format!("registry.localhost:{port}/a/b@{}", Digest::of(manifest));
    (image.parse().unwrap(), authority.roots())
}

#[tokio::test]
async fn a_registry_is_judged_by_what_is_known_about_the_time() {
    let manifest = b"{}";
    let (image, roots) = expired_registry(manifest, 2);
    let ask = async |clock: Clock| {
        let outside = Outside {
            reach: Reach::Anywhere,
            tls: tls::client_config(roots.clone(), Arc::new(move || clock.clone())).unwrap(),
        };
        let registry = of(&image, &outside, None).unwrap();
        registry.manifest(Digest::of(manifest)).await
    };
    // A clock that nobody set says nothing, and the floor is before the certificate's end.
    let unset = Clock {
        floor: UnixTime(END - 1),
        ..Clock::default()
    };
    assert_eq!(ask(unset.clone()).await.unwrap(), manifest);
    let set = Clock { set: true, ..unset };
    let refused = ask(set).await.unwrap_err().to_string();
    assert!(refused.contains("certificate expired"), "{refused}");
}

/// Of this machine alone, without TLS.
fn outside() -> Outside {
    let roots = tls::public_roots();
    Outside {
        reach: Reach::Anywhere,
        tls: tls::client_config(roots, Arc::new(Clock::default)).unwrap(),
    }
}

/// Asks for a manifest as one who has this account, and says what was asked on the way.
async fn asked(
    registry: &TestRegistry,
    account: Option<(&str, &str)>,
) -> (Result<(), String>, Vec<String>) {
    let image = registry.manifest("{}".to_owned());
    let credentials = account.map(|(user, password)| Credentials {
        user: user.to_owned(),
        password: password.to_owned(),
    });
    let before = registry.requests().len();
    let client = of(&image, &outside(), credentials).unwrap();
    let found = client.manifest(Digest::of(b"{}")).await;
    let found = found.map(|bytes| assert_eq!(bytes, b"{}"));
    let asked = registry.requests().split_off(before);
    (found.map_err(|error| error.to_string()), asked)
}

#[tokio::test]
async fn a_registry_is_logged_in_to_whatever_its_challenges_look_like() {
    const BEARER: &str = "Bearer realm=\"%s\",service=\"s\",scope=\"repository:test/image:pull\"";
    for challenges in [
        vec![],
        vec!["Negotiate", BEARER],
        vec![BEARER, "Negotiate YII="],
        vec![
            "Basic realm=\"registry\", Bearer realm=\"%s\",service=\"s\",\
             scope=\"repository:test/image:pull\"",
        ],
        vec!["bearer service=s , realm=%s, scope=repository:test/image:pull"],
        vec!["Bearer realm=\"%s\",service=\"s\""],
        vec!["Bearer realm=\"%s\",scope=\"\""],
        vec!["Bearer realm=\"ftp://elsewhere/\"", BEARER],
    ] {
        for answer in [
            None,
            Some("{\"access_token\":\"sesame\"}"),
            Some("{\"token\":\"sesame\",\"access_token\":\"\",\"expires_in\":1800}"),
        ] {
            let registry = TestRegistry::start();
            registry.behave(|b| {
                b.token = Some("sesame");
                b.challenges.clone_from(&challenges);
                b.token_answer = answer;
                b.scope = Some("repository:test/image:pull");
            });
            let (found, asked) = asked(&registry, None).await;
            assert_eq!(found, Ok(()), "{challenges:?} {answer:?}");
            assert_eq!(asked.len(), 3, "{asked:?}");
        }
    }
}

#[tokio::test]
async fn a_login_that_cannot_be_had_is_an_error_after_one_try() {
    for (challenges, answer, error, questions) in [
        (vec!["Negotiate"], None, "not known here: Negotiate", 1),
        (vec!["Basic realm=\"x\""], None, "refuses (401", 1),
        (
            vec!["Bearer realm=\"file:///x\""],
            None,
            "not known here",
            1,
        ),
        (vec![], Some("{}"), "not known here", 2),
        (vec![], Some("{\"token\":\"a\\nb\"}"), "not known here", 2),
        // It wants one that it does not give.
        (vec![], Some("{\"token\":\"other\"}"), "refuses (401", 3),
    ] {
        let registry = TestRegistry::start();
        registry.behave(|b| {
            b.token = Some("sesame");
            b.challenges.clone_from(&challenges);
            b.token_answer = answer;
        });
        let (found, asked) = asked(&registry, None).await;
        let found = found.unwrap_err();
        assert!(found.contains(error), "{found}");
        assert_eq!(asked.len(), questions, "{asked:?}");
    }
}

#[tokio::test]
async fn an_account_is_told_to_the_registry_or_its_token_server() {
    // alice:secret
    let account = Some("YWxpY2U6c2VjcmV0");
    let alice = Some(("alice", "secret"));
    for token in [None, Some("sesame")] {
        let registry = TestRegistry::start();
        registry.behave(|b| {
            (b.account, b.token) = (account, token);
            if token.is_none() {
                b.challenges = vec!["Negotiate", "Basic realm=\"registry\""];
            }
        });
        assert_eq!(asked(&registry, alice).await.0, Ok(()));
        for stranger in [None, Some(("alice", "guess"))] {
            let error = asked(&registry, stranger).await.0.unwrap_err();
            assert!(error.contains("refuses (401"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_token_that_is_over_is_asked_for_anew() {
    let registry = TestRegistry::start();
    let blob = registry.blob(b"{}".to_vec());
    registry.behave(|b| (b.token, b.token_lasts) = (Some("sesame"), Some(2)));
    let image = registry.manifest("{}".to_owned());
    let client = of(&image, &outside(), None).unwrap();
    for _ in 0..5 {
        client.small_blob(blob, 2).await.unwrap();
    }
    let requests = registry.requests();
    let tokens = requests.iter().filter(|asked| asked.starts_with("/token"));
    assert_eq!(tokens.count(), 3);
}

#[tokio::test]
async fn a_login_does_not_follow_a_redirection_to_another() {
    let [registry, store] = [TestRegistry::start(), TestRegistry::start()];
    let blob = store.blob(b"{}".to_vec());
    store.behave(|b| b.no_logins = true);
    registry.behave(|b| (b.token, b.blobs_at) = (Some("sesame"), Some(store.address)));
    let image = registry.manifest("{}".to_owned());
    let client = of(&image, &outside(), None).unwrap();
    client.small_blob(blob, 2).await.unwrap();
    // Nor is one followed for ever.
    registry.behave(|b| b.blobs_at = Some(registry.address));
    let error = client.small_blob(blob, 2).await.unwrap_err().to_string();
    assert!(error.contains("too many redirections"), "{error}");
}

#[tokio::test]
async fn a_password_does_not_follow_a_redirection_to_another() {
    // alice:secret
    let account = Some("YWxpY2U6c2VjcmV0");
    let alice = || Credentials {
        user: "alice".to_owned(),
        password: "secret".to_owned(),
    };
    let [registry, store] = [TestRegistry::start(), TestRegistry::start()];
    let blob = store.blob(b"{}".to_vec());
    let image = registry.manifest("{}".to_owned());
    store.behave(|b| b.no_logins = true);
    registry.behave(|b| {
        (b.account, b.blobs_at) = (account, Some(store.address));
        b.challenges = vec!["Basic realm=\"x\""];
    });
    let client = of(&image, &outside(), Some(alice())).unwrap();
    client.small_blob(blob, 2).await.unwrap();

    // That one wants a login itself, and names who is to be told it.
    let thief = TestRegistry::start();
    let realm = format!("Bearer realm=\"http://{}/token\"", thief.address);
    store.behave(|b| {
        (b.no_logins, b.token, b.challenges) = (false, Some("stolen"), vec![&*realm.leak()]);
    });
    let error = client.small_blob(blob, 2).await.unwrap_err().to_string();
    let led = format!("led on to {}", store.address);
    assert!(error.contains(&led), "{error}");
    assert!(thief.requests().is_empty());
    store.behave(|b| (b.no_logins, b.challenges) = (true, vec![]));

    // Nor from the registry's own token server to one that it names.
    let location = format!("location: http://{}/token\r\n", store.address);
    store.behave(|b| b.token = Some("sesame"));
    registry.behave(|b| {
        (b.token, b.challenges) = (Some("sesame"), vec![]);
        b.instead = Some(Instead {
            of: "/token",
            times: 1,
            status: "307 Temporary Redirect",
            headers: location.leak(),
        });
    });
    let client = of(&image, &outside(), Some(alice())).unwrap();
    client.manifest(Digest::of(b"{}")).await.unwrap();
    assert!(store.requests().iter().any(|asked| asked == "/token"));
}

#[test]
fn a_realm_is_no_way_to_where_a_node_may_not_ask() {
    let outside = Outside {
        reach: Reach::Network,
        ..outside()
    };
    let registry = |name: &str| {
        let image = format!("{name}/a/b@{}", Digest::of(b"{}"));
        of(&image.parse().unwrap(), &outside, None).unwrap()
    };
    let named = registry("registry.example");
    let allows = |url: &str| named.may_ask(&Url::parse(url).unwrap());
    assert!(allows("https://auth.example/token"));
    for url in [
        "http://auth.example/token",
        "http://169.254.169.254/latest",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[fe80::1]/",
    ] {
        assert!(!allows(url), "{url}");
    }
    let address = registry("10.0.2.2:5000");
    assert!(address.may_ask(&Url::parse("http://10.0.2.2:5000/token").unwrap()));
    assert!(!address.may_ask(&Url::parse("http://127.0.0.1/token").unwrap()));
}
