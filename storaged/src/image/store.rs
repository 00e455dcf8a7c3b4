//! Which images are here, being fetched, or failed. One fetch an image, whoever asks how often.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use loam_deployment::payload::OciReference;
use loam_node_api::{
    page::Changes,
    storage::{ImageConfig, ImageState, ImageStatus, StorageError},
};
use tokio::{runtime::Handle, sync::Semaphore, task::AbortHandle};
use uuid::Uuid;

use super::{
    address::Reach,
    digest::Digest,
    erofs::Pack,
    fetch::{self, Fetch, FetchError, Progress},
    kept::{self, Kept},
};
use crate::pool::Pool;

/// After a failure: 5 s, then twice as long each time, up to 5 minutes.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

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
    packer: Arc<dyn Pack>,
    reach: Reach,
    building: Arc<Semaphore>,
    known: Mutex<Known>,
    /// Told when a fetch begins or ends, however it ended, and when an image is removed.
    changes: Changes,
}

#[derive(Debug, Default)]
struct Known {
    images: BTreeMap<Digest, Image>,
    /// Pools whose images are in `images`.
    pools: BTreeSet<Uuid>,
    fetches: u64,
}

#[derive(Debug)]
struct Image {
    /// As it was asked for last. Other names of the same digest mean the same bytes.
    reference: OciReference,
    state: State,
}

#[derive(Debug)]
enum State {
    Ready(Kept),
    Fetching {
        number: u64,
        progress: Arc<Progress>,
        stop: Arc<AtomicBool>,
        task: AbortHandle,
        failures: u32,
    },
    Failed {
        why: String,
        failures: u32,
        again: Instant,
    },
}

impl Images {
    pub fn new(pools: Pools, packer: Arc<dyn Pack>, reach: Reach, changes: Changes) -> Self {
        Self(Arc::new(Shared {
            pools,
            packer,
            reach,
            building: Arc::new(Semaphore::new(1)),
            known: Mutex::default(),
            changes,
        }))
    }

    /// Starts to fetch unless it is here or being fetched. Must be called inside a tokio runtime.
    pub fn ensure(&self, reference: OciReference) -> ImageStatus {
        let mut known = self.current();
        let digest = Digest::new(*reference.digest());
        let failures = match known.images.get_mut(&digest) {
            None => 0,
            Some(image) => match &image.state {
                State::Failed {
                    failures, again, ..
                } if *again <= Instant::now() => *failures,
                _ => {
                    image.reference = reference;
                    return status(image);
                }
            },
        };
        let image = self.start(&mut known, reference, failures);
        let status = status(&image);
        known.images.insert(digest, image);
        self.0.changes.note();
        status
    }

    /// All, in the order of their references.
    pub fn list(&self) -> Vec<ImageStatus> {
        let mut images: Vec<_> = self.current().images.values().map(status).collect();
        images.sort_by(|a, b| a.image.cmp(&b.image));
        images
    }

    /// What a ready image says about how to run it.
    pub fn config(&self, reference: &OciReference) -> Result<ImageConfig, StorageError> {
        let known = self.current();
        match known.images.get(&Digest::new(*reference.digest())) {
            Some(Image {
                state: State::Ready(kept),
                ..
            }) => Ok(kept.config().clone()),
            _ => Err(StorageError::NoImage(reference.clone())),
        }
    }

    /// Removes a ready image, or ends its fetch and removes what is here of it. Absent is success.
    pub fn delete(&self, reference: &OciReference) -> Result<(), StorageError> {
        let digest = Digest::new(*reference.digest());
        let mut known = self.current();
        match known.images.get(&digest) {
            None => {}
            Some(Image {
                state: State::Ready(kept),
                ..
            }) => {
                kept.remove().map_err(|error| {
                    StorageError::Io(format!("remove image {reference}: {error}"))
                })?;
                tracing::info!(image = %reference, "removed an image");
            }
            // The attempt of another name of the same digest is not this one's to end.
            Some(image) if image.reference != *reference => return Ok(()),
            Some(Image {
                state: State::Fetching { stop, task, .. },
                ..
            }) => {
                stop.store(true, Ordering::Relaxed);
                task.abort();
                tracing::info!(image = %reference, "fetch ended: no longer wanted");
            }
            Some(_) => {}
        }
        if known.images.remove(&digest).is_some() {
            self.0.changes.note();
        }
        for pool in (self.0.pools)() {
            remove_all(&fetch::folder(&pool, reference)).map_err(|error| {
                StorageError::Io(format!("remove what is here of image {reference}: {error}"))
            })?;
        }
        Ok(())
    }

