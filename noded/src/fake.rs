//! Fake daemons over real sockets, for tests: they keep state as the real ones do, count the calls
//! that they get, and fail or hang where a test says so.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use loam_deployment::{Bytes, NodeKey, Version};
use loam_node_api::{
    WorkloadId,
    clock::{Clock, ClockService, UnixTime},
    image::{Image, ImageContent, ImageLogin, ImageRequest},
    machine::{
        ConsoleChunk, Exit, Machine, MachineError, MachineSpec, MachineState, Machines, Shutdown,
    },
    network::{
        Interface, InterfaceId, InterfaceSpec, Network, NetworkError, NetworkService, NetworkSpec,
        Uplink,
    },
    page::{Changes, Page, Revision},
    status::NodeStatus,
    storage::{
        Deletion, Disk, ImageConfig, ImageState, ImageStatus, MountId, Pool, Storage, StorageError,
        Volume, VolumeKey, VolumeSpec,
    },
    transport,
    window::WindowSize,
};
use tarpc::context::Context;
use tokio::{
    sync::watch,
    task::{JoinHandle, spawn_local},
    time::timeout,
};

use crate::daemons::Sockets;

/// Far more than anything here takes on a busy machine.
const LONGEST: Duration = Duration::from_secs(120);

#[derive(Clone)]
pub struct FakeNode {
    pub sockets: Sockets,
    pub state: Arc<Mutex<State>>,
    storaged: Changes,
    netd: Changes,
    init: Changes,
    /// Something has changed or was called.
    stirred: watch::Sender<()>,
    folder: Arc<tempfile::TempDir>,
}

#[derive(Debug, Default)]
pub struct State {
    /// Whether the disk with all volumes and images is there.
    pub disk: bool,
    /// Another one each time that it is put back.
    pub mount: u64,
    pub volumes: BTreeMap<VolumeKey, Volume>,
    pub images: BTreeMap<ImageContent, Image>,
    pub attempts: BTreeMap<Image, ImageState>,
    /// These fetches never end.
    pub slow_images: BTreeSet<Image>,
    /// Which logins it was told.
    pub logins: Vec<ImageLogin>,
    /// A registry refuses this password.
    pub refused_password: Option<String>,
    pub networks: BTreeMap<WorkloadId, Network>,
    pub interfaces: BTreeMap<InterfaceId, Interface>,
    pub uplink: Uplink,
    pub machines: BTreeMap<WorkloadId, Machine>,
    /// Commands of these machines fail at once.
    pub crashing: BTreeSet<WorkloadId>,
    /// These machines do not end when they are asked to.
    pub deaf: BTreeSet<WorkloadId>,
    /// So long does each start take.
    pub start_takes: Duration,
    /// And to draw the screen.
    pub drawing_takes: Duration,
    /// Calls for these volumes never return.
    pub hung: BTreeSet<VolumeKey>,
    /// The list of volumes never comes.
    pub hung_list: bool,
    /// These networks are made, and are not there afterwards.
    pub forgotten: BTreeSet<WorkloadId>,
    pub status: Option<NodeStatus>,
    pub named: Option<NodeKey>,
    pub secrets: BTreeMap<String, Vec<u8>>,
    pub passed: Vec<(UnixTime, bool)>,
    pub calls: BTreeMap<&'static str, usize>,
    /// In order, of those calls that change something.
    pub log: Vec<String>,
}

/// Which daemon is to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Storaged,
    Netd,
    Init,
    Clockd,
}

