//! The last steps, when machines and daemons have ended: pools, then power.
//!
//! Whatever hangs, the node gets to the last of them. None waits without a bound, and who waits
//! pets the watchdog.

use std::{fs, io, thread, time::Duration};

use loam_node_api::{machine::Shutdown, path::POOLS};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::{UnmountFlags, unmount},
    process::{Signal, WaitOptions, wait},
    system::{RebootCommand, reboot},
};

use super::{vigil::Vigil, watchdog::Watchdog};
use crate::log::Log;

/// All steps together. A slow disk with much to write needs minutes; more than this is not waited
/// for, whatever it seems to do.
const TOTAL: Duration = Duration::from_secs(15 * 60);

/// A killed process is gone at once, or stuck in the kernel for who knows how long.
const KILLED_GRACE: Duration = Duration::from_secs(10);

/// While pools are written out no disk has finished a single request for so long: what is left
/// hangs. (The kernel itself gives up on a request of a SCSI disk after 30 seconds.)
const STALL: Duration = Duration::from_secs(40);

/// Time that a slow serial port gets for the end of the log.
const LOG_PATIENCE: Duration = Duration::from_secs(5);

/// The kernel tells every device before it ends. A disk that hangs may hold it up.
const KERNEL_PATIENCE: Duration = Duration::from_secs(60);

/// Whatever still runs ends, pools are written out and unmounted, and the node is off or restarts.
///
/// The watchdog stays armed for a restart. That rests on [`force`] all the same, for many drivers
/// disarm theirs as the first thing when the kernel ends (`watchdog_stop_on_reboot`). On the way to
/// off it is disarmed: all that it could do to a power-off that gets stuck is to make it a boot.
pub fn end(how: Shutdown, watchdog: Option<Watchdog>, log: &Log) -> ! {
    let vigil = Vigil::new(TOTAL, || {
        if let Some(watchdog) = &watchdog {
            watchdog.pet();
        }
    });
    kill_all(&vigil);
    let pools = vigil.call(KILLED_GRACE, pools).unwrap_or_default();
    for pool in vigil.all(STALL, pools, write_out, requests_done) {
        tracing::error!(?pool, "it does not answer; not written out");
    }
    let last = log.clone();
    vigil.call(2 * LOG_PATIENCE, move || last.finish(LOG_PATIENCE));
    let (command, _armed) = match how {
        Shutdown::PowerOff => {
            if let Some(watchdog) = watchdog {
                watchdog.disarm();
            }
            (RebootCommand::PowerOff, None)
        }
        Shutdown::Reboot => (RebootCommand::Restart, watchdog),
    };
    let refused = Vigil::new(KERNEL_PATIENCE, || ()).call(KERNEL_PATIENCE, move || reboot(command));
    force(how);
    // The end of PID 1 is a panic, which restarts the node (`kernel.panic`).
    panic!("the kernel does not end: {refused:?}");
}

/// The kernel's own end is held up by a device, or was refused.
///
/// A restart has a way around devices: sysrq's `b` resets the processor at once. There is none to
/// switch a node off: sysrq's `o` asks the devices again, and waits at the one that hangs. Such a
/// node has no machine, daemon or dirty pool left, and stays so until somebody takes its plug or the
/// disk lets go; to come up again would be the opposite of what was asked.
fn force(how: Shutdown) {
    let key = match how {
        Shutdown::PowerOff => "o",
        Shutdown::Reboot => "b",
    };
    eprintln!("loam-init: the kernel does not end; sysrq {key}");
    if let Err(error) = fs::write("/proc/sysrq-trigger", key) {
        eprintln!("loam-init: sysrq: {error}");
    }
    if how == Shutdown::PowerOff {
        loop {
            thread::park();
        }
    }
    // `b` does not come back; where there is no sysrq the end of PID 1 does the same.
}

/// Tools that a daemon left behind, all killed and reaped: they would keep a pool busy.
fn kill_all(vigil: &Vigil<impl Fn()>) {
    // SAFETY: plain integers. -1: every process but this one.
    unsafe { libc::kill(-1, Signal::KILL.as_raw()) };
    let all_reaped = || {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    };
    if !vigil.wait(KILLED_GRACE, all_reaped) {
        tracing::error!("some processes cannot be killed; going on without");
    }
}

/// Writes out and unmounts one pool's mount points, the innermost first.
fn write_out(mount_points: Vec<String>) {
    for point in mount_points {
        if let Err(error) = sync(&point) {
            tracing::error!(pool = point, %error, "not written out");
        }
        match unmount(&point, UnmountFlags::empty()) {
            Ok(()) => tracing::info!(pool = point, "unmounted"),
            Err(error) => tracing::error!(pool = point, %error, "not unmounted"),
        }
    }
}

fn sync(mount_point: &str) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(mount_point, flags, Mode::empty())?;
    Ok(rustix::fs::syncfs(folder)?)
}

/// Mount points below each pool, the innermost first.
fn pools() -> Vec<Vec<String>> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mount_points_below(&mounts, POOLS)
}

fn mount_points_below(mounts: &str, folder: &str) -> Vec<Vec<String>> {
    let below = |line: &str| {
        let point = line.split(' ').nth(1)?;
        let name = point.strip_prefix(folder)?.strip_prefix('/')?;
        let pool = name.split('/').next()?.to_owned();
        Some((pool, point.to_owned()))
    };
    let mut pools: Vec<(String, Vec<String>)> = Vec::new();
    for (pool, point) in mounts.lines().rev().filter_map(below) {
        match pools.iter_mut().find(|(name, _)| *name == pool) {
            Some((_, points)) => points.push(point),
            None => pools.push((pool, vec![point])),
        }
    }
    pools.into_iter().map(|(_, points)| points).collect()
}

/// How many requests all disks have finished since the node started.
fn requests_done() -> u64 {
    finished(&fs::read_to_string("/proc/diskstats").unwrap_or_default())
}

/// Reads, writes, discards and flushes (Documentation/admin-guide/iostats.rst).
fn finished(diskstats: &str) -> u64 {
    let of_line = |line: &str| -> u64 {
        let fields: Vec<_> = line.split_whitespace().collect();
        let counts = [3, 7, 14, 18].into_iter().filter_map(|n| fields.get(n));
        counts.filter_map(|count| count.parse::<u64>().ok()).sum()
    };
    diskstats.lines().map(of_line).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_apart_and_the_last_mounted_first() {
        let mounts = "tmpfs /pools tmpfs rw 0 0\n\
            /dev/vda /pools/a btrfs rw 0 0\n\
            /dev/vdb /pools/c btrfs rw 0 0\n\
            /dev/vda /pools/a/b btrfs rw 0 0\n\
            tmpfs /poolside tmpfs rw 0 0\n";
        assert_eq!(
            mount_points_below(mounts, "/pools"),
            [vec!["/pools/a/b", "/pools/a"], vec!["/pools/c"]]
        );
    }

    #[test]
    fn progress_is_requests_and_not_time() {
        let disk = " 254 0 vda 10 0 80 5 20 0 160 9 3 77 88 4 0 0 0 2 1\n";
        assert_eq!(finished(disk), 36);
        let later = " 254 0 vda 10 0 80 5 20 0 160 9 3 99 199 4 0 0 0 2 1\n";
        assert_eq!(finished(later), 36);
        assert_eq!(finished("nonsense\n"), 0);
    }

    #[test]
    fn a_folder_is_written_out() {
        let folder = tempfile::tempdir().unwrap();
        assert!(sync(&folder.path().to_string_lossy()).is_ok());
        assert!(sync("/nowhere").is_err());
    }
}
