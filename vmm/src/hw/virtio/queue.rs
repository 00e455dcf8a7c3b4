//! [`Virtqueue`]: a split virtqueue whose chains are checked whole before a device sees them.

use std::sync::Arc;

use virtio_queue::{Queue, QueueOwnedT, QueueT, desc::split::Descriptor};
use vm_memory::GuestMemoryBackend;

use crate::{
    hw::virtio::{notifier::Notifier, segments::Segment},
    memory::GuestMemory,
};

/// The largest queue that any device here offers: enough for a disk or a network interface to
/// have one page per descriptor and a mebibyte in flight.
pub const LARGEST_QUEUE: u16 = 256;

/// What a driver can do wrong with a queue. Each breaks the device until it is reset.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error("the queue's addresses or size are invalid")]
    Setup,
    #[error("the queue cannot be read or written: {0}")]
    Ring(#[from] virtio_queue::Error),
    #[error(
        "descriptor chain {0} is endless, too long, or leaves the descriptor table or guest memory"
    )]
    Chain(u16),
    #[error("descriptor chain {0} has a readable buffer behind a writable one")]
    Order(u16),
}

/// The registers by which a driver sets a queue up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueSetup {
    pub size: u16,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
    pub event_idx: bool,
}

/// A request: what the device reads, then what it writes.
#[derive(Debug, Default)]
pub struct Chain {
    pub head: u16,
    pub readable: Vec<Segment>,
    pub writable: Vec<Segment>,
}

#[derive(Debug)]
pub struct Virtqueue {
    index: usize,
    queue: Queue,
    memory: GuestMemory,
    notifier: Arc<Notifier>,
}

impl Virtqueue {
    pub fn new(
        index: usize,
        setup: QueueSetup,
        memory: GuestMemory,
        notifier: Arc<Notifier>,
    ) -> Result<Self, QueueError> {
        let mut queue = Queue::new(LARGEST_QUEUE)?;
        queue.try_set_size(setup.size)?;
        queue.try_set_desc_table_address(vm_memory::GuestAddress(setup.descriptors))?;
        queue.try_set_avail_ring_address(vm_memory::GuestAddress(setup.available))?;
        queue.try_set_used_ring_address(vm_memory::GuestAddress(setup.used))?;
        queue.set_event_idx(setup.event_idx);
        queue.set_ready(true);
        if !queue.is_valid(&memory) {
            return Err(QueueError::Setup);
        }
        Ok(Self {
            index,
            queue,
            memory,
            notifier,
        })
    }

    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Takes the next request into `chain`; says whether there was one.
    pub fn pop(&mut self, chain: &mut Chain) -> Result<bool, QueueError> {
        chain.readable.clear();
        chain.writable.clear();
        let Some(descriptors) = self.queue.iter(&self.memory)?.next() else {
            return Ok(false);
        };
        let head = descriptors.head_index();
        chain.head = head;
        // The iterator ends silently at whatever is wrong; then the last descriptor seen still
        // names a next one, or there was none at all.
        let mut last: Option<Descriptor> = None;
        for (count, descriptor) in descriptors.enumerate() {
            // An indirect table may be longer than the queue, but not by the specification (2.7.5.3.1).
            if count >= usize::from(self.queue.size()) {
                return Err(QueueError::Chain(head));
            }
            self.sort(chain, &descriptor)?;
            last = Some(descriptor);
        }
        match last {
            Some(last) if !last.has_next() => Ok(true),
            _ => Err(QueueError::Chain(head)),
        }
    }

    fn sort(&self, chain: &mut Chain, descriptor: &Descriptor) -> Result<(), QueueError> {
        let segment = Segment {
            address: descriptor.addr(),
            len: descriptor.len(),
        };
        if !GuestMemoryBackend::check_range(&self.memory, segment.address, segment.len as usize) {
            return Err(QueueError::Chain(chain.head));
        }
        if descriptor.is_write_only() {
            chain.writable.push(segment);
        } else if chain.writable.is_empty() {
            chain.readable.push(segment);
        } else {
            return Err(QueueError::Order(chain.head));
        }
        Ok(())
    }

    /// Puts the last so many requests back, to be popped again.
    pub fn unpop(&mut self, count: usize) {
        for _ in 0..count {
            self.queue.go_to_previous_position();
        }
    }

