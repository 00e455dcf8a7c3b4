//! Which images are here, being fetched, or failed.
//!
//! An attempt belongs to a reference: two who name one digest at two registries share neither
//! progress nor failures nor back-off. What is ready belongs to its digest: it is the same bytes,
//! whoever asks for it by whatever name.
//!
//! Every call answers from memory. What a registry, a disk or `mkfs.erofs` takes its time for goes
//! on in tasks, and shows in the answer of a later call.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use loam_deployment::payload::OciReference;
use loam_node_api::{
    page::Changes,
    storage::{ImageConfig, ImageState, ImageStatus, StorageError},
};
use tokio::{runtime::Handle, sync::watch};

use super::{
    address::Outside,
    answering::Answering,
    backoff::pause,
    digest::Digest,
    erofs::Pack,
    fetch::{self, Fetch, Means, Outcome, Progress},
    kept::Kept,
    limits,
    pace::Patience,
    queue::{Places, Queue},
    staging::{Record, Staging},
    stop::Stop,
};
use crate::pool::Pool;

/// The pools of this moment.
pub type Pools = Arc<dyn Fn() -> Vec<Arc<Pool>> + Send + Sync>;

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

#[derive(Debug, Default)]
struct Known {
    /// Whose images and leftovers are below.
    pools: Vec<Arc<Pool>>,
    /// More than one where several pools brought it.
    ready: BTreeMap<Digest, Vec<Kept>>,
    /// None of a digest that is ready.
    attempts: BTreeMap<OciReference, Attempt>,
    /// Attempts that nobody wants any more and that still hold files.
    leaving: BTreeSet<(OciReference, u64)>,
    /// Images that are being removed.
    removing: BTreeSet<(Digest, u64)>,
    /// What could not be removed, and counts.
    stuck: Vec<Staging>,
    /// Of the last of all these.
    number: u64,
}

#[derive(Debug)]
enum Attempt {
    Fetching {
        number: u64,
        progress: Arc<Progress>,
        stop: Stop,
    },
    Failed(Box<Failure>),
}

#[derive(Debug)]
struct Failure {
    record: Record,
    again: Instant,
    /// What is there still.
    left: Option<Staging>,
}