/// A daemon, until it is dropped.
pub struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl FakeNode {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = |name: &str| folder.path().join(name);
        Self {
            sockets: Sockets {
                storaged: socket("storaged"),
                netd: socket("netd"),
                init: socket("init"),
                clockd: socket("clockd"),
            },
            state: Arc::default(),
            storaged: Changes::new(),
            netd: Changes::new(),
            init: Changes::new(),
            stirred: watch::Sender::new(()),
            folder: Arc::new(folder),
        }
    }

    pub fn clock(&self) -> std::path::PathBuf {
        self.folder.path().join("clock.json")
    }

    pub fn farm_search(&self) -> std::path::PathBuf {
        self.folder.path().join("farm.json")
    }

    /// Must run inside a `LocalSet`.
    pub fn start(&self, part: Part) -> Running {
        let (node, sockets) = (self.clone(), self.sockets.clone());
        Running(spawn_local(async move {
            let served = match part {
                Part::Storaged => transport::serve(&sockets.storaged, Storage::serve(node)).await,
                Part::Netd => transport::serve(&sockets.netd, NetworkService::serve(node)).await,
                Part::Init => transport::serve(&sockets.init, Machines::serve(node)).await,
                Part::Clockd => transport::serve(&sockets.clockd, ClockService::serve(node)).await,
            };
            served.unwrap();
        }))
    }

    /// The same node as a new storaged finds it, with revisions of its own.
    pub fn with_new_storaged(&self) -> Self {
        Self {
            storaged: Changes::new(),
            ..self.clone()
        }
    }

    /// Until these listen.
    pub async fn wait_for_sockets(&self, parts: &[Part]) {
        let listening = async {
            for part in parts {
                let path = match part {
                    Part::Storaged => &self.sockets.storaged,
                    Part::Netd => &self.sockets.netd,
                    Part::Init => &self.sockets.init,
                    Part::Clockd => &self.sockets.clockd,
                };
                while tokio::net::UnixStream::connect(path).await.is_err() {
                    tokio::task::yield_now().await;
                }
            }
        };
        timeout(LONGEST, listening).await.unwrap();
    }

    /// Changes something behind noded's back.
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock().unwrap());
        for changes in [&self.storaged, &self.netd, &self.init] {
            changes.note();
        }
        self.stirred.send_replace(());
        result
    }

    pub fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock().unwrap())
    }

    /// Waits until it is so.
    pub async fn wait(&self, what: &str, is_so: impl Fn(&State) -> bool) {
        let mut stirred = self.stirred.subscribe();
        let waiting = async {
            while !self.look(&is_so) {
                stirred.changed().await.unwrap();
            }
        };
        if timeout(LONGEST, waiting).await.is_err() {
            self.look(|state| panic!("not within {LONGEST:?}: {what}\n{:#?}", state.log));
        }
    }

    fn called(&self, name: &'static str) -> std::sync::MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap();
        *state.calls.entry(name).or_default() += 1;
        self.stirred.send_replace(());
        state
    }

    fn changing(
        &self,
        name: &'static str,
        what: impl std::fmt::Display,
        changes: &Changes,
    ) -> std::sync::MutexGuard<'_, State> {
        let mut state = self.called(name);
        state.log.push(format!("{name} {what}"));
        changes.note();
        state
    }
}

fn page<K: Ord + Clone, V: Clone>(map: &BTreeMap<K, V>, after: Option<K>) -> Page<V> {
    use std::ops::Bound::{Excluded, Unbounded};
    let from = after.map_or(Unbounded, Excluded);
    Page::of(map.range((from, Unbounded)).map(|(_, value)| value.clone()))
}

impl Storage for FakeNode {
    async fn changes(self, _: Context, seen: Revision) -> Revision {
        drop(self.called("storaged.changes"));
        self.storaged.since(seen).await
    }

    async fn disks(self, _: Context) -> Vec<Disk> {
        drop(self.called("disks"));
        vec![]
    }

    async fn pools(self, _: Context) -> Vec<Pool> {
        let there = self.called("pools");
        let pool = Pool {
            id: "pool".into(),
            root: "/pool".into(),
            mount: MountId(there.mount),
            media: loam_deployment::payload::Media::Ssd,
            size: Bytes::gib(100),
            reserved: Bytes(0),
            free: Bytes::gib(100),
        };
        there.disk.then_some(pool).into_iter().collect()
    }

    async fn volume_ensure(
        self,
        _: Context,
        key: VolumeKey,
        spec: VolumeSpec,
        version: Version,
    ) -> Result<Volume, StorageError> {
        if self.called("volume_ensure").hung.contains(&key) {
            return std::future::pending().await;
        }
        let mut state = self.changing("volume_ensure", &key, &self.storaged);
        if !state.disk {
            return Err(StorageError::NoPool);
        }
        let volume = state.volumes.entry(key.clone()).or_insert_with(|| Volume {
            path: Some(format!("/pool/{key}").into()),
            key,
            spec: spec.clone(),
            used: Bytes(0),
            version,
        });
        volume.spec.size = volume.spec.size.max(spec.size);
        volume.version = volume.version.max(version);
        Ok(volume.clone())
    }

    async fn volumes(self, _: Context, after: Option<VolumeKey>) -> Page<Volume> {
        if self.called("volumes").hung_list {
            return std::future::pending().await;
        }
        let state = self.state.lock().unwrap();
        match state.disk {
            true => page(&state.volumes, after),
            false => Page::of([]),
        }
    }

    async fn volume_delete(
        self,
        _: Context,
        key: VolumeKey,
        why: Deletion,
    ) -> Result<(), StorageError> {
        if self.called("volume_delete").hung.contains(&key) {
            return std::future::pending().await;
        }
        let what = format!("{key} {why:?}");
        self.changing("volume_delete", what, &self.storaged)
            .volumes
            .remove(&key);
        Ok(())
    }

