//! Speaking to a VMM over its control socket.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, anyhow, bail};
use loam_node_api::{
    WorkloadId,
    path::MACHINES,
    vmm::{ControlRequest, ControlResponse},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
};

/// A VMM answers at once, also while its guest is busy.
const PATIENCE: Duration = Duration::from_secs(10);

const MAX_RESPONSE: u64 = 4 << 10;

pub fn folder(id: &WorkloadId) -> PathBuf {
    PathBuf::from(MACHINES).join(id.to_string())
}

pub fn socket(id: &WorkloadId) -> PathBuf {
    folder(id).join("control.sock")
}

/// Sends one request and waits for its answer.
pub async fn ask(id: &WorkloadId, request: &ControlRequest) -> anyhow::Result<ControlResponse> {
    tokio::time::timeout(PATIENCE, exchange(id, request))
        .await
        .map_err(|_| anyhow!("the VMM did not answer"))?
}

async fn exchange(id: &WorkloadId, request: &ControlRequest) -> anyhow::Result<ControlResponse> {
    let mut stream = UnixStream::connect(socket(id))
        .await
        .context("reaching the VMM")?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream
        .write_all(&line)
        .await
        .context("writing to the VMM")?;
    let mut answer = String::new();
    let mut reader = BufReader::new(stream.take(MAX_RESPONSE));
    reader
        .read_line(&mut answer)
        .await
        .context("reading from the VMM")?;
    match serde_json::from_str(&answer).context("the VMM's answer makes no sense")? {
        ControlResponse::Error { reason } => bail!("the VMM refused: {reason}"),
        response => Ok(response),
    }
}
