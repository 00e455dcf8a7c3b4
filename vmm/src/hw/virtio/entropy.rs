//! virtio-rng (virtio 1.2, 5.4): the node's random numbers for the guest.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

use crate::hw::virtio::{
    device::{Active, Description, Kind, Progress, VirtioDevice},
    poll::Poll,
    queue::{Chain, QueueError, Virtqueue},
    segments,
};

/// More than this per request is not filled; Linux asks for 64 bytes at a time. Keeps one request
/// from holding the worker for long.
const MOST_PER_REQUEST: usize = 4096;
/// Requests served before orders are looked at again.
const BUDGET: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum EntropyError {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error("the node gives no random numbers: {0}")]
    Random(io::Error),
}

#[derive(Debug, Default)]
pub struct Entropy {
    queue: Option<Virtqueue>,
    chain: Chain,
}

impl VirtioDevice for Entropy {
    type Error = EntropyError;

    fn description(&self) -> Description {
        Description {
            kind: Kind::Entropy,
            features: 0,
            queues: 1,
            config: Vec::new(),
        }
    }

    fn activate(&mut self, mut active: Active, _poll: &mut Poll) -> Result<(), EntropyError> {
        self.queue = active.queues.first_mut().and_then(Option::take);
        Ok(())
    }

    fn queue_ready(&mut self, _queue: usize, _poll: &mut Poll) -> Result<Progress, EntropyError> {
        let Some(queue) = &mut self.queue else {
            return Ok(Progress::Done);
        };
        let mut buffer = [0; MOST_PER_REQUEST];
        for _ in 0..BUDGET {
            if !queue.pop(&mut self.chain)? {
                if queue.ask_for_kick()? {
                    continue;
                }
                return Ok(Progress::Done);
            }
            let wanted = segments::total(&self.chain.writable).min(MOST_PER_REQUEST as u64);
            let random = &mut buffer[..wanted as usize];
            getrandom(&mut *random, GetRandomFlags::empty())
                .map_err(|error| EntropyError::Random(error.into()))?;
            let written = segments::write(queue.memory(), &self.chain.writable, 0, random);
            queue.push(self.chain.head, written as u32)?;
            queue.signal()?;
        }
        Ok(Progress::More)
    }

    fn deactivate(&mut self, _poll: &mut Poll) {
        self.queue = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hw::virtio::queue::tests::{Driver, WRITE, small_memory};

    #[test]
    fn fills_buffers_up_to_the_limit() {
        let memory = small_memory();
        let driver = Driver::new(&memory, 0x1000);
        driver.offer(&[
            (0x10_0000, 64, WRITE, 0),
            (0x20_0000, 1 << 20, WRITE, 0),
            (0x30_0000, 8, 0, 0),
        ]);
        driver.make_available(1);
        driver.make_available(2);
        let mut poll = Poll::new(&[]).unwrap();
        let mut device = Entropy {
            queue: Some(driver.queue(&memory)),
            ..Entropy::default()
        };
        assert_eq!(device.queue_ready(0, &mut poll).unwrap(), Progress::Done);
        assert_eq!(driver.used(), 3);
        let lens = [0, 1, 2].map(|index| driver.used_len(index));
        assert_eq!(lens, [64, MOST_PER_REQUEST as u32, 0]);
        let mut bytes = [0; 64];
        vm_memory::Bytes::read_slice(&memory, &mut bytes, vm_memory::GuestAddress(0x10_0000))
            .unwrap();
        assert_ne!(bytes, [0; 64]);
    }
}
