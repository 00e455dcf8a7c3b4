//! The last steps, when machines and daemons have ended: pools, then power.

use std::{fs, time::Duration};

use loam_init::reap;
use loam_node_api::{machine::Shutdown, path::POOLS};
use rustix::{
    mount::{UnmountFlags, unmount},
    process::Signal,
    system::{RebootCommand, reboot},
};

use super::watchdog::Watchdog;
use crate::log::Log;

/// Time that a slow serial port gets for the end of the log.
const LOG_PATIENCE: Duration = Duration::from_secs(5);

/// Whatever still runs ends, pools are written out and unmounted, and the node is off or restarts.
///
/// The watchdog stays armed for a restart: if that gets stuck, it happens all the same.
pub fn end(how: Shutdown, watchdog: Option<Watchdog>, log: &Log) -> ! {
    kill_all();
    rustix::fs::sync();
    for pool in pools() {
        match unmount(&pool, UnmountFlags::empty()) {
            Ok(()) => tracing::info!(pool, "unmounted"),
            Err(error) => tracing::error!(pool, %error, "not unmounted; it was written out"),
        }
    }
    rustix::fs::sync();
    log.finish(LOG_PATIENCE);
    if let Some(watchdog) = watchdog {
        watchdog.pet();
        if how == Shutdown::PowerOff {
            watchdog.disarm();
        }
    }
    let command = match how {
        Shutdown::PowerOff => RebootCommand::PowerOff,
        Shutdown::Reboot => RebootCommand::Restart,
    };
    let refused = reboot(command);
    // The end of PID 1 is a panic, which restarts the node (`kernel.panic`).
    panic!("the kernel does not end: {refused:?}");
}

/// Tools that a daemon left behind, all killed and reaped: they would keep a pool busy.
fn kill_all() {
    // SAFETY: plain integers. -1: every process but this one.
    unsafe { libc::kill(-1, Signal::KILL.as_raw()) };
    while rustix::process::wait(rustix::process::WaitOptions::empty()).is_ok() {}
    while reap::next().is_some() {}
}

/// Mount points of pools, the innermost first.
fn pools() -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mount_points_below(&mounts, POOLS)
}

fn mount_points_below(mounts: &str, folder: &str) -> Vec<String> {
    let below = |line: &str| {
        let point = line.split(' ').nth(1)?;
        point
            .strip_prefix(folder)?
            .starts_with('/')
            .then(|| point.to_owned())
    };
    mounts.lines().rev().filter_map(below).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pools_and_the_last_mounted_first() {
        let mounts = "tmpfs /pools tmpfs rw 0 0\n\
            /dev/vda /pools/a btrfs rw 0 0\n\
            /dev/vda /pools/a/b btrfs rw 0 0\n\
            tmpfs /poolside tmpfs rw 0 0\n";
        assert_eq!(
            mount_points_below(mounts, "/pools"),
            ["/pools/a/b", "/pools/a"]
        );
    }
}
