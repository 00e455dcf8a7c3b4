//! A thread of a pool's own, on which everything is done that may wait for its disk.
//!
//! A disk can hang for minutes, and whoever then reads or writes hangs with it. So nobody does but
//! this one thread; all others ask it, wait for a while, and go on without an answer. While what it
//! does takes too long, nobody even waits.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, time::timeout};

/// How long one waits for an answer. A slow disk does anything but make a large file system in it,
/// and the callers of storaged give it some 10 s.
pub const PATIENCE: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce() + Send>;

/// The thread ends when this is dropped and what was asked for is done.
#[derive(Debug)]
pub struct Worker {
    jobs: mpsc::Sender<Job>,
    /// Since when the thread is at its job.
    busy_since: Arc<Mutex<Option<Instant>>>,
    patience: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it does not answer")]
pub struct Silent;

impl Worker {
    pub fn start(name: &str, patience: Duration) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let busy_since = Arc::<Mutex<Option<Instant>>>::default();
        let busy = busy_since.clone();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                for job in queue {
                    *lock(&busy) = Some(Instant::now());
                    // A panic is a fault of one job; its caller sees it as an answer that never
                    // comes, and the pool serves on.
                    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
                    if ended.is_err() {
                        tracing::error!("a job of this pool failed inside");
                    }
                    *lock(&busy) = None;
                }
            })?;
        Ok(Self {
            jobs,
            busy_since,
            patience,
        })
    }

    /// How long it has been at what it does.
    pub fn busy_for(&self) -> Duration {
        lock(&self.busy_since).map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Whether it makes sense to wait for it.
    pub fn answers(&self) -> bool {
        self.busy_for() <= self.patience
    }

    /// Does `act` on the thread, after what was asked for before, and waits for its result. What has
    /// not begun when the patience ends is not done; what has begun is done to its end.
    pub fn run<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Silent> {
        if !self.answers() {
            return Err(Silent);
        }
        let (answer, answered) = mpsc::sync_channel(1);
        let given_up = Arc::<AtomicBool>::default();
        let unwanted = given_up.clone();
        self.queue(move || {
            if !unwanted.load(Ordering::Acquire) {
                // Whoever asked may have gone meanwhile.
                let _ = answer.send(act());
            }
        });
        answered.recv_timeout(self.patience).map_err(|_| {
            given_up.store(true, Ordering::Release);
            Silent
        })
    }

    /// The same, for a task: no thread waits. What nobody waits for any more is not begun.
    pub async fn ask<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Silent> {
        if !self.answers() {
            return Err(Silent);
        }
        let (answer, answered) = oneshot::channel();
        self.queue(move || {
            if !answer.is_closed() {
                let _ = answer.send(act());
            }
        });
        match timeout(self.patience, answered).await {
            Ok(Ok(done)) => Ok(done),
            _ => Err(Silent),
        }
    }

    /// Has `act` done when its turn comes. Not at all, and says so, if the thread does not answer now.
    pub fn post(&self, act: impl FnOnce() + Send + 'static) -> bool {
        let answers = self.answers();
        if answers {
            self.queue(act);
        }
        answers
    }

    /// Has `act` done when its turn comes, however late: for what must be done once and is asked for
    /// no second time. Whoever asks sees to it that there is only so much of it.
    pub fn queue(&self, act: impl FnOnce() + Send + 'static) {
        // The thread ends after the sender, which is `self`.
        let _ = self.jobs.send(Box::new(act));
    }
}

fn lock(busy: &Mutex<Option<Instant>>) -> std::sync::MutexGuard<'_, Option<Instant>> {
    busy.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A job that hangs until the sender is dropped, and has begun when this returns.
    fn hang(worker: &Worker) -> mpsc::Sender<()> {
        let (release, hanging) = mpsc::channel::<()>();
        let (begin, begun) = mpsc::channel();
        worker.post(move || {
            begin.send(()).unwrap();
            hanging.recv().unwrap_err();
        });
        begun.recv().unwrap();
        release
    }

    #[test]
    fn a_hanging_job_holds_up_nobody_and_its_end_heals() {
        let worker = Worker::start("test", Duration::from_millis(5)).unwrap();
        let patient = Worker::start("test", Duration::from_secs(600)).unwrap();
        let release = hang(&worker);
        let (note, done) = mpsc::channel();
        // Waited for in vain, and not done later either.
        let late = note.clone();
        assert_eq!(worker.run(move || late.send("late").unwrap()), Err(Silent));
        assert!(!worker.answers());
        let dropped = note.clone();
        worker.post(move || dropped.send("dropped").unwrap());
        assert_eq!(patient.run(|| 7), Ok(7));

        drop(release);
        while !worker.answers() {
            thread::yield_now();
        }
        worker.post(move || note.send("after").unwrap());
        assert_eq!(done.iter().collect::<Vec<_>>(), ["after"]);
    }

    #[tokio::test]
    async fn a_task_gives_up_without_a_thread_and_what_is_queued_is_done_late() {
        let worker = Worker::start("test", Duration::from_millis(5)).unwrap();
        let patient = Worker::start("test", Duration::from_secs(600)).unwrap();
        assert_eq!(patient.ask(|| 7).await, Ok(7));
        let release = hang(&worker);
        let (note, done) = mpsc::channel();
        let late = note.clone();
        assert_eq!(
            worker.ask(move || late.send("late").unwrap()).await,
            Err(Silent)
        );
        while worker.answers() {
            thread::yield_now();
        }
        worker.queue(move || note.send("queued").unwrap());
        drop(release);
        assert_eq!(done.iter().collect::<Vec<_>>(), ["queued"]);
    }

    #[test]
    fn jobs_are_done_in_order_and_one_that_fails_is_not_the_end() {
        let worker = Worker::start("test", Duration::from_secs(600)).unwrap();
        let (note, done) = mpsc::channel();
        for n in 0..100 {
            let note = note.clone();
            worker.post(move || note.send(n).unwrap());
        }
        worker.post(|| panic!("on purpose"));
        assert_eq!(worker.run(|| 1), Ok(1));
        drop(note);
        assert_eq!(
            done.iter().collect::<Vec<_>>(),
            (0..100).collect::<Vec<_>>()
        );
    }
}
