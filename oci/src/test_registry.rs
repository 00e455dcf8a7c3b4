//! A registry of one's own on loopback, which can be as bad as one likes. For tests.

#![allow(clippy::unwrap_used)]

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
};

use flate2::{Compression, write::GzEncoder};
use loam_deployment::payload::OciReference;

use crate::digest::Digest;

#[derive(Debug, Default)]
pub struct Behaviour {
    /// Ends the connection after so many bytes of a blob's answer, so often.
    pub cut: Option<(usize, u32)>,
    pub no_ranges: bool,
    /// So many bytes at most are in the answer to a range, which says so.
    pub part: Option<usize>,
    /// Sends whole blobs in chunks, without their length.
    pub chunked: bool,
    /// Answers every range with this status and nothing else.
    pub refuses_ranges: Option<&'static str>,
    /// Wants `Bearer <this>`.
    pub token: Option<&'static str>,
    /// How it says so, `%s` being where tokens are; else in the usual way.
    pub challenges: Vec<&'static str>,
    /// What its token server answers; else `{"token": ...}`.
    pub token_answer: Option<&'static str>,
    /// Without this in its query the token server grants nothing.
    pub scope: Option<&'static str>,
    /// `Basic <this>` is what the token server wants, or if there is no token, the registry.
    pub account: Option<&'static str>,
    /// After so many requests a token is good no more.
    pub token_lasts: Option<u32>,
    /// Refuses whoever tells it a login, as object stores do.
    pub no_logins: bool,
    /// From where blobs are to be got.
    pub blobs_at: Option<SocketAddr>,
    /// Answers otherwise what has this in its path, so often.
    pub instead: Option<Instead>,
    /// What blobs are replaced by.
    pub swapped: HashMap<Digest, Vec<u8>>,
    pub down: bool,
    /// Holds back every blob until set to false.
    pub hold: bool,
    /// The digest that it says of manifests.
    pub said_digest: Option<Digest>,
    /// Sends so many bytes of a layer's answer, and no more until unset.
    pub drip: Option<usize>,
}

/// An answer of any kind.
#[derive(Clone, Copy, Debug)]
pub struct Instead {
    pub of: &'static str,
    pub times: u32,
    /// `429 Too Many Requests`.
    pub status: &'static str,
    /// Each with its line end.
    pub headers: &'static str,
}

