//! What is known of the daemons' state: their lists as of a revision, read again only when that has
//! moved.

use std::{collections::BTreeMap, time::Duration};

use loam_node_api::{
    WorkloadId,
    machine::Machine,
    network::{self, Interface, InterfaceId, Uplink},
    page::Revision,
    storage::{Disk, Pool, StorageClient, Volume, VolumeKey},
};

use tokio::time::timeout;

use crate::{
    actual::{Actual, Images},
    daemons::{Daemon, DaemonError, Sockets, call, shortly, whole},
};

#[derive(Debug, Default)]
pub struct Picture {
    pub actual: Actual,
    pub disks: Vec<Disk>,
    pub pools: Vec<Pool>,
    pub uplink: Uplink,
    storaged: Known,
    netd: Known,
    init: Known,
}

/// How far the lists of one daemon are known.
#[derive(Debug, Default)]
struct Known {
    /// None: never read.
    at: Option<Revision>,
    /// A step has been done there since, so the lists are surely old.
    touched: bool,
}

/// What the daemons are at; none for one that does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revisions {
    pub storaged: Option<Revision>,
    pub netd: Option<Revision>,
    pub init: Option<Revision>,
}

impl Revisions {
    /// Whether a daemon has fallen silent or is back.
    pub fn answers_differ(self, other: Self) -> bool {
        self.storaged.is_some() != other.storaged.is_some()
            || self.netd.is_some() != other.netd.is_some()
            || self.init.is_some() != other.init.is_some()
    }
}

impl Known {
    fn is_due(&self, now: Option<Revision>) -> bool {
        now.is_some() && (self.touched || self.at != now)
    }

    fn read(&mut self, at: Revision) {
        *self = Self {
            at: Some(at),
            touched: false,
        };
    }
}

impl Picture {
    /// Reads what has moved, of all daemons at once. What cannot be read stays as it was.
    pub async fn refresh(&mut self, sockets: &Sockets, now: Revisions) -> Vec<DaemonError> {
        let (storaged, netd, init) = tokio::join!(
            on(
                self.storaged.is_due(now.storaged),
                soon(Daemon::Storaged, Storage::read(sockets)),
            ),
            on(
                self.netd.is_due(now.netd),
                soon(Daemon::Netd, Network::read(sockets)),
            ),
            on(
                self.init.is_due(now.init),
                soon(Daemon::Init, read_machines(sockets)),
            ),
        );
        let mut errors = Vec::new();
        match storaged {
            Some(Ok(lists)) => {
                self.storaged.read(lists.at);
                self.actual.images = lists.images;
                self.actual.volumes = lists.volumes;
                self.disks = lists.disks;
                self.pools = lists.pools;
            }
            Some(Err(error)) => errors.push(error),
            None => {}
        }
        match netd {
            Some(Ok(lists)) => {
                self.netd.read(lists.at);
                self.actual.networks = lists.networks;
                self.actual.interfaces = lists.interfaces;
                self.uplink = lists.uplink;
            }
            Some(Err(error)) => errors.push(error),
            None => {}
        }
        match init {
            Some(Ok((at, machines))) => {
                self.init.read(at);
                self.actual.machines = machines;
            }
            Some(Err(error)) => errors.push(error),
            None => {}
        }
        errors
    }

    /// How far fetches are is no change that storaged tells.
    pub async fn refresh_images(&mut self, sockets: &Sockets) -> Result<(), DaemonError> {
        self.actual.images = read_images(&sockets.storage().await?).await?;
        Ok(())
    }

    /// Whether nothing has moved since the lists were read.
    pub fn is_at(&self, now: Revisions) -> bool {
        !self.storaged.is_due(now.storaged)
            && !self.netd.is_due(now.netd)
            && !self.init.is_due(now.init)
    }

    pub fn touch(&mut self, daemon: Daemon) {
        match daemon {
            Daemon::Storaged => self.storaged.touched = true,
            Daemon::Netd => self.netd.touched = true,
            Daemon::Init => self.init.touched = true,
            Daemon::Clockd => {}
        }
    }

