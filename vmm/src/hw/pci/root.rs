//! The host bridge: configuration mechanism #1 (PCI Local Bus specification 3.0, 3.2.2.3.2) and the
//! functions of bus 0.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::hw::{
    pci::config_space::{ConfigSpace, Identity},
    virtio::function::VirtioFunction,
};

pub const FIRST_PORT: u16 = 0xcf8;
pub const LAST_PORT: u16 = 0xcff;
const DATA_PORT: u16 = 0xcfc;

/// A bus has 32 device numbers; the bridge takes the first.
pub const MOST_FUNCTIONS: usize = 31;

const ENABLE: u32 = 1 << 31;
/// Intel's 440FX, which every operating system knows as a plain host bridge.
const BRIDGE: Identity = Identity {
    vendor: 0x8086,
    device: 0x1237,
    revision: 2,
    class: 0x06_00_00,
    subsystem_vendor: 0,
    subsystem: 0,
};

#[derive(Debug)]
pub struct PciRoot {
    /// Bus, device, function and register, as the address port has them.
    address: AtomicU32,
    bridge: ConfigSpace,
    functions: Vec<VirtioFunction>,
}

impl PciRoot {
    /// The functions become devices 1, 2, … of bus 0.
    pub fn new(functions: Vec<VirtioFunction>) -> Self {
        debug_assert!(functions.len() <= MOST_FUNCTIONS);
        Self {
            address: AtomicU32::new(0),
            bridge: ConfigSpace::new(BRIDGE),
            functions,
        }
    }

    pub fn functions(&self) -> &[VirtioFunction] {
        &self.functions
    }

    /// `data` is 1, 2 or 4 bytes long.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        if port < DATA_PORT {
            let address = self.address.load(Ordering::Relaxed).to_le_bytes();
            let from = address.iter().skip(usize::from(port - FIRST_PORT));
            for (target, byte) in data.iter_mut().zip(from) {
                *target = *byte;
            }
            return;
        }
        match self.target(port) {
            Some((Target::Bridge, register)) => self.bridge.read(register, data),
            Some((Target::Function(function), register)) => function.read_config(register, data),
            None => {}
        }
    }

    pub fn port_write(&self, port: u16, data: &[u8]) {
        if port < DATA_PORT {
            // Only whole writes set the address; anything else is for other devices.
            if let (FIRST_PORT, Ok(address)) = (port, data.try_into()) {
                self.address
                    .store(u32::from_le_bytes(address), Ordering::Relaxed);
            }
            return;
        }
        if let Some((Target::Function(function), register)) = self.target(port) {
            function.write_config(register, data);
        }
    }

    pub fn memory_read(&self, address: u64, data: &mut [u8]) {
        if let Some((function, offset)) = self.decode(address) {
            function.read_memory(offset, data);
        }
    }

    pub fn memory_write(&self, address: u64, data: &[u8]) {
        if let Some((function, offset)) = self.decode(address) {
            function.write_memory(offset, data);
        }
    }

    fn target(&self, port: u16) -> Option<(Target<'_>, usize)> {
        let address = self.address.load(Ordering::Relaxed);
        let [_, device_function, bus, _] = address.to_le_bytes();
        if address & ENABLE == 0 || bus != 0 || device_function & 0b111 != 0 {
            return None;
        }
        let register = (address & 0xfc) as usize + usize::from(port - DATA_PORT);
        let target = match usize::from(device_function >> 3).checked_sub(1) {
            None => Target::Bridge,
            Some(index) => Target::Function(self.functions.get(index)?),
        };
        Some((target, register))
    }

    fn decode(&self, address: u64) -> Option<(&VirtioFunction, u64)> {
        self.functions
            .iter()
            .find_map(|function| Some((function, function.offset(address)?)))
    }
}

enum Target<'a> {
    Bridge,
    Function(&'a VirtioFunction),
}