    /// Gives a request back to the driver, with so many bytes written.
    pub fn push(&mut self, head: u16, written: u32) -> Result<(), QueueError> {
        Ok(self.queue.add_used(&self.memory, head, written)?)
    }

    /// Interrupts the driver if it wants to know about what was pushed.
    pub fn signal(&mut self) -> Result<(), QueueError> {
        if self.queue.needs_notification(&self.memory)? {
            self.notifier.queue_used(self.index);
        }
        Ok(())
    }

    /// Asks the driver for a kick at the next request; says whether one came in the meantime.
    pub fn ask_for_kick(&mut self) -> Result<bool, QueueError> {
        Ok(self.queue.enable_notification(&self.memory)?)
    }

    pub fn spare_kicks(&mut self) -> Result<(), QueueError> {
        Ok(self.queue.disable_notification(&self.memory)?)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use loam_deployment::Bytes as Size;
    use proptest::prelude::*;
    use virtio_bindings::virtio_ring::{
        VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
    };
    use virtio_queue::{
        desc::{RawDescriptor, split::Descriptor as Split},
        mock::MockSplitQueue,
    };
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::{
        hw::pci::msix::Msix,
        memory,
        platform::{GsiAllocator, recorded::Recorded},
    };

    pub const NEXT: u16 = VRING_DESC_F_NEXT as u16;
    pub const WRITE: u16 = VRING_DESC_F_WRITE as u16;
    const INDIRECT: u16 = VRING_DESC_F_INDIRECT as u16;

    pub fn notifier(queues: usize) -> Arc<Notifier> {
        let platform = Arc::new(Recorded::default());
        let msix = Msix::new(platform, &mut GsiAllocator::default(), queues + 1).unwrap();
        Arc::new(Notifier::new(Arc::new(msix), queues))
    }

    /// A driver's side of one queue of 16 in the first pages of memory.
    pub struct Driver<'m>(pub MockSplitQueue<'m, GuestMemory>);

    impl<'m> Driver<'m> {
        pub fn new(memory: &'m GuestMemory, at: u64) -> Self {
            Self(MockSplitQueue::create(memory, GuestAddress(at), 16))
        }

        pub fn queue(&self, memory: &GuestMemory) -> Virtqueue {
            let setup = QueueSetup {
                size: 16,
                descriptors: self.0.desc_table_addr().0,
                available: self.0.avail_addr().0,
                used: self.0.used_addr().0,
                event_idx: false,
            };
            Virtqueue::new(0, setup, memory.clone(), notifier(1)).unwrap()
        }

        /// Writes descriptors from slot 0 on and makes them available.
        pub fn offer(&self, descriptors: &[(u64, u32, u16, u16)]) {
            for (slot, (address, len, flags, next)) in descriptors.iter().enumerate() {
                let descriptor = Split::new(*address, *len, *flags, *next);
                self.0
                    .desc_table()
                    .store(slot as u16, RawDescriptor::from(descriptor))
                    .unwrap();
            }
            self.make_available(0);
        }

        pub fn make_available(&self, head: u16) {
            let index = u16::from_le(self.0.avail().idx().load());
            self.0
                .avail()
                .ring()
                .ref_at(usize::from(index % 16))
                .unwrap()
                .store(head.to_le());
            self.0.avail().idx().store((index.wrapping_add(1)).to_le());
        }

        pub fn used(&self) -> u16 {
            u16::from_le(self.0.used().idx().load())
        }

        pub fn used_len(&self, index: usize) -> u32 {
            self.0.used().ring().ref_at(index).unwrap().load().len()
        }
    }

    pub fn small_memory() -> GuestMemory {
        memory::map(Size::mib(32)).unwrap()
    }

    fn pop(descriptors: &[(u64, u32, u16, u16)]) -> Result<Option<Chain>, QueueError> {
        let memory = small_memory();
        let driver = Driver::new(&memory, 0x1000);
        driver.offer(descriptors);
        let mut chain = Chain::default();
        let popped = driver.queue(&memory).pop(&mut chain)?;
        Ok(popped.then_some(chain))
    }

    #[test]
    fn a_proper_chain_is_sorted_by_direction() {
        let chain = pop(&[
            (0x10_0000, 16, NEXT, 1),
            (0x20_0000, 512, NEXT | WRITE, 2),
            (0x30_0000, 1, WRITE, 0),
        ])
        .unwrap()
        .unwrap();
        assert_eq!((chain.readable.len(), chain.writable.len()), (1, 2));
    }