#[derive(Debug, Default)]
struct State {
    blobs: HashMap<Digest, Vec<u8>>,
    manifests: HashMap<Digest, Vec<u8>>,
    tags: HashMap<String, Digest>,
    behaviour: Behaviour,
    /// Since the last token was given.
    used: u32,
    requests: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct TestRegistry {
    state: Arc<Mutex<State>>,
    /// Behaviour has changed, or something was asked for.
    changed: Arc<Condvar>,
    pub address: SocketAddr,
}

impl TestRegistry {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let registry = Self {
            state: Arc::default(),
            changed: Arc::default(),
            address,
        };
        let serving = registry.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                thread::spawn(move || serving.serve(stream));
            }
        });
        registry
    }

    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.state.lock().unwrap().behaviour);
        self.changed.notify_all();
    }

    /// `GET /v2/...` lines so far, with the range asked for.
    pub fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }

    pub fn blob(&self, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(&bytes);
        self.state.lock().unwrap().blobs.insert(digest, bytes);
        digest
    }

    pub fn manifest(&self, text: String) -> OciReference {
        let digest = Digest::of(text.as_bytes());
        self.state
            .lock()
            .unwrap()
            .manifests
            .insert(digest, text.into_bytes());
        format!("{}/test/image@{digest}", self.address)
            .parse()
            .unwrap()
    }

    /// Has the tag name this from now on.
    pub fn tag(&self, tag: &str, image: &OciReference) {
        let digest = Digest::of_manifest(image);
        self.state
            .lock()
            .unwrap()
            .tags
            .insert(tag.to_owned(), digest);
    }

    /// An image of these tar archives, each compressed by gzip.
    pub fn image(&self, layers: &[Vec<u8>]) -> OciReference {
        let packed: Vec<_> = layers.iter().map(|tar| gzip(tar)).collect();
        let diff_ids: Vec<_> = layers.iter().map(|tar| Digest::of(tar)).collect();
        self.image_of(&packed, &diff_ids)
    }

    pub fn image_of(&self, packed: &[Vec<u8>], diff_ids: &[Digest]) -> OciReference {
        let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
        self.image_of_type(gzip, packed, diff_ids)
    }

    /// The same, with layers of this media type.
    pub fn image_of_type(
        &self,
        media_type: &str,
        packed: &[Vec<u8>],
        diff_ids: &[Digest],
    ) -> OciReference {
        let quoted: Vec<_> = diff_ids
            .iter()
            .map(|digest| format!("\"{digest}\""))
            .collect();
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["/bin/hello"]}},
                "rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            quoted.join(",")
        );
        let size = config.len();
        let config = self.blob(config.into_bytes());
        let layers: Vec<_> = packed
            .iter()
            .map(|bytes| {
                let digest = self.blob(bytes.clone());
                format!(
                    r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}}}"#,
                    bytes.len()
                )
            })
            .collect();
        self.manifest(format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{config}","size":{size}}},"layers":[{}]}}"#,
            layers.join(",")
        ))
    }

    fn serve(&self, stream: TcpStream) {
        let mut input = BufReader::new(stream.try_clone().unwrap());
        // One request a connection keeps cuts simple.
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if input.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line == "\r\n" {
                break;
            }
            lines.push(line.trim().to_owned());
        }
        let _ = self.answer(&lines, stream);
    }

    fn answer(&self, lines: &[String], mut out: TcpStream) -> std::io::Result<()> {
        let path = lines[0].split(' ').nth(1).unwrap_or_default().to_owned();
        let header = |name: &str| {
            lines.iter().find_map(|line| {
                let (key, value) = line.split_once(": ")?;
                key.eq_ignore_ascii_case(name).then(|| value.to_owned())
            })
        };
        let range = header("range");
        let state = self.state.lock().unwrap();
        let mut state = self
            .changed
            .wait_while(state, |state| {
                path.contains("/blobs/") && state.behaviour.hold
            })
            .unwrap();
        state.requests.push(
            format!("{path} {}", range.clone().unwrap_or_default())
                .trim()
                .to_owned(),
        );
        if state.behaviour.down {
            return respond(&mut out, "500 Down", "", b"", usize::MAX);
        }
        if let Some(instead) = &mut state.behaviour.instead
            && instead.times > 0
            && path.contains(instead.of)
        {
            instead.times -= 1;
            return respond(&mut out, instead.status, instead.headers, b"", usize::MAX);
        }
        let authorization = header("authorization");
        if state.behaviour.no_logins && authorization.is_some() {
            return respond(&mut out, "400 Bad Request", "", b"", usize::MAX);
        }
        if path.starts_with("/token") {
            return self.give_token(&mut state, &path, authorization.as_deref(), &mut out);
        }
        if let Some(challenge) = self.challenge(&mut state, authorization.as_deref()) {
            return respond(&mut out, "401 Unauthorized", &challenge, b"", usize::MAX);
        }
        if let Some(at) = state.behaviour.blobs_at
            && path.contains("/blobs/")
        {
            let location = format!("location: http://{at}{path}\r\n");
            return respond(
                &mut out,
                "307 Temporary Redirect",
                &location,
                b"",
                usize::MAX,
            );
        }
        if let Some(status) = state.behaviour.refuses_ranges.filter(|_| range.is_some()) {
            return respond(&mut out, status, "", b"", usize::MAX);
        }
        let name = path.rsplit('/').next().unwrap_or_default();
        let tagged = state
            .tags
            .get(name)
            .filter(|_| path.contains("/manifests/"));
        let digest: Option<Digest> = name.parse().ok().or(tagged.copied());
        let Some(digest) = digest else {
            return respond(&mut out, "404 Not Found", "", b"", usize::MAX);
        };
        if path.contains("/manifests/") {
            return match state.manifests.get(&digest) {
                Some(bytes) => {
                    let said = state.behaviour.said_digest;
                    let said = said.map(|said| format!("docker-content-digest: {said}\r\n"));
                    let said = said.unwrap_or_default();
                    respond(&mut out, "200 OK", &said, &bytes.clone(), usize::MAX)
                }
                None => respond(&mut out, "404 Not Found", "", b"", usize::MAX),
            };
        }
        let swapped = state.behaviour.swapped.get(&digest).cloned();
        let Some(bytes) = swapped.or_else(|| state.blobs.get(&digest).cloned()) else {
            return respond(&mut out, "404 Not Found", "", b"", usize::MAX);
        };
        let cut = match &mut state.behaviour.cut {
            // The configuration is too small to be cut.
            Some((at, times)) if *times > 0 && bytes.len() > *at => {
                *times -= 1;
                *at
            }
            _ => usize::MAX,
        };
        let Behaviour {
            no_ranges,
            part,
            chunked,
            ..
        } = state.behaviour;
        let drip = state.behaviour.drip.filter(|drip| bytes.len() > *drip);
        drop(state);
        let from: Option<usize> = range
            .filter(|_| !no_ranges)
            .and_then(|text| text.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        if let Some(drip) = drip {
            let from = from.unwrap_or_default();
            let (last, rest) = (bytes.len() - 1, &bytes[from..]);
            let head = format!(
                "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes {from}-{last}/{}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                bytes.len(),
                rest.len()
            );
            out.write_all(head.as_bytes())?;
            out.write_all(&rest[..drip.min(rest.len())])?;
            let state = self.state.lock().unwrap();
            drop(
                self.changed
                    .wait_while(state, |state| state.behaviour.drip.is_some()),
            );
            return Ok(());
        }
        match from {
            Some(from) => {
                let end = part.map_or(bytes.len(), |part| bytes.len().min(from + part));
                let (last, all) = (end - 1, bytes.len());
                let extra = format!("content-range: bytes {from}-{last}/{all}\r\n");
                let part = &bytes[from..end];
                respond(&mut out, "206 Partial Content", &extra, part, cut)
            }
            None if chunked => {
                let head =
                    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
                out.write_all(head.as_bytes())?;
                for chunk in bytes.chunks(7000) {
                    write!(out, "{:x}\r\n", chunk.len())?;
                    out.write_all(chunk)?;
                    out.write_all(b"\r\n")?;
                }
                out.write_all(b"0\r\n\r\n")
            }
            None => respond(&mut out, "200 OK", "", &bytes, cut),
        }
    }
}

