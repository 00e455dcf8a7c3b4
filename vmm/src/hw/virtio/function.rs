//! A virtio device's PCI function (virtio 1.2, 4.1): configuration space, and one BAR with all
//! register blocks, a page each.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use virtio_bindings::{
    virtio_config::{VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_F_VERSION_1},
    virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC},
};
use vmm_sys_util::eventfd::EventFd;

use crate::{
    hw::{
        pci::{
            config_space::{ConfigSpace, Identity},
            msix::{self, Msix},
        },
        virtio::{
            common_config::{CommonConfig, offset},
            device::{Active, Description},
            notifier::{NEEDS_RESET, Notifier},
            queue::{QueueError, Virtqueue},
            worker::Worker,
        },
    },
    lock::Lock,
    memory::GuestMemory,
    platform::Platform,
};

const VENDOR: u16 = 0x1af4;
/// Added to the device's id (virtio 4.1.2.1).
const FIRST_DEVICE: u16 = 0x1040;
/// At least 0x40, so that no driver takes the device for a transitional one.
const SUBSYSTEM: u16 = 0x1100;
const VENDOR_CAPABILITY: u8 = 0x09;

/// Kinds of `struct virtio_pci_cap` (virtio 4.1.4).
const CAPABILITY_COMMON: u8 = 1;
const CAPABILITY_NOTIFY: u8 = 2;
const CAPABILITY_ISR: u8 = 3;
const CAPABILITY_DEVICE: u8 = 4;
const CAPABILITY_WINDOW: u8 = 5;

const COMMON: u64 = 0x0000;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const MSIX_TABLE: u64 = 0x4000;
const MSIX_PENDING: u64 = 0x5000;
const PAGE: u64 = 0x1000;
pub const BAR_LEN: u32 = 0x8000;
/// Bytes between two queues' notification registers.
const NOTIFY_STRIDE: u32 = 4;

const DRIVER_OK: u8 = VIRTIO_CONFIG_S_DRIVER_OK as u8;
const FEATURES_OK: u8 = VIRTIO_CONFIG_S_FEATURES_OK as u8;
const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
const INDIRECT: u64 = 1 << VIRTIO_RING_F_INDIRECT_DESC;

#[derive(Debug)]
pub struct VirtioFunction {
    /// Where the BAR answers; 0: nowhere. Kept beside the state so that looking for the function
    /// behind an address waits for none.
    decoded: AtomicU64,
    device_config: Vec<u8>,
    notifier: Arc<Notifier>,
    worker: Worker,
    platform: Arc<dyn Platform>,
    memory: GuestMemory,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    config: ConfigSpace,
    msix_capability: usize,
    window_capability: usize,
    common: CommonConfig,
}

impl VirtioFunction {
    pub fn new(
        description: Description,
        bar: u32,
        notifier: Arc<Notifier>,
        worker: Worker,
        platform: Arc<dyn Platform>,
        memory: GuestMemory,
    ) -> Self {
        let offered = description.features | VERSION_1 | EVENT_IDX | INDIRECT;
        let mut config = ConfigSpace::new(Identity {
            vendor: VENDOR,
            device: FIRST_DEVICE + description.kind.id(),
            revision: 1,
            class: description.kind.pci_class(),
            subsystem_vendor: VENDOR,
            subsystem: SUBSYSTEM,
        });
        config.set_memory_bar(bar, BAR_LEN);
        let config_len = description.config.len() as u32;
        for (kind, at, len) in [
            (CAPABILITY_COMMON, COMMON, offset::END as u32),
            (CAPABILITY_ISR, ISR, 1),
            (CAPABILITY_DEVICE, DEVICE, config_len),
        ] {
            // A device without a configuration must not point to one.
            if len > 0 {
                config.add_capability(VENDOR_CAPABILITY, &block(16, kind, at, len), &[]);
            }
        }
        let notify_len = description.queues as u32 * NOTIFY_STRIDE;
        let mut notify = block(20, CAPABILITY_NOTIFY, NOTIFY, notify_len).to_vec();
        notify.extend(NOTIFY_STRIDE.to_le_bytes());
        config.add_capability(VENDOR_CAPABILITY, &notify, &[]);
        let window_capability = add_window(&mut config);
        let msix_capability = add_msix(&mut config, notifier.msix.vectors());
        Self {
            decoded: AtomicU64::new(0),
            device_config: description.config,
            notifier,
            worker,
            platform,
            memory,
            state: Mutex::new(State {
                config,
                msix_capability,
                window_capability,
                common: CommonConfig::new(offered, description.queues),
            }),
        }
    }

    pub fn worker(&self) -> &Worker {
        &self.worker
    }

