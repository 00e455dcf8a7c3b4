//! [`Log`]: what the node's daemons, machines' VMMs, the kernel and init itself say.
//!
//! Every record is one line of JSON. The lines go to the second serial port if there is one, and
//! the last of them always stay in memory.

mod port;
mod record;

use std::{
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use tracing_subscriber::fmt::MakeWriter;

pub use self::record::Source;

/// How much of the log stays in memory.
const MAX_KEPT: usize = 512 << 10;

/// What may wait for a slow serial port. More is dropped, and how much is said.
const MAX_WAITING: usize = 256 << 10;

/// Warnings that the node's screen shows, and how long.
const MAX_WARNINGS: usize = 4;
const WARNING_AGE: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// There is something to write to the port.
    more: Notify,
}

#[derive(Debug, Default)]
struct State {
    kept: VecDeque<String>,
    kept_bytes: usize,
    warnings: VecDeque<(Instant, String)>,
    /// None: no port.
    waiting: Option<VecDeque<u8>>,
    dropped: u64,
}

impl Log {
    /// A line that init, the kernel, a daemon or a VMM wrote: JSON of its own, or any text.
    pub fn line(&self, source: &Source, line: &[u8]) {
        let record = record::of_line(source, line);
        self.keep(&record.text, record.warning);
    }

    /// The last warnings and errors, oldest first.
    pub fn warnings(&self, now: Instant) -> Vec<String> {
        let recent = |said: Instant| now.saturating_duration_since(said) < WARNING_AGE;
        let state = self.state();
        let warnings = state.warnings.iter().filter(|(said, _)| recent(*said));
        warnings.map(|(_, warning)| warning.clone()).collect()
    }

    /// The last `most` records for a person to read, oldest first.
    pub fn last(&self, most: usize) -> Vec<String> {
        let state = self.state();
        let first = state.kept.len().saturating_sub(most);
        let last: Vec<String> = state.kept.range(first..).cloned().collect();
        drop(state);
        last.iter().map(|text| record::readable(text)).collect()
    }

    /// Writes out what still waits for the port, when the task that did so is gone.
    pub fn finish(&self, patience: Duration) {
        let Some(port) = port::open() else { return };
        let until = Instant::now() + patience;
        while let Some(part) = self.next_part() {
            if port::write_until(&port, &part, until).is_err() {
                return;
            }
        }
        // What the port itself holds back would be lost with the power.
        let _ = rustix::termios::tcdrain(&port);
    }

    /// Writes to the log's serial port from now on, if there is one. Returns its task.
    pub fn open_port(&self) -> Option<impl Future<Output = ()> + 'static> {
        let port = port::open()?;
        let mut state = self.state();
        let so_far = state
            .kept
            .iter()
            .flat_map(|text| text.bytes().chain([b'\n']))
            .collect();
        state.waiting = Some(so_far);
        drop(state);
        let log = self.clone();
        Some(async move {
            // A port that stops working leaves the node without a log outside, no more.
            let _ = log.write_to(port).await;
            log.state().waiting = None;
        })
    }

    async fn write_to(&self, port: OwnedFd) -> io::Result<()> {
        let port = port::AsyncPort::new(port)?;
        loop {
            while let Some(part) = self.next_part() {
                port.write_all(&part).await?;
            }
            self.0.more.notified().await;
        }
    }

    fn next_part(&self) -> Option<Vec<u8>> {
        let mut state = self.state();
        let dropped = std::mem::take(&mut state.dropped);
        let waiting = state.waiting.as_mut()?;
        let size = waiting.len().min(4096);
        let mut part: Vec<u8> = waiting.drain(..size).collect();
        if dropped > 0 {
            part.extend(format!("{{\"dropped_lines\":{dropped}}}\n").into_bytes());
        }
        (!part.is_empty()).then_some(part)
    }

    fn keep(&self, text: &str, warning: Option<String>) {
        let mut state = self.state();
        if let Some(waiting) = &mut state.waiting {
            if waiting.len() + text.len() < MAX_WAITING {
                waiting.extend(text.bytes().chain([b'\n']));
            } else {
                state.dropped += 1;
            }
        }
        state.kept_bytes += text.len();
        state.kept.push_back(text.to_owned());
        while state.kept_bytes > MAX_KEPT
            && let Some(oldest) = state.kept.pop_front()
        {
            state.kept_bytes -= oldest.len();
        }
        if let Some(warning) = warning {
            // Said again, it is the newest once.
            state.warnings.retain(|(_, before)| *before != warning);
            state.warnings.push_back((Instant::now(), warning));
            if state.warnings.len() > MAX_WARNINGS {
                state.warnings.pop_front();
            }
        }
        drop(state);
        self.0.more.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes `log` the place where init's own records go.
pub fn install(log: &Log) {
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_max_level(tracing::Level::INFO)
        .with_writer(log.clone())
        .init();
}

/// The subscriber writes each record with one call.
impl<'a> MakeWriter<'a> for Log {
    type Writer = Own;

    fn make_writer(&'a self) -> Own {
        Own(self.clone())
    }
}

/// Init's own records on their way into the log.
#[derive(Debug)]
pub struct Own(Log);

impl io::Write for Own {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        self.0
            .line(&Source::Daemon("init"), record.trim_ascii_end());
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded() {
        let log = Log::default();
        let line = "x".repeat(1000);
        for n in 0..2000 {
            log.line(&Source::Daemon("noded"), format!("{n} {line}").as_bytes());
        }
        let state = log.state();
        assert!(state.kept_bytes <= MAX_KEPT);
        assert!(state.kept.len() > 400);
        assert!(state.kept.back().unwrap().contains("1999 "));
    }

    #[test]
    fn the_last_records_can_be_read() {
        let log = Log::default();
        for n in 0..5 {
            let line = format!(r#"{{"level":"INFO","message":"m{n}","size":{n}}}"#);
            log.line(&Source::Daemon("netd"), line.as_bytes());
        }
        assert_eq!(log.last(2), ["netd: m3 size=3", "netd: m4 size=4"]);
        assert_eq!(log.last(9).len(), 5);
    }

    #[test]
    fn a_stuck_port_costs_lines_not_memory() {
        let log = Log::default();
        log.state().waiting = Some(VecDeque::new());
        let line = "x".repeat(1000);
        for _ in 0..1000 {
            log.line(&Source::Daemon("noded"), line.as_bytes());
        }
        assert!(log.state().waiting.as_ref().unwrap().len() <= MAX_WAITING);
        assert!(log.state().dropped > 500);
        let part = String::from_utf8(log.next_part().unwrap()).unwrap();
        assert!(part.contains("dropped_lines"));
        assert_eq!(log.state().dropped, 0);
    }

    #[test]
    fn warnings_are_the_last_not_repeated_and_grow_old() {
        let log = Log::default();
        for n in [1, 2, 2, 2, 3, 4, 5] {
            log.line(
                &Source::Daemon("netd"),
                format!(r#"{{"level":"WARN","message":"w{n}"}}"#).as_bytes(),
            );
        }
        log.line(
            &Source::Daemon("netd"),
            br#"{"level":"INFO","message":"fine"}"#,
        );
        let now = Instant::now();
        assert_eq!(
            log.warnings(now),
            ["netd: w2", "netd: w3", "netd: w4", "netd: w5"]
        );
        assert!(log.warnings(now + WARNING_AGE).is_empty());
    }
}
