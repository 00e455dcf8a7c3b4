//! The hardware watchdog: it resets a node whose PID 1 is stuck.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::fs::{Mode, OFlags};

const DEVICE: &str = "/dev/watchdog";

/// Longer than any single thing that PID 1 waits for; shorter than a farmer's patience.
const TIMEOUT_SECONDS: libc::c_int = 60;

/// `_IOWR('W', 6, int)` of linux/watchdog.h.
const WDIOC_SETTIMEOUT: libc::Ioctl = 0xC004_5706;

/// `_IOR('W', 2, int)`: why the machine started.
const WDIOC_GETBOOTSTATUS: libc::Ioctl = 0x8004_5702;

/// It was the watchdog that restarted the machine.
const WDIOF_CARDRESET: libc::c_int = 0x0020;

#[derive(Debug)]
pub struct Watchdog {
    device: OwnedFd,
    /// Whether it ended the boot before, where the hardware knows.
    has_fired: bool,
}

impl Watchdog {
    /// Arms the watchdog; none if the machine has none.
    pub fn arm() -> Option<Self> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let device = match rustix::fs::open(DEVICE, flags, Mode::empty()) {
            Ok(device) => device,
            Err(rustix::io::Errno::NOENT) => return None,
            Err(error) => {
                tracing::warn!(device = DEVICE, %error, "watchdog is not armed");
                return None;
            }
        };
        let mut seconds = TIMEOUT_SECONDS;
        // SAFETY: WDIOC_SETTIMEOUT reads and writes one int.
        if unsafe { libc::ioctl(device.as_raw_fd(), WDIOC_SETTIMEOUT, &raw mut seconds) } < 0 {
            let error = io::Error::last_os_error();
            tracing::warn!(%error, "watchdog keeps its own timeout");
        }
        let mut status: libc::c_int = 0;
        // SAFETY: WDIOC_GETBOOTSTATUS writes one int.
        let told = unsafe { libc::ioctl(device.as_raw_fd(), WDIOC_GETBOOTSTATUS, &raw mut status) };
        let has_fired = told == 0 && status & WDIOF_CARDRESET != 0;
        tracing::info!(seconds, has_fired, "watchdog armed");
        Some(Self { device, has_fired })
    }

    /// Whether it ended the boot before.
    pub fn has_fired(&self) -> bool {
        self.has_fired
    }

    /// All is well.
    pub fn pet(&self) {
        if let Err(error) = rustix::io::write(&self.device, b".") {
            tracing::error!(%error, "watchdog cannot be reached");
        }
    }

    /// A node that is switched off must not be switched on by its watchdog.
    pub fn disarm(self) {
        // The magic close (Documentation/watchdog/watchdog-api.rst).
        if let Err(error) = rustix::io::write(&self.device, b"V") {
            tracing::warn!(%error, "watchdog stays armed");
        }
    }
}
