//! Waiting for something to come true.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

/// Far above what a loaded machine with two cores needs in software emulation.
pub const LIMIT: Duration = Duration::from_secs(300);

const INTERVAL: Duration = Duration::from_millis(500);

type Crash = Box<dyn Fn() -> anyhow::Result<()> + Send>;

/// How the nodes of this process tell that their QEMU has crashed: whatever a case waits for then
/// will not come.
static CRASHES: Mutex<Vec<(u64, Crash)>> = Mutex::new(Vec::new());
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Until it is dropped, every wait ends when its node crashes.
#[derive(Debug)]
pub(crate) struct Watched(u64);

impl Watched {
    pub(crate) fn new(crash: impl Fn() -> anyhow::Result<()> + Send + 'static) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        crashes().push((number, Box::new(crash)));
        Self(number)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        crashes().retain(|(number, _)| *number != self.0);
    }
}

fn crashes() -> MutexGuard<'static, Vec<(u64, Crash)>> {
    CRASHES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks until there is an answer. An error ends the wait; `None` goes on.
pub fn wait_for<T>(
    what: &str,
    mut ask: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let started = Instant::now();
    loop {
        for (_, crash) in crashes().iter() {
            crash().with_context(|| format!("while waiting for {what}"))?;
        }
        if let Some(answer) = ask().with_context(|| format!("while waiting for {what}"))? {
            return Ok(answer);
        }
        if started.elapsed() > LIMIT {
            bail!("{what} did not come within {} seconds", LIMIT.as_secs());
        }
        sleep(INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_ends_every_wait() {
        let watched = Watched::new(|| bail!("QEMU ended with signal 9"));
        let error = wait_for("an answer", || Ok(None::<()>)).unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "while waiting for an answer: QEMU ended with signal 9"
        );
        drop(watched);
        wait_for("an answer", || Ok(Some(()))).unwrap();
    }
}
