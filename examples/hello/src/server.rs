//! [`Server`]: connections, one thread each, up to a limit.

use std::{
    io::{self, BufReader, Read, Write},
    net::{IpAddr, Shutdown, TcpListener, TcpStream, UdpSocket},
    sync::{Arc, Condvar, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use crate::{
    http::{self, ReadError, Request},
    routes::{Answer, Site, one_line},
};

/// Each costs a thread; a guest of 64 MiB holds this many easily.
const MAX_CONNECTIONS: usize = 128;

/// A client that sends nothing for this long is gone.
const READ_LIMIT: Duration = Duration::from_secs(20);

/// A client that takes nothing for this long is gone. Generous: tests cut links on purpose.
const WRITE_LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub struct Server {
    site: Arc<Site>,
    active: Arc<Active>,
    /// Receives the status with which the process shall end.
    exit: mpsc::Sender<i32>,
}

/// How many connections are being served.
#[derive(Debug, Default)]
pub struct Active {
    count: Mutex<usize>,
    fell: Condvar,
}

/// Counts one connection for as long as it lives.
struct Place(Arc<Active>);

impl Server {
    pub fn new(site: Site, exit: mpsc::Sender<i32>) -> Self {
        Self {
            site: Arc::new(site),
            active: Arc::default(),
            exit,
        }
    }

    pub fn active(&self) -> Arc<Active> {
        Arc::clone(&self.active)
    }

    /// Counts the datagrams that come in at `socket`, in a thread of its own.
    pub fn count_datagrams(&self, socket: UdpSocket) -> io::Result<()> {
        let site = Arc::clone(&self.site);
        thread::Builder::new().spawn(move || site.datagrams.count_forever(&socket))?;
        Ok(())
    }

    /// Accepts connections for as long as the process lives.
    pub fn serve_forever(&self, listener: &TcpListener) {
        loop {
            match listener.accept() {
                Ok((stream, peer)) => self.start(stream, peer.ip().to_canonical()),
                // A client that gave up, or no descriptor left: both pass.
                Err(error) => {
                    log(&format!("accept: {error}"));
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    fn start(&self, mut stream: TcpStream, peer: IpAddr) {
        let Some(place) = Active::enter(&self.active) else {
            log(&format!(
                "{peer} turned away: {MAX_CONNECTIONS} connections are open"
            ));
            // The client may be gone already; there is nobody else to tell.
            let _ = http::write_text(&mut stream, 503, "too many connections\n");
            return;
        };
        let (site, exit) = (Arc::clone(&self.site), self.exit.clone());
        let started = thread::Builder::new().stack_size(256 << 10).spawn(move || {
            let _place = place;
            match converse(&site, &stream) {
                Ok(Some((request, answer))) => {
                    log(&format!("{peer} {request} {}", answer.status()));
                    if let Answer::Exit(status) = answer {
                        // Nobody listens any more if the process is ending anyway.
                        let _ = exit.send(status);
                    }
                }
                Ok(None) => {}
                Err(error) => log(&format!("{peer} {error}")),
            }
        });
        if let Err(error) = started {
            log(&format!("{peer} turned away: no thread for it: {error}"));
        }
    }
}

/// One request and its answer. None: the client said nothing.
fn converse(site: &Site, stream: &TcpStream) -> io::Result<Option<(String, Answer)>> {
    stream.set_read_timeout(Some(READ_LIMIT))?;
    stream.set_write_timeout(Some(WRITE_LIMIT))?;
    let mut input = BufReader::new(stream);
    let (request, answer) = match Request::read(&mut input) {
        Ok(request) => {
            let shown = one_line(&format!("{} {}", request.method, request.path));
            (shown.chars().take(200).collect(), site.answer(&request))
        }
        Err(ReadError::Bad(what)) => ("bad request".into(), Answer::Text(400, format!("{what}\n"))),
        Err(ReadError::Nothing) => return Ok(None),
        Err(ReadError::Io(error)) => return Err(error),
    };
    let mut output = stream;
    answer.write(&mut output)?;
    output.flush()?;
    // Closing with unread input would reset the connection before the client has read the answer.
    stream.shutdown(Shutdown::Write)?;
    io::copy(&mut input.take(http::MAX_HEAD), &mut io::sink())?;
    Ok(Some((request, answer)))
}

impl Active {
    fn enter(active: &Arc<Self>) -> Option<Place> {
        let mut count = active.count.lock().unwrap_or_else(PoisonError::into_inner);
        if *count >= MAX_CONNECTIONS {
            return None;
        }
        *count += 1;
        Some(Place(Arc::clone(active)))
    }

    /// Waits until no connection is left; false if `limit` passed first.
    pub fn wait_idle(&self, limit: Duration) -> bool {
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, _) = self
            .fell
            .wait_timeout_while(count, limit, |count| *count > 0)
            .unwrap_or_else(PoisonError::into_inner);
        *count == 0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.fell.notify_all();
    }
}

/// A line for the machine's log. A console that is gone must not end the server.
pub fn log(line: &str) {
    let _ = writeln!(io::stdout().lock(), "hello: {line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::start::Start;
    use std::net::SocketAddr;

    fn start() -> (SocketAddr, mpsc::Receiver<i32>, Arc<Active>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (exit, exits) = mpsc::channel();
        let data = "/nonexistent";
        let server = Server::new(Site::new(data.into(), Start::of(data.as_ref()), true), exit);
        let active = server.active();
        server
            .count_datagrams(UdpSocket::bind(address).unwrap())
            .unwrap();
        thread::spawn(move || server.serve_forever(&listener));
        (address, exits, active)
    }

    fn ask(address: SocketAddr, text: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(text).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn answers_and_ends_with_the_status_asked_for() {
        let (address, exits, active) = start();
        assert!(ask(address, b"GET / HTTP/1.1\r\n\r\n").contains("hello from "));
        assert!(ask(address, b"nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
        let posted = ask(
            address,
            b"POST /exit?status=9 HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody",
        );
        assert!(posted.ends_with("\r\n\r\nexit 9\n"), "{posted}");
        assert_eq!(exits.recv().unwrap(), 9);
        assert!(active.wait_idle(Duration::from_secs(60)));
    }

    #[test]
    fn datagrams_are_counted() {
        let (address, _exits, _) = start();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"one", address).unwrap();
        while !ask(address, b"GET /datagrams HTTP/1.1\r\n\r\n").ends_with("127.0.0.1 1\n") {}
    }

    #[test]
    fn past_the_limit_clients_are_turned_away_and_served_again_later() {
        let (address, _exits, active) = start();
        let mut waiting: Vec<TcpStream> = (0..MAX_CONNECTIONS)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        // Connections are accepted in order, so all of `waiting` are in before this one.
        let mut refused = TcpStream::connect(address).unwrap();
        let mut answer = String::new();
        refused.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(!active.wait_idle(Duration::ZERO));
        waiting.clear();
        assert!(active.wait_idle(Duration::from_secs(60)));
        assert!(ask(address, b"GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200 "));
    }
}
