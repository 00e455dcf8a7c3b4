//! A driver that knows the function only by its configuration space and BAR, with a real worker
//! behind it.

use std::os::fd::AsFd;

use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, poll};

use super::*;
use crate::{
    hw::virtio::{
        device::VirtioDevice,
        entropy::Entropy,
        queue::tests::{Driver, WRITE, small_memory},
    },
    lifecycle::Lifecycle,
    platform::{Gsi, GsiAllocator, recorded::Recorded},
};

const BAR: u32 = 0xe000_0000;
const ACKNOWLEDGED_DRIVER: u8 = 3;

struct Bench {
    platform: Arc<Recorded>,
    memory: GuestMemory,
    function: VirtioFunction,
}

impl Bench {
    fn new() -> Self {
        let platform = Arc::new(Recorded::default());
        let dynamic: Arc<dyn Platform> = Arc::clone(&platform) as _;
        let device = Entropy::default();
        let description = device.description();
        let notifier = notifier(&dynamic, &mut GsiAllocator::default(), &description).unwrap();
        let worker = Worker::start(device, "rng".into(), Arc::clone(&notifier), None).unwrap();
        let memory = small_memory();
        let function =
            VirtioFunction::new(description, BAR, notifier, worker, dynamic, memory.clone());
        Self {
            platform,
            memory,
            function,
        }
    }

    fn write(&self, at: u64, data: &[u8]) {
        self.function.write_memory(at, data);
    }

    fn status(&self) -> u8 {
        let mut status = [0];
        self.function
            .read_memory(COMMON + offset::STATUS, &mut status);
        status[0]
    }

    fn set_status(&self, status: u8) {
        self.write(COMMON + offset::STATUS, &[status]);
    }

    /// Everything up to DRIVER_OK, as Linux does it.
    fn start(&self, driver: &Driver<'_>) {
        self.set_status(0);
        self.enable_msix();
        self.set_status(ACKNOWLEDGED_DRIVER);
        self.write(COMMON + offset::DRIVER_FEATURE_SELECT, &1_u32.to_le_bytes());
        self.write(COMMON + offset::DRIVER_FEATURE, &1_u32.to_le_bytes());
        self.set_status(ACKNOWLEDGED_DRIVER | FEATURES_OK);
        assert_ne!(self.status() & FEATURES_OK, 0);
        self.write(COMMON + offset::CONFIG_VECTOR, &0_u16.to_le_bytes());
        self.write(COMMON + offset::QUEUE_SELECT, &0_u16.to_le_bytes());
        self.write(COMMON + offset::QUEUE_SIZE, &16_u16.to_le_bytes());
        self.write(COMMON + offset::QUEUE_VECTOR, &1_u16.to_le_bytes());
        for (register, address) in [
            (offset::QUEUE_DESCRIPTORS, driver.0.desc_table_addr().0),
            (offset::QUEUE_AVAILABLE, driver.0.avail_addr().0),
            (offset::QUEUE_USED, driver.0.used_addr().0),
        ] {
            self.write(COMMON + register, &(address as u32).to_le_bytes());
            self.write(COMMON + register + 4, &0_u32.to_le_bytes());
        }
        self.write(COMMON + offset::QUEUE_ENABLE, &1_u16.to_le_bytes());
        self.set_status(ACKNOWLEDGED_DRIVER | FEATURES_OK | DRIVER_OK);
    }

    fn accepted_features(&self) -> u64 {
        self.function.state.locked().common.accepted
    }

    fn enable_msix(&self) {
        for vector in 0..2 {
            self.write(MSIX_TABLE + vector * 16 + 12, &[0; 4]);
        }
        let capability = self.function.state.locked().msix_capability;
        self.function
            .write_config(capability + 2, &0x8000_u16.to_le_bytes());
    }

