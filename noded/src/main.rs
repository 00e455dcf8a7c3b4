//! `loam-noded`: the node agent. Follows the chain, verifies deployments, plans, applies, reports.
//!
//! It keeps no state of its own: what is desired stands on the chain, what is there the daemons
//! know. Kill it at any moment; started again, it goes on.

mod actual;
mod address;
mod admit;
mod agent;
mod announce;
mod apply;
mod backoff;
mod daemons;
mod desired;
#[cfg(test)]
mod fixture;
mod follow;
mod grid;
mod identity;
mod ledger;
mod plan;
mod report;
mod screen;
mod step;
mod tenant;

use std::{rc::Rc, sync::Arc, time::Duration};

use agent::{Agent, Outlets};
use announce::Announcer;
use anyhow::Context;
use grid::Grid;
use identity::{Identity, IdentityError};
use loam_chain::{
    EndpointReader,
    writer::{GridWriter, WriterOptions},
};
use loam_node_api::{path, status::ChainState, storage::StorageError};
use screen::Screen;
use tokio::{sync::watch, task::LocalSet, time::sleep};
use tracing::{error, info, warn};

/// How often an identity is asked for while no disk is ready.
const DISK_WAIT: Duration = Duration::from_secs(2);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .json()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .init();
    LocalSet::new().run_until(run()).await
}

async fn run() -> anyhow::Result<()> {
    let grid = Grid::read(path::GRID)?;
    let mut screen = Screen {
        farm: Some(grid.farm),
        ..Screen::default()
    };
    let identity = Rc::new(identity(&grid, &mut screen).await);
    screen.node = Some(identity.node);
    screen.trouble = None;
    info!(node = %identity.node, grid = grid.name(), "this node");

    let reader = Arc::new(EndpointReader::new(&grid.config).context("the grid's endpoints")?);
    let writer = GridWriter::new(
        &grid.config,
        identity.account.clone(),
        WriterOptions::default(),
    )
    .context("the grid's endpoints")?;
    let (views, seen) = watch::channel(None);
    let (chain_state, state) = watch::channel(ChainState::Connecting);
    let (access, allowed) = watch::channel(Default::default());
    let (reports, said) = watch::channel(Vec::new());
    let (present, holders) = watch::channel(Default::default());
    let (offer, offered) = watch::channel(None);
    let announcer = Announcer {
        identity: identity.clone(),
        writer: Rc::new(writer),
        chain: grid.context(),
        farm: grid.farm,
    };
    let private = Rc::new(*identity.hpke.private);
    let agent = Agent::new(identity.clone(), grid.context(), screen);
    // Whichever of these ends takes the process with it, and init starts it anew.
    tokio::select! {
        () = follow::follow(reader, identity.node, grid.farm, holders, views, chain_state) => {}
        () = agent.run(seen.clone(), state, Outlets { access, reports, present, offer }) => {}
        () = announcer.clone().register(seen, offered) => {}
        () = announcer.report(said) => {}
        result = tenant::serve(private, allowed) => result?,
    }
    Ok(())
}

/// Waits for as long as it takes: without a disk there is nothing to do.
async fn identity(grid: &Grid, screen: &mut Screen) -> Identity {
    let mut told = String::new();
    loop {
        let trouble = match load(grid).await {
            Ok(identity) => return identity,
            Err(IdentityError::Storage(StorageError::NoPool)) => {
                "waiting for an empty disk of at least 1 GiB".to_owned()
            }
            Err(trouble) => trouble.to_string(),
        };
        if told != trouble {
            warn!(%trouble, "no identity yet");
            told.clone_from(&trouble);
        }
        screen.trouble = Some(trouble);
        if let Err(trouble) = show(screen).await {
            error!(%trouble, "the screen cannot be drawn");
        }
        sleep(DISK_WAIT).await;
    }
}

async fn load(grid: &Grid) -> Result<Identity, IdentityError> {
    let storage = daemons::storage().await?;
    let identity = Identity::load(&storage, &grid.name()).await?;
    // A disk that cannot be marked now is no reason to stay away from the others.
    if let Err(error) = identity.tell(&storage).await {
        warn!(%error, "the pools do not carry this node's name yet");
    }
    Ok(identity)
}

async fn show(screen: &mut Screen) -> Result<(), daemons::DaemonError> {
    if let Ok(storage) = daemons::storage().await
        && let Ok(disks) = storage.disks(daemons::deadline()).await
    {
        screen.disks = disks;
    }
    let init = daemons::machines().await?;
    init.set_status(daemons::deadline(), screen.status())
        .await
        .map_err(daemons::call("init"))
}
