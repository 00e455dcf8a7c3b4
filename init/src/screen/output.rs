//! [`Output`]: one console on which the screen is drawn.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    sync::mpsc::{self, SyncSender},
    thread,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Mode, OFlags},
    io::Errno,
};

/// The kernel's consoles, as `tty0 ttyS0`.
const ACTIVE: &str = "/sys/class/tty/console/active";

/// That one is the log's.
const LOG_PORT: &str = "ttyS1";

/// What waits while a console is busy with what came before.
const MAX_WAITING: usize = 1;

/// A thread of its own writes to the console, since a driver may hold up whoever does: one of a
/// screen waits for the lock of all consoles, whatever the device was opened with.
#[derive(Debug)]
pub struct Output(SyncSender<Vec<u8>>);

pub fn consoles() -> Vec<Output> {
    let active = fs::read_to_string(ACTIVE).unwrap_or_default();
    let names = active.split_whitespace().filter(|name| *name != LOG_PORT);
    let output = |name: &str| {
        open(name)
            .inspect_err(|error| tracing::warn!(console = name, %error, "console is not drawn on"))
            .ok()
    };
    names.filter_map(output).collect()
}

fn open(name: &str) -> io::Result<Output> {
    let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let device = rustix::fs::open(format!("/dev/{name}"), flags, Mode::empty())?;
    Output::new(move |bytes| {
        // If it has gone, what was to be shown there is lost.
        let _ = write_all(&device, bytes);
    })
}

fn write_all(device: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(device, bytes) {
            Ok(written @ 1..) => bytes = &bytes[written..],
            Ok(0) | Err(Errno::AGAIN) => {
                let mut ready = [PollFd::from_borrowed_fd(device.as_fd(), PollFlags::OUT)];
                poll(&mut ready, None)?;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Output {
    fn new(mut write: impl FnMut(&[u8]) + Send + 'static) -> io::Result<Self> {
        let (sender, waiting) = mpsc::sync_channel::<Vec<u8>>(MAX_WAITING);
        let thread = thread::Builder::new().name("screen".into());
        thread.spawn(move || {
            for bytes in waiting {
                write(&bytes);
            }
        })?;
        Ok(Self(sender))
    }

    /// Waits for nothing. False if the console is still busy with what came before, so that
    /// `bytes` are not shown.
    pub fn write(&self, bytes: &[u8]) -> bool {
        self.0.try_send(bytes.to_vec()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};
    use std::{io::Read, sync::mpsc::channel};

    #[test]
    fn a_console_whose_driver_hangs_holds_up_nobody_and_is_drawn_on_when_it_does_not() {
        let (let_go, hung) = channel::<()>();
        let (shown, seen) = channel();
        let output = Output::new(move |bytes| {
            let _ = hung.recv();
            shown.send(bytes.to_vec()).unwrap();
        })
        .unwrap();
        // One is being written and one waits; the thread may not have begun yet.
        let mut taken = vec![0];
        while output.write(&taken) {
            taken[0] += 1;
            assert!(taken[0] <= 2);
            thread::yield_now();
        }
        drop(let_go);
        assert_eq!(seen.recv().unwrap(), [0]);
        while !output.write(b"last") {
            thread::yield_now();
        }
        drop(output);
        assert_eq!(seen.iter().last().unwrap(), b"last");
    }

    #[test]
    fn what_a_slow_console_does_not_take_at_once_is_written_later() {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        rustix::io::ioctl_fionbio(&read, false).unwrap();
        // More than a pipe holds.
        let bytes = vec![b'x'; 1 << 20];
        let output = Output::new(move |bytes| write_all(&write, bytes).unwrap()).unwrap();
        assert!(output.write(&bytes));
        drop(output);
        let mut got = Vec::new();
        std::fs::File::from(read).read_to_end(&mut got).unwrap();
        assert_eq!(got.len(), bytes.len());
    }
}
