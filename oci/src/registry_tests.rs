use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    thread,
};

use loam_node_api::{
    clock::{Clock, UnixTime},
    tls,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::*;

#[test]
fn reads_a_challenge() {
    let url = token_url(
        "Bearer realm=\"https://auth.example/token\",service=\"registry.example\",\
         scope=\"repository:library/debian:pull,push\"",
    );
    assert_eq!(
        url.unwrap().as_str(),
        "https://auth.example/token?service=registry.example\
         &scope=repository%3Alibrary%2Fdebian%3Apull%2Cpush"
    );
    for bad in [
        "",
        "Bearer",
        "Basic realm=\"x\"",
        "Bearer realm=\"not a url\"",
        "Bearer realm=\"x",
    ] {
        assert_eq!(token_url(bad), None, "{bad}");
    }
}

/// 2021 and 2022: long over by the clock of whoever runs this.
const BEGIN: i64 = 1_609_459_200;
const END: i64 = 1_640_995_200;

/// A registry on this machine that has one manifest, and whose certificate ended in 2022. It answers
/// `connections` times.
fn expired_registry(manifest: &'static [u8], connections: usize) -> (OciReference, RootCertStore) {
    let at = |time| time::OffsetDateTime::from_unix_timestamp(time).unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (authority.not_before, authority.not_after) = (at(0), at(END * 2));
    let key = KeyPair::generate().unwrap();
    let mut roots = RootCertStore::empty();
    roots
        .add(authority.self_signed(&key).unwrap().der().clone())
        .unwrap();
    let authority = Issuer::new(authority, key);

    let mut leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    (leaf.not_before, leaf.not_after) = (at(BEGIN), at(END));
    let key = KeyPair::generate().unwrap();
    let leaf = leaf.signed_by(&key, &authority).unwrap().der().clone();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf], key.serialize_der().try_into().unwrap())
        .unwrap();
    let config = Arc::new(config);

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
    let image = format!("localhost:{port}/a/b@{}", Digest::of(manifest));
    (image.parse().unwrap(), roots)
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
        let registry = Registry::new(&image, &outside).unwrap();
        registry.manifest(Digest::of(manifest)).await
    };
    // A clock that nobody set says nothing, and the floor is before the certificate's end.
    let unset = Clock {
        floor: UnixTime(END.unsigned_abs() - 1),
        ..Clock::default()
    };
    assert_eq!(ask(unset.clone()).await.unwrap(), manifest);
    let set = Clock { set: true, ..unset };
    let refused = ask(set).await.unwrap_err().to_string();
    assert!(refused.contains("certificate expired"), "{refused}");
}