impl Images {
    pub fn new(pools: Pools, packer: Arc<dyn Pack>, outside: Outside, changes: Changes) -> Self {
        Self::with(pools, means(packer, outside), changes)
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
                let status = status(&reference, &attempt);
                known.attempts.insert(reference, attempt);
                return status;
            }
        };
        let attempt = self.start(&mut known, record, begun);
        let status = status(&reference, &attempt);
        known.attempts.insert(reference, attempt);
        self.0.changes.note();
        status
    }

    /// All, in the order of their references.
    pub fn list(&self) -> Vec<ImageStatus> {
        let known = self.current();
        let ready = known.ready.values().filter_map(|kept| usable(kept));
        let ready = ready.map(|kept| ImageStatus {
            image: kept.reference().clone(),
            state: ImageState::Ready { path: kept.path() },
        });
        let attempts = known.attempts.iter();
        let attempts = attempts.map(|(reference, attempt)| status(reference, attempt));
        let mut all: Vec<_> = ready.chain(attempts).collect();
        all.sort_by(|a, b| a.image.cmp(&b.image));
        all
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
        let number = known.next_number();
        let progress = Arc::<Progress>::default();
        let stop = Stop::default();
        let image = record.reference.clone();
        let fetch = Fetch {
            image: image.clone(),
            pools: known.pools.clone(),
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
            images.unobstructed(&image, &fetch.stop).await;
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
    /// removed, whose files would be taken for those of this one.
    async fn unobstructed(&self, reference: &OciReference, stop: &Stop) {
        let mut left = self.0.left.subscribe();
        let digest = Digest::of_manifest(reference);
        let free = left.wait_for(|_| {
            let known = self.lock();
            let leaving = known.leaving.iter().any(|(other, _)| other == reference);
            !leaving && known.removing.iter().all(|(other, _)| *other != digest)
        });
        tokio::select! {
            _ = free => {}
            () = stop.wait() => {}
        }
    }

    fn finish(&self, reference: &OciReference, number: u64, outcome: Outcome) {
        let Outcome {
            result,
            left,
            record,
            turn,
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
                let pause = pause(&record);
                tracing::warn!(image = %reference, %error, ?pause, "could not fetch an image; it may be asked for again after a pause");
                let failure = Failure {
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
        known.leaving.remove(&(reference.clone(), number));
        // Who hears of it looks at what is known at once.
        drop(guard);
        self.0.left.send_modify(|count| *count += 1);
        self.0.changes.note();
        drop(turn);
    }

    /// Has an attempt that is no longer in the list end, and what it holds removed.
    fn end(&self, known: &mut Known, reference: &OciReference, attempt: Attempt) {
        match attempt {
            Attempt::Fetching { number, stop, .. } => {
                stop.set();
                known.leaving.insert((reference.clone(), number));
            }
            Attempt::Failed(failure) => {
                let left = failure.left.into_iter();
                left.for_each(|left| self.put_away(known, left));
            }
        }
    }

    /// Ends attempts of digests that are ready.
    fn end_needless(&self, known: &mut Known) {
        let ready = &known.ready;
        let needless = |reference: &OciReference, _: &mut Attempt| {
            ready.contains_key(&Digest::of_manifest(reference))
        };
        let ended: Vec<_> = known.attempts.extract_if(.., needless).collect();
        for (reference, attempt) in ended {
            self.end(known, &reference, attempt);
        }
    }

    /// Removes what an attempt left on its disk, as soon as the disk lets it.
    fn put_away(&self, known: &mut Known, left: Staging) {
        let number = known.next_number();
        let leaving = (left.record().reference, number);
        known.leaving.insert(leaving.clone());
        let images = self.clone();
        let pool = left.pool().clone();
        pool.queue(move || {
            let removed = left.remove();
            let mut known = images.lock();
            known.leaving.remove(&leaving);
            if let Err(error) = removed {
                tracing::error!(image = %leaving.0, %error, "cannot remove an unfinished image; its space counts until storaged starts anew");
                known.stuck.push(left);
            }
            drop(known);
            images.0.left.send_modify(|count| *count += 1);
        });
    }

    /// Removes an image that is no longer in the list, as soon as its disk lets it.
    fn remove(&self, known: &mut Known, kept: Kept) {
        let number = known.next_number();
        let removing = (Digest::of_manifest(kept.reference()), number);
        known.removing.insert(removing);
        let images = self.clone();
        let pool = kept.pool().clone();
        pool.queue(move || {
            let removed = kept.remove();
            let mut known = images.lock();
            known.removing.remove(&removing);
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
                known.add(Kept::found(pool, image));
            }
            for leftover in found.leftovers {
                let record = leftover.record.clone();
                let left = Staging::resume(pool, leftover);
                if known.attempts.contains_key(&record.reference) {
                    self.put_away(known, left);
                    continue;
                }
                let failed = Attempt::Failed(Box::new(Failure {
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

impl Known {
    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// On a disk that answers, if it is on one.
    fn kept(&self, reference: &OciReference) -> Option<&Kept> {
        usable(self.ready.get(&Digest::of_manifest(reference))?)
    }

    fn add(&mut self, kept: Kept) {
        let digest = Digest::of_manifest(kept.reference());
        self.ready.entry(digest).or_default().push(kept);
    }

    /// Whether this very file is in the list.
    fn has(&self, kept: &Kept) -> bool {
        let same = self.ready.get(&Digest::of_manifest(kept.reference()));
        same.is_some_and(|all| all.iter().any(|other| other.path() == kept.path()))
    }

    fn has_pool(&self, pool: &Arc<Pool>) -> bool {
        self.pools.iter().any(|other| Arc::ptr_eq(other, pool))
    }

    fn forget_absent(&mut self) {
        let Self {
            pools,
            ready,
            attempts,
            stuck,
            ..
        } = self;
        let has = |pool: &Arc<Pool>| pools.iter().any(|other| Arc::ptr_eq(other, pool));
        ready.retain(|_, all| {
            all.retain(|kept| has(kept.pool()));
            !all.is_empty()
        });
        stuck.retain(|left| has(left.pool()));
        for attempt in attempts.values_mut() {
            if let Attempt::Failed(failure) = attempt {
                failure.left.take_if(|left| !has(left.pool()));
            }
        }
    }
}

/// Of the copies of one image, the first whose disk answers; if none does, the first.
fn usable(copies: &[Kept]) -> Option<&Kept> {
    let answering = copies.iter().find(|kept| kept.pool().answers());
    answering.or(copies.first())
}

fn means(packer: Arc<dyn Pack>, outside: Outside) -> Means {
    Means {
        packer,
        outside,
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

fn status(reference: &OciReference, attempt: &Attempt) -> ImageStatus {
    let state = match attempt {
        Attempt::Fetching { progress, .. } => {
            let (done, total) = fetch::shown(progress);
            ImageState::Fetching { done, total }
        }
        Attempt::Failed(failure) => {
            let why = failure.record.why.clone();
            ImageState::Failed(
                why.unwrap_or_else(|| "storaged ended while it was fetched".to_owned()),
            )
        }
    };
    ImageStatus {
        image: reference.clone(),
        state,
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