    /// A plan is made from a whole picture or not at all. The lists of a daemon that is away are good
    /// enough: nobody but it and noded changes what they show, but for ends that are seen when it is
    /// back.
    pub fn is_whole(&self) -> bool {
        self.storaged.at.is_some() && self.netd.at.is_some() && self.init.at.is_some()
    }

    /// Whether storaged and netd have said what there is to offer.
    pub fn shows_offer(&self) -> bool {
        self.storaged.at.is_some() && self.netd.at.is_some()
    }
}

/// All lists of a daemon together; a round waits no longer for them.
const PATIENCE: Duration = Duration::from_secs(10);

async fn soon<T>(
    daemon: Daemon,
    reading: impl Future<Output = Result<T, DaemonError>>,
) -> Result<T, DaemonError> {
    timeout(PATIENCE, reading).await.unwrap_or_else(|late| {
        Err(DaemonError::Away {
            daemon,
            source: late.into(),
        })
    })
}

async fn on<T>(due: bool, reading: impl Future<Output = T>) -> Option<T> {
    match due {
        true => Some(reading.await),
        false => None,
    }
}

struct Storage {
    at: Revision,
    disks: Vec<Disk>,
    pools: Vec<Pool>,
    volumes: BTreeMap<VolumeKey, Volume>,
    images: Images,
}

impl Storage {
    async fn read(sockets: &Sockets) -> Result<Self, DaemonError> {
        let client = sockets.storage().await?;
        let failed = || call(Daemon::Storaged);
        Ok(Self {
            // Before the lists: what changes while they are read shows as another revision.
            at: client
                .changes(shortly(), Revision::default())
                .await
                .map_err(failed())?,
            disks: client.disks(shortly()).await.map_err(failed())?,
            pools: client.pools(shortly()).await.map_err(failed())?,
            volumes: whole(
                Daemon::Storaged,
                async |after| client.volumes(shortly(), after).await,
                |volume| volume.key.clone(),
            )
            .await?,
            images: read_images(&client).await?,
        })
    }
}

async fn read_images(client: &StorageClient) -> Result<Images, DaemonError> {
    let list = whole(
        Daemon::Storaged,
        async |after| client.images(shortly(), after).await,
        |status| status.image.clone(),
    );
    let mut images = Images::default();
    for status in list.await?.into_values() {
        images.note(status);
    }
    Ok(images)
}

struct Network {
    at: Revision,
    uplink: Uplink,
    networks: BTreeMap<WorkloadId, network::Network>,
    interfaces: BTreeMap<InterfaceId, Interface>,
}

impl Network {
    async fn read(sockets: &Sockets) -> Result<Self, DaemonError> {
        let client = sockets.network().await?;
        let failed = || call(Daemon::Netd);
        Ok(Self {
            at: client
                .changes(shortly(), Revision::default())
                .await
                .map_err(failed())?,
            uplink: client.uplink(shortly()).await.map_err(failed())?,
            networks: whole(
                Daemon::Netd,
                async |after| client.networks(shortly(), after).await,
                |network| network.id.clone(),
            )
            .await?,
            interfaces: whole(
                Daemon::Netd,
                async |after| client.interfaces(shortly(), after).await,
                |interface| interface.id.clone(),
            )
            .await?,
        })
    }
}

type Machines = BTreeMap<WorkloadId, Machine>;

async fn read_machines(sockets: &Sockets) -> Result<(Revision, Machines), DaemonError> {
    let client = sockets.machines().await?;
    let at = client
        .changes(shortly(), Revision::default())
        .await
        .map_err(call(Daemon::Init))?;
    let machines = whole(
        Daemon::Init,
        async |after| client.machines(shortly(), after).await,
        |machine| machine.id.clone(),
    );
    Ok((at, machines.await?))
}
