//! What a device says to its driver: interrupts, and the status bits that it sets itself.

use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicU16, Ordering},
};

use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;

use crate::hw::pci::msix::{Msix, NO_VECTOR};

const ISR_QUEUE: u8 = 1 << 0;
const ISR_CONFIG: u8 = 1 << 1;
pub const NEEDS_RESET: u8 = VIRTIO_CONFIG_S_NEEDS_RESET as u8;

#[derive(Debug)]
pub struct Notifier {
    pub msix: Arc<Msix>,
    /// The device status register.
    status: AtomicU8,
    isr: AtomicU8,
    config_vector: AtomicU16,
    queue_vectors: Vec<AtomicU16>,
}

impl Notifier {
    pub fn new(msix: Arc<Msix>, queues: usize) -> Self {
        Self {
            msix,
            status: AtomicU8::new(0),
            isr: AtomicU8::new(0),
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
        }
    }

    pub fn queue_used(&self, queue: usize) {
        self.isr.fetch_or(ISR_QUEUE, Ordering::SeqCst);
        self.msix.raise(self.queue_vector(queue));
    }

    /// Tells the driver that the device is broken until it is reset.
    pub fn needs_reset(&self) {
        self.status.fetch_or(NEEDS_RESET, Ordering::SeqCst);
        self.isr.fetch_or(ISR_CONFIG, Ordering::SeqCst);
        self.msix.raise(self.config_vector());
    }

    pub fn status(&self) -> u8 {
        self.status.load(Ordering::SeqCst)
    }

    /// The driver's bits; those of the device stay.
    pub fn set_driver_status(&self, status: u8) {
        let keep = |old| Some(status & !NEEDS_RESET | old & NEEDS_RESET);
        let _ = self
            .status
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, keep);
    }

    /// Reading acknowledges.
    pub fn take_isr(&self) -> u8 {
        self.isr.swap(0, Ordering::SeqCst)
    }

    pub fn config_vector(&self) -> u16 {
        self.config_vector.load(Ordering::SeqCst)
    }

    pub fn set_config_vector(&self, vector: u16) {
        self.config_vector
            .store(self.existing(vector), Ordering::SeqCst);
    }

    pub fn queue_vector(&self, queue: usize) -> u16 {
        self.queue_vectors
            .get(queue)
            .map_or(NO_VECTOR, |vector| vector.load(Ordering::SeqCst))
    }

    pub fn set_queue_vector(&self, queue: usize, vector: u16) {
        if let Some(place) = self.queue_vectors.get(queue) {
            place.store(self.existing(vector), Ordering::SeqCst);
        }
    }

    /// A vector that does not exist reads back as none, which tells the driver (virtio 4.1.5.1.2.1).
    fn existing(&self, vector: u16) -> u16 {
        if usize::from(vector) < self.msix.vectors() {
            vector
        } else {
            NO_VECTOR
        }
    }

    pub fn reset(&self) {
        self.status.store(0, Ordering::SeqCst);
        self.isr.store(0, Ordering::SeqCst);
        for vector in self.queue_vectors.iter().chain([&self.config_vector]) {
            vector.store(NO_VECTOR, Ordering::SeqCst);
        }
    }
}
