//! Endpoints over TLS, for a node whose clock is not set: whoever reads or writes the grid by rules of
//! his own judges every server by them.
#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, SystemTime},
};

use alloy::primitives::Address;
use loam_chain::{
    account::AccountKey,
    endpoint::EndpointReader,
    grid::GridConfig,
    writer::{GridWriter, WriterOptions},
};
use loam_deployment::NodeKey;
use loam_node_api::{
    clock::{Clock, UnixTime},
    tls,
};
use loam_test_authority::Authority;
use rustls::{RootCertStore, ServerConnection, StreamOwned};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What an endpoint was asked by clients that took its certificate.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<String>>>);

impl Asked {
    /// The methods since the last call.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// An endpoint whose certificate begins tomorrow; it hangs up on every question.
fn endpoint_of_tomorrow() -> (GridConfig, RootCertStore, Asked) {
    let tomorrow = SystemTime::now() + DAY;
    let authority = Authority::generate();
    let certified = authority.certify("localhost", tomorrow..tomorrow + DAY);
    let server = certified.server();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = GridConfig {
        chain_id: 31337,
        contract: Address::ZERO,
        endpoints: vec![format!(
            "https://localhost:{}",
            listener.local_addr().unwrap().port()
        )],
        farm: None,
    };
    let asked = Asked::default();
    let heard = asked.clone();
    thread::spawn(move || {
        for socket in listener.incoming() {
            let connection = ServerConnection::new(server.clone()).unwrap();
            let mut stream = StreamOwned::new(connection, socket.unwrap());
            let mut request = Vec::new();
            let mut piece = [0; 4096];
            // A client that refuses the certificate says so instead.
            while let Ok(length @ 1..) = stream.read(&mut piece) {
                request.extend(&piece[..length]);
                if request.ends_with(b"}") {
                    break;
                }
            }
            let request = String::from_utf8(request).unwrap();
            if let Some((_, rest)) = request.split_once("\"method\":\"") {
                let method = rest.split('"').next().unwrap();
                heard.0.lock().unwrap().push(method.to_owned());
                let _ = stream.write_all(b"HTTP/1.1 503 Busy\r\nconnection: close\r\n\r\n");
            }
        }
    });
    (config, authority.roots(), asked)
}

fn account() -> AccountKey {
    AccountKey::from_seed(&[1; 32]).unwrap()
}

#[tokio::test]
async fn until_the_clock_is_set_an_endpoint_of_tomorrow_is_asked() {
    let (config, roots, asked) = endpoint_of_tomorrow();
    let judged_by = |clock: Clock| {
        let known: tls::KnownTime = Arc::new(move || clock.clone());
        tls::client_config(roots.clone(), known).unwrap()
    };
    let unset = judged_by(Clock {
        floor: UnixTime(1),
        set: false,
        ..Clock::default()
    });
    let set = judged_by(Clock {
        floor: UnixTime(1),
        set: true,
        ..Clock::default()
    });

    let reader = EndpointReader::with_tls(&config, &set).unwrap();
    reader.next_contract().await.unwrap_err();
    assert!(asked.take().is_empty(), "its certificate has not begun");

    let reader = EndpointReader::with_tls(&config, &unset).unwrap();
    reader.next_contract().await.unwrap_err();
    assert!(!asked.take().is_empty());

    // A writer reads, too, and by the same rules.
    let writer =
        GridWriter::with_tls(&config, account(), WriterOptions::default(), &unset).unwrap();
    writer.create_farm("farm").await.unwrap_err();
    assert!(!asked.take().is_empty());
    let prepare = |_| Ok::<_, std::convert::Infallible>(Vec::new());
    let node = NodeKey([1; 32]);
    writer.deploy_new(node, prepare).await.unwrap_err();
    assert!(!asked.take().is_empty());
}
