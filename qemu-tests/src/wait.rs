//! Waiting for something to come true.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

/// Far above what a loaded machine with two cores needs in software emulation.
pub const LIMIT: Duration = Duration::from_secs(300);

const INTERVAL: Duration = Duration::from_millis(500);

/// Asks until there is an answer. An error ends the wait; `None` goes on.
pub fn wait_for<T>(
    what: &str,
    mut ask: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask().with_context(|| format!("while waiting for {what}"))? {
            return Ok(answer);
        }
        if started.elapsed() > LIMIT {
            bail!("{what} did not come within {} seconds", LIMIT.as_secs());
        }
        sleep(INTERVAL);
    }
}