impl TestRegistry {
    /// The fields by which it refuses, if it does.
    fn challenge(&self, state: &mut State, authorization: Option<&str>) -> Option<String> {
        let behaviour = &state.behaviour;
        let wanted = match (behaviour.token, behaviour.account) {
            (Some(token), _) => format!("Bearer {token}"),
            (None, Some(account)) => format!("Basic {account}"),
            (None, None) => return None,
        };
        let lasts = behaviour.token_lasts.is_none_or(|most| state.used < most);
        if lasts && authorization == Some(&*wanted) {
            state.used += 1;
            return None;
        }
        let realm = format!("http://{}/token", self.address);
        let usual = "Bearer realm=\"%s\",service=\"test\",scope=\"repository:test/image:pull\"";
        let fields = match behaviour.challenges.as_slice() {
            [] => &[usual][..],
            fields => fields,
        };
        let line = |field: &&str| format!("www-authenticate: {}\r\n", field.replace("%s", &realm));
        Some(fields.iter().map(line).collect())
    }

    fn give_token(
        &self,
        state: &mut State,
        path: &str,
        authorization: Option<&str>,
        out: &mut TcpStream,
    ) -> std::io::Result<()> {
        let behaviour = &state.behaviour;
        let account = behaviour.account.map(|account| format!("Basic {account}"));
        if account.is_some() && authorization != account.as_deref() {
            return respond(out, "401 Unauthorized", "", b"", usize::MAX);
        }
        let scope = behaviour
            .scope
            .map(|scope| scope.replace(':', "%3A").replace('/', "%2F"));
        let is_granted = scope.is_none_or(|scope| path.contains(&format!("scope={scope}")));
        let token = behaviour.token.unwrap_or_default();
        let usual = format!("{{\"token\":\"{token}\"}}");
        let body = match behaviour.token_answer {
            _ if !is_granted => "{\"token\":\"nothing-granted\"}",
            Some(answer) => answer,
            None => &usual,
        };
        state.used = 0;
        respond(out, "200 OK", "", body.as_bytes(), usize::MAX)
    }
}

fn respond(
    out: &mut TcpStream,
    status: &str,
    headers: &str,
    body: &[u8],
    cut: usize,
) -> std::io::Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n"
    );
    out.write_all(head.as_bytes())?;
    out.write_all(&body[..length.min(cut)])?;
    out.shutdown(std::net::Shutdown::Write)?;
    // Closing with something unread would throw away what the client has not read yet.
    std::io::copy(&mut out.take(1), &mut std::io::sink())?;
    Ok(())
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