    async fn image_ensure(self, _: Context, request: ImageRequest) -> ImageStatus {
        let image = request.image();
        let mut state = self.changing("image_ensure", &image, &self.storaged);
        let password = request.login.as_ref().map(|login| login.password.clone());
        state.logins.extend(request.login);
        let is_refused = password.is_some() && password == state.refused_password;
        let status = if is_refused {
            let failed = ImageState::Failed("the registry refuses the login".into());
            state.attempts.insert(image.clone(), failed.clone());
            failed
        } else if state.slow_images.contains(&image) {
            let fetching = ImageState::Fetching {
                done: Bytes(1),
                total: Some(Bytes(2)),
                waits_for: None,
                failed_before: None,
            };
            state.attempts.insert(image.clone(), fetching.clone());
            fetching
        } else if state.disk {
            state.attempts.remove(&image);
            state.images.insert(image.content(), image.clone());
            ImageState::Ready {
                path: "/pool/image".into(),
            }
        } else {
            ImageState::Failed("no disk is ready".into())
        };
        ImageStatus {
            image,
            state: status,
        }
    }

    async fn images(self, _: Context, after: Option<Image>) -> Page<ImageStatus> {
        let state = self.called("images");
        let ready = state.images.values().filter(|_| state.disk).map(|image| {
            let path = "/pool/image".into();
            (image.clone(), ImageState::Ready { path })
        });
        let attempts = state.attempts.iter().map(|(i, s)| (i.clone(), s.clone()));
        let all: BTreeMap<Image, ImageState> = ready.chain(attempts).collect();
        let all = all.into_iter().map(|(image, state)| {
            let status = ImageStatus {
                image: image.clone(),
                state,
            };
            (image, status)
        });
        page(&all.collect(), after)
    }

    async fn image_config(self, _: Context, image: Image) -> Result<ImageConfig, StorageError> {
        let state = self.called("image_config");
        if !state.disk || !state.images.contains_key(&image.content()) {
            return Err(StorageError::NoImage(Box::new(image)));
        }
        Ok(ImageConfig {
            cmd: vec!["/hello".into()],
            ..ImageConfig::default()
        })
    }

    async fn image_delete(self, _: Context, image: Image) -> Result<(), StorageError> {
        let mut state = self.changing("image_delete", &image, &self.storaged);
        state.attempts.remove(&image);
        state.images.remove(&image.content());
        Ok(())
    }

    async fn node_is(self, _: Context, node: NodeKey) -> Result<(), StorageError> {
        self.called("node_is").named = Some(node);
        Ok(())
    }

    async fn secret_load(self, _: Context, name: String) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.called("secret_load").secrets.get(&name).cloned())
    }

    async fn secret_store(
        self,
        _: Context,
        name: String,
        secret: Vec<u8>,
    ) -> Result<(), StorageError> {
        self.called("secret_store").secrets.insert(name, secret);
        Ok(())
    }
}

impl ClockService for FakeNode {
    async fn has_passed(self, _: Context, time: UnixTime, finalized_block: bool) {
        self.called("has_passed")
            .passed
            .push((time, finalized_block));
    }

    async fn clock(self, _: Context) -> Clock {
        Clock::default()
    }
}

impl NetworkService for FakeNode {
    async fn changes(self, _: Context, seen: Revision) -> Revision {
        drop(self.called("netd.changes"));
        self.netd.since(seen).await
    }

    async fn uplink(self, _: Context) -> Uplink {
        self.called("uplink").uplink.clone()
    }

    async fn network_check(
        self,
        _: Context,
        _: WorkloadId,
        _: NetworkSpec,
    ) -> Result<(), NetworkError> {
        drop(self.called("network_check"));
        Ok(())
    }

    async fn network_ensure(
        self,
        _: Context,
        id: WorkloadId,
        spec: NetworkSpec,
    ) -> Result<(), NetworkError> {
        let mut state = self.changing("network_ensure", &id, &self.netd);
        if !state.forgotten.contains(&id) {
            let bridge = "b".into();
            let network = Network {
                id: id.clone(),
                spec,
                bridge,
            };
            state.networks.insert(id, network);
        }
        Ok(())
    }

    async fn networks(self, _: Context, after: Option<WorkloadId>) -> Page<Network> {
        page(&self.called("networks").networks, after)
    }

    async fn network_delete(self, _: Context, id: WorkloadId) -> Result<(), NetworkError> {
        self.changing("network_delete", &id, &self.netd)
            .networks
            .remove(&id);
        Ok(())
    }