    fn start(&self, known: &mut Known, image: OciReference, failures: u32) -> Image {
        known.fetches += 1;
        let number = known.fetches;
        let progress = Arc::<Progress>::default();
        let stop = Arc::<AtomicBool>::default();
        let fetch = Fetch {
            image: image.clone(),
            pools: (self.0.pools)(),
            progress: progress.clone(),
            stop: stop.clone(),
            packer: self.0.packer.clone(),
            building: self.0.building.clone(),
            reach: self.0.reach,
            number,
        };
        tracing::info!(%image, "fetching an image");
        let images = self.clone();
        let reference = image.clone();
        let task = Handle::current().spawn(async move {
            let result = fetch.run().await;
            images.finish(&reference, number, result);
            images.0.changes.note();
        });
        let task = task.abort_handle();
        Image {
            reference: image,
            state: State::Fetching {
                number,
                progress,
                stop,
                task,
                failures,
            },
        }
    }

    fn finish(&self, reference: &OciReference, number: u64, result: Result<Kept, FetchError>) {
        let mut known = self.lock();
        let digest = Digest::new(*reference.digest());
        let failures = match known.images.get(&digest).map(|image| &image.state) {
            Some(State::Fetching {
                number: current,
                failures,
                ..
            }) if *current == number => *failures,
            // Unwanted since. What it made is swept by whoever wants it next, or a restart.
            _ => return,
        };
        let state = match result {
            Ok(kept) => {
                tracing::info!(image = %reference, size = %kept.size(), "image is ready");
                State::Ready(kept)
            }
            Err(error) => {
                let pause = FIRST_PAUSE
                    .saturating_mul(1 << failures.min(16))
                    .min(LONGEST_PAUSE);
                tracing::warn!(image = %reference, %error, ?pause, "could not fetch an image; it may be asked for again after a pause");
                State::Failed {
                    why: error.to_string(),
                    failures: failures + 1,
                    again: Instant::now() + pause,
                }
            }
        };
        known.images.insert(
            digest,
            Image {
                reference: reference.clone(),
                state,
            },
        );
    }

    /// What is known, with the images of pools that came, without those of pools that went.
    fn current(&self) -> MutexGuard<'_, Known> {
        let mut known = self.lock();
        let pools = (self.0.pools)();
        let present: BTreeSet<Uuid> = pools.iter().map(|pool| pool.uuid()).collect();
        known.images.retain(|_, image| match &image.state {
            State::Ready(kept) => present.contains(&kept.pool().uuid()),
            _ => true,
        });
        known.pools.retain(|uuid| present.contains(uuid));
        for pool in &pools {
            if known.pools.insert(pool.uuid()) {
                for (reference, kept) in kept::find(pool) {
                    let digest = Digest::new(*reference.digest());
                    known.images.entry(digest).or_insert(Image {
                        reference,
                        state: State::Ready(kept),
                    });
                }
            }
        }
        known
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn status(image: &Image) -> ImageStatus {
    let state = match &image.state {
        State::Ready(kept) => ImageState::Ready { path: kept.path() },
        State::Fetching { progress, .. } => {
            let (done, total) = fetch::shown(progress);
            ImageState::Fetching { done, total }
        }
        State::Failed { why, .. } => ImageState::Failed(why.clone()),
    };
    ImageStatus {
        image: image.reference.clone(),
        state,
    }
}

/// Absent is success.
fn remove_all(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
