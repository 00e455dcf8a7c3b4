//! Against a stock server: Debian's chrony, with NTS and without.

#![allow(clippy::unwrap_used)]

use std::{
    net::UdpSocket,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use loam_clockd::{
    config::{Config, ServerName},
    floor::Floor,
    instant::{Nanos, kernel, since_boot},
    judge::{Answer, judge},
    keeper::Keeper,
    known::Known,
    local_server::LocalServer,
    query::{Asker, QueryError},
};
use loam_node_api::{
    clock::{Clock, ClockService as _, UnixTime},
    tls::{KnownTime, client_config},
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

const HOST: &str = "127.0.0.1";
const YEAR: u64 = 365 * 24 * 3600;
const ERA: Nanos = Nanos::seconds(1_700_000_000);

fn server() -> LocalServer {
    let mut server = LocalServer::new(HOST).unwrap();
    server.start().unwrap();
    server
}

/// One that trusts the certificates of `server`.
fn asker(server: &LocalServer) -> Asker {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(server.authority.as_bytes()).unwrap();
    roots.add(authority).unwrap();
    let known = Clock {
        floor: UnixTime(1_700_000_000),
        ..Clock::default()
    };
    let time: KnownTime = Arc::new(move || known.clone());
    Asker::new(client_config(roots, time).unwrap())
}

/// The server has this machine's clock, so what it says must be it.
fn is_right(answer: &Answer) {
    let off = answer.boot + since_boot() - kernel();
    assert!(
        off.abs() < Nanos::seconds(30),
        "{answer:?} is off by {off:?}"
    );
}

async fn one(
    asker: &mut Asker,
    nts: &[ServerName],
    ntp: &[ServerName],
) -> Result<Answer, QueryError> {
    let mut answers = asker.ask(nts, ntp, ERA).await;
    assert_eq!(answers.len(), 1);
    answers.remove(0).1
}

#[tokio::test]
async fn a_stock_server_is_believed_by_nts() {
    let server = server();
    let mut trusting = asker(&server);
    let nts = [server.nts(HOST)];
    // More often than one exchange has cookies: each answer brings a new one.
    for _ in 0..12 {
        let answer = one(&mut trusting, &nts, &[]).await.unwrap();
        assert!(answer.authenticated);
        is_right(&answer);
    }
    let answer = one(&mut trusting, &nts, &[]).await.unwrap();
    let floor = Floor::new(ERA.to_unix());
    let decision = judge(&[answer], 0, &floor, since_boot()).unwrap();
    assert!(decision.source.ends_with("(NTS)"), "{decision:?}");
    // The server's certificate counts.
    let mut stranger = asker(&LocalServer::new(HOST).unwrap());
    let refused = one(&mut stranger, &nts, &[]).await;
    assert!(
        matches!(refused, Err(QueryError::KeyExchange(_))),
        "{refused:?}"
    );
}

/// A keeper that asks `servers` by NTS, and knows that `floor` has passed.
fn keeper(servers: &[&LocalServer], floor: UnixTime, folder: &Path) -> Keeper {
    let config = Config {
        nts: servers.iter().map(|server| server.nts(HOST)).collect(),
        authorities: Some(servers.iter().map(|s| s.authority.as_str()).collect()),
        ..Config::default()
    };
    let known = Known::new(folder.join("clock.json"), floor).unwrap();
    Keeper::new(config, known).unwrap()
}

#[tokio::test]
async fn an_answer_long_before_the_floor_is_refused_and_not_read_as_one_of_the_next_era() {
    let folder = tempfile::tempdir().unwrap();
    let long = Duration::from_secs(1000 * YEAR);
    let mut server = LocalServer::valid(HOST, SystemTime::now(), SystemTime::now() + long).unwrap();
    server.start().unwrap();
    let now = kernel().to_unix().0;
    let decision = keeper(&[&server], UnixTime(now - 3600), folder.path())
        .ask()
        .await
        .unwrap();
    assert!(decision.authenticated);
    // Longer than half of the years after which NTP's seconds start anew.
    for years in [1, 73, 140, 500] {
        let floor = UnixTime(now + years * YEAR);
        let mut keeper = keeper(&[&server], floor, folder.path());
        let error = keeper.ask().await.unwrap_err();
        assert!(error.contains("has surely passed"), "{years}: {error}");
        assert_eq!(keeper.alarm(), None);
    }
}

#[tokio::test]
async fn where_no_server_has_nts_three_without_count_beside_a_block() {
    let folder = tempfile::tempdir().unwrap();
    let servers = [server(), server(), server()];
    let nobody = UdpSocket::bind((HOST, 0)).unwrap().local_addr().unwrap();
    let ask = async |count: usize, block: Option<UnixTime>| {
        let config = Config {
            nts: vec![nobody.to_string().parse().unwrap()],
            ntp: servers[..count].iter().map(|s| s.ntp(HOST)).collect(),
            ..Config::default()
        };
        let file = folder.path().join(format!("{count}{block:?}"));
        let known = Known::new(file, ERA.to_unix()).unwrap();
        if let Some(block) = block {
            known
                .clone()
                .has_passed(tarpc::context::current(), block, true)
                .await;
        }
        Keeper::new(config, known).unwrap().ask().await
    };
    let now = kernel().to_unix();
    let minutes_ago = UnixTime(now.0 - 300);
    let decision = ask(3, Some(minutes_ago)).await.unwrap();
    assert!(!decision.authenticated);
    let off = decision.boot + since_boot() - kernel();
    assert!(off.abs() < Nanos::seconds(30), "{off:?}");
    for (count, block, why) in [
        (3, None, "none was yet"),
        (2, Some(minutes_ago), "at least 3"),
        (3, Some(UnixTime(now.0 - 2 * 24 * 3600)), "more than a day"),
        (3, Some(UnixTime(now.0 + 3600)), "has surely passed"),
    ] {
        let refused = ask(count, block).await.unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
}

#[tokio::test]
async fn a_certificate_of_tomorrow_counts_until_the_clock_is_set() {
    let folder = tempfile::tempdir().unwrap();
    let day = Duration::from_secs(24 * 3600);
    let tomorrow = SystemTime::now() + day;
    let mut server = LocalServer::valid(HOST, tomorrow, tomorrow + day).unwrap();
    server.start().unwrap();
    let config = Config {
        nts: vec![server.nts(HOST)],
        authorities: Some(server.authority.clone()),
        ..Config::default()
    };
    let known = Known::new(folder.path().join("clock.json"), ERA.to_unix()).unwrap();
    let mut keeper = Keeper::new(config.clone(), known.clone()).unwrap();
    let decided = keeper.ask().await;
    assert!(decided.as_ref().unwrap().authenticated, "{decided:?}");
    known.decided(&decided);
    // One that has no cookies yet.
    let mut keeper = Keeper::new(config, known).unwrap();
    let refused = keeper.ask().await.unwrap_err();
    assert_eq!(refused, "no time server answers");
}

#[tokio::test]
async fn two_servers_that_contradict_the_floor_are_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (server(), server());
    let now = kernel().to_unix().0;
    let mut right = keeper(&[&one, &other], UnixTime(now - 3600), folder.path());
    right.ask().await.unwrap();
    assert_eq!(right.alarm(), None);
    // By the last floor their certificates have ended, and they cannot say anything.
    for years in [1, 73] {
        let floor = UnixTime(now + years * YEAR - 3600);
        let mut keeper = keeper(&[&one, &other], floor, folder.path());
        keeper.ask().await.unwrap_err();
        let told = keeper.alarm().unwrap();
        assert!(told.starts_with("2 time servers contradict"), "{told}");
    }
}

#[tokio::test]
async fn a_stock_server_answers_plain_ntp() {
    let server = server();
    let answer = one(&mut asker(&server), &[], &[server.ntp(HOST)])
        .await
        .unwrap();
    assert!(!answer.authenticated);
    is_right(&answer);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_at_once() {
    let port = UdpSocket::bind((HOST, 0)).unwrap().local_addr().unwrap();
    let nobody: ServerName = port.to_string().parse().unwrap();
    let mut asker = asker(&LocalServer::new(HOST).unwrap());
    let nobody = [nobody];
    let answers = asker.ask(&nobody, &nobody, ERA).await;
    assert_eq!(answers.len(), 2);
    assert!(answers.iter().all(|(_, answer)| answer.is_err()));
}
