//! The platform on KVM.

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{Arc, Mutex},
};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_irqchip,
    kvm_irq_routing_msi,
};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::EventFd;

use super::{
    Gsi, Message, PINS, Platform,
    pace::{Clock, SystemClock, Turns},
};
use crate::lock::Lock;

/// The calls of a VM that the platform rests on. A trait, so that what comes before them is tested
/// without `/dev/kvm`.
pub trait Calls: Send + Sync {
    fn set_line(&self, line: Gsi, high: bool) -> io::Result<()>;
    fn connect_interrupt(&self, gsi: Gsi, event: &EventFd) -> io::Result<()>;
    /// Puts `table` in place of all routes.
    fn set_routes(&self, table: &KvmIrqRouting) -> io::Result<()>;
    fn attach_doorbell(&self, address: u64, event: &EventFd) -> io::Result<()>;
    fn detach_doorbell(&self, address: u64, event: &EventFd) -> io::Result<()>;
}

impl Calls for Arc<VmFd> {
    fn set_line(&self, line: Gsi, high: bool) -> io::Result<()> {
        Ok(self.set_irq_line(line.0, high)?)
    }

    fn connect_interrupt(&self, gsi: Gsi, event: &EventFd) -> io::Result<()> {
        Ok(self.register_irqfd(event, gsi.0)?)
    }

    fn set_routes(&self, table: &KvmIrqRouting) -> io::Result<()> {
        Ok(self.set_gsi_routing(table)?)
    }

    fn attach_doorbell(&self, address: u64, event: &EventFd) -> io::Result<()> {
        let address = IoEventAddress::Mmio(address);
        Ok(self.register_ioevent(event, &address, NoDatamatch)?)
    }

    fn detach_doorbell(&self, address: u64, event: &EventFd) -> io::Result<()> {
        let address = IoEventAddress::Mmio(address);
        Ok(self.unregister_ioevent(event, &address, NoDatamatch)?)
    }
}

pub struct Kvm<V = Arc<VmFd>, C = SystemClock> {
    vm: V,
    messages: Mutex<BTreeMap<Gsi, Message>>,
    changes: Turns<C>,
}

impl<V, C> fmt::Debug for Kvm<V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kvm").finish_non_exhaustive()
    }
}

impl Kvm {
    /// `vm` must have its interrupt controllers.
    pub fn new(vm: Arc<VmFd>) -> io::Result<Self> {
        Self::over(vm, SystemClock)
    }
}

impl<V: Calls, C: Clock> Kvm<V, C> {
    fn over(vm: V, clock: C) -> io::Result<Self> {
        let kvm = Self {
            vm,
            messages: Mutex::default(),
            changes: Turns::new(clock),
        };
        kvm.install(&BTreeMap::new())?;
        Ok(kvm)
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
        self.vm.set_routes(&table)
    }
}

impl<V: Calls, C: Clock> Platform for Kvm<V, C> {
    fn set_line(&self, line: Gsi, high: bool) -> io::Result<()> {
        self.vm.set_line(line, high)
    }

    fn connect_interrupt(&self, gsi: Gsi, event: &EventFd) -> io::Result<()> {
        self.vm.connect_interrupt(gsi, event)
    }

    fn route(&self, gsi: Gsi, message: Option<Message>) -> io::Result<()> {
        let mut messages = self.messages.locked();
        if messages.get(&gsi) == message.as_ref() {
            return Ok(());
        }
        self.changes.wait();
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
        self.changes.wait();
        self.vm.attach_doorbell(address, event)
    }

    fn detach_doorbell(&self, address: u64, event: &EventFd) -> io::Result<()> {
        self.changes.wait();
        self.vm.detach_doorbell(address, event)
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::platform::{
        SERIAL_LINE,
        pace::{CHANGES_A_SECOND, CHANGES_AT_ONCE},
    };

    /// A VM that notes when it was called, by a clock that moves only while somebody waits.
    #[derive(Clone, Debug)]
    struct Host {
        started: Instant,
        passed: Arc<Mutex<Duration>>,
        changes: Arc<Mutex<Vec<Duration>>>,
    }

    impl Host {
        fn new() -> Self {
            Self {
                started: Instant::now(),
                passed: Arc::default(),
                changes: Arc::default(),
            }
        }

        fn change(&self) -> io::Result<()> {
            let now = *self.passed.locked();
            self.changes.locked().push(now);
            Ok(())
        }
    }

    impl Clock for Host {
        fn now(&self) -> Instant {
            self.started + *self.passed.locked()
        }

        fn wait(&self, time: Duration) {
            *self.passed.locked() += time;
        }
    }

    impl Calls for Host {
        fn set_line(&self, _line: Gsi, _high: bool) -> io::Result<()> {
            Ok(())
        }

        fn connect_interrupt(&self, _gsi: Gsi, _event: &EventFd) -> io::Result<()> {
            Ok(())
        }

        fn set_routes(&self, _table: &KvmIrqRouting) -> io::Result<()> {
            self.change()
        }

        fn attach_doorbell(&self, _address: u64, _event: &EventFd) -> io::Result<()> {
            self.change()
        }

        fn detach_doorbell(&self, _address: u64, _event: &EventFd) -> io::Result<()> {
            self.change()
        }
    }

    /// What a guest does to its devices, the `number`th time.
    type Change = fn(&Kvm<Host, Host>, &EventFd, u32) -> io::Result<()>;

    const CHANGES: [(&str, Change); 4] = [
        ("a route", |kvm, _, number| {
            let data = number;
            kvm.route(
                Gsi(PINS),
                Some(Message {
                    address: 0xfee0_0000,
                    data,
                }),
            )
        }),
        ("a route that comes and goes", |kvm, _, number| {
            let there = number.is_multiple_of(2);
            kvm.route(Gsi(PINS), there.then(Message::default))
        }),
        ("a doorbell", |kvm, event, number| {
            kvm.attach_doorbell(number.into(), event)
        }),
        ("the end of a doorbell", |kvm, event, number| {
            kvm.detach_doorbell(number.into(), event)
        }),
    ];

    #[test]
    fn every_change_that_a_guest_asks_for_waits_for_its_turn() {
        let event = EventFd::new(0).unwrap();
        let every = Duration::from_secs(1) / CHANGES_A_SECOND;
        for (what, change) in CHANGES {
            let host = Host::new();
            let kvm = Kvm::over(host.clone(), host.clone()).unwrap();
            host.changes.locked().clear();
            for number in 0..CHANGES_AT_ONCE + 3 {
                change(&kvm, &event, number).unwrap();
            }
            let changes = host.changes.locked();
            let (burst, later) = changes.split_at(CHANGES_AT_ONCE as usize);
            assert!(burst.iter().all(Duration::is_zero), "{what}");
            assert_eq!(later, [every, 2 * every, 3 * every], "{what}");
        }
    }

    #[test]
    fn what_changes_nothing_costs_no_turn() {
        let host = Host::new();
        let kvm = Kvm::over(host.clone(), host.clone()).unwrap();
        host.changes.locked().clear();
        for _ in 0..2 * CHANGES_AT_ONCE {
            kvm.route(Gsi(PINS), Some(Message::default())).unwrap();
            kvm.set_line(SERIAL_LINE, true).unwrap();
        }
        assert_eq!(*host.changes.locked(), [Duration::ZERO]);
        assert_eq!(*host.passed.locked(), Duration::ZERO);
    }
}
