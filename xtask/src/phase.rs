//! Named phases: what the pipeline is doing now, how long each part took, what was kept. Several
//! may go on at once.

use std::io::IsTerminal as _;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// The spinners of all phases that go on, one line each.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// A log that says nothing for longer looks as if we hung.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// One step of the pipeline: a spinner on a terminal, lines in a log.
#[derive(Debug)]
pub struct Phase {
    name: String,
    started: Instant,
    display: Display,
}

#[derive(Debug)]
enum Display {
    Terminal(ProgressBar),
    Log {
        note: Arc<Mutex<String>>,
        /// Its end is the end of the thread that tells how long the phase takes.
        _ends: mpsc::Sender<()>,
    },
}

impl Phase {
    pub fn start(name: impl Into<String>) -> Self {
        let name = name.into();
        let started = Instant::now();
        let display = if std::io::stderr().is_terminal() {
            let bar = BARS.add(ProgressBar::new_spinner());
            let style =
                ProgressStyle::with_template("{spinner} {prefix:28} {elapsed:>5}  {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.set_prefix(name.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            Display::Terminal(bar)
        } else {
            // A log shows what was going on when it ends early.
            eprintln!("· {name}");
            let note = Arc::<Mutex<String>>::default();
            let (ends, end) = mpsc::channel();
            let (phase, noted) = (name.clone(), Arc::clone(&note));
            thread::spawn(move || {
                while end.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
                    let note = noted.lock().unwrap_or_else(PoisonError::into_inner);
                    let seconds = started.elapsed().as_secs();
                    eprintln!(
                        "{}",
                        format!("· {phase:28} {seconds:>4} s  {note}").trim_end()
                    );
                }
            });
            Display::Log { note, _ends: ends }
        };
        Self {
            name,
            started,
            display,
        }
    }

    /// Says what the phase is busy with.
    pub fn note(&self, message: impl Into<String>) {
        match &self.display {
            Display::Terminal(bar) => bar.set_message(message.into()),
            Display::Log { note, .. } => {
                *note.lock().unwrap_or_else(PoisonError::into_inner) = message.into();
            }
        }
    }

    /// Prints a line that stays, above the spinners.
    pub fn say(&self, line: &str) {
        match &self.display {
            Display::Terminal(_) => BARS.suspend(|| eprintln!("{line}")),
            Display::Log { .. } => eprintln!("{line}"),
        }
    }

    /// Ends the phase: its name, its time and one remark stay on the screen.
    pub fn done(self, remark: &str) {
        self.end("✓", remark);
    }

    /// Ends a phase that could not do its work.
    pub fn failed(self) {
        self.end("✗", "failed");
    }

    fn end(self, mark: &str, remark: &str) {
        if let Display::Terminal(bar) = &self.display {
            bar.finish_and_clear();
        }
        let seconds = self.started.elapsed().as_secs_f64();
        let line = format!("{mark} {:28} {seconds:>6.1} s  {remark}", self.name);
        self.say(line.trim_end());
    }
}

/// Runs `work` as a phase; `work` gives its result and the remark to leave on the screen.
pub fn run<T, E>(name: &str, work: impl FnOnce(&Phase) -> Result<(T, String), E>) -> Result<T, E> {
    let phase = Phase::start(name);
    match work(&phase) {
        Ok((value, remark)) => {
            phase.done(&remark);
            Ok(value)
        }
        Err(error) => {
            phase.failed();
            Err(error)
        }
    }
}
