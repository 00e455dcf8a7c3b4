//! [`VirtioDevice`]: what a kind of device has to say and do.

use std::{fmt, os::fd::RawFd};

use crate::hw::virtio::{poll::Poll, queue::Virtqueue};

/// Device ids of virtio 1.2, chapter 5, with the PCI class that goes with each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Net,
    Block,
    Console,
    Entropy,
}

impl Kind {
    pub fn id(self) -> u16 {
        match self {
            Self::Net => 1,
            Self::Block => 2,
            Self::Console => 3,
            Self::Entropy => 4,
        }
    }

    pub fn pci_class(self) -> u32 {
        match self {
            Self::Net => 0x02_00_00,
            Self::Block => 0x01_80_00,
            Self::Console => 0x07_80_00,
            Self::Entropy => 0x10_80_00,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Net => "net",
            Self::Block => "block",
            Self::Console => "console",
            Self::Entropy => "rng",
        })
    }
}

/// What never changes about a device, known to its PCI function.
#[derive(Clone, Debug)]
pub struct Description {
    pub kind: Kind,
    /// Offered besides those that every device here offers.
    pub features: u64,
    pub queues: usize,
    /// The device's configuration space. No device here changes it.
    pub config: Vec<u8>,
}

/// A device that a driver has taken into use.
#[derive(Debug)]
pub struct Active {
    pub features: u64,
    /// By queue index; those that the driver left out are none.
    pub queues: Vec<Option<Virtqueue>>,
}

/// Whether a handler left work behind, to let others have their turn first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Done,
    More,
}

/// The part of a device that serves queues; lives in its own worker thread.
///
/// An error from a handler means that the driver, or what the device stands on, made it impossible
/// to go on: the device is deactivated and asks for a reset.
pub trait VirtioDevice: Send + 'static {
    type Error: std::error::Error;

    fn description(&self) -> Description;

    /// Descriptors for [`Poll::listen`] and [`VirtioDevice::backend_ready`].
    fn watched(&self) -> Vec<RawFd> {
        Vec::new()
    }

    /// The driver is ready. Every queue is tried once after this.
    fn activate(&mut self, active: Active, poll: &mut Poll) -> Result<(), Self::Error>;

    /// The driver kicked a queue. Not called while inactive.
    fn queue_ready(&mut self, queue: usize, poll: &mut Poll) -> Result<Progress, Self::Error>;

    /// A watched descriptor is readable; it stays ready until it is read or no longer listened to.
    fn backend_ready(&mut self, backend: usize, poll: &mut Poll) -> Result<(), Self::Error> {
        let _ = (backend, poll);
        Ok(())
    }

    /// Forgets driver and queues; no guest memory is touched until the next `activate`.
    fn deactivate(&mut self, poll: &mut Poll);
}
