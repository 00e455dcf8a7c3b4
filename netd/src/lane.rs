//! A lane: one piece of the kernel's state that is brought to what is wanted, again and again until
//! it is.
//!
//! Each network has a lane, and the node's own rules have one. What hangs or fails in one lane is
//! not felt in another. A failure is tried again by itself, with growing pauses; who asked hears of
//! the first.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{
    sync::{Semaphore, watch},
    time,
};

/// How long one who asks is kept waiting, and how long work that hangs counts among
/// [`AT_ONCE`]. Far more than the kernel needs for the largest network.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How many lanes work at a time. They wait for one lock of the kernel (`rtnl`) most of the time.
pub const AT_ONCE: usize = 16;

const HANGS: &str = "the kernel has not finished yet; it goes on, and is listed once it is made";

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Lane {
    /// Counts the wishes.
    wishes: watch::Sender<u64>,
    reached: watch::Receiver<Reached>,
}

/// What became of the newest wish that was known when the work began.
#[derive(Clone, Debug)]
struct Reached {
    wish: u64,
    outcome: Result<(), String>,
}

impl Lane {
    /// `work` makes what is wanted at the moment at which it is called. The lane ends with this
    /// value.
    pub fn start<F>(
        name: String,
        turns: Arc<Semaphore>,
        work: impl FnMut() -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let wishes = watch::Sender::new(0);
        let (tell, reached) = watch::channel(Reached {
            wish: 0,
            outcome: Ok(()),
        });
        tokio::spawn(run(name, turns, work, wishes.subscribe(), tell));
        Self { wishes, reached }
    }

    /// Has the work done from now on, and waits for its outcome for [`PATIENCE`].
    pub async fn run(&self) -> anyhow::Result<()> {
        match time::timeout(PATIENCE, self.settle()).await {
            Ok(outcome) => outcome,
            Err(_) => anyhow::bail!(HANGS),
        }
    }

    /// Has the work done from now on, and waits until it is or hangs.
    pub async fn settle(&self) -> anyhow::Result<()> {
        let mut wish = 0;
        self.wishes.send_modify(|newest| {
            *newest += 1;
            wish = *newest;
        });
        let mut reached = self.reached.clone();
        let reached = reached.wait_for(|reached| reached.wish >= wish).await;
        let outcome = reached.context("netd ends")?.outcome.clone();
        outcome.map_err(anyhow::Error::msg)
    }

    /// Returns once the work was done without failure.
    pub async fn succeeded(&self) {
        let mut reached = self.reached.clone();
        let done = reached.wait_for(|reached| reached.wish > 0 && reached.outcome.is_ok());
        // The lane lives as long as this value.
        let _ = done.await;
    }
}

async fn run<F>(
    name: String,
    turns: Arc<Semaphore>,
    mut work: impl FnMut() -> F,
    mut wishes: watch::Receiver<u64>,
    tell: watch::Sender<Reached>,
) where
    F: Future<Output = anyhow::Result<()>>,
{
    let mut pause = FIRST_PAUSE;
    if wishes.changed().await.is_err() {
        return;
    }
    loop {
        let wish = *wishes.borrow_and_update();
        let hangs = || {
            tracing::warn!(lane = name, HANGS);
            let outcome = Err(HANGS.to_owned());
            tell.send_replace(Reached { wish, outcome });
        };
        let outcome = take_turn(&turns, work(), hangs).await;
        let failed = outcome.is_err();
        if let Err(error) = &outcome {
            tracing::error!(lane = name, again_in = pause.as_secs(), "{error:#}");
        }
        let outcome = outcome.map_err(|error| format!("{error:#}"));
        tell.send_replace(Reached { wish, outcome });
        let again = if failed {
            let wished = time::timeout(pause, wishes.changed()).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            wished.unwrap_or(Ok(()))
        } else {
            pause = FIRST_PAUSE;
            wishes.changed().await
        };
        if again.is_err() {
            return;
        }
    }
}

/// One of [`AT_ONCE`] works; what hangs gives its turn away.
async fn take_turn(
    turns: &Semaphore,
    work: impl Future<Output = anyhow::Result<()>>,
    hangs: impl FnOnce(),
) -> anyhow::Result<()> {
    let turn = turns.acquire().await?;
    tokio::pin!(work);
    if let Ok(outcome) = time::timeout(PATIENCE, &mut work).await {
        return outcome;
    }
    drop(turn);
    hangs();
    work.await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Notify;

    use super::*;

    fn turns() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(1))
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_told_and_tried_again_by_itself() {
        let (tries, made) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
        let (count, done) = (tries.clone(), made.clone());
        let lane = Lane::start("test".into(), turns(), move || {
            let (count, done) = (count.clone(), done.clone());
            async move {
                anyhow::ensure!(count.fetch_add(1, Ordering::Relaxed) == 3, "refused");
                done.notify_one();
                Ok(())
            }
        });
        assert_eq!(lane.run().await.unwrap_err().to_string(), "refused");
        assert_eq!(tries.load(Ordering::Relaxed), 1);
        // Pauses of one, two and four seconds, of which nobody has to know.
        made.notified().await;
        assert_eq!(tries.load(Ordering::Relaxed), 4);
        // Done: nobody wishes, nothing is done.
        time::sleep(10 * LONGEST_PAUSE).await;
        assert_eq!(tries.load(Ordering::Relaxed), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wish_does_not_wait_for_the_pause_behind_a_failure() {
        let tries = Arc::new(AtomicU32::new(0));
        let count = tries.clone();
        let lane = Lane::start("test".into(), turns(), move || {
            let n = count.fetch_add(1, Ordering::Relaxed);
            async move {
                anyhow::ensure!(n > 0, "refused");
                Ok(())
            }
        });
        let start = time::Instant::now();
        lane.run().await.unwrap_err();
        lane.run().await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_hangs_holds_up_nobody() {
        let (turns, free) = (turns(), Arc::new(Notify::new()));
        let gate = free.clone();
        let hangs = Lane::start("hangs".into(), turns.clone(), move || {
            let gate = gate.clone();
            async move {
                gate.notified().await;
                Ok(())
            }
        });
        // Who asked is told, and who asks again does not pile up work.
        assert!(hangs.run().await.is_err());
        assert!(hangs.run().await.is_err());
        let other = Lane::start("other".into(), turns, || async { Ok(()) });
        other.run().await.unwrap();
        // Once it goes on, it is done, for all that asked.
        free.notify_one();
        let both = tokio::join!(hangs.run(), async { free.notify_one() });
        both.0.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_began_before_a_wish_does_not_fulfil_it() {
        let (began, gate) = (Arc::new(AtomicU32::new(0)), Arc::new(Semaphore::new(0)));
        let (count, pass) = (began.clone(), gate.clone());
        let lane = Lane::start("test".into(), turns(), move || {
            count.fetch_add(1, Ordering::Relaxed);
            let pass = pass.clone();
            async move {
                pass.acquire().await?.forget();
                Ok(())
            }
        });
        let early = lane.run();
        tokio::pin!(early);
        assert!(futures::poll!(early.as_mut()).is_pending());
        tokio::task::yield_now().await;
        assert_eq!(began.load(Ordering::Relaxed), 1);
        let late = lane.run();
        tokio::pin!(late);
        assert!(futures::poll!(late.as_mut()).is_pending());
        gate.add_permits(1);
        early.await.unwrap();
        assert!(futures::poll!(late.as_mut()).is_pending());
        gate.add_permits(1);
        late.await.unwrap();
        assert_eq!(began.load(Ordering::Relaxed), 2);
    }
}