    /// The offset within the BAR, if the address belongs to it.
    pub fn offset(&self, address: u64) -> Option<u64> {
        let base = self.decoded.load(Ordering::SeqCst);
        (base != 0)
            .then(|| address.checked_sub(base))
            .flatten()
            .filter(|offset| *offset < u64::from(BAR_LEN))
    }

    pub fn read_config(&self, at: usize, data: &mut [u8]) {
        let state = self.state.locked();
        state.config.read(at, data);
        if let Some(target) = state.window(at, data.len()) {
            drop(state);
            self.read_memory(target, data);
        }
    }

    pub fn write_config(&self, at: usize, data: &[u8]) {
        let mut state = self.state.locked();
        state.config.write(at, data);
        let control = state.config.u16_at(state.msix_capability + 2);
        self.notifier.msix.set_control(control);
        self.follow_bar(&state);
        if let Some(target) = state.window(at, data.len()) {
            drop(state);
            self.write_memory(target, data);
        }
    }

    /// Moves the doorbells to where the BAR is now.
    fn follow_bar(&self, state: &State) {
        let new = state.config.decoded_bar().unwrap_or(0);
        let old = self.decoded.swap(new, Ordering::SeqCst);
        if new == old {
            return;
        }
        let address =
            |base: u64, queue: usize| base + NOTIFY + queue as u64 * u64::from(NOTIFY_STRIDE);
        for (queue, doorbell) in self.worker.doorbells().iter().enumerate() {
            if old != 0 {
                self.accept(self.platform.detach_doorbell(address(old, queue), doorbell));
            }
            if new != 0 {
                self.accept(self.platform.attach_doorbell(address(new, queue), doorbell));
            }
        }
    }

    /// A doorbell that KVM refuses, as when two BARs lie over each other, still works: the write
    /// then comes to [`VirtioFunction::write_memory`].
    fn accept(&self, attached: io::Result<()>) {
        if let Err(error) = attached {
            tracing::debug!(%error, "doorbell not moved");
        }
    }

    pub fn read_memory(&self, at: u64, data: &mut [u8]) {
        data.fill(0);
        let within = at % PAGE;
        match at - within {
            COMMON => self.read_common(within, data),
            ISR if within == 0 && !data.is_empty() => data[0] = self.notifier.take_isr(),
            DEVICE => {
                let from = self.device_config.iter().skip(within as usize);
                for (target, byte) in data.iter_mut().zip(from) {
                    *target = *byte;
                }
            }
            MSIX_TABLE => self.notifier.msix.read_table(within as usize, data),
            MSIX_PENDING => self.notifier.msix.read_pending(within as usize, data),
            _ => {}
        }
    }

    pub fn write_memory(&self, at: u64, data: &[u8]) {
        let within = at % PAGE;
        match at - within {
            COMMON => self.write_common(within, data),
            NOTIFY => {
                let queue = within / u64::from(NOTIFY_STRIDE);
                if let Some(doorbell) = self.worker.doorbells().get(queue as usize) {
                    ring(doorbell);
                }
            }
            MSIX_TABLE => self.notifier.msix.write_table(within as usize, data),
            // No device here has configuration that drivers may write.
            _ => {}
        }
    }

    fn read_common(&self, at: u64, data: &mut [u8]) {
        let state = self.state.locked();
        let value = match at {
            offset::CONFIG_VECTOR => self.notifier.config_vector().into(),
            offset::STATUS => self.notifier.status().into(),
            offset::QUEUE_VECTOR => {
                let queue = usize::from(state.common.queue_select);
                self.notifier.queue_vector(queue).into()
            }
            // The high halves of addresses.
            _ if at >= offset::QUEUE_DESCRIPTORS && at % 8 == 4 => state.common.read(at - 4) >> 32,
            _ => state.common.read(at),
        };
        for (target, byte) in data.iter_mut().zip(value.to_le_bytes()) {
            *target = byte;
        }
    }

    fn write_common(&self, at: u64, data: &[u8]) {
        let mut state = self.state.locked();
        let status = self.notifier.status();
        match (at, data) {
            (offset::STATUS, [value]) => self.write_status(&mut state, *value),
            (offset::CONFIG_VECTOR, [low, high]) => {
                self.notifier
                    .set_config_vector(u16::from_le_bytes([*low, *high]));
            }
            (offset::QUEUE_SELECT, [low, high]) => {
                state.common.queue_select = u16::from_le_bytes([*low, *high]);
            }
            (offset::QUEUE_VECTOR, [low, high]) => {
                let queue = usize::from(state.common.queue_select);
                self.notifier
                    .set_queue_vector(queue, u16::from_le_bytes([*low, *high]));
            }
            (..offset::CONFIG_VECTOR, [a, b, c, d]) if status & FEATURES_OK == 0 => {
                state
                    .common
                    .write_feature(at, u32::from_le_bytes([*a, *b, *c, *d]));
            }
            (offset::QUEUE_SIZE..offset::END, _) if status & DRIVER_OK == 0 => {
                state.common.write_queue(at, data);
            }
            _ => {}
        }
    }

