//! The node's other daemons, as noded calls them.
//!
//! Connections are made anew each time they are needed: a daemon that was restarted is found again
//! at once, and one that is away is nobody's loss but of those who need it. None but
//! init's outlives its daemon's socket (see [`crate::connection`]), whoever has asked: the lookout, a
//! step or a list.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::PathBuf,
    time::{Duration, Instant},
};

use loam_node_api::{
    clock::ClockServiceClient, machine::MachinesClient, network::NetworkServiceClient, page::Page,
    path, storage::StorageClient, transport,
};
use tarpc::{client, context};
use thiserror::Error;
use tokio::time::timeout;

use crate::connection::SocketFile;

/// For what a daemon answers from its memory.
const SHORT: Duration = Duration::from_secs(5);
/// For what it asks a disk or the kernel.
const PATIENCE: Duration = Duration::from_secs(60);
/// Far above what fits a node: 1,024 contracts with 64 machines on 16 networks each.
const MOST_PAGES: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Daemon {
    Storaged,
    Netd,
    Init,
    Clockd,
}

#[derive(Debug, Error)]
pub enum DaemonError {
    #[error("{daemon} does not answer: {source}")]
    Away { daemon: Daemon, source: io::Error },
    #[error("{daemon} broke off: {source}")]
    Call {
        daemon: Daemon,
        source: client::RpcError,
    },
    #[error("{daemon} told a list in no order")]
    Unordered { daemon: Daemon },
    #[error("{daemon} told a list without an end")]
    Endless { daemon: Daemon },
}

/// Where the daemons listen.
#[derive(Clone, Debug)]
pub struct Sockets {
    pub storaged: PathBuf,
    pub netd: PathBuf,
    pub init: PathBuf,
    pub clockd: PathBuf,
}

impl Sockets {
    /// Of the node that this process runs on.
    pub fn of_node() -> Self {
        Self {
            storaged: path::STORAGED_SOCKET.into(),
            netd: path::NETD_SOCKET.into(),
            init: path::INIT_SOCKET.into(),
            clockd: path::CLOCKD_SOCKET.into(),
        }
    }

    pub async fn storage(&self) -> Result<StorageClient, DaemonError> {
        let socket = SocketFile::at(&self.storaged);
        let wire = transport::connect(&self.storaged);
        let transport = reach(Daemon::Storaged, wire).await?;
        Ok(socket.carry(StorageClient::new(client::Config::default(), transport)))
    }

    pub async fn network(&self) -> Result<NetworkServiceClient, DaemonError> {
        let socket = SocketFile::at(&self.netd);
        let transport = reach(Daemon::Netd, transport::connect(&self.netd)).await?;
        Ok(socket.carry(NetworkServiceClient::new(
            client::Config::default(),
            transport,
        )))
    }

    /// init is PID 1 and has no successor: what it was asked is answered, or ends at its deadline.
    pub async fn machines(&self) -> Result<MachinesClient, DaemonError> {
        let transport = reach(Daemon::Init, transport::connect(&self.init)).await?;
        Ok(MachinesClient::new(client::Config::default(), transport).spawn())
    }

    pub async fn clock(&self) -> Result<ClockServiceClient, DaemonError> {
        let socket = SocketFile::at(&self.clockd);
        let transport = reach(Daemon::Clockd, transport::connect(&self.clockd)).await?;
        Ok(socket.carry(ClockServiceClient::new(
            client::Config::default(),
            transport,
        )))
    }
}

async fn reach<T>(
    daemon: Daemon,
    connecting: impl Future<Output = io::Result<T>>,
) -> Result<T, DaemonError> {
    timeout(SHORT, connecting)
        .await
        .unwrap_or_else(|late| Err(late.into()))
        .map_err(|source| DaemonError::Away { daemon, source })
}

/// Reads a list to its end, page by page.
pub async fn whole<K: Ord + Clone, T>(
    daemon: Daemon,
    page: impl AsyncFn(Option<K>) -> Result<Page<T>, client::RpcError>,
    key: impl Fn(&T) -> K,
) -> Result<BTreeMap<K, T>, DaemonError> {
    let mut list = BTreeMap::<K, T>::new();
    for _ in 0..MOST_PAGES {
        let after = list.last_key_value().map(|(last, _)| last.clone());
        let Page { items, more } = page(after).await.map_err(call(daemon))?;
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

/// For what is answered from memory.
pub fn shortly() -> context::Context {
    within(SHORT)
}

pub fn deadline() -> context::Context {
    within(PATIENCE)
}

pub fn within(patience: Duration) -> context::Context {
    let mut context = context::current();
    context.deadline = Instant::now() + patience;
    context
}

pub fn call(daemon: Daemon) -> impl FnOnce(client::RpcError) -> DaemonError {
    move |source| DaemonError::Call { daemon, source }
}

impl fmt::Display for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Storaged => "storaged",
            Self::Netd => "netd",
            Self::Init => "init",
            Self::Clockd => "clockd",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn numbers(
        page: impl AsyncFn(Option<u32>) -> Page<u32>,
    ) -> Result<Vec<u32>, DaemonError> {
        let page = async |after| Ok(page(after).await);
        let list = whole(Daemon::Netd, page, |number| *number).await?;
        Ok(list.into_keys().collect())
    }

    #[tokio::test]
    async fn a_list_is_read_to_its_end() {
        let all: Vec<u32> = (0..1234).collect();
        let read = numbers(async |after| {
            Page::of(all.iter().copied().filter(|n| after.is_none_or(|a| *n > a)))
        });
        assert_eq!(read.await.unwrap(), all);
    }

    #[tokio::test]
    async fn a_list_without_end_or_order_is_an_error() {
        let more = |items| Page { items, more: true };
        let nothing = numbers(async |_| more(vec![])).await;
        assert!(matches!(nothing, Err(DaemonError::Endless { .. })));
        let forever = numbers(async |after: Option<u32>| more(vec![after.map_or(0, |a| a + 1)]));
        assert!(matches!(forever.await, Err(DaemonError::Endless { .. })));
        let again = numbers(async |_| more(vec![7])).await;
        assert!(matches!(again, Err(DaemonError::Unordered { .. })));
    }
}
