//! Makes the machine's devices and puts them on the buses.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
};

use seccompiler::BpfProgram;

use crate::{
    backend::{console_ring::RingWriter, disk_file::DiskFile, tap::Tap},
    config::{Disk, Interface},
    events::Notices,
    hw::{
        Buses,
        acpi::power::Power,
        pci::root::PciRoot,
        reset::ResetPorts,
        uart::Uart,
        virtio::{
            block::Block,
            console::{Console, ConsolePorts},
            device::VirtioDevice,
            entropy::Entropy,
            function::{self, BAR_LEN, VirtioFunction},
            net::Net,
            worker::Worker,
        },
    },
    machine::{MachineError, system},
    memory::{GuestMemory, PCI_WINDOW_START},
    platform::{GsiAllocator, Platform},
};

/// What devices stand on.
#[derive(Debug)]
pub struct Backends {
    pub console: OwnedFd,
    pub disks: Vec<Disk>,
    pub interfaces: Vec<Interface>,
}

#[derive(Debug)]
pub struct Devices {
    pub buses: Arc<Buses>,
    pub ports: ConsolePorts,
    pub uart: Arc<Mutex<Uart>>,
    pub power: Arc<Power>,
}

/// Console, random numbers, disks in the given order, interfaces in the given order: devices 1, 2, …
pub fn make(
    backends: Backends,
    memory: &GuestMemory,
    platform: &Arc<dyn Platform>,
    notices: &Notices,
    filter: Option<&Arc<BpfProgram>>,
) -> Result<Devices, MachineError> {
    let ring = RingWriter::new(backends.console)?;
    let uart = Uart::new(platform.as_ref(), ring.clone()).map_err(system("serial port"))?;
    let uart = Arc::new(Mutex::new(uart));
    let power = Arc::new(Power::new(Arc::clone(platform), notices.clone()));
    let ports = ConsolePorts::new().map_err(system("console"))?;

    let mut slots = Slots {
        memory,
        platform,
        filter,
        gsis: GsiAllocator::default(),
        functions: Vec::new(),
    };
    slots.plug(Console::new(ports.clone(), ring, notices.clone()))?;
    slots.plug(Entropy::default())?;
    for disk in backends.disks {
        let file = DiskFile::new(disk.file).map_err(|error| MachineError::Disk {
            serial: disk.serial.clone(),
            error,
        })?;
        slots.plug(Block::new(file, disk.read_only, &disk.serial))?;
    }
    for Interface { tap, mac } in backends.interfaces {
        let tap = Tap::new(tap).map_err(|error| MachineError::Tap { mac, error })?;
        slots.plug(Net::new(tap, mac.0))?;
    }
    Ok(Devices {
        buses: Arc::new(Buses {
            pci: PciRoot::new(slots.functions),
            uart: Arc::clone(&uart),
            power: Arc::clone(&power),
            reset: ResetPorts::new(notices.clone()),
        }),
        ports,
        uart,
        power,
    })
}

struct Slots<'a> {
    memory: &'a GuestMemory,
    platform: &'a Arc<dyn Platform>,
    filter: Option<&'a Arc<BpfProgram>>,
    gsis: GsiAllocator,
    functions: Vec<VirtioFunction>,
}

impl Slots<'_> {
    fn plug<D: VirtioDevice>(&mut self, device: D) -> Result<(), MachineError> {
        let index = self.functions.len() as u32;
        let description = device.description();
        let notifier = function::notifier(self.platform, &mut self.gsis, &description)
            .map_err(system("interrupts"))?;
        let name = format!("{}{index}", description.kind);
        let worker = Worker::start(device, name, Arc::clone(&notifier), self.filter.cloned())
            .map_err(system("device thread"))?;
        self.functions.push(VirtioFunction::new(
            description,
            PCI_WINDOW_START as u32 + index * BAR_LEN,
            notifier,
            worker,
            Arc::clone(self.platform),
            self.memory.clone(),
        ));
        Ok(())
    }
}
