//! A driver that writes anything to a function's registers, in any order.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use loam_deployment::Bytes as Size;
use loam_vmm::{
    hw::virtio::{
        device::VirtioDevice,
        entropy::Entropy,
        function::{self, BAR_LEN, VirtioFunction},
        worker::Worker,
    },
    lifecycle::Lifecycle,
    memory,
    platform::{GsiAllocator, Platform},
};
use loam_vmm_fuzz::Nowhere;

const BAR: u32 = 0xe000_0000;

fuzz_target!(|data: &[u8]| {
    let memory = memory::map(Size::mib(32)).unwrap();
    let platform: Arc<dyn Platform> = Arc::new(Nowhere);
    let device = Entropy::default();
    let description = device.description();
    let mut gsis = GsiAllocator::default();
    let notifier = function::notifier(&platform, &mut gsis, &description).unwrap();
    let worker = Worker::start(device, "fuzz".into(), Arc::clone(&notifier), None).unwrap();
    let function = VirtioFunction::new(description, BAR, notifier, worker, platform, memory);
    // Each access: what, where (two bytes), the value (eight bytes).
    for access in data.chunks_exact(11) {
        let at = u64::from(u16::from_le_bytes([access[1], access[2]]));
        let value = &access[3..3 + (1 << (access[0] & 0b11))];
        let mut read = [0; 8];
        match access[0] >> 2 & 0b11 {
            0 => function.write_config(at as usize % 256, &value[..value.len().min(4)]),
            1 => function.read_config(at as usize % 256, &mut read[..4]),
            2 => function.write_memory(at % u64::from(BAR_LEN), value),
            _ => function.read_memory(at % u64::from(BAR_LEN), &mut read[..value.len()]),
        }
    }
    function.worker().halt();
});