    /// Waits for an interrupt by this vector.
    fn wait_for(&self, vector: u32) {
        let gsi = Gsi(24 + vector);
        let event = self.platform.interrupts.locked()[&gsi].try_clone().unwrap();
        // SAFETY: `event` outlives the borrow.
        let fd =
            unsafe { std::os::fd::BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(&event)) };
        poll(
            &mut [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)],
            None,
        )
        .unwrap();
        event.read().unwrap();
    }
}

#[test]
fn a_driver_gets_its_buffer_back() {
    let bench = Bench::new();
    let driver = Driver::new(&bench.memory, 0x1000);
    bench.start(&driver);
    driver.offer(&[(0x10_0000, 64, WRITE, 0)]);
    bench.write(NOTIFY, &0_u16.to_le_bytes());
    bench.wait_for(1);
    assert_eq!((driver.used(), driver.used_len(0)), (1, 64));
    let mut isr = [0];
    bench.function.read_memory(ISR, &mut isr);
    assert_eq!(isr, [1]);
    bench.function.read_memory(ISR, &mut isr);
    assert_eq!(isr, [0]);
}

#[test]
fn a_broken_queue_asks_for_a_reset_and_works_after_it() {
    let bench = Bench::new();
    let driver = Driver::new(&bench.memory, 0x1000);
    bench.start(&driver);
    driver.offer(&[(u64::MAX, 64, WRITE, 0)]);
    bench.write(NOTIFY, &0_u16.to_le_bytes());
    bench.wait_for(0);
    assert_ne!(bench.status() & NEEDS_RESET, 0);
    // Only a reset helps.
    bench.set_status(ACKNOWLEDGED_DRIVER | FEATURES_OK | DRIVER_OK);
    assert_ne!(bench.status() & NEEDS_RESET, 0);

    let driver = Driver::new(&bench.memory, 0x8000);
    bench.start(&driver);
    assert_eq!(bench.status() & NEEDS_RESET, 0);
    driver.offer(&[(0x10_0000, 64, WRITE, 0)]);
    bench.write(NOTIFY, &0_u16.to_le_bytes());
    bench.wait_for(1);
    assert_eq!(driver.used(), 1);
}

#[test]
fn a_queue_outside_memory_asks_for_a_reset() {
    let bench = Bench::new();
    bench.set_status(ACKNOWLEDGED_DRIVER);
    bench.write(COMMON + offset::DRIVER_FEATURE_SELECT, &1_u32.to_le_bytes());
    bench.write(COMMON + offset::DRIVER_FEATURE, &1_u32.to_le_bytes());
    bench.set_status(ACKNOWLEDGED_DRIVER | FEATURES_OK);
    bench.write(COMMON + offset::QUEUE_USED, &(!15_u64).to_le_bytes());
    bench.write(COMMON + offset::QUEUE_ENABLE, &1_u16.to_le_bytes());
    bench.set_status(ACKNOWLEDGED_DRIVER | FEATURES_OK | DRIVER_OK);
    assert_ne!(bench.status() & NEEDS_RESET, 0);
}

#[test]
fn features_that_were_not_offered_are_refused() {
    let bench = Bench::new();
    for (low, high) in [(0, 0), (1, 1), (0, 3)] {
        bench.set_status(0);
        bench.set_status(ACKNOWLEDGED_DRIVER);
        for (select, value) in [(0_u32, low), (1, high)] {
            let value: u32 = value;
            bench.write(
                COMMON + offset::DRIVER_FEATURE_SELECT,
                &select.to_le_bytes(),
            );
            bench.write(COMMON + offset::DRIVER_FEATURE, &value.to_le_bytes());
        }
        bench.set_status(ACKNOWLEDGED_DRIVER | FEATURES_OK);
        assert_eq!(bench.status() & FEATURES_OK, 0, "{low} {high}");
    }
}

