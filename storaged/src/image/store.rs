//! Which images are here, being fetched, or failed.
//!
//! An attempt belongs to a reference: two who name one digest at two registries share neither
//! progress nor failures nor back-off. What is ready belongs to its digest: it is the same bytes,
//! whoever asks for it by whatever name. Either is of one contract alone if it is asked for with that
//! contract's login, and is then nothing to anybody else (see [`loam_node_api::image`]): two who log
//! in for one digest fetch it twice. Logins are known in memory only.
//!
//! Every call answers from memory. What a registry, a disk or a build takes its time for goes on
//! in tasks, and shows in the answer of a later call.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use loam_node_api::{
    image::{Image, ImageRequest},
    page::Changes,
    storage::{ImageConfig, ImageState, ImageStatus, StorageError},
};
use loam_oci::{address::Outside, mirror::Mirrors, platform::Level};
use tokio::{runtime::Handle, sync::watch, time::sleep};

use super::{
    answering::Answering,
    backoff::pause,
    build::Nobody,
    fetch::{Fetch, Means, Outcome, Progress},
    kept::Kept,
    known::{Attempt, Failure, Known},
    limits,
    pace::Patience,
    queue::{Places, Queue},
    staging::{Record, Staging},
    stop::Stop,
};
use crate::pool::{Pool, has_place};

/// The pools of this moment.
pub type Pools = Arc<dyn Fn() -> Vec<Arc<Pool>> + Send + Sync>;

/// How often one who waits for what is on a disk looks whether the disk hangs.
const LOOK_AT_DISKS: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub struct Images(pub(super) Arc<Shared>);

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Images").field(&self.0.known).finish()
    }
}

pub(super) struct Shared {
    pools: Pools,
    means: Means,
    known: Mutex<Known>,
    /// Told when a fetch begins or ends, however it ended, and when an image is removed.
    pub(super) changes: Changes,
    /// Rises when something has left `leaving` or `removing`.
    pub(super) left: watch::Sender<u64>,
}

impl Images {
    pub fn new(
        pools: Pools,
        outside: Outside,
        mirrors: Mirrors,
        level: Level,
        changes: Changes,
    ) -> Self {
        let means = Means {
            mirrors: Arc::new(mirrors),
            level,
            ..means(outside)
        };
        Self::with(pools, means, changes)
    }

    fn with(pools: Pools, means: Means, changes: Changes) -> Self {
        Self(Arc::new(Shared {
            pools,
            means,
            known: Mutex::default(),
            changes,
            left: watch::Sender::default(),
        }))
    }

    /// Starts to fetch unless it is here or being fetched. Must be called inside a tokio runtime, as
    /// all of this.
    pub fn ensure(&self, request: ImageRequest) -> ImageStatus {
        let mut known = self.current();
        let image = request.image();
        if let Some(kept) = known.kept(&image) {
            let state = ImageState::Ready { path: kept.path() };
            return ImageStatus { image, state };
        }
        self.attempt(&mut known, request)
    }

    /// Begins an attempt, or goes on with one that failed, unless its back-off does not allow it yet.
    fn attempt(&self, known: &mut Known, request: ImageRequest) -> ImageStatus {
        let (image, login) = (request.image(), request.login.as_ref());
        let (record, begun) = match known.attempts.remove(&image) {
            None => (Record::new(image.clone()), None),
            Some(Attempt::Failed(failure)) if failure.is_due(login) => {
                let is_of_another = failure.is_of_another(login);
                let Failure {
                    mut record, left, ..
                } = *failure;
                if is_of_another {
                    record.failures = 0;
                }
                (record, left)
            }
            Some(mut attempt) => {
                attempt.set_login(request.login);
                let status = attempt.status(&image);
                known.attempts.insert(image, attempt);
                return status;
            }
        };
        let attempt = self.start(known, request, record, begun);
        let status = attempt.status(&image);
        known.attempts.insert(image, attempt);
        self.0.changes.note();
        status
    }

    /// All, in the order of their images.
    pub fn list(&self) -> Vec<ImageStatus> {
        self.current().statuses()
    }

