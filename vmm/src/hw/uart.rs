//! COM1: a 16550A at port 0x3f8, interrupt 4. Guests print here before they have drivers.

use std::{fmt, io};

use vm_superio::{Serial, Trigger, serial::NoEvents};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::{
    backend::console_ring::RingWriter,
    platform::{Platform, SERIAL_LINE},
};

pub const FIRST_PORT: u16 = 0x3f8;
pub const LAST_PORT: u16 = 0x3ff;

#[derive(Debug)]
struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

pub struct Uart(Serial<Line, NoEvents, RingWriter>);

impl fmt::Debug for Uart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Uart")
    }
}

impl Uart {
    pub fn new(platform: &dyn Platform, output: RingWriter) -> io::Result<Self> {
        let line = EventFd::new(EFD_NONBLOCK)?;
        platform.connect_interrupt(SERIAL_LINE, &line)?;
        Ok(Self(Serial::new(Line(line), output)))
    }

    pub fn read(&mut self, port: u16) -> u8 {
        self.0.read((port - FIRST_PORT) as u8)
    }

    pub fn write(&mut self, port: u16, value: u8) {
        // Fails only when the interrupt's counter is full, and then one is pending anyway.
        let _ = self.0.write((port - FIRST_PORT) as u8, value);
    }

    /// Types bytes into the port; returns how many its FIFO took.
    pub fn type_in(&mut self, bytes: &[u8]) -> usize {
        self.0.enqueue_raw_bytes(bytes).unwrap_or(0)
    }
}
