//! A read-only OCI registry for tests and the demo, with faults that a test can switch on.
//!
//! It serves manifests and blobs by digest (OCI distribution specification, "pull"), with byte
//! ranges, over plain HTTP and one request a connection.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::oci::{Digest, Image};

mod answer;
mod asked;

use answer::Answer;
use asked::Asked;

/// Runs until dropped.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

/// What goes wrong with an answer. Bytes are counted from the start of the answer's body, which
/// for a range is not the start of the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection ends after this many bytes.
    CutAfter(u64),
    /// The byte at this position is another one.
    Corrupt(u64),
    /// This HTTP status, and no content.
    Status(u16),
    /// At most this many bytes a second.
    Rate(u64),
    /// At most `rate` bytes a second, and the last one not until the faults are cleared. Without
    /// `ranges` the whole blob comes whatever is asked for, as from a registry that knows none.
    Drip { rate: u64, ranges: bool },
}

/// A request that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    pub method: String,
    pub path: String,
    /// Of the manifest or blob asked for, if the path names one.
    pub digest: Option<Digest>,
    /// The first byte asked for, if a range was.
    pub from: Option<u64>,
    pub status: u16,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Faults were cleared, a request was noted, or the registry is ending.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    blobs: BTreeMap<Digest, Blob>,
    faults: BTreeMap<Digest, (Fault, Times)>,
    /// What `Authorization` must say for a repository that is not anybody's.
    accounts: BTreeMap<String, String>,
    /// Rises when faults are cleared; an answer that is held goes on when it has.
    clearings: u64,
    served: Vec<Served>,
    ending: bool,
}

#[derive(Debug)]
struct Blob {
    bytes: Arc<[u8]>,
    repositories: BTreeSet<String>,
    is_manifest: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Times {
    Once,
    Always,
}

impl Registry {
    /// Listens on a free port of `address`. QEMU's user network reaches loopback as 10.0.2.2.
    pub fn start(address: IpAddr) -> Result<Self> {
        Self::start_at(SocketAddr::new(address, 0))
    }

