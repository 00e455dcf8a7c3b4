//! [`DiskOpener`]: opens disks on pools that may not answer.
//!
//! A call into a file system whose disk hangs cannot be called off: its thread stays until the disk
//! answers. So every disk is opened by a thread of its own that nobody has to wait for, and a pool
//! may hold up only so many.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};

/// Threads that one pool may hold up. Who comes later waits for one of them to end.
const MAX_OPENING: usize = 8;

/// How often whoever waits looks whether it still shall.
const LOOK: Duration = Duration::from_millis(50);

/// How long to wait.
#[derive(Clone, Debug)]
pub struct Patience {
    pub until: Instant,
    pub given_up: Arc<AtomicBool>,
}

/// How many threads open something on each pool now.
#[derive(Clone, Debug, Default)]
pub struct DiskOpener(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    opening: Mutex<BTreeMap<PathBuf, usize>>,
    one_less: Condvar,
}

impl DiskOpener {
    /// What `open` returns for the disk at `path`, or an error that names the disk.
    pub fn open<T: Send + 'static>(
        &self,
        path: &Path,
        patience: &Patience,
        open: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let place = self.place(path, patience)?;
        let (sender, result) = mpsc::channel();
        thread::Builder::new()
            .name("disk".into())
            .spawn(move || {
                // If nobody waits any longer, what was opened is closed here.
                let _ = sender.send(open());
                drop(place);
            })
            .context("making a thread that opens a disk")?;
        loop {
            match result.recv_timeout(LOOK) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("opening the disk {} panicked", path.display());
                }
                Err(RecvTimeoutError::Timeout) => patience.check(path)?,
            }
        }
    }

    fn place(&self, path: &Path, patience: &Patience) -> anyhow::Result<Place> {
        let pool = pool_of(path);
        let mut opening = self.0.opening();
        while opening
            .get(&pool)
            .is_some_and(|count| *count >= MAX_OPENING)
        {
            let waited = self.0.one_less.wait_timeout(opening, LOOK);
            opening = waited.unwrap_or_else(PoisonError::into_inner).0;
            patience.check(path)?;
        }
        *opening.entry(pool.clone()).or_default() += 1;
        drop(opening);
        Ok(Place {
            shared: self.0.clone(),
            pool,
        })
    }
}

impl Shared {
    fn opening(&self) -> MutexGuard<'_, BTreeMap<PathBuf, usize>> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Patience {
    fn check(&self, path: &Path) -> anyhow::Result<()> {
        if self.given_up.load(Ordering::Relaxed) {
            bail!("nobody waits for the disk {} any longer", path.display());
        }
        if self.until <= Instant::now() {
            return Err(anyhow!("the disk {} does not answer", path.display()));
        }
        Ok(())
    }
}

/// Given back however its thread ends.
#[derive(Debug)]
struct Place {
    shared: Arc<Shared>,
    pool: PathBuf,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut opening = self.shared.opening();
        if let Some(count) = opening.get_mut(&self.pool) {
            *count -= 1;
            if *count == 0 {
                opening.remove(&self.pool);
            }
        }
        drop(opening);
        self.shared.one_less.notify_all();
    }
}

/// `/pools/<uuid>` of whatever lies below.
fn pool_of(path: &Path) -> PathBuf {
    path.components().take(3).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patience(time: Duration) -> Patience {
        Patience {
            until: Instant::now() + time,
            given_up: Arc::default(),
        }
    }

    /// Far longer than any test runs.
    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_pool_that_hangs_holds_up_few_threads_and_no_other_pool() {
        let opener = DiskOpener::default();
        let (let_go, hung) = mpsc::channel::<()>();
        let hung = Arc::new(Mutex::new(hung));
        let started = Arc::new(Mutex::new(0));
        for _ in 0..2 * MAX_OPENING {
            let (hung, started) = (hung.clone(), started.clone());
            let error = opener
                .open(
                    Path::new("/pools/a/web"),
                    &patience(Duration::ZERO),
                    move || {
                        *started.lock().unwrap() += 1;
                        let _ = hung.lock().unwrap().recv();
                        Ok(())
                    },
                )
                .unwrap_err();
            assert_eq!(error.to_string(), "the disk /pools/a/web does not answer");
        }
        assert!(*started.lock().unwrap() <= MAX_OPENING);
        let other = opener.open(Path::new("/pools/b/web"), &patience(LONG), || Ok(7));
        assert_eq!(other.unwrap(), 7);
        drop(let_go);
        let again = opener.open(Path::new("/pools/a/web"), &patience(LONG), || Ok(8));
        assert_eq!(again.unwrap(), 8);
    }

    #[test]
    fn whoever_gives_up_is_free_at_once() {
        let opener = DiskOpener::default();
        let (let_go, hung) = mpsc::channel::<()>();
        let patience = patience(LONG);
        let given_up = patience.given_up.clone();
        let error = opener
            .open(Path::new("/pools/a/web"), &patience, move || {
                given_up.store(true, Ordering::Relaxed);
                let _ = hung.recv();
                Ok(())
            })
            .unwrap_err();
        assert!(error.to_string().contains("nobody waits"), "{error}");
        drop(let_go);
    }

    #[test]
    fn a_panic_gives_its_place_back() {
        let opener = DiskOpener::default();
        for _ in 0..2 * MAX_OPENING {
            let opened: anyhow::Result<()> =
                opener.open(Path::new("/pools/a/web"), &patience(LONG), || panic!("no"));
            assert!(opened.unwrap_err().to_string().contains("panicked"));
        }
    }
}
