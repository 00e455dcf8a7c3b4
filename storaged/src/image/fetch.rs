//! The whole way of one image: manifest, configuration, layers, tree, file system.

use std::{
    fs::File,
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use loam_deployment::Bytes;
use loam_node_api::image::{Image, ImageLogin, ImageRequest};
use loam_oci::{
    address::Outside,
    digest::Digest,
    gate::Gate,
    login::Credentials,
    manifest::{Descriptor, Manifest},
    mirror::{Mirrors, Source},
    platform::Level,
    registry::{Registry, RegistryError},
    resolve::{Resolved, Search},
};
use tokio::{
    task::{JoinError, JoinHandle, spawn_blocking},
    time::{Instant as Moment, MissedTickBehavior, interval_at, sleep, sleep_until, timeout},
};

use super::{
    answering::{self, Answering, Hangs},
    blob::{self, BlobError, Layers},
    build::{Build, Listener},
    config::Config,
    failure::{FetchError, io},
    kept::Kept,
    late::Late,
    pace::{Pace, Patience},
    queue::{Origin, Queue, Turn},
    staging::{self, Record, Staging},
    stop::Stop,
};
use crate::{
    ledger::Full,
    pool::{Pool, has_place},
};

/// Layers fetched at a time: hides the distance to the registry, leaves room for others.
const CONNECTIONS: usize = 3;

/// How often a disk is asked whether it is still there while an image is built on it.
const LOOK_AT_DISK: Duration = Duration::from_secs(30);

/// How often one who waits for a pool looks whether its disk hangs.
const LOOK_AT_POOL: Duration = Duration::from_secs(1);

/// How far a fetch is. Read by those who ask.
#[derive(Debug, Default)]
pub struct Progress {
    pub done: AtomicU64,
    /// 0 until the manifest is here.
    pub total: AtomicU64,
    /// Others come first.
    pub queues: AtomicBool,
    /// On which pool it puts its files, once it has any.
    pub at: Arc<OnceLock<Arc<Pool>>>,
}

/// What all fetches share.
#[derive(Clone, Debug)]
pub struct Means {
    pub listener: Arc<dyn Listener>,
    pub outside: Outside,
    pub mirrors: Arc<Mirrors>,
    /// So often in a row a registry may fail in a way that may pass before the image has failed.
    pub passing: u32,
    /// What the processors can that machines run on.
    pub level: Level,
    pub patience: Patience,
    pub fetching: Queue,
    pub building: Queue,
    pub answering: Answering,
}

#[derive(Debug)]
pub struct Fetch {
    pub request: ImageRequest,
    pub pools: Vec<Arc<Pool>>,
    /// Of these, some that hold what must be gone before.
    pub avoid: Vec<Arc<Pool>>,
    pub means: Means,
    pub progress: Arc<Progress>,
    pub stop: Stop,
    /// Unique among the fetches of this process.
    pub number: u64,
    /// What an earlier try has left.
    pub begun: Option<Staging>,
    /// What is known of earlier tries.
    pub record: Record,
}

/// How a fetch ended.
#[derive(Debug)]
pub struct Outcome {
    pub result: Result<Kept, FetchError>,
    /// What is there still, and counted.
    pub left: Option<Staging>,
    /// What is known now of this and earlier tries.
    pub record: Record,
    /// To be given back once the result is known to all, so that no second fetch of the same digest
    /// builds it meanwhile.
    pub turn: Option<Turn>,
    /// What was not waited for.
    pub late: Option<Late>,
}

/// What a fetch has in its hands besides files.
#[derive(Debug, Default)]
struct Held {
    /// To build.
    turn: Option<Turn>,
    /// A build that is not waited for any more.
    built: Option<JoinHandle<Result<Kept, FetchError>>>,
}

/// All layers, in the staging folder, and what is made of them.
type Brought = (Arc<Staging>, Resolved, Config);

impl Fetch {
    /// The image is on a pool when this returns well; else nothing is on any that is not counted.
    pub async fn run(mut self) -> Outcome {
        let mut staging = self.begun.take().map(Arc::new);
        if let Some(begun) = &staging {
            self.is_at(begun.pool());
        }
        let before = staging.as_ref().map_or(0, |begun| begun.claim().bytes());
        let mut held = Held::default();
        let result = self.fetch(&mut staging, &mut held).await;
        let brought = self.done().saturating_sub(before);
        let mut record = match &staging {
            Some(staging) => staging.record(),
            None => self.record.clone(),
        };
        record.building = false;
        if let Err(error) = &result {
            // Whoever is slow but gets on is not made to wait longer and longer.
            let gets_on = error.keeps_layers() && brought >= self.means.patience.least;
            if error.is_death() {
                record.deaths = record.deaths.saturating_add(1);
            } else if gets_on {
                record.failures = 1;
            } else {
                record.failures = record.failures.saturating_add(1);
            }
            record.is_flawed = error.is_flaw();
            record.why = Some(error.shown());
        }
        let (left, late) = match (staging, held.built) {
            (Some(staging), Some(built)) => (None, Some(Late::build(staging, built))),
            (Some(staging), None) => self.settle(staging, &result, record.clone()).await,
            (None, _) => (None, None),
        };
        Outcome {
            result,
            left,
            record,
            turn: held.turn,
            late,
        }
    }

    /// Removes what is of no use any more, counts the rest and notes how it went.
    async fn settle(
        &self,
        staging: Arc<Staging>,
        result: &Result<Kept, FetchError>,
        record: Record,
    ) -> (Option<Staging>, Option<Late>) {
        if matches!(result, Err(FetchError::Hangs(_))) {
            return (Arc::into_inner(staging), None);
        }
        let is_over = matches!(result, Ok(_) | Err(FetchError::Stopped));
        let keeps_layers = result.as_ref().is_err_and(FetchError::keeps_layers);
        let (image, pool) = (self.image(), staging.pool().clone());
        let mut settled = spawn_blocking(move || {
            let done = if is_over {
                staging.remove()
            } else if keeps_layers {
                staging.recount();
                staging.note(|noted| *noted = record)
            } else {
                let cleared = staging.clear();
                staging.note(|noted| *noted = record).and(cleared)
            };
            if let Err(error) = &done {
                tracing::warn!(%image, %error, "cannot put an image's layers away; what is there stays counted");
            }
            (staging, is_over && done.is_ok())
        });
        let left = |settled: Result<(Arc<Staging>, bool), JoinError>| match settled {
            Ok((staging, is_gone)) if !is_gone => Arc::into_inner(staging),
            _ => None,
        };
        let answering = &self.means.answering;
        tokio::select! {
            settled = answering.see(&pool, answering::PATIENCE, &mut settled) => (left(settled), None),
            () = self.better_elsewhere(&pool) => {
                let late = async move { left(settled.await) };
                (None, Some(Late::settlement(pool, late)))
            }
        }
    }

    async fn fetch(
        &self,
        begun: &mut Option<Arc<Staging>>,
        held: &mut Held,
    ) -> Result<Kept, FetchError> {
        let (at, resolved, config) = self.bring(begun).await?;
        held.turn = Some(self.turn(&self.means.building).await?);
        if !self.means.answering.answers(at.pool()) {
            return Err(Hangs.into());
        }
        self.build(at, resolved, config, held).await
    }

    /// All of the image from the first who has it: a mirror, or its registry, whose failure is the one to tell.
    async fn bring(&self, begun: &mut Option<Arc<Staging>>) -> Result<Brought, FetchError> {
        // What is shown to those alone who log in is asked of whom the login is for.
        let mirrors = match self.request.login {
            None => self.means.mirrors.sources(&self.request.reference),
            Some(_) => Vec::new(),
        };
        for Source { host, repository } in mirrors {
            let mirror = Registry::new(&host, &repository, &self.means.outside, None);
            match self.bring_from(mirror, begun).await {
                Err(error) if error.is_registrys() => {
                    let image = self.image();
                    tracing::info!(%image, %host, %error, "a mirror fails; asking the next");
                }
                other => return other,
            }
        }
        self.bring_from(self.registry(), begun).await
    }

    async fn bring_from(
        &self,
        registry: Result<Registry, RegistryError>,
        begun: &mut Option<Arc<Staging>>,
    ) -> Result<Brought, FetchError> {
        let registry = registry?;
        self.progress.queues.store(true, Ordering::Relaxed);
        let turn = self.turn(&self.means.fetching).await?;
        self.progress.queues.store(false, Ordering::Relaxed);
        let (resolved, config) = tokio::select! {
            documents = self.documents(&registry) => documents?,
            () = self.stop.wait() => return Err(FetchError::Stopped),
        };
        let layers = distinct(&resolved.manifest.layers);
        let compressed = layers.iter().map(|layer| layer.size).sum();
        self.progress.total.store(compressed, Ordering::Relaxed);
        let at = match begun {
            Some(begun) => {
                let folder = begun.folder();
                let made = move || staging::make_folder(&folder);
                let made = self.means.answering.ask(begun.pool(), made).await?;
                made.map_err(io("make a folder for the image's layers"))?;
                begun.clone()
            }
            None => begun.insert(self.choose(compressed).await?).clone(),
        };
        self.is_at(at.pool());
        self.transfer(turn, &registry, &at, layers).await?;
        Ok((at, resolved, config))
    }

    async fn build(
        &self,
        staging: Arc<Staging>,
        Resolved { manifest, level }: Resolved,
        config: Config,
        held: &mut Held,
    ) -> Result<Kept, FetchError> {
        let pool = staging.pool().clone();
        let stop = Stop::default();
        let build = Build {
            image: self.image(),
            level,
            listener: self.means.listener.clone(),
            stop: stop.clone(),
            number: self.number,
            patience: self.means.patience,
            until: Instant::now() + self.means.patience.build,
            staging,
        };
        let mut built = spawn_blocking(move || build.run(&manifest, config));
        let mut looks = interval_at(Moment::now() + LOOK_AT_DISK, LOOK_AT_DISK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let longest = sleep(self.means.patience.build);
        tokio::pin!(longest);
        let mut hung = false;
        loop {
            tokio::select! {
                built = &mut built => {
                    let failed = |error| io("build the image")(io::Error::other(error));
                    return match built.unwrap_or_else(|error| Err(failed(error))) {
                        // It waited for the disk, which is no fault of the image's.
                        Err(error) if error.is_death() && hung => Err(Hangs.into()),
                        built => built,
                    };
                }
                () = self.stop.wait(), if !stop.is_set() => stop.set(),
                () = self.better_elsewhere(&pool) => {
                    stop.set();
                    held.built = Some(built);
                    return Err(Hangs.into());
                }
                // All that it reads is read by now: it writes, or waits for the disk. Others may build meanwhile.
                () = &mut longest, if held.turn.is_some() => held.turn = None,
                // It is not at work then; it waits for the disk. Others may build on another.
                _ = looks.tick(), if held.turn.is_some() => {
                    let folder = pool.images();
                    let sync = move || File::open(folder)?.sync_all();
                    if self.means.answering.ask(&pool, sync).await.is_err() {
                        hung = true;
                        held.turn = None;
                    }
                }
            }
        }
    }

    /// The one that the reference names is told the login, and no other: nothing else of this knows it.
    fn registry(&self) -> Result<Registry, RegistryError> {
        let ImageRequest { reference, login } = &self.request;
        let credentials = |login: &ImageLogin| Credentials {
            user: login.user.clone(),
            password: login.password.clone(),
        };
        Registry::new(
            reference.registry(),
            reference.repository(),
            &self.means.outside,
            login.as_ref().map(credentials),
        )
    }

    fn image(&self) -> Image {
        self.request.image()
    }

    async fn turn(&self, queue: &Queue) -> Result<Turn, FetchError> {
        tokio::select! {
            turn = queue.turn(Origin::of(&self.request.reference)) => Ok(turn),
            () = self.stop.wait() => Err(FetchError::Stopped),
        }
    }

    async fn documents(&self, registry: &Registry) -> Result<(Resolved, Config), FetchError> {
        let digest = Digest::of_manifest(&self.request.reference);
        let mut search = Search::new(digest, self.means.level);
        let resolved = loop {
            let document = match self.soon(registry.manifest(search.wanted())).await {
                // What an index has besides may be there.
                Err(FetchError::Registry(error)) if !error.is_passing() => {
                    search.pass_over(FetchError::from(error))?;
                    continue;
                }
                document => document?,
            };
            if let Some(resolved) = search.take_in(&document)? {
                break resolved;
            }
        };
        let Manifest { config, layers } = &resolved.manifest;
        let config = self.soon(registry.small_blob(config.digest, config.size));
        let config = Config::parse(&config.await?, layers.len())?;
        Ok((resolved, config))
    }

    async fn soon(
        &self,
        document: impl Future<Output = Result<Vec<u8>, RegistryError>>,
    ) -> Result<Vec<u8>, FetchError> {
        match timeout(self.means.patience.document, document).await {
            Ok(document) => Ok(document?),
            Err(_) => Err(FetchError::SlowDocument),
        }
    }

    /// The pool with most room. Nothing is promised yet: a size that a registry only claims takes no
    /// space from others.
    async fn choose(&self, compressed: u64) -> Result<Arc<Staging>, FetchError> {
        let wanted = Bytes(compressed);
        let free = |pool: &Arc<Pool>| pool.with_ledger(|ledger| ledger.free_for_images());
        let mut pools = self.pools.clone();
        pools.sort_by_key(|pool| std::cmp::Reverse(free(pool)));
        let mut failure = FetchError::NoPool;
        for pool in pools {
            let free = free(&pool);
            if wanted > free {
                // So it is on all that come after.
                return Err(FetchError::NoSpace(Full { wanted, free }));
            }
            if self.avoid.iter().any(|other| Arc::ptr_eq(other, &pool)) {
                failure = Hangs.into();
                continue;
            }
            let (at, record) = (pool.clone(), self.record.clone());
            let begin = move || Staging::begin(&at, record);
            failure = match self.means.answering.ask(&pool, begin).await {
                Ok(Ok(staging)) => return Ok(Arc::new(staging)),
                Ok(Err(error)) => io("make a folder for the image's layers")(error),
                Err(hangs) => hangs.into(),
            };
        }
        Err(failure)
    }

    /// Has all layers in the staging folder. Gives its turn to others from time to time, and back
    /// for good as soon as it ends in any way.
    async fn transfer(
        &self,
        turn: Turn,
        registry: &Registry,
        staging: &Staging,
        layers: Vec<Descriptor>,
    ) -> Result<(), FetchError> {
        let Patience {
            window, transfer, ..
        } = self.means.patience;
        let gate = Gate::default();
        let shared = Layers {
            registry,
            staging,
            gate: &gate,
            done: &self.progress.done,
        };
        let work = all_layers(&shared, layers);
        tokio::pin!(work);
        let mut pace = Pace::new(&self.means.patience, self.done());
        let mut windows = interval_at(Moment::now() + window, window);
        windows.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let deadline = Moment::from_std(staging.began()) + transfer;
        let mut turn = Some(turn);
        let error = loop {
            tokio::select! {
                result = &mut work => return Ok(result?),
                () = self.stop.wait() => break FetchError::Stopped,
                () = sleep_until(deadline) => {
                    break FetchError::TooLong(transfer.as_secs() / 3600);
                }
                resumed = self.turn(&self.means.fetching), if turn.is_none() => {
                    match resumed {
                        Ok(resumed) => turn = Some(resumed),
                        Err(error) => break error,
                    }
                    pace.resume(self.done());
                    windows.reset();
                    gate.let_pass();
                }
                _ = windows.tick(), if turn.is_some() => {
                    if !pace.keeps_up(self.done()) {
                        break self.slow();
                    }
                    if turn.as_ref().is_some_and(Turn::is_wanted) {
                        gate.close();
                        turn = None;
                    }
                }
            }
        };
        drop(turn);
        gate.halt();
        // Why it ended is known; this only waits until nothing is written any more.
        let answering = &self.means.answering;
        tokio::select! {
            _ = answering.see(staging.pool(), answering::PATIENCE, work) => Err(error),
            // A call that has not returned goes to a file that is removed by the time that it does.
            () = self.better_elsewhere(staging.pool()) => Err(Hangs.into()),
        }
    }

    /// Returns when the pool's disk hangs, of which nobody is told, and there is another.
    async fn better_elsewhere(&self, pool: &Pool) {
        while !pool.hangs() || !has_place(&self.pools) {
            sleep(LOOK_AT_POOL).await;
        }
    }

    /// It is on one pool for good.
    fn is_at(&self, pool: &Arc<Pool>) {
        self.progress.at.get_or_init(|| pool.clone());
    }

    fn slow(&self) -> FetchError {
        let Patience { window, least, .. } = self.means.patience;
        FetchError::Slow(Bytes(least / window.as_secs().max(1)))
    }

    fn done(&self) -> u64 {
        self.progress.done.load(Ordering::Relaxed)
    }
}

/// Ends when nothing is written any more: the first failure halts the others.
async fn all_layers(shared: &Layers<'_>, layers: Vec<Descriptor>) -> Result<(), BlobError> {
    let mut transfers = stream::iter(layers)
        .map(|layer| async move { blob::fetch(shared, &layer).await })
        .buffer_unordered(CONNECTIONS);
    let mut all = Ok(());
    while let Some(result) = transfers.next().await {
        if all.is_ok() && result.is_err() {
            shared.gate.halt();
            all = result;
        }
    }
    all
}

/// Builders name the layer that changes nothing again and again.
fn distinct(layers: &[Descriptor]) -> Vec<Descriptor> {
    let mut distinct: Vec<Descriptor> = Vec::new();
    for layer in layers {
        if !distinct.iter().any(|other| other.digest == layer.digest) {
            distinct.push(layer.clone());
        }
    }
    distinct
}

/// For those who show it.
pub fn shown(progress: &Progress) -> (Bytes, Option<Bytes>) {
    let total = progress.total.load(Ordering::Relaxed);
    let done = progress.done.load(Ordering::Relaxed);
    (Bytes(done), (total > 0).then_some(Bytes(total)))
}
