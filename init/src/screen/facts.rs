//! [`NodeFacts`]: processor and memory of the node, from `/proc`.

use std::{
    fs,
    time::{Duration, Instant},
};

use loam_deployment::Bytes;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    pub uptime: Duration,
    pub cpus: usize,
    /// Percent since the last look.
    pub busy: u64,
    pub memory_total: Bytes,
    pub memory_used: Bytes,
}

/// The load over a shorter time than this says nothing.
const INTERVAL: Duration = Duration::from_secs(2);

/// Reads the facts again and again; the load is what happened in between.
#[derive(Debug, Default)]
pub struct Observer {
    last: Times,
    looked: Option<Instant>,
    facts: NodeFacts,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Times {
    idle: u64,
    total: u64,
}

impl Observer {
    pub fn look(&mut self, now: Instant) -> NodeFacts {
        let fresh = |looked| now.saturating_duration_since(looked) < INTERVAL;
        if !self.looked.is_some_and(fresh) {
            self.looked = Some(now);
            self.facts = self.read();
        }
        self.facts
    }

    fn read(&mut self) -> NodeFacts {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let stat = read("/proc/stat");
        let times = times(&stat);
        let total = times.total.saturating_sub(self.last.total);
        let idle = times.idle.saturating_sub(self.last.idle);
        self.last = times;
        let memory = read("/proc/meminfo");
        let memory_total = field(&memory, "MemTotal:");
        let available = field(&memory, "MemAvailable:");
        let seconds = read("/proc/uptime");
        let seconds = seconds
            .split('.')
            .next()
            .and_then(|s| s.parse().ok())
            .unwrap_or(0);
        NodeFacts {
            uptime: Duration::from_secs(seconds),
            cpus: stat
                .lines()
                .filter(|l| l.starts_with("cpu") && !l.starts_with("cpu "))
                .count(),
            busy: total
                .saturating_sub(idle)
                .saturating_mul(100)
                .checked_div(total)
                .unwrap_or(0),
            memory_total,
            memory_used: Bytes(memory_total.get().saturating_sub(available.get())),
        }
    }
}

/// What the kernel could give to new processes now.
pub fn available_memory() -> Bytes {
    field(
        &fs::read_to_string("/proc/meminfo").unwrap_or_default(),
        "MemAvailable:",
    )
}

/// First line of `/proc/stat`: user nice system idle iowait irq softirq steal guest guest_nice.
/// The last two are part of the first two.
fn times(stat: &str) -> Times {
    let first = stat.lines().next().unwrap_or_default();
    let numbers: Vec<u64> = first
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|n| n.parse().ok())
        .collect();
    let idle = numbers.get(3..5).map_or(0, |idle| idle.iter().sum());
    Times {
        idle,
        total: numbers.iter().sum(),
    }
}

/// A line of `/proc/meminfo`, which counts in KiB.
fn field(memory: &str, name: &str) -> Bytes {
    let line = memory.lines().find_map(|line| line.strip_prefix(name));
    let kib = line
        .and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0u64);
    Bytes(kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_proc() {
        let times = times("cpu  10 0 20 60 10 0 0 0 5 0\ncpu0 1 2 3\n");
        assert_eq!(
            times,
            Times {
                idle: 70,
                total: 100
            }
        );
        assert_eq!(
            field("MemTotal:  2048 kB\nMemFree: 1 kB\n", "MemTotal:"),
            Bytes::mib(2)
        );
        assert_eq!(field("", "MemTotal:"), Bytes(0));
    }

    #[test]
    fn this_machine_has_memory_and_a_processor() {
        let facts = Observer::default().look(Instant::now());
        assert!(facts.cpus > 0);
        assert!(facts.memory_total > facts.memory_used);
    }
}
