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

#[derive(Debug)]
pub struct Watchdog(OwnedFd);

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
        tracing::info!(seconds, "watchdog armed");
        Some(Self(device))
    }

    /// All is well.
    pub fn pet(&self) {
        if let Err(error) = rustix::io::write(&self.0, b".") {
            tracing::error!(%error, "watchdog cannot be reached");
        }
    }

    /// A node that is switched off must not be switched on by its watchdog.
    pub fn disarm(self) {
        // The magic close (Documentation/watchdog/watchdog-api.rst).
        if let Err(error) = rustix::io::write(&self.0, b"V") {
            tracing::warn!(%error, "watchdog stays armed");
        }
    }
}
