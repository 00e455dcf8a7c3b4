//! What devices ask of KVM: interrupt lines, message-signalled interrupts, doorbells.
//!
//! A trait, so that devices are tested without `/dev/kvm`.

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_irqchip,
    kvm_irq_routing_msi,
};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::lock::Lock;

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

pub struct Kvm {
    vm: Arc<VmFd>,
    messages: Mutex<BTreeMap<Gsi, Message>>,
    changes: Mutex<Pace>,
}

/// Changes of interrupt routes and doorbells make the host's kernel wait for all its CPUs (SRCU), in
/// workers outside the machine's cgroup. A guest has no need for more than a few hundred at boot, so
/// from then on it gets so many a second, and waits for them itself.
const CHANGES_AT_ONCE: u32 = 1024;
const CHANGES_A_SECOND: u32 = 256;

/// A token bucket.
#[derive(Debug)]
struct Pace {
    left: u32,
    since: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self {
            left: CHANGES_AT_ONCE,
            since: now,
        }
    }

    /// Takes one; else says how long to wait for it.
    fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let every = Duration::from_secs(1) / CHANGES_A_SECOND;
        let passed = now.saturating_duration_since(self.since);
        let come = u32::try_from(passed.as_nanos() / every.as_nanos()).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(come).min(CHANGES_AT_ONCE);
        self.since = if self.left == CHANGES_AT_ONCE {
            now
        } else {
            self.since + every * come
        };
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(every - now.saturating_duration_since(self.since)),
        }
    }
}

impl fmt::Debug for Kvm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kvm").finish_non_exhaustive()
    }
}

impl Kvm {
    /// `vm` must have its interrupt controllers.
    pub fn new(vm: Arc<VmFd>) -> io::Result<Self> {
        let kvm = Self {
            vm,
            messages: Mutex::default(),
            changes: Mutex::new(Pace::new(Instant::now())),
        };
        kvm.install(&BTreeMap::new())?;
        Ok(kvm)
    }

    /// Holds up the guest's CPU that asks for a change too many. Parking is a futex, which the
    /// threads' filters allow.
    fn wait_for_turn(&self) {
        loop {
            let taken = self.changes.locked().take(Instant::now());
            match taken {
                Ok(()) => return,
                Err(wait) => std::thread::park_timeout(wait),
            }
        }
    }

    /// KVM takes only whole tables, so the pins' routes go with every change.
    fn install(&self, messages: &BTreeMap<Gsi, Message>) -> io::Result<()> {
        let mut entries: Vec<_> = (0..PINS).flat_map(pin_routes).collect();
        entries.extend(
            messages
                .iter()
                .map(|(gsi, message)| message_route(*gsi, *message)),
        );
        let table = KvmIrqRouting::from_entries(&entries)
            .map_err(|error| io::Error::other(format!("too many interrupts: {error:?}")))?;
        Ok(self.vm.set_gsi_routing(&table)?)
    }
}

/// The same routes that KVM starts with: ISA interrupts reach both the PICs and the I/O APIC.
fn pin_routes(pin: u32) -> impl Iterator<Item = kvm_irq_routing_entry> {
    let route = |irqchip, pin_of_chip| {
        let mut entry = kvm_irq_routing_entry {
            gsi: pin,
            type_: KVM_IRQ_ROUTING_IRQCHIP,
            ..Default::default()
        };
        entry.u.irqchip = kvm_irq_routing_irqchip {
            irqchip,
            pin: pin_of_chip,
        };
        entry
    };
    let pic = match pin {
        0..=7 => Some(route(KVM_IRQCHIP_PIC_MASTER, pin)),
        8..=15 => Some(route(KVM_IRQCHIP_PIC_SLAVE, pin - 8)),
        _ => None,
    };
    pic.into_iter().chain([route(KVM_IRQCHIP_IOAPIC, pin)])
}

fn message_route(gsi: Gsi, message: Message) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi: gsi.0,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    entry.u.msi = kvm_irq_routing_msi {
        address_lo: message.address as u32,
        address_hi: (message.address >> 32) as u32,
        data: message.data,
        ..Default::default()
    };
    entry
}

impl Platform for Kvm {
    fn set_line(&self, line: Gsi, high: bool) -> io::Result<()> {
        Ok(self.vm.set_irq_line(line.0, high)?)
    }

    fn connect_interrupt(&self, gsi: Gsi, event: &EventFd) -> io::Result<()> {
        Ok(self.vm.register_irqfd(event, gsi.0)?)
    }

    fn route(&self, gsi: Gsi, message: Option<Message>) -> io::Result<()> {
        let mut messages = self.messages.locked();
        if messages.get(&gsi) == message.as_ref() {
            return Ok(());
        }
        self.wait_for_turn();
        let mut changed = messages.clone();
        match message {
            Some(message) => changed.insert(gsi, message),
            None => changed.remove(&gsi),
        };
        // A message that KVM refuses must not spoil the table for the next change.
        self.install(&changed)?;
        *messages = changed;
        Ok(())
    }

    fn attach_doorbell(&self, address: u64, event: &EventFd) -> io::Result<()> {
        self.wait_for_turn();
        Ok(self
            .vm
            .register_ioevent(event, &IoEventAddress::Mmio(address), NoDatamatch)?)
    }

    fn detach_doorbell(&self, address: u64, event: &EventFd) -> io::Result<()> {
        Ok(self
            .vm
            .unregister_ioevent(event, &IoEventAddress::Mmio(address), NoDatamatch)?)
    }
}

#[cfg(test)]
pub(crate) mod recorded {
    //! A platform that remembers what it was asked.

    use super::*;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_gets_a_burst_and_then_so_many_changes_a_second() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for _ in 0..CHANGES_AT_ONCE {
            pace.take(start).unwrap();
        }
        let every = Duration::from_secs(1) / CHANGES_A_SECOND;
        assert_eq!(pace.take(start), Err(every));
        assert_eq!(pace.take(start + every / 2), Err(every - every / 2));
        pace.take(start + every).unwrap();
        pace.take(start + every).unwrap_err();
        let taken = (0..10 * CHANGES_A_SECOND)
            .filter(|_| pace.take(start + every + Duration::from_secs(1)).is_ok())
            .count();
        assert_eq!(taken, CHANGES_A_SECOND as usize);
        // However long nothing was asked for, the burst is what it was.
        let later = start + Duration::from_secs(10_000);
        let taken = (0..2 * CHANGES_AT_ONCE)
            .filter(|_| pace.take(later).is_ok())
            .count();
        assert_eq!(taken, CHANGES_AT_ONCE as usize);
    }
}