    /// Listens at `address`: the same image then has the same reference in every run.
    pub fn start_at(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address)
            .with_context(|| format!("the registry cannot listen on {address}"))?;
        let address = listener
            .local_addr()
            .context("the registry has no address")?;
        let shared = Arc::<Shared>::default();
        let theirs = Arc::clone(&shared);
        let acceptor = thread::Builder::new()
            .name("registry".into())
            .spawn(move || accept(&listener, &theirs))
            .context("cannot start the registry's thread")?;
        Ok(Self {
            address,
            shared,
            acceptor: Some(acceptor),
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves `image` in `repository` from now on.
    pub fn add(&self, repository: &str, image: &Image) {
        let mut state = self.shared.state();
        for (digest, bytes) in image.blobs() {
            state
                .blobs
                .entry(*digest)
                .or_insert_with(|| Blob {
                    bytes: Arc::clone(bytes),
                    repositories: BTreeSet::new(),
                    is_manifest: *digest == image.digest(),
                })
                .repositories
                .insert(repository.to_owned());
        }
    }

    /// Shows `repository` from now on only to who says `Authorization: Basic ACCOUNT` (RFC 7617).
    pub fn only_for(&self, repository: &str, account: &str) {
        let authorization = format!("Basic {account}");
        let mut state = self.shared.state();
        state.accounts.insert(repository.to_owned(), authorization);
    }

    /// The next GET of `digest` goes wrong.
    pub fn fail_once(&self, digest: Digest, fault: Fault) {
        self.shared
            .state()
            .faults
            .insert(digest, (fault, Times::Once));
    }

    /// Every GET of `digest` goes wrong until [`Registry::clear_faults`].
    pub fn fail_always(&self, digest: Digest, fault: Fault) {
        self.shared
            .state()
            .faults
            .insert(digest, (fault, Times::Always));
    }

    /// All is well from now on, for answers that are held as well.
    pub fn clear_faults(&self) {
        let mut state = self.shared.state();
        state.faults.clear();
        state.clearings += 1;
        self.shared.changed.notify_all();
    }

    /// Every request so far, in the order in which their answers began.
    pub fn served(&self) -> Vec<Served> {
        self.shared.state().served.clone()
    }

    /// How often the content of `digest` was asked for so far (HEAD not counted).
    pub fn gets(&self, digest: Digest) -> usize {
        self.shared.state().gets(digest)
    }

    /// Waits until the content of `digest` was asked for `count` times; false when `limit` passes
    /// first.
    pub fn wait_for_gets(&self, digest: Digest, count: usize, limit: Duration) -> bool {
        let state = self.shared.state();
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(state, limit, |state| state.gets(digest) < count)
            .unwrap_or_else(PoisonError::into_inner);
        state.gets(digest) >= count
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shared.state().ending = true;
        self.shared.changed.notify_all();
        // Wakes the acceptor; if it cannot be reached, it is not worth waiting for.
        if TcpStream::connect(self.address).is_ok()
            && let Some(acceptor) = self.acceptor.take()
        {
            // A panic there was printed already.
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn gets(&self, digest: Digest) -> usize {
        self.served
            .iter()
            .filter(|served| served.method == "GET" && served.digest == Some(digest))
            .count()
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.state().ending {
            return;
        }
        let Ok(stream) = stream else { continue };
        let shared = Arc::clone(shared);
        // Without a thread the connection is dropped, and the client tries again.
        let _ = thread::Builder::new().spawn(move || {
            // A client that went away is the client's business.
            let _ = converse(&stream, &shared);
        });
    }
}

fn converse(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut stream = stream;
    let Some(asked) = Asked::read(&mut stream)? else {
        return stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    };
    let answer = Answer::to(&asked, shared);
    answer.write(&asked, &mut stream, shared)?;
    stream.shutdown(Shutdown::Write)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Entry, MANIFEST_TYPE, RunConfig, image};
    use std::io::Read;

    struct Fixture {
        registry: Registry,
        image: Image,
        layer: Digest,
    }

    fn start() -> Fixture {
        let content: Vec<u8> = (0..100_000_u32)
            .flat_map(|n| n.wrapping_pow(3).to_le_bytes())
            .collect();
        let image = image(
            &[&[Entry::file("big", 0o644, content)]],
            &RunConfig::default(),
        )
        .unwrap();
        let registry = Registry::start(IpAddr::from([127, 0, 0, 1])).unwrap();
        registry.add("some/repository", &image);
        Fixture {
            layer: image.layers()[0],
            registry,
            image,
        }
    }

    impl Fixture {
        fn content(&self) -> &[u8] {
            &self.image.blobs()[&self.layer]
        }

        fn blob(&self) -> String {
            format!("/v2/some/repository/blobs/{}", self.layer)
        }

        /// Head and body.
        fn ask(&self, line: &str, headers: &str) -> (String, Vec<u8>) {
            let mut stream = TcpStream::connect(self.registry.address()).unwrap();
            write!(stream, "{line} HTTP/1.1\r\nHost: x\r\n{headers}\r\n").unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
            let body = answer.split_off(end);
            (String::from_utf8(answer).unwrap(), body)
        }

        fn get(&self) -> (String, Vec<u8>) {
            self.ask(&format!("GET {}", self.blob()), "")
        }
    }

    #[test]
    fn serves_manifests_and_blobs_by_digest() {
        let f = start();
        let digest = f.image.digest();
        let (head, body) = f.ask(&format!("GET /v2/some/repository/manifests/{digest}"), "");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(
            head.contains(&format!("Content-Type: {MANIFEST_TYPE}\r\n")),
            "{head}"
        );
        assert_eq!(Digest::of(&body), digest);
        assert_eq!(f.get().1, f.content());
        let (head, body) = f.ask(&format!("HEAD {}", f.blob()), "");
        assert!(
            head.contains(&format!("Content-Length: {}\r\n", f.content().len())),
            "{head}"
        );
        assert!(body.is_empty());
        assert!(f.ask("GET /v2/", "").0.starts_with("HTTP/1.1 200 "));
    }

    #[test]
    fn what_is_not_here_is_not_found() {
        let f = start();
        let (layer, manifest) = (f.layer, f.image.digest());
        for path in [
            format!("/v2/other/blobs/{layer}"),
            format!("/v2/some/repository/manifests/{layer}"),
            format!("/v2/some/repository/blobs/{manifest}"),
            format!("/v2/some/repository/blobs/{}", Digest([0; 32])),
            "/v2/some/repository/manifests/latest".into(),
            "/".into(),
        ] {
            let (head, _) = f.ask(&format!("GET {path}"), "");
            assert!(head.starts_with("HTTP/1.1 404 "), "{path}: {head}");
        }
        let (head, _) = f.ask(&format!("PUT {}", f.blob()), "");
        assert!(head.starts_with("HTTP/1.1 405 "), "{head}");
    }

    #[test]
    fn a_repository_can_be_one_account_s() {
        let f = start();
        f.registry.only_for("some/repository", "YTpi");
        f.registry.add("other", &f.image);
        let line = format!("GET {}", f.blob());
        for wrong in ["", "Authorization: Basic YTpj\r\n"] {
            let (head, body) = f.ask(&line, wrong);
            assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
            assert!(head.contains("WWW-Authenticate: Basic"), "{head}");
            assert!(body.is_empty());
        }
        assert_eq!(f.ask(&line, "authorization: Basic YTpi\r\n").1, f.content());
        let other = format!("GET /v2/other/blobs/{}", f.layer);
        assert_eq!(f.ask(&other, "").1, f.content());
    }

    #[test]
    fn ranges() {
        let f = start();
        let length = f.content().len();
        let line = format!("GET {}", f.blob());
        let (head, body) = f.ask(&line, "Range: bytes=10-19\r\n");
        assert!(head.starts_with("HTTP/1.1 206 "), "{head}");
        assert!(
            head.contains(&format!("Content-Range: bytes 10-19/{length}\r\n")),
            "{head}"
        );
        assert_eq!(body, f.content()[10..20]);
        assert_eq!(f.ask(&line, "range: bytes=100-\r\n").1, f.content()[100..]);
        let (head, _) = f.ask(&line, &format!("Range: bytes={length}-\r\n"));
        assert!(head.starts_with("HTTP/1.1 416 "), "{head}");
        assert_eq!(f.ask(&line, "Range: bytes=-5\r\n").1, f.content());
        let from: Vec<_> = f
            .registry
            .served()
            .iter()
            .map(|served| served.from)
            .collect();
        assert_eq!(from, [Some(10), Some(100), Some(length as u64), None]);
    }

    #[test]
    fn faults_hit_once_or_until_cleared() {
        let f = start();
        f.registry.fail_once(f.layer, Fault::CutAfter(1000));
        assert_eq!(f.get().1, f.content()[..1000]);
        assert_eq!(f.get().1, f.content());

        f.registry.fail_once(f.layer, Fault::Corrupt(7));
        let (_, body) = f.get();
        assert_eq!(body.len(), f.content().len());
        assert!(body[7] != f.content()[7] && body[8..] == f.content()[8..]);

        f.registry.fail_always(f.layer, Fault::Status(500));
        for _ in 0..2 {
            assert!(f.get().0.starts_with("HTTP/1.1 500 "));
        }
        f.registry.clear_faults();
        assert_eq!(f.get().1, f.content());
        assert_eq!(f.registry.gets(f.layer), 6);
    }

    #[test]
    fn what_drips_is_whole_when_faults_are_cleared_and_not_before() {
        let f = start();
        let length = f.content().len();
        for (ranges, from) in [(true, 100), (false, 0)] {
            let rate = 4_000_000;
            f.registry.fail_once(f.layer, Fault::Drip { rate, ranges });
            let mut stream = TcpStream::connect(f.registry.address()).unwrap();
            let line = format!("GET {} HTTP/1.1\r\nRange: bytes=100-\r\n\r\n", f.blob());
            stream.write_all(line.as_bytes()).unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            let mut body = vec![0; length - from - 1];
            stream.read_exact(&mut body).unwrap();
            stream.set_nonblocking(true).unwrap();
            let early = stream.read(&mut [0]).unwrap_err();
            assert_eq!(early.kind(), io::ErrorKind::WouldBlock);
            stream.set_nonblocking(false).unwrap();
            f.registry.clear_faults();
            stream.read_to_end(&mut body).unwrap();
            assert_eq!(body, f.content()[from..]);
        }
    }

    #[test]
    fn what_drips_is_given_up_when_the_registry_ends() {
        let f = start();
        let fault = Fault::Drip {
            rate: 1,
            ranges: true,
        };
        f.registry.fail_once(f.layer, fault);
        let mut stream = TcpStream::connect(f.registry.address()).unwrap();
        write!(stream, "GET {} HTTP/1.1\r\n\r\n", f.blob()).unwrap();
        let limit = Duration::from_secs(60);
        assert!(f.registry.wait_for_gets(f.layer, 1, limit));
        let length = f.content().len();
        drop(f);
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(answer.len() < length);
    }

    #[test]
    fn slow_answers_are_whole() {
        let f = start();
        f.registry.fail_once(f.layer, Fault::Rate(4_000_000));
        assert_eq!(f.get().1, f.content());
    }

    #[test]
    fn nonsense_is_refused_and_ending_frees_the_port() {
        let f = start();
        let mut stream = TcpStream::connect(f.registry.address()).unwrap();
        stream.write_all(b"\x00\x01nonsense\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        let address = f.registry.address();
        drop(f);
        TcpListener::bind(address).unwrap();
    }
}