    #[test]
    fn hostile_chains_are_refused() {
        let end = 32 << 20;
        for (what, descriptors) in [
            ("a loop", vec![(0x1000, 1, NEXT, 1), (0x1000, 1, NEXT, 0)]),
            ("itself", vec![(0x1000, 1, NEXT, 0)]),
            ("next outside the table", vec![(0x1000, 1, NEXT, 16)]),
            ("outside memory", vec![(end, 1, 0, 0)]),
            ("over the end of memory", vec![(end - 1, 2, 0, 0)]),
            ("around the address space", vec![(u64::MAX, 2, 0, 0)]),
            (
                "longer than 4 GiB",
                vec![(0, u32::MAX, NEXT, 1), (0, u32::MAX, 0, 0)],
            ),
            (
                "readable behind writable",
                vec![(0x1000, 1, NEXT | WRITE, 1), (0x1000, 1, 0, 0)],
            ),
            ("empty indirect", vec![(0x1000, 0, INDIRECT, 0)]),
            ("indirect outside memory", vec![(end, 16, INDIRECT, 0)]),
            ("uneven indirect", vec![(0x1000, 17, INDIRECT, 0)]),
            ("indirect in itself", vec![(0x1000, 16, INDIRECT, 0)]),
        ] {
            assert!(pop(&descriptors).is_err(), "{what}");
        }
    }

    #[test]
    fn an_indirect_table_longer_than_the_queue_is_refused() {
        let memory = small_memory();
        let driver = Driver::new(&memory, 0x1000);
        for index in 0..17 {
            let flags = if index < 16 { NEXT } else { 0 };
            let descriptor = Split::new(0x20_0000, 1, flags, index + 1);
            memory
                .write_obj(descriptor, GuestAddress(0x10_0000 + u64::from(index) * 16))
                .unwrap();
        }
        driver.offer(&[(0x10_0000, 17 * 16, INDIRECT, 0)]);
        let popped = driver.queue(&memory).pop(&mut Chain::default());
        assert!(matches!(popped, Err(QueueError::Chain(0))));
    }

    #[test]
    fn heads_and_counts_out_of_range_are_refused() {
        let memory = small_memory();
        let driver = Driver::new(&memory, 0x1000);
        let mut queue = driver.queue(&memory);
        assert!(!queue.pop(&mut Chain::default()).unwrap());
        driver.make_available(16);
        assert!(queue.pop(&mut Chain::default()).is_err());
        assert!(queue.push(16, 0).is_err());
        driver.0.avail().idx().store(18_u16.to_le());
        assert!(queue.pop(&mut Chain::default()).is_err());
    }

    #[test]
    fn rings_must_lie_in_memory() {
        let memory = small_memory();
        let good = QueueSetup {
            size: 16,
            descriptors: 0x1000,
            available: 0x2000,
            used: 0x3000,
            event_idx: false,
        };
        let valid = |setup| Virtqueue::new(0, setup, memory.clone(), notifier(1)).is_ok();
        assert!(valid(good));
        for bad in [
            QueueSetup { size: 0, ..good },
            QueueSetup { size: 15, ..good },
            QueueSetup { size: 512, ..good },
            QueueSetup {
                descriptors: (32 << 20) - 16,
                ..good
            },
            QueueSetup {
                available: 0x2001,
                ..good
            },
            QueueSetup { used: !3, ..good },
            QueueSetup {
                descriptors: 0x1008,
                ..good
            },
        ] {
            assert!(!valid(bad), "{bad:?}");
        }
    }

    proptest! {
        /// Whatever lies in memory: an answer, and every segment within memory.
        #[test]
        fn any_descriptors_end_in_an_answer(
            descriptors in prop::collection::vec((any::<u64>(), any::<u32>(), 0..8_u16, 0..20_u16), 16),
            near in prop::collection::vec(any::<bool>(), 16),
        ) {
            let descriptors: Vec<_> = descriptors
                .into_iter()
                .zip(near)
                .map(|((address, len, flags, next), near)| {
                    if near { (address % (1 << 20), (len % 4096) & !15, flags, next) } else { (address, len, flags, next) }
                })
                .collect();
            if let Ok(Some(chain)) = pop(&descriptors) {
                for segment in chain.readable.iter().chain(&chain.writable) {
                    prop_assert!(segment.address.0 + u64::from(segment.len) <= 32 << 20);
                }
            }
        }
    }
}
