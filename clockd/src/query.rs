//! Asking one server for the time.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_resolver::TokioResolver;
use rand::Rng as _;
use rustls::ClientConfig;
use tokio::{
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use crate::{
    config::{NTP_PORT, ServerName},
    instant::{Nanos, since_boot},
    judge::Answer,
    nts::{
        Session,
        extension::{self, ExtensionError},
        key_exchange::{self, KeyExchangeError},
    },
    packet::{self, PacketError, ServerTimes},
};

/// A server on the other side of the world answers in a third of a second; a key exchange takes
/// four times as long.
const ANSWER: Duration = Duration::from_secs(3);
const KEY_EXCHANGE: Duration = Duration::from_secs(10);
/// A name may have many addresses; so many are tried.
const MAX_ADDRESSES: usize = 4;
/// Answers of others that arrive on our socket, forged ones among them, are passed over; so many.
const MAX_STRANGE: usize = 16;
/// An answer with eight cookies has about 1 KiB.
const MAX_PACKET: usize = 2048;

#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    #[error("its name cannot be resolved: {0}")]
    Name(String),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("it does not answer")]
    Silent,
    #[error(transparent)]
    KeyExchange(#[from] KeyExchangeError),
    #[error(transparent)]
    Packet(#[from] PacketError),
    #[error(transparent)]
    Extension(#[from] ExtensionError),
}

impl QueryError {
    pub fn is_ended_certificate(&self) -> bool {
        matches!(self, Self::KeyExchange(error) if error.is_ended_certificate())
    }
}

/// Asks servers, and keeps the keys and cookies of those with NTS.
#[derive(Debug)]
pub struct Asker {
    tls: Arc<ClientConfig>,
    sessions: BTreeMap<ServerName, Session>,
}

impl Asker {
    pub fn new(tls: ClientConfig) -> Self {
        Self {
            tls: key_exchange::for_key_exchange(tls),
            sessions: BTreeMap::new(),
        }
    }

    /// Asks them all at the same time. Answers are read as within 68 years of `era`.
    pub async fn ask(
        &mut self,
        nts: &[ServerName],
        ntp: &[ServerName],
        era: Nanos,
    ) -> Vec<(ServerName, Result<Answer, QueryError>)> {
        let with_nts = nts.iter().map(|server| {
            let session = self.sessions.remove(server);
            let tls = self.tls.clone();
            async move {
                let (session, answer) = with_nts(server, session, tls, era).await;
                (server.clone(), session, answer)
            }
        });
        let plain = ntp
            .iter()
            .map(|server| async move { (server.clone(), plain(server, era).await) });
        let (with_nts, mut answers) = futures::join!(
            futures::future::join_all(with_nts),
            futures::future::join_all(plain)
        );
        for (server, session, answer) in with_nts {
            if let Some(session) = session {
                self.sessions.insert(server.clone(), session);
            }
            answers.push((server, answer));
        }
        answers
    }
}

async fn plain(server: &ServerName, era: Nanos) -> Result<Answer, QueryError> {
    let mut last = QueryError::Silent;
    for address in resolve(&server.host, server.ntp_port()).await? {
        match exchange(address, &mut Plain, era).await {
            Ok((boot, delay)) => {
                return Ok(Answer {
                    server: server.to_string(),
                    authenticated: false,
                    boot,
                    delay,
                });
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The session is given back while it can be used again.
async fn with_nts(
    server: &ServerName,
    session: Option<Session>,
    tls: Arc<ClientConfig>,
    era: Nanos,
) -> (Option<Session>, Result<Answer, QueryError>) {
    let mut session = match session.filter(Session::has_cookies) {
        Some(session) => session,
        None => match timeout(KEY_EXCHANGE, keys(server, tls)).await {
            Ok(Ok(session)) => session,
            Ok(Err(error)) => return (None, Err(error)),
            Err(_) => return (None, Err(QueryError::Silent)),
        },
    };
    match prove(server, &mut session, era).await {
        Ok((boot, delay)) => {
            let answer = Answer {
                server: server.to_string(),
                authenticated: true,
                boot,
                delay,
            };
            (Some(session), Ok(answer))
        }
        // Keys that the server has forgotten are of no use; the next time new ones are asked for.
        Err(error) => (None, Err(error)),
    }
}

async fn keys(server: &ServerName, tls: Arc<ClientConfig>) -> Result<Session, QueryError> {
    let mut last = QueryError::Silent;
    for address in resolve(&server.host, server.nts_port()).await? {
        let stream = match TcpStream::connect(address).await {
            Ok(stream) => stream,
            Err(error) => {
                last = error.into();
                continue;
            }
        };
        match key_exchange::exchange(stream, &server.host, tls.clone()).await {
            Ok(session) => return Ok(session),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

async fn prove(
    server: &ServerName,
    session: &mut Session,
    era: Nanos,
) -> Result<(Nanos, Nanos), QueryError> {
    let host = session.ntp_host.clone();
    let host = host.as_deref().unwrap_or(&server.host);
    let port = session.ntp_port.unwrap_or(NTP_PORT);
    let mut last = QueryError::Silent;
    for address in resolve(host, port).await? {
        let mut proof = Proved {
            session,
            identifier: rand::rng().random(),
        };
        match exchange(address, &mut proof, era).await {
            Ok(found) => return Ok(found),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// What is added to a question, and how an answer is told from a forged one.
trait Proof {
    fn protect(&mut self, header: [u8; packet::HEADER]) -> Result<Vec<u8>, QueryError>;
    fn check(&mut self, packet: &[u8]) -> Result<(), QueryError>;
}

struct Plain;

impl Proof for Plain {
    fn protect(&mut self, header: [u8; packet::HEADER]) -> Result<Vec<u8>, QueryError> {
        Ok(header.to_vec())
    }

    fn check(&mut self, _: &[u8]) -> Result<(), QueryError> {
        Ok(())
    }
}

struct Proved<'a> {
    session: &'a mut Session,
    identifier: extension::Identifier,
}

impl Proof for Proved<'_> {
    fn protect(&mut self, header: [u8; packet::HEADER]) -> Result<Vec<u8>, QueryError> {
        let nonce = rand::rng().random();
        Ok(extension::protect(
            header,
            self.session,
            &self.identifier,
            &nonce,
        )?)
    }

    fn check(&mut self, packet: &[u8]) -> Result<(), QueryError> {
        Ok(extension::check(packet, self.session, &self.identifier)?)
    }
}

/// One question and its answer: the time of day at the kernel's start, and the answer's delay.
async fn exchange(
    server: SocketAddr,
    proof: &mut impl Proof,
    era: Nanos,
) -> Result<(Nanos, Nanos), QueryError> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // So that the kernel drops what others send, and tells when nobody listens there.
    socket.connect(server).await?;
    let token: [u8; 8] = rand::rng().random();
    let question = proof.protect(packet::question(token))?;
    let asked = since_boot();
    socket.send(&question).await?;
    let waiting = wait_for_answer(&socket, token, proof);
    let (times, answered) = timeout(ANSWER, waiting)
        .await
        .map_err(|_| QueryError::Silent)??;
    Ok(packet::interpret(times, asked, answered, era))
}

/// A packet that proves nothing does not end the waiting: whoever is on the way could end it so.
async fn wait_for_answer(
    socket: &UdpSocket,
    token: [u8; 8],
    proof: &mut impl Proof,
) -> Result<(ServerTimes, Nanos), QueryError> {
    let mut buffer = [0; MAX_PACKET];
    let mut last = QueryError::Silent;
    for _ in 0..MAX_STRANGE {
        let length = socket.recv(&mut buffer).await?;
        let answered = since_boot();
        let packet = &buffer[..length];
        match packet::answer(packet, token) {
            Ok(times) => match proof.check(packet) {
                Ok(()) => return Ok((times, answered)),
                Err(error) => last = error,
            },
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

/// By `/etc/resolv.conf` as it is now, without the C library.
async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, QueryError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![(address, port).into()]);
    }
    let failed = |error: hickory_resolver::net::NetError| QueryError::Name(error.to_string());
    let resolver = TokioResolver::builder_tokio()
        .and_then(|builder| builder.build())
        .map_err(failed)?;
    let found = resolver.lookup_ip(host).await.map_err(failed)?;
    let addresses = found.iter().take(MAX_ADDRESSES);
    Ok(addresses.map(|address| (address, port).into()).collect())
}
