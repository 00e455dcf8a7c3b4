//! Devices, sorted as hardware is, and the buses on which CPUs reach them.

pub mod acpi;
pub mod pci;
pub mod reset;
pub mod uart;
pub mod virtio;

use std::sync::{Arc, Mutex};

use crate::{
    hw::{acpi::power::Power, pci::root::PciRoot, reset::ResetPorts, uart::Uart},
    lock::Lock,
};

/// Where each access by a CPU to a port or to device memory goes.
#[derive(Debug)]
pub struct Buses {
    pub pci: PciRoot,
    pub uart: Arc<Mutex<Uart>>,
    pub power: Arc<Power>,
    pub reset: ResetPorts,
}

impl Buses {
    /// What nobody answers reads as ones, as on hardware. String instructions arrive as longer
    /// accesses; no device here is driven by them, so nobody answers those either.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        match port {
            uart::FIRST_PORT..=uart::LAST_PORT if data.len() == 1 => {
                data[0] = self.uart.locked().read(port);
            }
            acpi::power::FIRST_PORT..=acpi::power::LAST_PORT => self.power.read(port, data),
            pci::root::FIRST_PORT..=pci::root::LAST_PORT if is_single(data) => {
                self.pci.port_read(port, data);
            }
            reset::KEYBOARD_DATA | reset::KEYBOARD_COMMAND => data.fill(0),
            _ => {}
        }
    }

    pub fn port_write(&self, port: u16, data: &[u8]) {
        match (port, data) {
            (uart::FIRST_PORT..=uart::LAST_PORT, [byte]) => self.uart.locked().write(port, *byte),
            (acpi::power::FIRST_PORT..=acpi::power::LAST_PORT, _) => self.power.write(port, data),
            (reset::KEYBOARD_COMMAND, [byte]) => self.reset.keyboard(*byte),
            // One byte here is the chipset's reset register, in the middle of PCI's address port.
            (reset::CHIPSET, [byte]) => self.reset.chipset(*byte),
            (pci::root::FIRST_PORT..=pci::root::LAST_PORT, _) if is_single(data) => {
                self.pci.port_write(port, data);
            }
            _ => {}
        }
    }

    pub fn memory_read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        self.pci.memory_read(address, data);
    }

    pub fn memory_write(&self, address: u64, data: &[u8]) {
        self.pci.memory_write(address, data);
    }
}

fn is_single(data: &[u8]) -> bool {
    matches!(data.len(), 1 | 2 | 4)
}
