//! The registers of virtio's common configuration (virtio 1.2, 4.1.4.3) that belong to the driver:
//! features and queues. The device status lives in the [`Notifier`](super::notifier::Notifier).

use crate::hw::virtio::queue::{LARGEST_QUEUE, QueueSetup};

/// Offsets of `struct virtio_pci_common_cfg`.
pub mod offset {
    pub const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub const DEVICE_FEATURE: u64 = 0x04;
    pub const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub const DRIVER_FEATURE: u64 = 0x0c;
    pub const CONFIG_VECTOR: u64 = 0x10;
    pub const QUEUES: u64 = 0x12;
    pub const STATUS: u64 = 0x14;
    pub const GENERATION: u64 = 0x15;
    pub const QUEUE_SELECT: u64 = 0x16;
    pub const QUEUE_SIZE: u64 = 0x18;
    pub const QUEUE_VECTOR: u64 = 0x1a;
    pub const QUEUE_ENABLE: u64 = 0x1c;
    pub const QUEUE_NOTIFY_OFFSET: u64 = 0x1e;
    pub const QUEUE_DESCRIPTORS: u64 = 0x20;
    pub const QUEUE_AVAILABLE: u64 = 0x28;
    pub const QUEUE_USED: u64 = 0x30;
    pub const END: u64 = 0x38;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueRegisters {
    pub setup: QueueSetup,
    pub enabled: bool,
}

impl Default for QueueRegisters {
    fn default() -> Self {
        Self {
            setup: QueueSetup {
                size: LARGEST_QUEUE,
                ..QueueSetup::default()
            },
            enabled: false,
        }
    }
}

#[derive(Clone, Debug)]
pub struct CommonConfig {
    pub offered: u64,
    pub accepted: u64,
    device_select: u32,
    driver_select: u32,
    pub queue_select: u16,
    pub queues: Vec<QueueRegisters>,
}

impl CommonConfig {
    pub fn new(offered: u64, queues: usize) -> Self {
        Self {
            offered,
            accepted: 0,
            device_select: 0,
            driver_select: 0,
            queue_select: 0,
            queues: vec![QueueRegisters::default(); queues],
        }
    }

    pub fn reset(&mut self) {
        *self = Self::new(self.offered, self.queues.len());
    }

    pub fn selected(&self) -> Option<&QueueRegisters> {
        self.queues.get(usize::from(self.queue_select))
    }

    /// A register's value; those that are not kept here read as zero.
    pub fn read(&self, register: u64) -> u64 {
        let queue = self.selected();
        let setup = queue.map(|queue| queue.setup).unwrap_or_default();
        match register {
            offset::DEVICE_FEATURE_SELECT => self.device_select.into(),
            offset::DEVICE_FEATURE => half(self.offered, self.device_select),
            offset::DRIVER_FEATURE_SELECT => self.driver_select.into(),
            offset::DRIVER_FEATURE => half(self.accepted, self.driver_select),
            offset::QUEUES => self.queues.len() as u64,
            offset::QUEUE_SELECT => self.queue_select.into(),
            offset::QUEUE_SIZE => setup.size.into(),
            offset::QUEUE_ENABLE => queue.is_some_and(|queue| queue.enabled).into(),
            offset::QUEUE_NOTIFY_OFFSET => self.queue_select.into(),
            offset::QUEUE_DESCRIPTORS => setup.descriptors,
            offset::QUEUE_AVAILABLE => setup.available,
            offset::QUEUE_USED => setup.used,
            _ => 0,
        }
    }

    /// Features may change only before they are accepted.
    pub fn write_feature(&mut self, register: u64, value: u32) {
        match (register, self.driver_select) {
            (offset::DEVICE_FEATURE_SELECT, _) => self.device_select = value,
            (offset::DRIVER_FEATURE_SELECT, _) => self.driver_select = value,
            (offset::DRIVER_FEATURE, 0) => {
                self.accepted = self.accepted & !0xffff_ffff | u64::from(value);
            }
            (offset::DRIVER_FEATURE, 1) => {
                self.accepted = self.accepted & 0xffff_ffff | u64::from(value) << 32;
            }
            _ => {}
        }
    }

    /// A write to the selected queue, by the low half, the high half, or the whole of a register.
    pub fn write_queue(&mut self, at: u64, data: &[u8]) {
        let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) else {
            return;
        };
        match (at, data) {
            (offset::QUEUE_ENABLE, [1, 0]) => queue.enabled = true,
            _ if queue.enabled => {}
            // An invalid size is noticed when the queue is made.
            (offset::QUEUE_SIZE, [low, high]) => {
                queue.setup.size = u16::from_le_bytes([*low, *high]);
            }
            (offset::QUEUE_DESCRIPTORS..offset::QUEUE_AVAILABLE, _) => {
                patch(&mut queue.setup.descriptors, at % 8, data);
            }
            (offset::QUEUE_AVAILABLE..offset::QUEUE_USED, _) => {
                patch(&mut queue.setup.available, at % 8, data);
            }
            (offset::QUEUE_USED..offset::END, _) => patch(&mut queue.setup.used, at % 8, data),
            _ => {}
        }
    }
}

fn half(value: u64, select: u32) -> u64 {
    match select {
        0 => value & 0xffff_ffff,
        1 => value >> 32,
        _ => 0,
    }
}

fn patch(value: &mut u64, at: u64, data: &[u8]) {
    let mut bytes = value.to_le_bytes();
    for (place, byte) in bytes.iter_mut().skip(at as usize).zip(data) {
        *place = *byte;
    }
    *value = u64::from_le_bytes(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_come_in_halves() {
        let mut config = CommonConfig::new(0x1_0000_0002, 1);
        assert_eq!(config.read(offset::DEVICE_FEATURE), 2);
        config.write_feature(offset::DEVICE_FEATURE_SELECT, 1);
        assert_eq!(config.read(offset::DEVICE_FEATURE), 1);
        config.write_feature(offset::DEVICE_FEATURE_SELECT, 2);
        assert_eq!(config.read(offset::DEVICE_FEATURE), 0);
        config.write_feature(offset::DRIVER_FEATURE_SELECT, 1);
        config.write_feature(offset::DRIVER_FEATURE, 1);
        assert_eq!(config.accepted, 0x1_0000_0000);
    }

    #[test]
    fn an_enabled_queue_is_fixed() {
        let mut config = CommonConfig::new(0, 1);
        config.write_queue(offset::QUEUE_DESCRIPTORS, &0x1000_u32.to_le_bytes());
        config.write_queue(offset::QUEUE_DESCRIPTORS + 4, &1_u32.to_le_bytes());
        config.write_queue(offset::QUEUE_ENABLE, &[1, 0]);
        config.write_queue(offset::QUEUE_DESCRIPTORS, &0x2000_u64.to_le_bytes());
        assert_eq!(config.read(offset::QUEUE_DESCRIPTORS), 0x1_0000_1000);
        config.queue_select = 1;
        config.write_queue(offset::QUEUE_ENABLE, &[1, 0]);
        assert_eq!(config.read(offset::QUEUE_SIZE), 0);
        assert_eq!(config.read(offset::QUEUE_ENABLE), 0);
    }
}
