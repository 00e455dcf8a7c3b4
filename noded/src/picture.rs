//! What is known of the daemons' state: their lists as of a revision, read again only when that has
//! moved.

use std::{collections::BTreeMap, time::Duration};

use loam_node_api::{
    WorkloadId,
    machine::Machine,
    network::{self, Interface, InterfaceId, Uplink},
    page::Revision,
    storage::{Disk, DiskState, Pool, StorageClient, Volume, VolumeKey},
};

use tokio::{
    task::{JoinError, JoinSet},
    time::{Instant, timeout, timeout_at},
};

use crate::{
    actual::{Actual, Images, Mounted},
    daemons::{Daemon, DaemonError, Sockets, call, deadline, shortly, whole},
};

/// How long a round waits for lists. A daemon that has its answers at hand takes milliseconds.
const WAIT: Duration = Duration::from_secs(2);
/// For all lists of a daemon together: storaged answers when every disk has been looked at.
const PATIENCE: Duration = Duration::from_secs(120);
/// Each life of a daemon counts its changes from the nanosecond in which it starts. None changes so often
/// between two looks, and no two start so close to each other.
const CHANGES: u64 = 1_000_000;

#[derive(Debug, Default)]
pub struct Picture {
    pub actual: Actual,
    pub disks: Vec<Disk>,
    pub pools: Vec<Pool>,
    pub uplink: Uplink,
    storaged: Known,
    netd: Known,
    init: Known,
    reads: JoinSet<Read>,
    errors: Vec<DaemonError>,
}

#[derive(Debug)]
enum Read {
    Storage(Result<Storage, DaemonError>),
    Network(Result<Network, DaemonError>),
    Machines(Result<(Revision, Machines), DaemonError>),
}

/// How far the lists of one daemon are known.
#[derive(Debug, Default)]
struct Known {
    /// None: never read.
    at: Option<Revision>,
    /// How many steps have been done there, and how many of them the lists surely show.
    touched: u64,
    shown: u64,
    /// Being read, since so many steps had been done.
    reading: Option<u64>,
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

/// Whether two revisions of a daemon, seen one after the other, are of one life of it.
pub fn is_one_life(before: Revision, now: Revision) -> bool {
    before.0.abs_diff(now.0) < CHANGES
}

impl Known {
    fn is_due(&self, now: Option<Revision>) -> bool {
        now.is_some() && (self.shown != self.touched || self.at != now)
    }

    /// Whether to begin to read.
    fn begins(&mut self, now: Option<Revision>) -> bool {
        let begins = self.is_due(now) && self.reading.is_none();
        if begins {
            self.reading = Some(self.touched);
        }
        begins
    }

    /// Whether what was read is of use: lists from before the last step would undo what is known of
    /// it.
    fn ends(&mut self, at: Option<Revision>) -> bool {
        let since = self.reading.take();
        let of_use = at.is_some() && since == Some(self.touched);
        if of_use {
            self.at = at;
            self.shown = self.touched;
        }
        of_use
    }
}

impl Picture {
    /// Reads what has moved, of all daemons at once, and waits for it, not for long: what comes later
    /// is told by [`Picture::arrived`]. What cannot be read stays as it was. Must run inside a
    /// `LocalSet`.
    pub async fn refresh(&mut self, sockets: &Sockets, now: Revisions) -> Vec<DaemonError> {
        let storaged = self.storaged.begins(now.storaged);
        if storaged {
            let sockets = sockets.clone();
            self.reads.spawn_local(async move {
                Read::Storage(soon(Daemon::Storaged, Storage::read(&sockets)).await)
            });
        }
        let netd = self.netd.begins(now.netd);
        if netd {
            let sockets = sockets.clone();
            self.reads.spawn_local(async move {
                Read::Network(soon(Daemon::Netd, Network::read(&sockets)).await)
            });
        }
        let init = self.init.begins(now.init);
        if init {
            let sockets = sockets.clone();
            self.reads.spawn_local(async move {
                Read::Machines(soon(Daemon::Init, read_machines(&sockets)).await)
            });
        }
        // For one that this round has not begun, an earlier one has waited in vain.
        let deadline = Instant::now() + WAIT;
        while (storaged && self.storaged.reading.is_some())
            || (netd && self.netd.reading.is_some())
            || (init && self.init.reading.is_some())
        {
            match timeout_at(deadline, self.reads.join_next()).await {
                Ok(Some(read)) => self.take_in(read),
                Ok(None) | Err(_) => break,
            }
        }
        std::mem::take(&mut self.errors)
    }

