//! Which images are here, being fetched, or failed. One fetch an image, whoever asks how often.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use loam_deployment::payload::OciReference;
use loam_node_api::storage::{ImageState, ImageStatus, StorageError};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
    task::AbortHandle,
};
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
    /// Rises when a fetch ends, however it ended.
    ended: watch::Sender<u64>,
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
    pub fn new(pools: Pools, packer: Arc<dyn Pack>, reach: Reach) -> Self {
        Self(Arc::new(Shared {
            pools,
            packer,
            reach,
            building: Arc::new(Semaphore::new(1)),
            known: Mutex::default(),
            ended: watch::Sender::default(),
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
        status
    }

    /// Hears of each fetch that ends.
    pub fn ended(&self) -> watch::Receiver<u64> {
        self.0.ended.subscribe()
    }

    pub fn list(&self) -> Vec<ImageStatus> {
        self.current().images.values().map(status).collect()
    }

    /// Removes all others, on every pool, and what is here of their fetches.
    pub fn retain(&self, used: &[OciReference]) -> Result<(), StorageError> {
        let used: BTreeSet<Digest> = used.iter().map(|r| Digest::new(*r.digest())).collect();
        let mut known = self.current();
        let unused: Vec<Digest> = known
            .images
            .keys()
            .filter(|digest| !used.contains(digest))
            .copied()
            .collect();
        let mut failure = None;
        for digest in unused {
            let Some(image) = known.images.remove(&digest) else {
                continue;
            };
            match image.state {
                State::Failed { .. } => {}
                State::Fetching { stop, task, .. } => {
                    stop.store(true, Ordering::Relaxed);
                    task.abort();
                    tracing::info!(image = %image.reference, "fetch ended: no longer wanted");
                }
                State::Ready(kept) => match kept.remove() {
                    Ok(()) => tracing::info!(image = %image.reference, "removed an image"),
                    Err(error) => {
                        failure = Some(format!("remove image {}: {error}", image.reference));
                        let state = State::Ready(kept);
                        known.images.insert(digest, Image { state, ..image });
                    }
                },
            }
        }
        for pool in (self.0.pools)() {
            if let Err(error) = remove_fetches(&pool, &used) {
                failure = Some(format!("remove unfinished images: {error}"));
            }
        }
        failure.map_or(Ok(()), |why| Err(StorageError::Io(why)))
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
            images.0.ended.send_modify(|count| *count += 1);
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
        State::Ready(kept) => ImageState::Ready {
            path: kept.path(),
            config: kept.config().clone(),
        },
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

fn remove_fetches(pool: &Pool, used: &BTreeSet<Digest>) -> io::Result<()> {
    for entry in fs::read_dir(pool.images().join("fetch"))? {
        let entry = entry?;
        let wanted = used.iter().any(|digest| entry.file_name() == *digest.hex());
        if !wanted {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
