//! The second serial port, to which the log is written.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    termios::{ControlModes, OptionalActions, speed, tcgetattr, tcsetattr},
};
use tokio::io::Interest;

use crate::device::AsyncDevice;

const PORT: &str = "/dev/ttyS1";

/// None if the machine has no such port: its node exists then too, but has no terminal attributes.
pub fn open() -> Option<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let port = rustix::fs::open(PORT, flags, Mode::empty()).ok()?;
    let mut attributes = tcgetattr(&port).ok()?;
    attributes.make_raw();
    // Nobody may be at the other end: write without carrier.
    attributes.control_modes |= ControlModes::CLOCAL;
    attributes.set_speed(speed::B115200).ok()?;
    tcsetattr(&port, OptionalActions::Now, &attributes).ok()?;
    Some(port)
}

#[derive(Debug)]
pub struct AsyncPort(AsyncDevice);

impl AsyncPort {
    pub fn new(port: OwnedFd) -> io::Result<Self> {
        AsyncDevice::new(port, Interest::WRITABLE).map(Self)
    }

    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let write = |port: BorrowedFd| Ok(rustix::io::write(port, bytes)?);
            match self.0.when_ready(Interest::WRITABLE, write).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => bytes = &bytes[written..],
            }
        }
        Ok(())
    }
}

/// For when there is no runtime any longer.
pub fn write_until(port: &OwnedFd, mut bytes: &[u8], until: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(port, bytes) {
            Ok(written @ 1..) => bytes = &bytes[written..],
            Err(Errno::AGAIN | Errno::INTR) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