    fn write_status(&self, state: &mut State, value: u8) {
        if value == 0 {
            self.worker.deactivate();
            self.notifier.reset();
            state.common.reset();
            return;
        }
        let old = self.notifier.status();
        // A driver clears bits by a reset alone (virtio 2.1.1): were they cleared one by one, a
        // device that runs could be set up and activated a second time.
        let mut new = value | old & !NEEDS_RESET;
        if new & FEATURES_OK != 0 && old & FEATURES_OK == 0 {
            // The driver reads back whether its choice was accepted (virtio 3.1.1).
            let accepted = state.common.accepted;
            if accepted & !state.common.offered != 0 || accepted & VERSION_1 == 0 {
                new &= !FEATURES_OK;
            }
        }
        self.notifier.set_driver_status(new);
        let ready = new & FEATURES_OK != 0 && new & DRIVER_OK != 0;
        if ready && old & (DRIVER_OK | NEEDS_RESET) == 0 {
            match self.queues(&state.common) {
                Ok(queues) => self.worker.activate(Active {
                    features: state.common.accepted,
                    queues,
                }),
                Err(error) => {
                    tracing::debug!(%error, "driver set a queue up wrongly");
                    self.notifier.needs_reset();
                }
            }
        }
    }

    fn queues(&self, common: &CommonConfig) -> Result<Vec<Option<Virtqueue>>, QueueError> {
        let queue = |(index, registers): (usize, &super::common_config::QueueRegisters)| {
            if !registers.enabled {
                return Ok(None);
            }
            let mut setup = registers.setup;
            setup.event_idx = common.accepted & EVENT_IDX != 0;
            Virtqueue::new(
                index,
                setup,
                self.memory.clone(),
                Arc::clone(&self.notifier),
            )
            .map(Some)
        };
        common.queues.iter().enumerate().map(queue).collect()
    }
}

impl State {
    /// The offset in the BAR that an access to the window's data register stands for.
    fn window(&self, at: usize, len: usize) -> Option<u64> {
        if at != self.window_capability + WINDOW_DATA {
            return None;
        }
        let bar = self.config.u32_at(self.window_capability + 4) & 0xff;
        let offset = self.config.u32_at(self.window_capability + 8);
        let wanted = self.config.u32_at(self.window_capability + 12);
        (bar == 0 && wanted as usize == len && offset < BAR_LEN).then(|| offset.into())
    }
}

fn ring(doorbell: &EventFd) {
    // Fails only when the counter is full, and then the device knows.
    let _ = doorbell.write(1);
}

/// `struct virtio_pci_cap` behind its first two bytes: a block of BAR 0.
fn block(len: u8, kind: u8, at: u64, size: u32) -> [u8; 14] {
    let mut body = [0; 14];
    body[0] = len;
    body[1] = kind;
    body[6..10].copy_from_slice(&(at as u32).to_le_bytes());
    body[10..14].copy_from_slice(&size.to_le_bytes());
    body
}

/// Where the window's data register lies in its capability.
const WINDOW_DATA: usize = 16;

/// A window into the BAR for software that cannot map it (virtio 4.1.4.9).
fn add_window(config: &mut ConfigSpace) -> usize {
    let mut body = block(20, CAPABILITY_WINDOW, 0, 0).to_vec();
    body.extend([0; 4]);
    let mut writable = [0; 18];
    writable[2] = 0xff;
    writable[6..].fill(0xff);
    config.add_capability(VENDOR_CAPABILITY, &body, &writable)
}

fn add_msix(config: &mut ConfigSpace, vectors: usize) -> usize {
    let mut body = Vec::new();
    body.extend((vectors as u16 - 1).to_le_bytes());
    body.extend((MSIX_TABLE as u32).to_le_bytes());
    body.extend((MSIX_PENDING as u32).to_le_bytes());
    // Enable and mask-all.
    config.add_capability(msix::CAPABILITY, &body, &[0, 0xc0])
}

/// One vector for configuration changes, and one per queue.
pub fn vectors(description: &Description) -> usize {
    description.queues + 1
}

/// What a function needs of MSI-X, made before its worker.
pub fn notifier(
    platform: &Arc<dyn Platform>,
    gsis: &mut crate::platform::GsiAllocator,
    description: &Description,
) -> io::Result<Arc<Notifier>> {
    let msix = Msix::new(Arc::clone(platform), gsis, vectors(description))?;
    Ok(Arc::new(Notifier::new(Arc::new(msix), description.queues)))
}

#[cfg(test)]
mod tests;
