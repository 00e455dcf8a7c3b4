//! The node's debug port, by which tests and the bench look into a node of a developer's image.

use std::{
    io::{BufRead, BufReader, Write},
    os::{fd::RawFd, unix::net::UnixStream},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use loam_node_api::debug::{DebugRequest, DebugResponse, PORT};

/// A request is answered at once, but the node may be busy with all else.
const PATIENCE: Duration = Duration::from_secs(120);

/// One connection for the node's whole life. When one ends the node closes the port, and its kernel
/// throws away what has arrived by then: the first request of the next connection.
#[derive(Debug)]
pub struct DebugPort {
    stream: UnixStream,
    /// The node owes an answer. Locked while a request is on its way.
    silent: Mutex<bool>,
}

/// What QEMU needs so that the node has the port; `fd` is QEMU's end.
pub(super) fn arguments(fd: RawFd) -> [String; 6] {
    [
        "-device".into(),
        "virtio-serial-pci".into(),
        "-chardev".into(),
        format!("socket,id=debug,fd={fd}"),
        "-device".into(),
        format!("virtserialport,chardev=debug,name={PORT}"),
    ]
}

impl DebugPort {
    pub(super) fn new(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            silent: Mutex::new(false),
        })
    }

    /// The first 64 KiB of a file.
    pub fn read(&self, path: &str) -> Result<String> {
        let request = DebugRequest::Read {
            path: path.to_owned(),
        };
        match self.ask(&request)? {
            DebugResponse::Bytes { bytes } => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            other => bail!("reading {path}: {other:?}"),
        }
    }

    /// Whether anybody answers in this time.
    pub fn is_answered_within(&self, time: Duration) -> Result<bool> {
        self.stream.set_read_timeout(Some(time))?;
        let request = DebugRequest::List { path: "/".into() };
        let answer = self.ask(&request);
        self.stream.set_read_timeout(Some(PATIENCE))?;
        Ok(answer.is_ok())
    }

    /// Asks for something that is not answered.
    pub fn send(&self, request: &DebugRequest) -> Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        (&self.stream).write_all(&line)?;
        Ok(())
    }

    pub fn ask(&self, request: &DebugRequest) -> Result<DebugResponse> {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(
            !*silent,
            "the debug port did not answer an earlier request, whose answer may still come"
        );
        *silent = true;
        self.send(request)?;
        let mut answer = String::new();
        // Nothing comes behind the answer that the buffer could swallow.
        BufReader::new(&self.stream)
            .read_line(&mut answer)
            .context("no answer by the debug port")?;
        *silent = false;
        serde_json::from_str(&answer).with_context(|| format!("the debug port said {answer:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_told_from_an_answer() {
        let (ours, node) = UnixStream::pair().unwrap();
        let port = DebugPort::new(ours).unwrap();
        let answer = serde_json::to_string(&DebugResponse::Names { names: vec![] }).unwrap();
        writeln!(&node, "{answer}").unwrap();
        assert!(port.is_answered_within(PATIENCE).unwrap());
        assert!(!port.is_answered_within(Duration::from_millis(1)).unwrap());
    }

    #[test]
    fn an_answer_that_is_late_is_nobody_else_s() {
        let (ours, node) = UnixStream::pair().unwrap();
        let port = DebugPort::new(ours).unwrap();
        port.stream
            .set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        assert!(port.read("/first").is_err());
        let late = serde_json::to_string(&DebugResponse::Bytes { bytes: vec![] }).unwrap();
        writeln!(&node, "{late}").unwrap();
        let error = format!("{:#}", port.read("/second").unwrap_err());
        assert!(error.contains("earlier request"), "{error}");
    }
}
