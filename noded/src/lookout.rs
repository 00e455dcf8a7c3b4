//! Learning that a daemon has changed: one long poll each, for ever. Its connection ends with the
//! daemon's socket, so that a restart is seen within seconds even if the old one's end is not.

use std::time::Duration;

use loam_node_api::{
    machine::MachinesClient,
    network::NetworkServiceClient,
    page::{LONGEST_WAIT, Revision},
    storage::StorageClient,
};
use tarpc::{client::RpcError, context::Context};
use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

use crate::daemons::{Daemon, DaemonError, Sockets, call, shortly, within};

/// Between two answers: a daemon that changes all the time is looked at so often and no more.
const GAP: Duration = Duration::from_millis(100);
/// Between two tries to reach a daemon that is away, doubled by each. A try costs little where no
/// socket is, and init lets no daemon wait longer for its next start.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A daemon answers a long poll this long after its own limit, or is taken for hung.
const GRACE: Duration = Duration::from_secs(10);

/// Keeps each at the revision of its daemon.
pub async fn all(
    sockets: &Sockets,
    storaged: watch::Sender<Option<Revision>>,
    netd: watch::Sender<Option<Revision>>,
    init: watch::Sender<Option<Revision>>,
) {
    tokio::join!(
        look_out(
            Daemon::Storaged,
            async || sockets.storage().await,
            async |client: &StorageClient, context, seen| client.changes(context, seen).await,
            storaged,
        ),
        look_out(
            Daemon::Netd,
            async || sockets.network().await,
            async |client: &NetworkServiceClient, context, seen| {
                client.changes(context, seen).await
            },
            netd,
        ),
        look_out(
            Daemon::Init,
            async || sockets.machines().await,
            async |client: &MachinesClient, context, seen| client.changes(context, seen).await,
            init,
        ),
    );
}

/// Keeps `seen` at the revision that the daemon is at: none while it does not answer.
pub async fn look_out<C>(
    daemon: Daemon,
    connect: impl AsyncFn() -> Result<C, DaemonError>,
    changes: impl AsyncFn(&C, Context, Revision) -> Result<Revision, RpcError>,
    seen: watch::Sender<Option<Revision>>,
) {
    let mut pause = FIRST_PAUSE;
    let mut told = false;
    loop {
        let error = match connect().await {
            Ok(client) => {
                let error = follow(&client, &changes, &seen, || {
                    if told {
                        info!(%daemon, "answers again");
                    }
                    told = false;
                    pause = FIRST_PAUSE;
                });
                call(daemon)(error.await)
            }
            Err(error) => error,
        };
        seen.send_if_modified(|seen| seen.take().is_some());
        if !told {
            warn!(%daemon, %error, "does not answer; what does not need it goes on");
            told = true;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn follow<C>(
    client: &C,
    changes: impl AsyncFn(&C, Context, Revision) -> Result<Revision, RpcError>,
    seen: &watch::Sender<Option<Revision>>,
    mut answered: impl FnMut(),
) -> RpcError {
    // No daemon starts at 0, so the first answer comes at once.
    let mut known = Revision::default();
    let mut deadline = shortly();
    loop {
        match changes(client, deadline, known).await {
            Ok(now) => {
                answered();
                known = now;
                seen.send_if_modified(|seen| seen.replace(now) != Some(now));
            }
            Err(error) => return error,
        }
        sleep(GAP).await;
        deadline = within(LONGEST_WAIT + GRACE);
    }
}
