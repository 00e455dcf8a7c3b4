//! Which images are here, being fetched, or failed.
//!
//! An attempt belongs to a reference: two who name one digest at two registries share neither
//! progress nor failures nor back-off. What is ready belongs to its digest: it is the same bytes,
//! whoever asks for it by whatever name.
//!
//! Every call answers from memory. What a registry, a disk or `mkfs.erofs` takes its time for goes
//! on in tasks, and shows in the answer of a later call.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use loam_deployment::payload::OciReference;
use loam_node_api::{
    page::Changes,
    storage::{ImageConfig, ImageState, ImageStatus, StorageError},
};
use loam_oci::{address::Outside, digest::Digest, mirror::Mirrors, platform::Level};
use tokio::{runtime::Handle, sync::watch, time::sleep};

use super::{
    answering::Answering,
    backoff::pause,
    erofs::Pack,
    fetch::{Fetch, Means, Outcome, Progress},
    kept::Kept,
    known::{Attempt, Failure, Known, Leaving, Removing},
    late::{Late, Remains},
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
pub struct Images(Arc<Shared>);

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Images").field(&self.0.known).finish()
    }
}

struct Shared {
    pools: Pools,
    means: Means,
    known: Mutex<Known>,
    /// Told when a fetch begins or ends, however it ended, and when an image is removed.
    changes: Changes,
    /// Rises when something has left `leaving` or `removing`.
    left: watch::Sender<u64>,
}

