//! What devices ask of KVM: interrupt lines, message-signalled interrupts, doorbells.
//!
//! A trait, so that devices are tested without `/dev/kvm`.

mod kvm;
mod pace;

use std::{fmt, io};

use vmm_sys_util::eventfd::EventFd;

pub use kvm::Kvm;

/// KVM's name for an interrupt source: 0 to 23 are the I/O APIC's pins, those above are messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gsi(pub u32);

/// Pins of the I/O APIC.
const PINS: u32 = 24;
/// COM1, as on every PC.
pub const SERIAL_LINE: Gsi = Gsi(4);
/// ACPI's system control interrupt, as on every PC.
pub const ACPI_LINE: Gsi = Gsi(9);

/// A write to the local APICs' address space, which is what a message-signalled interrupt is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub address: u64,
    pub data: u32,
}

pub trait Platform: Send + Sync + fmt::Debug {
    /// Sets a line of the I/O APIC.
    fn set_line(&self, line: Gsi, high: bool) -> io::Result<()>;
    /// Makes each write to `event` raise `gsi`.
    fn connect_interrupt(&self, gsi: Gsi, event: &EventFd) -> io::Result<()>;
    /// Says which message `gsi` sends; none: it sends nothing.
    fn route(&self, gsi: Gsi, message: Option<Message>) -> io::Result<()>;
    /// Makes each guest write to `address` count up `event` without leaving the kernel.
    fn attach_doorbell(&self, address: u64, event: &EventFd) -> io::Result<()>;
    fn detach_doorbell(&self, address: u64, event: &EventFd) -> io::Result<()>;
}

/// Hands out interrupt sources above the I/O APIC's pins.
#[derive(Debug)]
pub struct GsiAllocator(u32);

impl Default for GsiAllocator {
    fn default() -> Self {
        Self(PINS)
    }
}

impl GsiAllocator {
    pub fn allocate(&mut self) -> Gsi {
        let gsi = Gsi(self.0);
        self.0 += 1;
        gsi
    }
}

#[cfg(test)]
pub(crate) mod recorded {
    //! A platform that remembers what it was asked.

    use std::{collections::BTreeMap, sync::Mutex};

    use super::*;
    use crate::lock::Lock;

    #[derive(Debug, Default)]
    pub struct Recorded {
        pub lines: Mutex<BTreeMap<Gsi, bool>>,
        pub routes: Mutex<BTreeMap<Gsi, Message>>,
        pub doorbells: Mutex<Vec<u64>>,
        pub interrupts: Mutex<BTreeMap<Gsi, EventFd>>,
    }

    impl Platform for Recorded {
        fn set_line(&self, line: Gsi, high: bool) -> io::Result<()> {
            self.lines.locked().insert(line, high);
            Ok(())
        }

        fn connect_interrupt(&self, gsi: Gsi, event: &EventFd) -> io::Result<()> {
            self.interrupts.locked().insert(gsi, event.try_clone()?);
            Ok(())
        }

        fn route(&self, gsi: Gsi, message: Option<Message>) -> io::Result<()> {
            match message {
                Some(message) => self.routes.locked().insert(gsi, message),
                None => self.routes.locked().remove(&gsi),
            };
            Ok(())
        }

        fn attach_doorbell(&self, address: u64, _event: &EventFd) -> io::Result<()> {
            self.doorbells.locked().push(address);
            Ok(())
        }

        fn detach_doorbell(&self, address: u64, _event: &EventFd) -> io::Result<()> {
            self.doorbells.locked().retain(|known| *known != address);
            Ok(())
        }
    }
}
