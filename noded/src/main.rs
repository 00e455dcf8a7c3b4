//! `loam-noded`: the node agent. Follows the chain, verifies deployments, plans, applies, reports.
//!
//! It keeps no state of its own: what is desired stands on the chain, what is there the daemons
//! know. Kill it at any moment; started again, it goes on.
//!
//! `loam-noded network-test` tests the network for who sits at the screen, and ends.

use std::{fs::File, io::Write as _, rc::Rc, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use loam_chain::{
    EndpointReader, GridReader,
    writer::{GridWriter, WriterOptions},
};
use loam_deployment::FarmId;
use loam_node_api::{
    clock::Clock,
    network_test::{ARGUMENT, FINDINGS_FD},
    path,
    status::ChainState,
    storage::StorageError,
    tls,
};
use loam_noded::{
    agent::{Agent, Inlets, Outlets},
    announce::Announcer,
    clock::ClockKeeper,
    daemons::{Daemon, DaemonError, Sockets, call, shortly},
    farm::Choice,
    follow,
    grid::Grid,
    identity::{Identity, IdentityError},
    lookout,
    membership::{self, Membership},
    network_test::NetworkTest,
    screen::Screen,
    tenant,
};
use tokio::{sync::watch, task::LocalSet, time::sleep};
use tracing::{error, info, warn};

/// How often is looked for what is missing, such as a disk.
const TROUBLE_WAIT: Duration = Duration::from_secs(2);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .json()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let local = LocalSet::new();
    match arguments.as_slice() {
        [] => local.run_until(run()).await,
        [argument] if argument == ARGUMENT => local.run_until(test_network()).await,
        others => bail!(
            "loam-noded is started by loam-init, without an argument or with {ARGUMENT} alone: what is `{}`?",
            others.join(" "),
        ),
    }
}

/// Writes what it finds out to the descriptor that init gives it for that.
async fn test_network() -> anyhow::Result<()> {
    let mut findings = File::options()
        .write(true)
        .open(format!("/proc/self/fd/{FINDINGS_FD}"))
        .with_context(|| format!("descriptor {FINDINGS_FD}, which the findings are written to"))?;
    let tell = |finding| {
        let mut line = serde_json::to_vec(&finding)?;
        line.push(b'\n');
        findings.write_all(&line)
    };
    let told = NetworkTest::of_node().run(tell).await;
    told.context("telling the findings")
}

