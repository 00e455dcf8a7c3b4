//! The node's debug port, by which the bench reads its files.

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use loam_node_api::debug::{DebugRequest, DebugResponse, PORT};

/// A request is answered at once, but the node may be busy with all else.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Clone, Debug)]
pub struct DebugPort {
    pub socket: PathBuf,
}

impl DebugPort {
    /// What QEMU needs so that the node has it.
    pub fn arguments(&self) -> Vec<OsString> {
        let socket = self.socket.display();
        vec![
            "-device".into(),
            "virtio-serial-pci".into(),
            "-chardev".into(),
            format!("socket,id=debug,path={socket},server=on,wait=off").into(),
            "-device".into(),
            format!("virtserialport,chardev=debug,name={PORT}").into(),
        ]
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

    fn ask(&self, request: &DebugRequest) -> Result<DebugResponse> {
        let mut stream = UnixStream::connect(&self.socket).context("the node's debug port")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        let mut answer = String::new();
        BufReader::new(stream)
            .read_line(&mut answer)
            .context("no answer by the debug port")?;
        serde_json::from_str(&answer).with_context(|| format!("the debug port said {answer:?}"))
    }
}
