//! Memory full of anything under a disk's queue: rings, descriptors and requests alike.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use loam_deployment::Bytes as Size;
use loam_vmm::{
    backend::disk_file::DiskFile,
    hw::virtio::{
        block::Block,
        device::{Active, VirtioDevice},
        function,
        poll::Poll,
        queue::{QueueSetup, Virtqueue},
    },
    memory,
    platform::{GsiAllocator, Platform},
};
use loam_vmm_fuzz::Nowhere;
use vm_memory::{Bytes, GuestAddress};

fuzz_target!(|data: &[u8]| {
    let memory = memory::map(Size::mib(32)).unwrap();
    // Descriptors at 0, the rings behind them, requests wherever the descriptors lead.
    let len = data.len().min(1 << 20);
    memory.write_slice(&data[..len], GuestAddress(0)).unwrap();
    let setup = QueueSetup {
        size: 16,
        descriptors: 0,
        available: 16 * 16,
        used: 0x1000,
        event_idx: data.first().is_some_and(|byte| byte & 1 == 1),
    };
    let file = tempfile::tempfile().unwrap();
    file.set_len(64 << 10).unwrap();
    let mut disk = Block::new(DiskFile::new(file.into()).unwrap(), false, "fuzz");
    let platform: Arc<dyn Platform> = Arc::new(Nowhere);
    let mut gsis = GsiAllocator::default();
    let notifier = function::notifier(&platform, &mut gsis, &disk.description()).unwrap();
    let queue = Virtqueue::new(0, setup, memory, notifier).unwrap();
    let mut poll = Poll::new(&[]).unwrap();
    let active = Active {
        features: u64::MAX,
        queues: vec![Some(queue)],
    };
    disk.activate(active, &mut poll).unwrap();
    // An error is a fine answer; a panic is not.
    let _ = disk.queue_ready(0, &mut poll);
});