    async fn interface_ensure(
        self,
        _: Context,
        id: InterfaceId,
        spec: InterfaceSpec,
    ) -> Result<Interface, NetworkError> {
        let mut state = self.changing("interface_ensure", &id.machine, &self.netd);
        if !state.networks.contains_key(&id.network) {
            return Err(NetworkError::NoNetwork(id.network));
        }
        let interface = Interface {
            tap: format!("tap-{}", id.machine),
            id: id.clone(),
            in_force: true,
            spec,
            namespace: None,
        };
        state.interfaces.insert(id, interface.clone());
        Ok(interface)
    }

    async fn interfaces(self, _: Context, after: Option<InterfaceId>) -> Page<Interface> {
        page(&self.called("interfaces").interfaces, after)
    }

    async fn interface_delete(self, _: Context, id: InterfaceId) -> Result<(), NetworkError> {
        self.changing("interface_delete", &id.machine, &self.netd)
            .interfaces
            .remove(&id);
        Ok(())
    }
}

impl Machines for FakeNode {
    async fn changes(self, _: Context, seen: Revision) -> Revision {
        drop(self.called("init.changes"));
        self.init.since(seen).await
    }

    async fn machine_check(self, _: Context, _: MachineSpec) -> Result<(), MachineError> {
        drop(self.called("machine_check"));
        Ok(())
    }

    async fn machine_start(self, _: Context, spec: MachineSpec) -> Result<(), MachineError> {
        let id = spec.id.clone();
        let takes = self.state.lock().unwrap().start_takes;
        tokio::time::sleep(takes).await;
        let mut state = self.changing("machine_start", &id, &self.init);
        let runs = state.machines.get(&id);
        if runs.is_some_and(|machine| !matches!(machine.state, MachineState::Exited(_))) {
            return Err(MachineError::Runs(id));
        }
        let has_disk = |path: &Path| {
            path == Path::new("/pool/image")
                || state
                    .volumes
                    .values()
                    .any(|v| v.path.as_deref() == Some(path))
        };
        let has_tap = |tap: &str| state.interfaces.values().any(|i| i.tap == tap);
        let complete = state.disk
            && spec.disks.iter().all(|disk| has_disk(&disk.path))
            && spec.interfaces.iter().all(|i| has_tap(&i.tap));
        if !complete {
            let what = "something is missing".into();
            return Err(MachineError::Launch { id, what });
        }
        let crashes = state.crashing.contains(&id);
        let machine = Machine {
            id: id.clone(),
            fingerprint: spec.fingerprint,
            state: match crashes {
                true => MachineState::Exited(Exit::PoweredOff { status: Some(1) }),
                false => MachineState::Running,
            },
            age_seconds: 0,
            health: None,
            resets: 0,
            ends: None,
            console_position: 0,
        };
        state.machines.insert(id, machine);
        Ok(())
    }

    async fn machine_stop(self, _: Context, id: WorkloadId, _: u32) -> Result<(), MachineError> {
        let mut state = self.changing("machine_stop", &id, &self.init);
        let is_deaf = state.deaf.contains(&id);
        if let Some(machine) = state.machines.get_mut(&id) {
            machine.state = match is_deaf {
                true => MachineState::Stopping,
                false => MachineState::Exited(Exit::Killed),
            };
        }
        Ok(())
    }

    async fn machines(self, _: Context, after: Option<WorkloadId>) -> Page<Machine> {
        page(&self.called("machines").machines, after)
    }

    async fn machine_forget(self, _: Context, id: WorkloadId) -> Result<(), MachineError> {
        self.changing("machine_forget", &id, &self.init)
            .machines
            .remove(&id);
        Ok(())
    }

    async fn console_read(
        self,
        _: Context,
        id: WorkloadId,
        _: u64,
    ) -> Result<ConsoleChunk, MachineError> {
        Err(MachineError::Unknown(id))
    }

    async fn console_resize(
        self,
        _: Context,
        id: WorkloadId,
        _size: WindowSize,
    ) -> Result<(), MachineError> {
        Err(MachineError::Unknown(id))
    }

    async fn console_write(
        self,
        _: Context,
        id: WorkloadId,
        _: Vec<u8>,
    ) -> Result<(), MachineError> {
        Err(MachineError::Unknown(id))
    }

    async fn set_status(self, _: Context, status: NodeStatus) {
        let takes = self.state.lock().unwrap().drawing_takes;
        tokio::time::sleep(takes).await;
        self.called("set_status").status = Some(status);
    }

    async fn shutdown(self, _: Context, _: Shutdown) {}
}
