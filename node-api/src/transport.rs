//! How daemons reach each other: `tarpc` with JSON over UNIX stream sockets.

use std::{io, os::unix::fs::PermissionsExt, path::Path};

use futures::StreamExt;
use serde::{Serialize, de::DeserializeOwned};
use tarpc::{
    serde_transport::{Transport, unix},
    server::{BaseChannel, Channel, Serve},
    tokio_serde::formats::Json,
};
use tokio::net::UnixStream;

/// The largest message: a full page (see [`crate::page`]), an image's configuration or a console
/// chunk fits.
pub const MAX_FRAME: usize = 4 << 20;

type Wire<In, Out> = Transport<UnixStream, In, Out, Json<In, Out>>;

/// A client's transport to the daemon that listens at `path`.
pub async fn connect<Resp, Req>(
    path: impl AsRef<Path>,
) -> io::Result<Wire<tarpc::Response<Resp>, tarpc::ClientMessage<Req>>>
where
    Resp: DeserializeOwned,
    Req: Serialize,
{
    let mut connecting = unix::connect(path, Json::default);
    connecting.config_mut().max_frame_length(MAX_FRAME);
    connecting.await
}

/// Serves `service` at `path`, replacing a socket left by a killed predecessor, until dropped.
///
/// Requests are answered concurrently, all on the caller's task. Only root may connect: the
/// socket's mode is 0600.
pub async fn serve<S, Req, Resp>(path: &Path, service: S) -> io::Result<()>
where
    S: Serve<Req = Req, Resp = Resp> + Clone,
    Req: DeserializeOwned + tarpc::RequestName,
    Resp: Serialize,
{
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut incoming = unix::listen(path, Json::default).await?;
    incoming.config_mut().max_frame_length(MAX_FRAME);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    incoming
        // One client that fails to connect is its own problem; the others are still served.
        .filter_map(|connection| std::future::ready(connection.ok()))
        .for_each_concurrent(None, |transport| {
            BaseChannel::with_defaults(transport)
                .execute(service.clone())
                .for_each_concurrent(None, |response| response)
        })
        .await;
    Ok(())
}
