//! The node's debug port, by which tests and the bench look into a node of a developer's image.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use loam_node_api::debug::{DebugRequest, DebugResponse, PORT};

/// A request is answered at once, but the node may be busy with all else.
const PATIENCE: Duration = Duration::from_secs(120);

/// One connection for the node's whole life. When one ends the node closes the port, and its kernel
/// throws away what has arrived by then: the first request of the next connection.
#[derive(Debug)]
pub struct DebugPort {
    stream: UnixStream,
}

/// What QEMU needs so that the node has the port, and we its other end at `socket`.
pub fn arguments(socket: &Path) -> [String; 6] {
    let socket = socket.display();
    [
        "-device".into(),
        "virtio-serial-pci".into(),
        "-chardev".into(),
        format!("socket,id=debug,path={socket},server=on,wait=off"),
        "-device".into(),
        format!("virtserialport,chardev=debug,name={PORT}"),
    ]
}

impl DebugPort {
    /// To be called while the node boots, so that it finds us there when it opens the port.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("the node's debug port")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream })
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

    pub fn ask(&self, request: &DebugRequest) -> Result<DebugResponse> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        (&self.stream).write_all(&line)?;
        let mut answer = String::new();
        // Nothing comes behind the answer that the buffer could swallow.
        BufReader::new(&self.stream)
            .read_line(&mut answer)
            .context("no answer by the debug port")?;
        serde_json::from_str(&answer).with_context(|| format!("the debug port said {answer:?}"))
    }
}