async fn run() -> anyhow::Result<()> {
    let sockets = Sockets::of_node();
    let mut screen = Screen::default();
    let grid = grid(&sockets, &mut screen).await;
    screen.endpoints = grid.config.hosts();
    let (identity, kept) = identity(&grid, &sockets, &mut screen).await;
    let identity = Rc::new(identity);
    screen.node = Some(identity.node);
    screen.trouble = None;
    info!(node = %identity.node, grid = grid.name(), "this node");

    // A certificate is judged by what is known about the time, which may be little.
    let tls = tls::client_config(
        tls::public_roots(),
        Arc::new(|| Clock::read(path::CLOCK.as_ref())),
    )?;
    let reader = EndpointReader::with_tls(&grid.config, &tls).context("the grid's endpoints")?;
    let reader: Arc<dyn GridReader> = Arc::new(reader);
    let (account, options) = (identity.account.clone(), WriterOptions::default());
    let writer = GridWriter::with_tls(&grid.config, account, options, &tls)
        .context("the grid's endpoints")?;
    let (views, seen) = watch::channel(None);
    let (chain_state, chain) = watch::channel(ChainState::Connecting);
    let (access, allowed) = watch::channel(Default::default());
    let (reports, said) = watch::channel(Vec::new());
    let (present, holders) = watch::channel(Default::default());
    let (offer, offered) = watch::channel(None);
    let (choices, farm) = watch::channel(Choice::default());
    let (storaged_at, storaged) = watch::channel(None);
    let (netd_at, netd) = watch::channel(None);
    let (init_at, init) = watch::channel(None);
    let inlets = Inlets {
        views: seen.clone(),
        chain,
        farm: farm.clone(),
        storaged,
        netd,
        init,
    };
    let outlets = Outlets {
        access,
        reports,
        present,
        offer,
    };
    let announcer = Announcer {
        identity: identity.clone(),
        writer: Rc::new(writer),
        reader: reader.clone(),
        chain: grid.context(),
        farm,
    };
    let membership = Membership {
        sockets: sockets.clone(),
        search: path::FARM.into(),
        image: grid.farm,
        kept,
    };
    let clock = ClockKeeper {
        sockets: sockets.clone(),
        clock: path::CLOCK.into(),
    };
    let private = Rc::new(*identity.hpke.private);
    let agent = Agent::new(
        identity.clone(),
        grid.context(),
        sockets.clone(),
        path::CLOCK.into(),
        screen,
    );
    // Whichever of these ends takes the process with it, and init starts it anew.
    tokio::select! {
        () = follow::follow(
            reader.clone(), identity.node, holders, views, chain_state,
        ) => {}
        () = lookout::all(&sockets, storaged_at, netd_at, init_at) => {}
        () = agent.run(inlets, outlets) => {}
        () = membership.run(seen.clone(), offered.clone(), choices) => {}
        () = announcer.register(seen.clone(), offered) => {}
        () = announcer.report(seen.clone(), said) => {}
        () = clock.run(reader, seen) => {}
        result = tenant::serve(private, Rc::new(sockets.clone()), allowed) => result?,
    }
    Ok(())
}

/// An image without one can do nothing but say so; nobody gives it another while it runs.
async fn grid(sockets: &Sockets, screen: &mut Screen) -> Grid {
    loop {
        let trouble = match Grid::read(path::GRID) {
            Ok(grid) => return grid,
            Err(error) => format!("{error:#}"),
        };
        wait_out(trouble, sockets, screen).await;
    }
}

/// With the farm that is kept beside it. Waits for as long as it takes: without a disk there is nothing to do.
async fn identity(
    grid: &Grid,
    sockets: &Sockets,
    screen: &mut Screen,
) -> (Identity, Option<FarmId>) {
    loop {
        let trouble = match load(grid, sockets).await {
            Ok(loaded) => return loaded,
            Err(IdentityError::Storage(StorageError::NoPool)) => {
                "waiting for an empty disk of at least 1 GiB".to_owned()
            }
            Err(trouble) => trouble.to_string(),
        };
        wait_out(trouble, sockets, screen).await;
    }
}

/// Shows the trouble for a while.
async fn wait_out(trouble: String, sockets: &Sockets, screen: &mut Screen) {
    if screen.trouble.as_ref() != Some(&trouble) {
        warn!(%trouble, "this node cannot work yet");
    }
    screen.trouble = Some(trouble);
    if let Err(trouble) = show(sockets, screen).await {
        error!(%trouble, "the screen cannot be drawn");
    }
    sleep(TROUBLE_WAIT).await;
}

async fn load(grid: &Grid, sockets: &Sockets) -> Result<(Identity, Option<FarmId>), IdentityError> {
    let storage = sockets.storage().await?;
    let identity = Identity::load(&storage, &grid.name()).await?;
    Ok((identity, membership::kept(&storage).await?))
}

async fn show(sockets: &Sockets, screen: &mut Screen) -> Result<(), DaemonError> {
    if let Ok(storage) = sockets.storage().await
        && let Ok(disks) = storage.disks(shortly()).await
    {
        screen.disks = disks;
    }
    if let Ok(network) = sockets.network().await
        && let Ok(uplink) = network.uplink(shortly()).await
    {
        screen.uplink = uplink;
    }
    let init = sockets.machines().await?;
    init.set_status(shortly(), screen.status())
        .await
        .map_err(call(Daemon::Init))
}
