//! [`Observer`]: what the screen shows of the machine itself, from `/proc`, `/sys` and the clock's file.

use std::{
    fs, io,
    path::Path,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use loam_deployment::Bytes;
use loam_node_api::{clock::Clock, path::CLOCK, screen::Link};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    pub uptime: Duration,
    pub cpus: usize,
    /// Percent since the last look.
    pub busy: u64,
    pub memory_total: Bytes,
    pub memory_used: Bytes,
    pub links: Vec<Link>,
    pub clock: Clock,
}

/// The load over a shorter time than this says nothing.
const INTERVAL: Duration = Duration::from_secs(2);

/// Ethernet (`linux/if_arp.h`).
const ETHERNET: &str = "1";

/// Reads the facts again when somebody looks, in a thread of its own: what a link's file says waits for the lock that
/// whoever changes any link holds. The load is what happened between two readings.
#[derive(Debug, Default)]
pub struct Observer {
    facts: Arc<Mutex<NodeFacts>>,
    ask: Option<mpsc::SyncSender<()>>,
    looked: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Times {
    idle: u64,
    total: u64,
}

impl Observer {
    pub fn start() -> io::Result<Self> {
        let facts: Arc<Mutex<NodeFacts>> = Arc::default();
        let (ask, asked) = mpsc::sync_channel(1);
        let shared = facts.clone();
        thread::Builder::new().name("facts".into()).spawn(move || {
            let mut last = Times::default();
            for () in asked {
                let facts = read(Path::new("/"), &mut last);
                *shared.lock().unwrap_or_else(PoisonError::into_inner) = facts;
            }
        })?;
        Ok(Self {
            facts,
            ask: Some(ask),
            looked: None,
        })
    }

    /// The last that were read, nothing before the first; it waits for none.
    pub fn look(&mut self, now: Instant) -> NodeFacts {
        let fresh = |looked| now.saturating_duration_since(looked) < INTERVAL;
        if !self.looked.is_some_and(fresh) {
            self.looked = Some(now);
            if let Some(ask) = &self.ask {
                // One that is asked for already will do.
                let _ = ask.try_send(());
            }
        }
        let facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        facts.clone()
    }
}

fn read(root: &Path, last: &mut Times) -> NodeFacts {
    let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let stat = text("proc/stat");
    let times = times(&stat);
    let total = times.total.saturating_sub(last.total);
    let idle = times.idle.saturating_sub(last.idle);
    *last = times;
    let memory = text("proc/meminfo");
    let memory_total = field(&memory, "MemTotal:");
    let available = field(&memory, "MemAvailable:");
    let uptime = text("proc/uptime");
    let seconds = uptime.split('.').next().and_then(|s| s.parse().ok());
    NodeFacts {
        uptime: Duration::from_secs(seconds.unwrap_or(0)),
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
        links: links(&root.join("sys/class/net")),
        clock: Clock::read(&root.join(CLOCK.trim_start_matches('/'))),
    }
}

/// Those with a device behind them, by name; those of tenants have none.
fn links(folder: &Path) -> Vec<Link> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut links: Vec<Link> = entries
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            let text = |file: &str| fs::read_to_string(path.join(file)).ok();
            let says = |file: &str, what: &str| text(file).is_some_and(|t| t.trim() == what);
            (path.join("device").exists() && says("type", ETHERNET)).then(|| Link {
                name: entry.file_name().to_string_lossy().into_owned(),
                // Of a link that is down it cannot be read.
                carrier: says("carrier", "1"),
                // -1: the driver does not know.
                speed: text("speed").and_then(|speed| speed.trim().parse().ok()),
            })
        })
        .collect();
    links.sort_by(|a, b| a.name.cmp(&b.name));
    links
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

    /// A root with `files` in it.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn reads_what_the_kernel_says() {
        let mut last = Times::default();
        let before = root(&[("proc/stat", "cpu  10 0 20 60 10 0 0 0 5 0\ncpu0 1 2 3\n")]);
        assert_eq!(read(before.path(), &mut last).busy, 30);
        assert_eq!((last.idle, last.total), (70, 100));
        let after = root(&[
            (
                "proc/stat",
                "cpu  30 0 20 130 20 0 0 0 5 0\ncpu0 1\ncpu1 1\n",
            ),
            (
                "proc/meminfo",
                "MemTotal:  2048 kB\nMemFree: 1 kB\nMemAvailable: 1024 kB\n",
            ),
            ("proc/uptime", "61.73 8.5\n"),
            (
                "run/loam/clock.json",
                r#"{"floor":7,"set":true,"authenticated":false,"block":null,"source":"x"}"#,
            ),
        ]);
        let facts = read(after.path(), &mut last);
        let expected = NodeFacts {
            uptime: Duration::from_secs(61),
            cpus: 2,
            busy: 20,
            memory_total: Bytes::mib(2),
            memory_used: Bytes::mib(1),
            links: Vec::new(),
            clock: Clock::read(&after.path().join("run/loam/clock.json")),
        };
        assert!(expected.clock.set);
        assert_eq!(facts, expected);
        assert_eq!(read(Path::new("/nowhere"), &mut last), NodeFacts::default());
    }

    #[test]
    fn links_are_those_with_a_card_behind_them() {
        let root = root(&[
            ("enp2s0/device/vendor", ""),
            ("enp2s0/type", "1\n"),
            ("enp2s0/carrier", "1\n"),
            ("enp2s0/speed", "2500\n"),
            ("enp1s0/device/vendor", ""),
            ("enp1s0/type", "1\n"),
            ("enp1s0/carrier", "0\n"),
            ("enp1s0/speed", "-1\n"),
            ("enp0s0/device/vendor", ""),
            ("enp0s0/type", "1\n"),
            ("lo/type", "772\n"),
            ("tap0/type", "1\n"),
            ("tap0/carrier", "1\n"),
            ("ib0/device/vendor", ""),
            ("ib0/type", "32\n"),
        ]);
        let link = |name: &str, carrier, speed| Link {
            name: name.into(),
            carrier,
            speed,
        };
        assert_eq!(
            links(root.path()),
            [
                link("enp0s0", false, None),
                link("enp1s0", false, None),
                link("enp2s0", true, Some(2500)),
            ]
        );
    }

    #[test]
    fn this_machine_is_read_again_and_nobody_waits_for_that() {
        let mut observer = Observer::start().unwrap();
        let now = Instant::now();
        let mut facts = observer.look(now);
        while facts == NodeFacts::default() {
            thread::yield_now();
            facts = observer.look(now);
        }
        assert!(facts.cpus > 0);
        assert!(facts.memory_total > facts.memory_used);
        // What takes its time takes nobody else's.
        let (ask, _never_heard) = mpsc::sync_channel(1);
        let mut hung = Observer {
            ask: Some(ask),
            ..observer
        };
        for n in 0..3 {
            assert_eq!(hung.look(now + INTERVAL * n).cpus, facts.cpus);
        }
    }
}
