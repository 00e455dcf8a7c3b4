//! Named phases: what the pipeline is doing now, how long each part took, what was kept.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// One step of the pipeline, shown as a spinner on a terminal and as one line in a log.
#[derive(Debug)]
pub struct Phase {
    name: String,
    started: Instant,
    bar: ProgressBar,
    terminal: bool,
}

impl Phase {
    pub fn start(name: impl Into<String>) -> Self {
        let name = name.into();
        let terminal = std::io::stderr().is_terminal();
        let bar = if terminal {
            let bar = ProgressBar::new_spinner();
            let style =
                ProgressStyle::with_template("{spinner} {prefix:28} {elapsed:>5}  {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.set_prefix(name.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        } else {
            // A log shows what was going on when it ends early.
            eprintln!("· {name}");
            ProgressBar::hidden()
        };
        Self {
            name,
            started: Instant::now(),
            bar,
            terminal,
        }
    }

    /// Says what the phase is busy with.
    pub fn note(&self, message: impl Into<String>) {
        self.bar.set_message(message.into());
    }

    /// Prints a line above the spinner.
    pub fn say(&self, line: &str) {
        if self.terminal {
            self.bar.println(line);
        } else {
            eprintln!("{line}");
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
        self.bar.finish_and_clear();
        let seconds = self.started.elapsed().as_secs_f64();
        eprintln!(
            "{}",
            format!("{mark} {:28} {seconds:>6.1} s  {remark}", self.name).trim_end()
        );
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
