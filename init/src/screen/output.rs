//! [`Output`]: one console on which the screen is drawn.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
};

use rustix::fs::{Mode, OFlags};

/// The kernel's consoles, as `tty0 ttyS0`.
const ACTIVE: &str = "/sys/class/tty/console/active";

/// That one is the log's.
const LOG_PORT: &str = "ttyS1";

#[derive(Debug)]
pub struct Output {
    device: OwnedFd,
    /// What the console did not take yet. Never more than one frame: see [`Output::write`].
    rest: Vec<u8>,
}

pub fn consoles() -> Vec<Output> {
    let active = fs::read_to_string(ACTIVE).unwrap_or_default();
    let names = active.split_whitespace().filter(|name| *name != LOG_PORT);
    names.filter_map(open).collect()
}

fn open(name: &str) -> Option<Output> {
    // A console that nobody reads must never hold up PID 1.
    let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(format!("/dev/{name}"), flags, Mode::empty()) {
        Ok(device) => Some(Output {
            device,
            rest: Vec::new(),
        }),
        Err(error) => {
            tracing::warn!(console = name, %error, "console is not drawn on");
            None
        }
    }
}

impl Output {
    /// Writes as much as the console takes. False if it is still busy with what came before, so
    /// that `bytes` are not shown.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        self.flush();
        if !self.rest.is_empty() {
            return false;
        }
        self.rest.extend_from_slice(bytes);
        self.flush();
        true
    }

    pub fn flush(&mut self) {
        while !self.rest.is_empty() {
            match rustix::io::write(self.device.as_fd(), &self.rest) {
                Ok(written @ 1..) => {
                    self.rest.drain(..written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Ok(0) | Err(rustix::io::Errno::AGAIN) => return,
                // It has gone; what was to be shown there is lost.
                Err(_) => self.rest.clear(),
            }
        }
    }
}