#[test]
fn doorbells_follow_the_bar() {
    let bench = Bench::new();
    let command = |value: u16| bench.function.write_config(4, &value.to_le_bytes());
    let doorbells = || bench.platform.doorbells.locked().clone();
    assert_eq!(bench.function.offset(BAR.into()), None);
    command(2);
    assert_eq!(doorbells(), [u64::from(BAR) + NOTIFY]);
    assert_eq!(bench.function.offset(u64::from(BAR) + 5), Some(5));
    command(0);
    bench
        .function
        .write_config(0x10, &0xe100_0000_u32.to_le_bytes());
    assert!(doorbells().is_empty());
    command(2);
    assert_eq!(doorbells(), [0xe100_0000 + NOTIFY]);
    assert_eq!(bench.function.offset(BAR.into()), None);
}

#[test]
fn the_window_reaches_the_bar() {
    let bench = Bench::new();
    let window = bench.function.state.locked().window_capability;
    let put = |at: usize, value: u32| {
        bench
            .function
            .write_config(window + at, &value.to_le_bytes());
    };
    put(8, (COMMON + offset::QUEUES) as u32);
    put(12, 2);
    let mut queues = [0xff; 2];
    bench
        .function
        .read_config(window + WINDOW_DATA, &mut queues);
    assert_eq!(queues, [1, 0]);
    // Beyond the BAR it is a plain register.
    put(8, u32::MAX);
    put(WINDOW_DATA, 0x1234_5678);
}

#[test]
fn pausing_holds_the_queues_back() {
    let bench = Bench::new();
    let driver = Driver::new(&bench.memory, 0x1000);
    bench.start(&driver);
    bench.function.worker().pause();
    driver.offer(&[(0x10_0000, 64, WRITE, 0)]);
    bench.write(NOTIFY, &0_u16.to_le_bytes());
    // Orders are obeyed while paused, and nothing else.
    bench.function.worker().pause();
    assert_eq!(driver.used(), 0);
    bench.function.worker().resume();
    bench.wait_for(1);
    assert_eq!(driver.used(), 1);
    bench.function.worker().halt();
    bench.function.worker().halt();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// A driver that writes anything anywhere, in any order.
    #[test]
    fn no_register_access_harms(accesses in prop::collection::vec(
        (any::<bool>(), 0..u64::from(BAR_LEN) + 64, any::<u64>(), 0..4_u32), 0..200)
    ) {
        let bench = Bench::new();
        for (config, at, value, log) in accesses {
            let data = &value.to_le_bytes()[..1 << log];
            let mut read = [0; 8];
            let read = &mut read[..1 << log];
            if config {
                let at = at as usize % 256;
                let data = &data[..data.len().min(4)];
                bench.function.write_config(at, data);
                bench.function.read_config(at, read);
            } else {
                // Mostly the common configuration, where things happen.
                let at = if value & 1 == 0 { at % 0x40 } else { at };
                bench.write(at, data);
                bench.function.read_memory(at, read);
            }
        }
        bench.set_status(0);
        prop_assert_eq!(bench.status(), 0);
    }
}

#[test]
fn a_device_is_activated_once_until_it_is_reset() {
    let bench = Bench::new();
    let memory = bench.memory.clone();
    let driver = Driver::new(&memory, 0x1000);
    bench.start(&driver);
    let accepted = bench.accepted_features();
    // Back to the start without a reset: nothing of what was agreed on can be changed.
    bench.set_status(1);
    assert_eq!(
        bench.status(),
        ACKNOWLEDGED_DRIVER | FEATURES_OK | DRIVER_OK
    );
    bench.write(COMMON + offset::DRIVER_FEATURE_SELECT, &0_u32.to_le_bytes());
    bench.write(COMMON + offset::DRIVER_FEATURE, &u32::MAX.to_le_bytes());
    assert_eq!(bench.accepted_features(), accepted);
    bench.set_status(ACKNOWLEDGED_DRIVER | FEATURES_OK | DRIVER_OK);
    assert_eq!(bench.status() & NEEDS_RESET, 0);
    bench.set_status(0);
    assert_eq!(bench.status(), 0);
    bench.start(&driver);
}
