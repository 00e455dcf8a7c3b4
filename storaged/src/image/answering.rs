//! [`Answering`]: which pools' disks have something to do that they do not finish.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{task::spawn_blocking, time::timeout};
use uuid::Uuid;

use crate::pool::Pool;

/// A disk that is only slow has done a small thing by then.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The disk did not answer in time. What was asked of it may be done yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the disk that it is to be on does not answer")]
pub struct Hangs;

/// Whoever waits for a disk that hangs holds a thread. So only a few ever do: all others learn of
/// them here, and go elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Answering(Arc<Mutex<HashMap<Uuid, usize>>>);

/// Something that a disk has not finished in time.
#[derive(Debug)]
struct Overdue {
    answering: Answering,
    pool: Uuid,
}

impl Answering {
    pub fn answers(&self, pool: &Pool) -> bool {
        !pool.hangs() && !self.lock().contains_key(&pool.uuid())
    }

    /// Has the pool's disk do something small, or gives up; then it may be done yet. Not asked at
    /// all while it has something overdue.
    pub async fn ask<T: Send + 'static>(
        &self,
        pool: &Pool,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Hangs> {
        if !self.answers(pool) {
            return Err(Hangs);
        }
        let mut work = spawn_blocking(act);
        if let Ok(done) = timeout(PATIENCE, &mut work).await {
            return done.map_err(|_| Hangs);
        }
        let overdue = self.overdue(pool.uuid());
        tokio::spawn(async move {
            // Nobody asks for what it gives any more.
            let _ = work.await;
            drop(overdue);
        });
        Err(Hangs)
    }

    /// Waits until it is done, however long; all others learn when that is too long.
    pub async fn see<T>(
        &self,
        pool: &Pool,
        patience: Duration,
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = pin!(work);
        if let Ok(done) = timeout(patience, work.as_mut()).await {
            return done;
        }
        let _overdue = self.overdue(pool.uuid());
        work.await
    }

    fn overdue(&self, pool: Uuid) -> Overdue {
        *self.lock().entry(pool).or_default() += 1;
        tracing::warn!(%pool, "a disk does not answer; images go elsewhere until it does");
        Overdue {
            answering: self.clone(),
            pool,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Overdue {
    fn drop(&mut self) {
        let mut overdue = self.answering.lock();
        if let Some(count) = overdue.get_mut(&self.pool) {
            *count -= 1;
            if *count == 0 {
                overdue.remove(&self.pool);
                tracing::info!(pool = %self.pool, "the disk answers again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use loam_deployment::payload::Media;

    use super::*;
    use crate::pool::testing::pool;

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_holds_one_who_asks_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let pool = pool(folder.path(), Media::Ssd);
        let answering = Answering::default();
        assert_eq!(answering.ask(&pool, || 7).await, Ok(7));

        let (release, hangs) = mpsc::channel::<()>();
        let asked = answering.ask(&pool, move || hangs.recv());
        tokio::pin!(asked);
        assert!(futures::poll!(asked.as_mut()).is_pending());
        tokio::time::advance(PATIENCE * 2).await;
        assert_eq!(asked.await, Err(Hangs));
        // Nothing more is asked of it.
        let never = || panic!("asked all the same");
        assert_eq!(answering.ask::<()>(&pool, never).await, Err(Hangs));
        assert!(!answering.answers(&pool));

        release.send(()).unwrap();
        while !answering.answers(&pool) {
            tokio::task::yield_now().await;
        }
        assert_eq!(answering.ask(&pool, || 8).await, Ok(8));
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_shows_and_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pool = pool(folder.path(), Media::Ssd);
        let answering = Answering::default();
        let (release, hangs) = tokio::sync::oneshot::channel();
        let seen = answering.see(&pool, PATIENCE, hangs);
        tokio::pin!(seen);
        assert!(futures::poll!(seen.as_mut()).is_pending());
        assert!(answering.answers(&pool));
        tokio::time::advance(PATIENCE * 2).await;
        assert!(futures::poll!(seen.as_mut()).is_pending());
        assert!(!answering.answers(&pool));
        release.send(9).unwrap();
        assert_eq!(seen.await, Ok(9));
        assert!(answering.answers(&pool));
    }
}
