//! The node's other daemons, as noded calls them.
//!
//! Connections are made anew each time they are needed: a daemon that was restarted is found again
//! at once, and a daemon that is away is an error of this round only.

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, Instant},
};

use loam_node_api::{
    machine::MachinesClient, network::NetworkServiceClient, page::Page, path,
    storage::StorageClient, transport,
};
use tarpc::{client, context};
use thiserror::Error;

use crate::actual::Actual;

/// Far above what fits a node: 1,024 contracts with 64 machines on 16 networks each.
const MOST_PAGES: usize = 4096;
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
    #[error("{daemon} told a list in no order")]
    Unordered { daemon: &'static str },
    #[error("{daemon} told a list without an end")]
    Endless { daemon: &'static str },
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
        let images = whole(
            "storaged",
            async |after| self.storage.images(deadline(), after).await,
            |status| status.image.clone(),
        );
        let mut actual = Actual::default();
        for status in images.await?.into_values() {
            actual.images.note(status);
        }
        actual.volumes = whole(
            "storaged",
            async |after| self.storage.volumes(deadline(), after).await,
            |volume| volume.key.clone(),
        )
        .await?;
        actual.networks = whole(
            "netd",
            async |after| self.network.networks(deadline(), after).await,
            |network| network.id.clone(),
        )
        .await?;
        actual.interfaces = whole(
            "netd",
            async |after| self.network.interfaces(deadline(), after).await,
            |interface| interface.id.clone(),
        )
        .await?;
        actual.machines = whole(
            "init",
            async |after| self.machines.machines(deadline(), after).await,
            |machine| machine.id.clone(),
        )
        .await?;
        Ok(actual)
    }
}

/// Reads a list to its end, page by page.
async fn whole<K: Ord + Clone, T>(
    daemon: &'static str,
    page: impl AsyncFn(Option<K>) -> Result<Page<T>, client::RpcError>,
    key: impl Fn(&T) -> K,
) -> Result<BTreeMap<K, T>, DaemonError> {
    let mut list = BTreeMap::new();
    for _ in 0..MOST_PAGES {
        let after = list
            .last_key_value()
            .map(|(last, _): (&K, &T)| last.clone());
        let Page { items, more } = page(after.clone()).await.map_err(call(daemon))?;
        let empty = items.is_empty();
        for item in items {
            let key = key(&item);
            if list.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(DaemonError::Unordered { daemon });
            }
            list.insert(key, item);
        }
        if !more {
            return Ok(list);
        }
        if empty {
            break;
        }
    }
    Err(DaemonError::Endless { daemon })
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