    /// What a ready image says about how to run it. Reads it from its disk, on its pool's own thread.
    pub async fn config(&self, image: &Image) -> Result<ImageConfig, StorageError> {
        let kept = self.current().kept(image).cloned();
        let kept = kept.ok_or_else(|| StorageError::NoImage(Box::new(image.clone())))?;
        let pool = kept.pool().clone();
        pool.ask(move || kept.config())
            .await?
            .map_err(|error| StorageError::Io(format!("read what image {image} says: {error}")))
    }

    /// Ends the attempt at this image; removes what is ready by its content. What cannot be removed is
    /// listed again.
    pub fn delete(&self, image: &Image) {
        let mut known = self.current();
        if let Some(attempt) = known.attempts.remove(image) {
            self.end(&mut known, image, attempt);
            self.0.changes.note();
            tracing::info!(%image, "fetch ended: no longer wanted");
        }
        for kept in known.ready.remove(&image.content()).unwrap_or_default() {
            self.remove(&mut known, kept);
            self.0.changes.note();
        }
    }

    fn start(
        &self,
        known: &mut Known,
        request: ImageRequest,
        record: Record,
        begun: Option<Staging>,
    ) -> Attempt {
        // What has come to a disk that hangs is of no use until it answers again.
        let hanging = |begun: &mut Staging| begun.pool().hangs() && has_place(&known.pools);
        let mut begun = begun;
        if let Some(hanging) = begun.take_if(hanging) {
            self.put_away(known, hanging);
        }
        let number = known.next_number();
        let progress = Arc::<Progress>::default();
        let stop = Stop::default();
        let (image, login) = (request.image(), request.login.clone());
        let failed_before = record.why.clone();
        let mut fetch = Fetch {
            request: request.clone(),
            pools: known.pools.clone(),
            avoid: Vec::new(),
            means: self.0.means.clone(),
            progress: progress.clone(),
            stop: stop.clone(),
            number,
            begun,
            record,
        };
        tracing::info!(%image, "fetching an image");
        let images = self.clone();
        Handle::current().spawn(async move {
            fetch.avoid = images.unobstructed(&image, &fetch.stop).await;
            let outcome = fetch.run().await;
            images.finish(&request, number, outcome);
        });
        Attempt::Fetching {
            number,
            progress,
            stop,
            failed_before,
            login,
        }
    }

    /// Returns once no earlier attempt at the image, nor an image of its content, is still being
    /// removed, whose files would be taken for those of this one; or only from disks that hang, which
    /// are then to be avoided.
    async fn unobstructed(&self, image: &Image, stop: &Stop) -> Vec<Arc<Pool>> {
        let mut left = self.0.left.subscribe();
        loop {
            left.borrow_and_update();
            let in_the_way = self.lock().in_the_way(image);
            let hanging = in_the_way
                .into_iter()
                .map(|pool| pool.filter(|pool| pool.hangs()))
                .collect();
            if let Some(hanging) = hanging {
                return hanging;
            }
            tokio::select! {
                _ = left.changed() => {}
                // A disk that comes to hang tells nobody.
                () = sleep(LOOK_AT_DISKS) => {}
                () = stop.wait() => return Vec::new(),
            }
        }
    }

