//! What the node's daemons hold while nothing happens.

use anyhow::{Context, Result};

use crate::qemu::DebugPort;

#[derive(Clone, Debug)]
pub struct Daemon {
    pub name: &'static str,
    /// All of it in memory, pages that several share divided among them: the program itself too.
    pub proportional_kib: u64,
    /// What it has allocated.
    pub anonymous_kib: u64,
}

/// All that runs on a node without machines.
pub const DAEMONS: [&str; 6] = ["init", "storaged", "netd", "clockd", "noded", "screen"];

pub fn daemons(port: &DebugPort) -> Result<Vec<Daemon>> {
    DAEMONS
        .into_iter()
        .map(|name| {
            let pid = pid(port, name)?;
            let rollup = port.read(&format!("/proc/{pid}/smaps_rollup"))?;
            Ok(Daemon {
                name,
                proportional_kib: kib(&rollup, "Pss")?,
                anonymous_kib: kib(&rollup, "Pss_Anon")?,
            })
        })
        .collect()
}

/// Memory that the node's kernel could not give to a program any more.
pub fn used_kib(port: &DebugPort) -> Result<u64> {
    let meminfo = port.read("/proc/meminfo")?;
    Ok(kib(&meminfo, "MemTotal")?.saturating_sub(kib(&meminfo, "MemAvailable")?))
}

/// The oldest process of the daemon's group: what it started comes after it.
fn pid(port: &DebugPort, name: &str) -> Result<u32> {
    if name == "init" {
        return Ok(1);
    }
    let group = port.read(&format!("/sys/fs/cgroup/daemons/{name}/cgroup.procs"))?;
    let pids = group.lines().filter_map(|line| line.parse().ok());
    pids.min().with_context(|| format!("{name} does not run"))
}

/// A line such as `Pss:   4321 kB`.
fn kib(text: &str, name: &str) -> Result<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .and_then(|value| value.trim().strip_suffix(" kB"))
        .and_then(|value| value.parse().ok())
        .with_context(|| format!("the node's kernel does not tell {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_tables() {
        let text = "00400000-7ffe [rollup]\nRss:  20 kB\nPss:     7 kB\nPss_Anon:   3 kB\n";
        assert_eq!(kib(text, "Pss").unwrap(), 7);
        assert_eq!(kib(text, "Pss_Anon").unwrap(), 3);
        assert!(kib(text, "Swap").is_err());
    }
}
