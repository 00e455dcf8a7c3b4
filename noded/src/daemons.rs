//! The node's other daemons, as noded calls them.
//!
//! Connections are made anew each time they are needed: a daemon that was restarted is found again
//! at once, and a daemon that is away is an error of this round only.

use std::{
    io,
    time::{Duration, Instant},
};

use loam_node_api::{
    machine::MachinesClient, network::NetworkServiceClient, path, storage::StorageClient, transport,
};
use tarpc::{client, context};
use thiserror::Error;

use crate::actual::Actual;

/// Making a large file system takes the longest.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Error)]
pub enum DaemonError {
    #[error("{daemon} does not answer: {source}")]
    Away {
        daemon: &'static str,
        source: io::Error,
    },
    #[error("{daemon} broke off: {source}")]
    Call {
        daemon: &'static str,
        source: client::RpcError,
    },
}

/// Clients of one round.
#[derive(Clone, Debug)]
pub struct Daemons {
    pub storage: StorageClient,
    pub network: NetworkServiceClient,
    pub machines: MachinesClient,
}

pub async fn storage() -> Result<StorageClient, DaemonError> {
    let transport = transport::connect(path::STORAGED_SOCKET)
        .await
        .map_err(away("storaged"))?;
    Ok(StorageClient::new(client::Config::default(), transport).spawn())
}

pub async fn network() -> Result<NetworkServiceClient, DaemonError> {
    let transport = transport::connect(path::NETD_SOCKET)
        .await
        .map_err(away("netd"))?;
    Ok(NetworkServiceClient::new(client::Config::default(), transport).spawn())
}

pub async fn machines() -> Result<MachinesClient, DaemonError> {
    let transport = transport::connect(path::INIT_SOCKET)
        .await
        .map_err(away("init"))?;
    Ok(MachinesClient::new(client::Config::default(), transport).spawn())
}

impl Daemons {
    pub async fn connect() -> Result<Self, DaemonError> {
        Ok(Self {
            storage: storage().await?,
            network: network().await?,
            machines: machines().await?,
        })
    }

    /// What is there. All or nothing: a plan made from half a picture would remove the other half.
    pub async fn actual(&self) -> Result<Actual, DaemonError> {
        let images = self
            .storage
            .images(deadline())
            .await
            .map_err(call("storaged"))?;
        let volumes = self
            .storage
            .volumes(deadline())
            .await
            .map_err(call("storaged"))?;
        let networks = self
            .network
            .networks(deadline())
            .await
            .map_err(call("netd"))?;
        let interfaces = self
            .network
            .interfaces(deadline())
            .await
            .map_err(call("netd"))?;
        let machines = self
            .machines
            .machines(deadline())
            .await
            .map_err(call("init"))?;
        Ok(Actual {
            images: images.into_iter().map(|i| (i.image, i.state)).collect(),
            volumes: volumes.into_iter().map(|v| (v.key.clone(), v)).collect(),
            networks: networks.into_iter().map(|n| (n.id.clone(), n)).collect(),
            interfaces: interfaces.into_iter().map(|i| (i.id.clone(), i)).collect(),
            machines: machines.into_iter().map(|m| (m.id.clone(), m)).collect(),
        })
    }
}

pub fn deadline() -> context::Context {
    let mut context = context::current();
    context.deadline = Instant::now() + PATIENCE;
    context
}

pub fn away(daemon: &'static str) -> impl FnOnce(io::Error) -> DaemonError {
    move |source| DaemonError::Away { daemon, source }
}

pub fn call(daemon: &'static str) -> impl FnOnce(client::RpcError) -> DaemonError {
    move |source| DaemonError::Call { daemon, source }
}