    /// Until lists have come that a round did not wait for. May be dropped at any time.
    pub async fn arrived(&mut self) {
        match self.reads.join_next().await {
            Some(read) => self.take_in(read),
            None => std::future::pending().await,
        }
    }

    fn take_in(&mut self, read: Result<Read, JoinError>) {
        let Ok(read) = read else {
            // A task that panicked has said so itself, but not which it was: all are begun anew.
            for known in [&mut self.storaged, &mut self.netd, &mut self.init] {
                known.reading = None;
            }
            return;
        };
        match read {
            Read::Storage(Ok(lists)) => {
                if self.storaged.ends(Some(lists.at)) {
                    self.actual.images = lists.images;
                    self.actual.list_volumes(lists.volumes);
                    self.disks = lists.disks;
                    let mounts = lists.pools.iter().map(|pool| {
                        let mounted = Mounted {
                            pool: pool.id.clone(),
                            mount: pool.mount,
                        };
                        (pool.root.clone(), mounted)
                    });
                    self.actual.mounts = mounts.collect();
                    let mut disks = self.disks.iter();
                    self.actual.unsure = disks.any(|d| matches!(d.state, DiskState::Failed(_)));
                    self.pools = lists.pools;
                }
            }
            Read::Network(Ok(lists)) => {
                if self.netd.ends(Some(lists.at)) {
                    self.actual.networks = lists.networks;
                    self.actual.interfaces = lists.interfaces;
                    self.uplink = lists.uplink;
                }
            }
            Read::Machines(Ok((at, machines))) => {
                if self.init.ends(Some(at)) {
                    self.actual.machines = machines;
                }
            }
            Read::Storage(Err(error)) => {
                self.storaged.ends(None);
                self.errors.push(error);
            }
            Read::Network(Err(error)) => {
                self.netd.ends(None);
                self.errors.push(error);
            }
            Read::Machines(Err(error)) => {
                self.init.ends(None);
                self.errors.push(error);
            }
        }
    }

    /// How far fetches are is no change that storaged tells.
    pub async fn refresh_images(&mut self, sockets: &Sockets) -> Result<(), DaemonError> {
        let read = async { read_images(&sockets.storage().await?).await };
        let read = timeout(WAIT, read).await;
        self.actual.images = read.unwrap_or_else(|late| {
            Err(DaemonError::Away {
                daemon: Daemon::Storaged,
                source: late.into(),
            })
        })?;
        Ok(())
    }

    /// Whether there is nothing to read, or it is being read.
    pub fn is_at(&self, now: Revisions) -> bool {
        let settled = |known: &Known, now| known.reading.is_some() || !known.is_due(now);
        settled(&self.storaged, now.storaged)
            && settled(&self.netd, now.netd)
            && settled(&self.init, now.init)
    }

    pub fn touch(&mut self, daemon: Daemon) {
        match daemon {
            Daemon::Storaged => self.storaged.touched += 1,
            Daemon::Netd => self.netd.touched += 1,
            Daemon::Init => self.init.touched += 1,
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

#[derive(Debug)]
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
            disks: client.disks(deadline()).await.map_err(failed())?,
            pools: client.pools(deadline()).await.map_err(failed())?,
            volumes: whole(
                Daemon::Storaged,
                async |after| client.volumes(deadline(), after).await,
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
        async |after| client.images(deadline(), after).await,
        |status| status.image.clone(),
    );
    let mut images = Images::default();
    for status in list.await?.into_values() {
        images.note(status);
    }
    Ok(images)
}

#[derive(Debug)]
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
            uplink: client.uplink(deadline()).await.map_err(failed())?,
            networks: whole(
                Daemon::Netd,
                async |after| client.networks(deadline(), after).await,
                |network| network.id.clone(),
            )
            .await?,
            interfaces: whole(
                Daemon::Netd,
                async |after| client.interfaces(deadline(), after).await,
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
        async |after| client.machines(deadline(), after).await,
        |machine| machine.id.clone(),
    );
    Ok((at, machines.await?))
}