impl Images {
    pub fn new(
        pools: Pools,
        packer: Arc<dyn Pack>,
        outside: Outside,
        mirrors: Mirrors,
        level: Level,
        changes: Changes,
    ) -> Self {
        let means = Means {
            mirrors: Arc::new(mirrors),
            level,
            ..means(packer, outside)
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
    pub fn ensure(&self, reference: OciReference) -> ImageStatus {
        let mut known = self.current();
        if let Some(kept) = known.kept(&reference) {
            let state = ImageState::Ready { path: kept.path() };
            return ImageStatus {
                image: reference,
                state,
            };
        }
        let (record, begun) = match known.attempts.remove(&reference) {
            None => (Record::new(reference.clone()), None),
            Some(Attempt::Failed(failure)) if failure.again <= Instant::now() => {
                let Failure { record, left, .. } = *failure;
                (record, left)
            }
            Some(attempt) => {
                let status = attempt.status(&reference);
                known.attempts.insert(reference, attempt);
                return status;
            }
        };
        let attempt = self.start(&mut known, record, begun);
        let status = attempt.status(&reference);
        known.attempts.insert(reference, attempt);
        self.0.changes.note();
        status
    }

    /// All, in the order of their references.
    pub fn list(&self) -> Vec<ImageStatus> {
        self.current().statuses()
    }

    /// What a ready image says about how to run it. Reads it from its disk, on its pool's own thread.
    pub async fn config(&self, reference: &OciReference) -> Result<ImageConfig, StorageError> {
        let kept = self.current().kept(reference).cloned();
        let kept = kept.ok_or_else(|| StorageError::NoImage(reference.clone()))?;
        let pool = kept.pool().clone();
        pool.ask(move || kept.config())
            .await?
            .map_err(|error| StorageError::Io(format!("read what image {reference} says: {error}")))
    }

    /// Ends the attempt of this reference; removes a ready image by its digest. What cannot be
    /// removed is listed again.
    pub fn delete(&self, reference: &OciReference) {
        let mut known = self.current();
        if let Some(attempt) = known.attempts.remove(reference) {
            self.end(&mut known, reference, attempt);
            self.0.changes.note();
            tracing::info!(image = %reference, "fetch ended: no longer wanted");
        }
        let digest = Digest::of_manifest(reference);
        for kept in known.ready.remove(&digest).unwrap_or_default() {
            self.remove(&mut known, kept);
            self.0.changes.note();
        }
    }

    fn start(&self, known: &mut Known, record: Record, begun: Option<Staging>) -> Attempt {
        // What has come to a disk that hangs is of no use until it answers again.
        let hanging = |begun: &mut Staging| begun.pool().hangs() && has_place(&known.pools);
        let mut begun = begun;
        if let Some(hanging) = begun.take_if(hanging) {
            self.put_away(known, hanging);
        }
        let number = known.next_number();
        let progress = Arc::<Progress>::default();
        let stop = Stop::default();
        let image = record.reference.clone();
        let mut fetch = Fetch {
            image: image.clone(),
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
            images.finish(&image, number, outcome);
        });
        Attempt::Fetching {
            number,
            progress,
            stop,
        }
    }

    /// Returns once no earlier attempt of the reference, nor an image of its digest, is still being
    /// removed, whose files would be taken for those of this one; or only from disks that hang, which
    /// are then to be avoided.
    async fn unobstructed(&self, reference: &OciReference, stop: &Stop) -> Vec<Arc<Pool>> {
        let mut left = self.0.left.subscribe();
        loop {
            left.borrow_and_update();
            let in_the_way = self.lock().in_the_way(reference);
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

    fn finish(&self, reference: &OciReference, number: u64, outcome: Outcome) {
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
            known.attempts.get(reference),
            Some(Attempt::Fetching { number: current, .. }) if *current == number
        );
        if is_wanted {
            known.attempts.remove(reference);
        }
        match result {
            Ok(kept) if is_wanted && known.has_pool(kept.pool()) => {
                tracing::info!(image = %reference, size = %kept.size(), "image is ready");
                known.add(kept);
                self.end_needless(known);
                left.into_iter().for_each(|left| self.put_away(known, left));
            }
            Err(error) if is_wanted => {
                let wait = error.wait(record.failures <= self.0.means.passing);
                let pause = pause(&record).max(wait.unwrap_or_default());
                tracing::warn!(image = %reference, %error, ?pause, "could not fetch an image; it may be asked for again after a pause");
                if wait.is_some() {
                    self.go_on_after(pause, reference.clone(), number);
                }
                let failure = Failure {
                    waits: wait.map(|_| number),
                    record,
                    again: Instant::now() + pause,
                    left: left.filter(|left| known.has_pool(left.pool())),
                };
                let failed = Attempt::Failed(Box::new(failure));
                known.attempts.insert(reference.clone(), failed);
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
            .for_each(|late| self.clear_late(known, reference, late));
        // Who hears of it looks at what is known at once.
        drop(guard);
        self.0.left.send_modify(|count| *count += 1);
        self.0.changes.note();
        drop(turn);
    }

    /// Goes on with an attempt whose registry is waited for, unless it has ended or gone on
    /// meanwhile.
    fn go_on_after(&self, pause: Duration, reference: OciReference, number: u64) {
        let images = self.clone();
        Handle::current().spawn(async move {
            sleep(pause).await;
            let mut guard = images.current();
            let known = &mut *guard;
            let waits = matches!(
                known.attempts.get(&reference),
                Some(Attempt::Failed(failure)) if failure.waits == Some(number)
            );
            if !waits {
                return;
            }
            if let Some(Attempt::Failed(failure)) = known.attempts.remove(&reference) {
                let Failure { record, left, .. } = *failure;
                let attempt = images.start(known, record, left);
                known.attempts.insert(reference, attempt);
                drop(guard);
                images.0.changes.note();
            }
        });
    }

    /// Removes what an attempt that has gone elsewhere leaves on a disk that hangs, when it has ended.
    fn clear_late(&self, known: &mut Known, reference: &OciReference, late: Late) {
        let number = known.next_number();
        let leaving = Leaving {
            reference: reference.clone(),
            at: Arc::new(OnceLock::from(late.pool)),
        };
        known.leaving.insert(number, leaving);
        let images = self.clone();
        Handle::current().spawn(async move {
            let Remains { kept, left } = late.work.await;
            let mut known = images.lock();
            kept.into_iter()
                .for_each(|kept| images.remove(&mut known, kept));
            left.into_iter()
                .for_each(|left| images.put_away(&mut known, left));
            known.leaving.remove(&number);
            drop(known);
            images.0.left.send_modify(|count| *count += 1);
        });
    }

    /// Has an attempt that is no longer in the list end, and what it holds removed.
    fn end(&self, known: &mut Known, reference: &OciReference, attempt: Attempt) {
        match attempt {
            Attempt::Fetching {
                number,
                stop,
                progress,
            } => {
                stop.set();
                let leaving = Leaving {
                    reference: reference.clone(),
                    at: progress.at.clone(),
                };
                known.leaving.insert(number, leaving);
            }
            Attempt::Failed(failure) => {
                let left = failure.left.into_iter();
                left.for_each(|left| self.put_away(known, left));
            }
        }
    }

    /// Ends attempts of digests that are ready.
    fn end_needless(&self, known: &mut Known) {
        let attempts = known.attempts.keys();
        let needless = attempts.filter(|reference| known.kept(reference).is_some());
        let needless: Vec<_> = needless.cloned().collect();
        for reference in needless {
            if let Some(attempt) = known.attempts.remove(&reference) {
                self.end(known, &reference, attempt);
                self.0.changes.note();
            }
        }
    }

    /// Removes what an attempt left on its disk, as soon as the disk lets it.
    fn put_away(&self, known: &mut Known, left: Staging) {
        let number = known.next_number();
        let pool = left.pool().clone();
        let leaving = Leaving {
            reference: left.record().reference,
            at: Arc::new(OnceLock::from(pool.clone())),
        };
        known.leaving.insert(number, leaving);
        let images = self.clone();
        pool.queue(move || {
            let removed = left.remove();
            let mut known = images.lock();
            known.leaving.remove(&number);
            if let Err(error) = removed {
                let image = left.record().reference;
                tracing::error!(%image, %error, "cannot remove an unfinished image; its space counts until storaged starts anew");
                known.stuck.push(left);
            }
            drop(known);
            images.0.left.send_modify(|count| *count += 1);
        });
    }

    /// Removes an image that is no longer in the list, as soon as its disk lets it.
    fn remove(&self, known: &mut Known, kept: Kept) {
        let number = known.next_number();
        let pool = kept.pool().clone();
        let removing = Removing {
            digest: Digest::of_manifest(kept.reference()),
            pool: pool.clone(),
        };
        known.removing.insert(number, removing);
        let images = self.clone();
        pool.queue(move || {
            let removed = kept.remove();
            let mut known = images.lock();
            known.removing.remove(&number);
            match removed {
                Ok(()) => tracing::info!(image = %kept.reference(), "removed an image"),
                Err(error) => {
                    tracing::error!(image = %kept.reference(), %error, "cannot remove an image");
                    if known.has_pool(kept.pool()) {
                        known.add(kept);
                    }
                }
            }
            drop(known);
            images.0.left.send_modify(|count| *count += 1);
            images.0.changes.note();
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
                tracing::warn!(image = %kept.reference(), level = ?kept.level(), "removing an image that this machine's processors cannot run; its disk comes from another machine");
                self.remove(known, kept);
            }
            for leftover in found.leftovers {
                let record = leftover.record.clone();
                let left = Staging::resume(pool, leftover);
                if known.attempts.contains_key(&record.reference) {
                    self.put_away(known, left);
                    continue;
                }
                let failed = Attempt::Failed(Box::new(Failure {
                    waits: None,
                    again: Instant::now() + pause(&record),
                    record: record.clone(),
                    left: Some(left),
                }));
                known.attempts.insert(record.reference, failed);
            }
        }
        self.end_needless(known);
        self.0.changes.note();
        guard
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn means(packer: Arc<dyn Pack>, outside: Outside) -> Means {
    Means {
        packer,
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
