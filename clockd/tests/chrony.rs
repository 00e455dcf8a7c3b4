//! Against a stock server: Debian's chrony, with NTS and without.

use std::{
    net::{TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use loam_clockd::{
    config::ServerName,
    instant::{Nanos, kernel, since_boot},
    judge::{Answer, judge},
    query::{Asker, QueryError},
};
use loam_node_api::{
    clock::{Clock, UnixTime},
    tls::{KnownTime, client_config},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;

/// A chronyd that serves this machine's time on loopback.
struct Chrony {
    process: Child,
    _folder: tempfile::TempDir,
    ntp: ServerName,
    nts: ServerName,
    roots: RootCertStore,
}

impl Chrony {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (roots, certificate, key) = certificates();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("server.pem"), certificate).unwrap();
        std::fs::write(path("server.key"), key).unwrap();
        let (ntp_port, nts_port) = (free_udp_port(), free_tcp_port());
        let config = format!(
            "local stratum 1\nallow 127.0.0.0/8\nbindaddress 127.0.0.1\nport {ntp_port}\n\
             cmdport 0\nbindcmdaddress /\npidfile {}\nntsport {nts_port}\n\
             ntsservercert {}\nntsserverkey {}\nntsdumpdir {}\n",
            path("pid"),
            path("server.pem"),
            path("server.key"),
            folder.path().display(),
        );
        std::fs::write(path("chrony.conf"), config).unwrap();
        let process = Command::new("/usr/sbin/chronyd")
            // In the foreground, without touching this machine's clock.
            .args(["-d", "-x", "-u", "root", "-f", &path("chrony.conf")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chronyd is not here: `cargo xtask setup` installs it");
        let mut chrony = Self {
            process,
            _folder: folder,
            ntp: format!("127.0.0.1:{ntp_port}").parse().unwrap(),
            nts: format!("127.0.0.1:{nts_port}").parse().unwrap(),
            roots,
        };
        while TcpStream::connect(("127.0.0.1", nts_port)).is_err() {
            let ended = chrony.process.try_wait().unwrap();
            assert!(ended.is_none(), "chronyd ended: {ended:?}");
            std::thread::yield_now();
        }
        chrony
    }

    fn asker(&self) -> Asker {
        asker(self.roots.clone())
    }
}

impl Drop for Chrony {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn asker(roots: RootCertStore) -> Asker {
    let known = Clock {
        floor: UnixTime(1_700_000_000),
        ..Clock::default()
    };
    let time: KnownTime = Arc::new(move || known.clone());
    Asker::new(client_config(roots, time).unwrap())
}

fn certificates() -> (RootCertStore, String, String) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let root = authority.self_signed(&authority_key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(root.der().clone()).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let server = server.signed_by(&key, &issuer).unwrap();
    (roots, server.pem(), key.serialize_pem())
}

fn free_tcp_port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

fn free_udp_port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

const FLOOR: Nanos = Nanos::seconds(1_700_000_000);

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
    let mut answers = asker.ask(nts, ntp, FLOOR).await;
    assert_eq!(answers.len(), 1);
    answers.remove(0).1
}

#[tokio::test]
async fn a_stock_server_is_believed_by_nts() {
    let chrony = Chrony::start();
    let mut asker = chrony.asker();
    let nts = [chrony.nts.clone()];
    // More often than one exchange has cookies: each answer brings a new one.
    for _ in 0..12 {
        let answer = one(&mut asker, &nts, &[]).await.unwrap();
        assert!(answer.authenticated);
        is_right(&answer);
    }
    let answer = one(&mut asker, &nts, &[]).await.unwrap();
    let floor = loam_clockd::floor::Floor::new(FLOOR.to_unix());
    let decision = judge(&[answer], 0, &floor, since_boot()).unwrap();
    assert!(decision.source.ends_with("(NTS)"), "{decision:?}");
    // The server's certificate counts.
    let (stranger, ..) = certificates();
    let refused = one(&mut self::asker(stranger), &nts, &[]).await;
    assert!(
        matches!(refused, Err(QueryError::KeyExchange(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_stock_server_answers_plain_ntp() {
    let chrony = Chrony::start();
    let mut asker = chrony.asker();
    let answer = one(&mut asker, &[], &[chrony.ntp.clone()]).await.unwrap();
    assert!(!answer.authenticated);
    is_right(&answer);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_at_once() {
    let nobody: ServerName = format!("127.0.0.1:{}", free_udp_port()).parse().unwrap();
    let mut asker = asker(RootCertStore {
        roots: loam_node_api::tls::public_roots().roots,
    });
    let answers = asker.ask(&[nobody.clone()], &[nobody], FLOOR).await;
    assert_eq!(answers.len(), 2);
    assert!(answers.iter().all(|(_, answer)| answer.is_err()));
}

#[test]
fn chronyd_is_where_the_tests_look_for_it() {
    assert!(
        Path::new("/usr/sbin/chronyd").exists(),
        "chronyd is not here: `cargo xtask setup` installs it"
    );
}
