//! What a program and all that it starts took of this machine.

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::bench::table;

/// How often its memory is looked at.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub seconds: f64,
    /// Of all processors together: what a busy machine changes least.
    pub processor_seconds: f64,
    /// The most that it and all that it started held at one look.
    pub peak_kib: u64,
    /// The most that it held itself.
    pub own_peak_kib: u64,
}

/// Each number's median by itself; of an odd number of usages.
pub fn median(usages: &[Usage]) -> Usage {
    let of = |number: fn(&Usage) -> f64| table::median(usages.iter().map(number));
    Usage {
        seconds: of(|usage| usage.seconds),
        processor_seconds: of(|usage| usage.processor_seconds),
        peak_kib: of(|usage| usage.peak_kib as f64) as u64,
        own_peak_kib: of(|usage| usage.own_peak_kib as f64) as u64,
    }
}

/// Runs programs one after the other, and looks at them meanwhile.
#[derive(Debug, Default)]
pub struct Watched {
    processor_seconds: f64,
    peak_kib: u64,
}

impl Watched {
    /// To its end. What it says, if its output is a pipe: a line or two.
    pub fn run(&mut self, mut command: Command) -> Result<String> {
        let name = command.get_program().to_string_lossy().into_owned();
        let before = children_seconds()?;
        let mut child = command
            .stderr(Stdio::inherit())
            .spawn()
            .with_context(|| format!("running {name}"))?;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            self.peak_kib = self.peak_kib.max(held_kib(child.id()));
            sleep(LOOK);
        };
        ensure!(status.success(), "{name} ended with {status}");
        self.processor_seconds += children_seconds()? - before;
        let mut said = String::new();
        if let Some(mut out) = child.stdout.take() {
            out.read_to_string(&mut said)?;
        }
        Ok(said)
    }

    pub fn usage(&self, seconds: f64) -> Usage {
        Usage {
            seconds,
            processor_seconds: self.processor_seconds,
            peak_kib: self.peak_kib,
            own_peak_kib: self.peak_kib,
        }
    }
}

/// What a process and its descendants have in memory. One that ends meanwhile holds nothing.
fn held_kib(process: u32) -> u64 {
    let mut seen = BTreeSet::new();
    let mut queue = vec![process];
    let mut held = 0;
    while let Some(process) = queue.pop() {
        if !seen.insert(process) {
            continue;
        }
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        held += status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"))
            .and_then(|value| value.trim().parse::<u64>().ok())
            .unwrap_or_default();
        // Each thread has its own.
        let tasks = fs::read_dir(format!("/proc/{process}/task"));
        for task in tasks.into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            let children = children.split_whitespace();
            queue.extend(children.filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    held
}

/// What all processes that were waited for took of the processors, those that they waited for included
/// (`proc(5)`, `/proc/pid/stat`, fields 16 and 17).
pub fn children_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat").context("reading /proc/self/stat")?;
    let ticks = children_ticks(&stat).context("/proc/self/stat has no times of children")?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn children_ticks(stat: &str) -> Option<u64> {
    // The program's name may have spaces and parentheses.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(13);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_and_what_it_starts_are_counted() {
        let mut shell = Command::new("sh");
        // A shell that waits, and what holds some memory and works meanwhile.
        let work = "head -c 20000000 /dev/zero | tail -c 15000000 | (sleep 0.3; cat) | wc -c; true";
        shell.args(["-c", work]).stdout(Stdio::piped());
        let mut watched = Watched::default();
        assert_eq!(watched.run(shell).unwrap().trim(), "15000000");
        let usage = watched.usage(1.0);
        // `tail` keeps what it is to print.
        assert!(usage.peak_kib > 14_000, "{usage:?}");
        assert!(usage.processor_seconds > 0.0, "{usage:?}");

        let mut failing = Command::new("false");
        failing.stdout(Stdio::null());
        assert!(watched.run(failing).is_err());
    }

    #[test]
    fn reads_the_times_of_children() {
        let stat = "17 (a b) c) S 1 17 17 0 -1 4194560 1 2 3 4 5 6 70 8 20 0 1 0 9 10 11";
        assert_eq!(children_ticks(stat), Some(78));
        assert_eq!(children_ticks("17 (sh) S 1"), None);
    }

    #[test]
    fn a_median_is_in_the_middle() {
        let usage = |seconds| Usage {
            seconds,
            ..Usage::default()
        };
        let usages = [usage(9.0), usage(1.0), usage(2.0)];
        assert_eq!(median(&usages), usage(2.0));
    }
}
