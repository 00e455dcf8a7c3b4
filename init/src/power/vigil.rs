//! [`Vigil`]: waiting, at the node's end, for what may never come, with the watchdog petted by
//! whoever waits. All waiting together has a bound, after which nothing is waited for.

use std::{
    sync::{
        Arc, Mutex,
        mpsc::{self, RecvTimeoutError, TryRecvError},
    },
    thread,
    time::{Duration, Instant},
};

/// How often to look and to pet: far more often than any watchdog wants.
const LOOK: Duration = Duration::from_millis(50);

pub struct Vigil<P> {
    pet: P,
    until: Instant,
}

impl<P: Fn()> Vigil<P> {
    /// Waits for no more than `total`, whatever is waited for.
    pub fn new(total: Duration, pet: P) -> Self {
        let until = Instant::now() + total;
        Self { pet, until }
    }

    /// Until `done` says so; false if it did not within `patience`.
    pub fn wait(&self, patience: Duration, mut done: impl FnMut() -> bool) -> bool {
        let until = self.until.min(Instant::now() + patience);
        loop {
            (self.pet)();
            if done() {
                return true;
            }
            if until <= Instant::now() {
                return false;
            }
            thread::sleep(LOOK);
        }
    }

    /// What `call` returns, made by a thread of its own; none if it takes longer than `patience`.
    pub fn call<T: Send + 'static>(
        &self,
        patience: Duration,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let result = begin(call);
        let mut got = None;
        self.wait(patience, || match result.try_recv() {
            Ok(value) => {
                got = Some(value);
                true
            }
            Err(TryRecvError::Empty) => false,
            Err(TryRecvError::Disconnected) => true,
        });
        got
    }

    /// Has each of `jobs` done in a thread of its own, as long as `progress` is another than before
    /// within `stall`. Returns those that are not done.
    pub fn all<J: Clone + Send + 'static>(
        &self,
        stall: Duration,
        jobs: Vec<J>,
        work: impl Fn(J) + Clone + Send + 'static,
        mut progress: impl FnMut() -> u64,
    ) -> Vec<J> {
        let (sender, done) = mpsc::channel();
        let mut left: Vec<Option<J>> = jobs.into_iter().map(Some).collect();
        for (number, job) in left.iter().flatten().cloned().enumerate() {
            let (work, sender) = (work.clone(), sender.clone());
            begin(move || {
                work(job);
                let _ = sender.send(number);
            });
        }
        drop(sender);
        let mut seen = progress();
        let mut since = Instant::now();
        while left.iter().any(Option::is_some) {
            (self.pet)();
            match done.recv_timeout(LOOK) {
                Ok(number) => {
                    left[number] = None;
                    continue;
                }
                // All have ended, some by a panic.
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = progress();
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() >= stall {
                break;
            }
            if self.until <= Instant::now() {
                break;
            }
        }
        left.into_iter().flatten().collect()
    }
}

/// On a thread; on this one if the kernel gives none, since what is to be done matters more.
fn begin<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
    let (sender, result) = mpsc::channel();
    let call = Arc::new(Mutex::new(Some(call)));
    let taken = call.clone();
    let run = move || {
        let call = taken.lock().ok().and_then(|mut call| call.take());
        if let Some(call) = call {
            let _ = sender.send(call());
        }
    };
    if let Err(error) = thread::Builder::new().spawn(run.clone()) {
        tracing::error!(%error, "no thread at the end; waiting for it here");
        run();
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        cell::Cell,
        sync::atomic::{AtomicU64, Ordering},
    };

    /// Far longer than any test runs.
    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn what_hangs_holds_up_neither_the_others_nor_the_watchdog() {
        let pets = Cell::new(0);
        let vigil = Vigil::new(LONG, || pets.set(pets.get() + 1));
        let (let_go, hung) = mpsc::channel::<()>();
        let hung = Arc::new(Mutex::new(hung));
        let written = Arc::new(AtomicU64::new(0));
        let (count, counted) = (written.clone(), written.clone());
        // Disks go on while the healthy ones are written and a while longer; then nothing moves.
        let (mut moves, mut more) = (0, 20);
        let progress = move || {
            more -= u64::from(more > 0 && counted.load(Ordering::SeqCst) == 2);
            moves += u64::from(more > 0);
            moves
        };
        let work = move |job: &str| {
            if job == "hung" {
                let _ = hung.lock().unwrap().recv();
            } else {
                count.fetch_add(1, Ordering::SeqCst);
            }
        };
        let jobs = vec!["good", "hung", "fine"];
        let left = vigil.all(Duration::ZERO, jobs, work, progress);
        assert_eq!(left, ["hung"]);
        assert!(pets.get() > 0);
        drop(let_go);
    }

    #[test]
    fn what_panics_is_not_done() {
        let vigil = Vigil::new(LONG, || ());
        let left = vigil.all(LONG, vec![1, 2], |job| assert_ne!(job, 1), || 0);
        assert_eq!(left, [1]);
        assert_eq!(vigil.call(LONG, || -> u8 { panic!("on purpose") }), None);
    }

    #[test]
    fn all_waiting_together_is_bounded() {
        let vigil = Vigil::new(Duration::ZERO, || ());
        assert!(!vigil.wait(LONG, || false));
        let (let_go, hung) = mpsc::channel::<()>();
        assert_eq!(vigil.call(LONG, move || hung.recv().is_ok()), None);
        drop(let_go);
        // What is there at once is taken all the same.
        assert!(vigil.wait(LONG, || true));
    }

    /// A disk that is worn out may finish a request now and then for hours.
    #[test]
    fn what_gets_on_without_end_is_given_up_when_the_time_is_over() {
        let vigil = Vigil::new(Duration::ZERO, || ());
        let (let_go, hung) = mpsc::channel::<()>();
        let hung = Arc::new(Mutex::new(hung));
        let mut looks = 0;
        let progress = || {
            looks += 1;
            assert!(looks < 100, "it is waited for still");
            looks
        };
        let work = move |_: &str| {
            let _ = hung.lock().unwrap().recv();
        };
        assert_eq!(vigil.all(LONG, vec!["worn"], work, progress), ["worn"]);
        drop(let_go);
    }
}
