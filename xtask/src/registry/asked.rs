//! [`Asked`]: a request, as far as it matters here.

use std::io::{self, Read};

use crate::oci::Digest;

/// The parts of a request's head that matter here.
pub struct Asked {
    pub method: String,
    pub path: String,
    /// First and last byte (RFC 9110, section 14.1.2); other forms are ignored, as it allows.
    pub range: Option<(u64, Option<u64>)>,
    pub authorization: Option<String>,
}

impl Asked {
    /// None: not a request.
    pub fn read(input: &mut impl Read) -> io::Result<Option<Self>> {
        let mut head = Vec::new();
        loop {
            let mut part = [0; 4096];
            let count = input.read(&mut part)?;
            head.extend(&part[..count]);
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut request = httparse::Request::new(&mut headers);
            match request.parse(&head) {
                Ok(httparse::Status::Complete(_)) => return Ok(Self::from_head(&request)),
                Ok(httparse::Status::Partial) if count > 0 && head.len() < 64 << 10 => {}
                _ => return Ok(None),
            }
        }
    }

    fn from_head(request: &httparse::Request<'_, '_>) -> Option<Self> {
        let header = |name: &str| {
            let mut headers = request.headers.iter();
            let header = headers.find(|header| header.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(header.value).ok()
        };
        let range = header("range")
            .and_then(|range| range.strip_prefix("bytes="))
            .and_then(|range| {
                let (first, last) = range.split_once('-')?;
                let last = if last.is_empty() {
                    None
                } else {
                    Some(last.parse().ok()?)
                };
                Some((first.parse().ok()?, last))
            });
        Some(Self {
            method: request.method?.to_owned(),
            path: request.path?.to_owned(),
            range,
            authorization: header("authorization").map(str::to_owned),
        })
    }

    /// Repository, whether a manifest, and digest.
    pub fn target(&self) -> Option<(&str, bool, Digest)> {
        let (rest, digest) = self.path.strip_prefix("/v2/")?.rsplit_once('/')?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(digest.strip_prefix("sha256:")?, &mut bytes).ok()?;
        let (repository, kind) = rest.rsplit_once('/')?;
        let is_manifest = match kind {
            "manifests" => true,
            "blobs" => false,
            _ => return None,
        };
        Some((repository, is_manifest, Digest(bytes)))
    }
}