    /// `request` is what was tried.
    fn finish(&self, request: &ImageRequest, number: u64, outcome: Outcome) {
        let image = &request.image();
        let Outcome {
            result,
            left,
            record,
            turn,
            late,
        } = outcome;
        let mut guard = self.current();
        let known = &mut *guard;
        let is_wanted = matches!(
            known.attempts.get(image),
            Some(Attempt::Fetching { number: current, .. }) if *current == number
        );
        let ended = match is_wanted {
            true => known.attempts.remove(image),
            false => None,
        };
        match result {
            Ok(kept) if is_wanted && known.has_pool(kept.pool()) => {
                tracing::info!(%image, size = %kept.size(), "image is ready");
                known.add(kept);
                self.end_needless(known);
                left.into_iter().for_each(|left| self.put_away(known, left));
            }
            Err(error) if is_wanted => {
                let wait = error.wait(record.failures <= self.0.means.passing);
                let pause = pause(&record).max(wait.unwrap_or_default());
                tracing::warn!(%image, %error, ?pause, "could not fetch an image; it may be asked for again after a pause");
                if wait.is_some() {
                    self.go_on_after(pause, image.clone(), number);
                }
                let failure = Failure {
                    waits: wait.map(|_| number),
                    record,
                    again: Instant::now() + pause,
                    left: left.filter(|left| known.has_pool(left.pool())),
                    login: request.login.clone(),
                };
                let failed = Attempt::Failed(Box::new(failure));
                known.attempts.insert(image.clone(), failed);
                // Another one may have been named meanwhile.
                if let Some(Attempt::Fetching { login, .. }) = ended
                    && login != request.login
                {
                    let reference = request.reference.clone();
                    self.attempt(known, ImageRequest { reference, login });
                }
            }
            unwanted => {
                if let Ok(kept) = unwanted
                    && !known.has(&kept)
                {
                    self.remove(known, kept);
                }
                left.into_iter().for_each(|left| self.put_away(known, left));
            }
        }
        known.leaving.remove(&number);
        late.into_iter()
            .for_each(|late| self.clear_late(known, image, late));
        self.tell_of_leaving(guard);
        self.0.changes.note();
        drop(turn);
    }

    /// Goes on with an attempt whose registry is waited for, unless it has ended or gone on
    /// meanwhile.
    fn go_on_after(&self, pause: Duration, image: Image, number: u64) {
        let images = self.clone();
        Handle::current().spawn(async move {
            sleep(pause).await;
            let mut guard = images.current();
            let known = &mut *guard;
            if let Some(Attempt::Failed(failure)) = known.attempts.get_mut(&image)
                && failure.waits == Some(number)
            {
                failure.again = Instant::now();
                let login = failure.login.clone();
                let reference = image.reference;
                images.attempt(known, ImageRequest { reference, login });
            }
        });
    }

    /// What is known, with the images of pools that came, without those of pools that went.
    fn current(&self) -> MutexGuard<'_, Known> {
        let pools = (self.0.pools)();
        let mut guard = self.lock();
        let known = &mut *guard;
        let is_same = pools.len() == known.pools.len()
            && std::iter::zip(&pools, &known.pools).all(|(a, b)| Arc::ptr_eq(a, b));
        if is_same {
            // A disk may answer again.
            self.end_needless(known);
            return guard;
        }
        let before = std::mem::replace(&mut known.pools, pools.clone());
        known.forget_absent();
        for pool in &pools {
            if before.iter().any(|other| Arc::ptr_eq(other, pool)) {
                continue;
            }
            let found = pool.take_found_images();
            for image in found.ready {
                let kept = Kept::found(pool, image);
                if kept.level() <= self.0.means.level {
                    known.add(kept);
                    continue;
                }
                tracing::warn!(image = %kept.image(), level = ?kept.level(), "removing an image that this machine's processors cannot run; its disk comes from another machine");
                self.remove(known, kept);
            }
            for leftover in found.leftovers {
                let record = leftover.record.clone();
                let left = Staging::resume(pool, leftover);
                if known.attempts.contains_key(&record.image) {
                    self.put_away(known, left);
                    continue;
                }
                let failed = Attempt::Failed(Box::new(Failure {
                    waits: None,
                    again: Instant::now() + pause(&record),
                    record: record.clone(),
                    left: Some(left),
                    login: None,
                }));
                known.attempts.insert(record.image, failed);
            }
        }
        self.end_needless(known);
        self.0.changes.note();
        guard
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn means(outside: Outside) -> Means {
    Means {
        listener: Arc::new(Nobody),
        outside,
        mirrors: Arc::default(),
        passing: limits::PASSING_FAILURES,
        level: Level::V1,
        patience: Patience::USUAL,
        fetching: Queue::new(Places {
            all: limits::FETCHES,
            of_one_site: limits::FETCHES_OF_ONE_SITE,
        }),
        building: Queue::new(Places {
            all: 1,
            of_one_site: 1,
        }),
        answering: Answering::default(),
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
