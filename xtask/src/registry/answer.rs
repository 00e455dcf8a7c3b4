//! [`Answer`]: what the registry answers, and how that goes wrong when it shall.

use std::{
    io::{self, Write},
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use super::{Blob, Fault, Served, Shared, State, Times, asked::Asked};
use crate::oci::{Digest, MANIFEST_TYPE};

pub struct Answer {
    status: u16,
    headers: String,
    bytes: Arc<[u8]>,
    /// The part of `bytes` to send.
    part: std::ops::Range<usize>,
    fault: Option<Fault>,
    /// [`State::clearings`] when the answer began.
    clearings: u64,
}

impl Answer {
    pub fn to(asked: &Asked, shared: &Shared) -> Self {
        let mut state = shared.state();
        let target = asked.target();
        let digest = target.map(|(.., digest)| digest);
        let mut answer = Self {
            status: 404,
            headers: String::new(),
            bytes: Arc::default(),
            part: 0..0,
            fault: None,
            clearings: state.clearings,
        };
        if !["GET", "HEAD"].contains(&asked.method.as_str()) {
            answer.status = 405;
        } else if asked.path == "/v2/" {
            answer.status = 200;
        } else if let Some((repository, ..)) = target
            && let Some(account) = state.accounts.get(repository)
            && asked.authorization.as_ref() != Some(account)
        {
            answer.status = 401;
            answer.headers = "WWW-Authenticate: Basic realm=\"registry\"\r\n".to_owned();
        } else if let Some((repository, is_manifest, digest)) = target {
            if let Some(blob) = state.blobs.get(&digest)
                && blob.repositories.contains(repository)
                && blob.is_manifest == is_manifest
            {
                let fault = state.faults.get(&digest).map(|(fault, _)| *fault);
                let whole = matches!(fault, Some(Fault::Drip { ranges: false, .. }));
                answer.found(digest, blob, asked.range.filter(|_| !whole));
            }
            if asked.method == "GET" {
                answer.apply_fault(digest, &mut state);
            }
        }
        state.served.push(Served {
            method: asked.method.clone(),
            path: asked.path.clone(),
            digest,
            from: asked.range.map(|(first, _)| first),
            status: answer.status,
        });
        shared.changed.notify_all();
        answer
    }

    fn found(&mut self, digest: Digest, blob: &Blob, range: Option<(u64, Option<u64>)>) {
        let length = blob.bytes.len();
        let media_type = if blob.is_manifest {
            MANIFEST_TYPE
        } else {
            "application/octet-stream"
        };
        self.bytes = Arc::clone(&blob.bytes);
        self.headers = format!(
            "Content-Type: {media_type}\r\nDocker-Content-Digest: {digest}\r\n\
             Accept-Ranges: bytes\r\n"
        );
        let Some((first, last)) = range else {
            (self.status, self.part) = (200, 0..length);
            return;
        };
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        let end = last
            .and_then(|last| usize::try_from(last).ok()?.checked_add(1))
            .map_or(length, |end| end.min(length));
        if first >= end {
            self.status = 416;
            self.headers += &format!("Content-Range: bytes */{length}\r\n");
        } else {
            (self.status, self.part) = (206, first..end);
            self.headers += &format!("Content-Range: bytes {first}-{}/{length}\r\n", end - 1);
        }
    }

    fn apply_fault(&mut self, digest: Digest, state: &mut State) {
        let Some((fault, times)) = state.faults.get(&digest).copied() else {
            return;
        };
        if times == Times::Once {
            state.faults.remove(&digest);
        }
        if let Fault::Status(status) = fault {
            (self.status, self.part) = (status, 0..0);
            self.headers.clear();
        }
        self.fault = Some(fault);
    }

    pub fn write(&self, asked: &Asked, output: &mut impl Write, shared: &Shared) -> io::Result<()> {
        let head = format!(
            "HTTP/1.1 {} -\r\nDocker-Distribution-Api-Version: registry/2.0\r\n\
             Content-Length: {}\r\nConnection: close\r\n{}\r\n",
            self.status,
            self.part.len(),
            self.headers
        );
        output.write_all(head.as_bytes())?;
        if asked.method == "HEAD" {
            return Ok(());
        }
        let body = &self.bytes[self.part.clone()];
        let before = |count: u64| usize::try_from(count).unwrap_or(usize::MAX).min(body.len());
        match self.fault {
            None | Some(Fault::Status(_)) => output.write_all(body),
            Some(Fault::CutAfter(count)) => output.write_all(&body[..before(count)]),
            Some(Fault::Corrupt(position)) => {
                let mut body = body.to_vec();
                if let Some(byte) = body.get_mut(before(position)) {
                    *byte ^= 1;
                }
                output.write_all(&body)
            }
            Some(Fault::Rate(rate)) => self.write_slowly(body, rate, output, shared),
            Some(Fault::Drip { rate, .. }) => {
                let Some((last, most)) = body.split_last() else {
                    return Ok(());
                };
                self.write_slowly(most, rate, output, shared)?;
                if self.wait(shared, None) {
                    output.write_all(&[*last])
                } else {
                    Ok(())
                }
            }
        }
    }

    fn write_slowly(
        &self,
        body: &[u8],
        rate: u64,
        output: &mut impl Write,
        shared: &Shared,
    ) -> io::Result<()> {
        let rate = rate.max(1);
        let start = Instant::now();
        let chunk = usize::try_from(rate / 10)
            .unwrap_or(usize::MAX)
            .clamp(1, 64 << 10);
        let mut sent = 0;
        for part in body.chunks(chunk) {
            output.write_all(part)?;
            sent += part.len();
            let due = Duration::from_secs_f64(sent as f64 / rate as f64);
            if self.wait(shared, Some(due.saturating_sub(start.elapsed()))) {
                return output.write_all(&body[sent..]);
            } else if shared.state().ending {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Waits until faults are cleared (true), the registry ends or `limit` passes (false).
    fn wait(&self, shared: &Shared, limit: Option<Duration>) -> bool {
        let state = shared.state();
        let goes_on = |state: &mut State| !state.ending && state.clearings == self.clearings;
        let state = match limit {
            None => shared.changed.wait_while(state, goes_on),
            Some(limit) => shared
                .changed
                .wait_timeout_while(state, limit, goes_on)
                .map(|(state, _)| state)
                .map_err(|poisoned| PoisonError::new(poisoned.into_inner().0)),
        }
        .unwrap_or_else(PoisonError::into_inner);
        state.clearings != self.clearings
    }
}
