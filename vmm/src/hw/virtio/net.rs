//! virtio-net (virtio 1.2, 5.1): an interface on a tap.

use std::{io, os::fd::AsRawFd, os::fd::RawFd};

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP,
};

use crate::{
    backend::{
        iovecs::Iovecs,
        tap::{HEADER_LEN, OFFLOAD_CHECKSUM, OFFLOAD_TSO4, OFFLOAD_TSO6, Tap},
    },
    hw::virtio::{
        device::{Active, Description, Kind, Progress, VirtioDevice},
        poll::Poll,
        queue::{Chain, QueueError, Virtqueue},
        segments::{self, Segment, total},
    },
};

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// The largest frame: 64 KiB of IP, with link header and VLAN tag, behind virtio's header.
const LARGEST_FRAME: usize = HEADER_LEN + 18 + 65535;
/// Frames in one direction before the other, and orders, have their turn.
const BUDGET: usize = 256;
/// Where `num_buffers` lies in virtio's header.
const BUFFER_COUNT: u64 = 10;

#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error("the tap fails: {0}")]
    Tap(#[from] io::Error),
    #[error("receive buffer {0} is too small for anything")]
    SmallBuffer(u16),
}

#[derive(Debug)]
pub struct Net {
    tap: Tap,
    mac: [u8; 6],
    receive: Option<Virtqueue>,
    transmit: Option<Virtqueue>,
    merge: bool,
    chain: Chain,
    /// A frame that came from the tap, while the guest had no buffers for it.
    frame: Box<[u8]>,
    waiting: Option<usize>,
    /// Buffers that hold parts of the frame: head, bytes written.
    used: Vec<(u16, u32)>,
    /// Where the frame's header went.
    first: Vec<Segment>,
}

impl Net {
    pub fn new(tap: Tap, mac: [u8; 6]) -> Self {
        Self {
            tap,
            mac,
            receive: None,
            transmit: None,
            merge: false,
            chain: Chain::default(),
            frame: vec![0; LARGEST_FRAME].into(),
            waiting: None,
            used: Vec::new(),
            first: Vec::new(),
        }
    }

    /// From the tap to the guest, until either has no more. While the guest has no buffers the tap
    /// is not listened to, and drops what its queue cannot hold.
    fn receive_frames(&mut self, poll: &mut Poll) -> Result<Progress, NetError> {
        let Some(mut queue) = self.receive.take() else {
            return Ok(Progress::Done);
        };
        let received = self.receive_into(&mut queue, poll);
        self.receive = Some(queue);
        received
    }

    fn receive_into(
        &mut self,
        queue: &mut Virtqueue,
        poll: &mut Poll,
    ) -> Result<Progress, NetError> {
        for _ in 0..BUDGET {
            if self.waiting.is_none() {
                self.waiting = self.tap.receive(&mut self.frame)?;
            }
            let Some(len) = self.waiting else {
                break;
            };
            loop {
                match self.deliver(queue, len)? {
                    Delivery::Done => break,
                    Delivery::NoBuffers { more: true } => {}
                    Delivery::NoBuffers { more: false } => {
                        poll.listen(0, false)?;
                        return Ok(Progress::Done);
                    }
                }
            }
            self.waiting = None;
        }
        // Nothing waits here now, so whatever comes next makes the tap readable.
        poll.listen(0, true)?;
        Ok(Progress::Done)
    }

    /// Puts the waiting frame into as many buffers as it needs. They are told to the driver only
    /// when all are there. A frame that cannot fit is lost.
    fn deliver(&mut self, queue: &mut Virtqueue, len: usize) -> Result<Delivery, NetError> {
        self.used.clear();
        let mut done = 0;
        while done < len {
            let buffers = self.used.len();
            if buffers == usize::from(queue.size()) || (buffers > 0 && !self.merge) {
                queue.unpop(buffers);
                return Ok(Delivery::Done);
            }
            if !queue.pop(&mut self.chain)? {
                // Asked before putting back, so that the kick comes with the next new buffer.
                let more = queue.ask_for_kick()?;
                queue.unpop(buffers);
                return Ok(Delivery::NoBuffers { more });
            }
            let room = total(&self.chain.writable);
            if room == 0 || (done == 0 && room < HEADER_LEN as u64) {
                return Err(NetError::SmallBuffer(self.chain.head));
            }
            let part = room.min((len - done) as u64) as usize;
            let part = &self.frame[done..done + part];
            segments::write(queue.memory(), &self.chain.writable, 0, part);
            if done == 0 {
                self.first.clone_from(&self.chain.writable);
            }
            done += part.len();
            self.used.push((self.chain.head, part.len() as u32));
        }
        let count = (self.used.len() as u16).to_le_bytes();
        segments::write(queue.memory(), &self.first, BUFFER_COUNT, &count);
        for (head, written) in &self.used {
            queue.push(*head, *written)?;
        }
        queue.signal()?;
        Ok(Delivery::Done)
    }

    /// From the guest to the tap.
    fn transmit_frames(&mut self) -> Result<Progress, NetError> {
        let Some(queue) = &mut self.transmit else {
            return Ok(Progress::Done);
        };
        queue.spare_kicks()?;
        for _ in 0..BUDGET {
            if !queue.pop(&mut self.chain)? {
                if queue.ask_for_kick()? {
                    continue;
                }
                return Ok(Progress::Done);
            }
            // Longer than any frame: not worth bothering the kernel.
            if total(&self.chain.readable) <= LARGEST_FRAME as u64 {
                let frame = self.chain.readable.iter().copied();
                let frame = Iovecs::new(queue.memory(), frame)
                    .map_err(|_| QueueError::Chain(self.chain.head))?;
                // A malformed header, an interface that is down, a full queue: the frame is lost,
                // as it would be on a wire.
                let _ = self.tap.send(&frame);
            }
            queue.push(self.chain.head, 0)?;
            queue.signal()?;
        }
        Ok(Progress::More)
    }
}

enum Delivery {
    Done,
    /// Whether some came after they were found missing.
    NoBuffers {
        more: bool,
    },
}

/// The offloads of the tap that follow from the features that the driver took.
fn offload(features: u64) -> u32 {
    [
        (VIRTIO_NET_F_GUEST_CSUM, OFFLOAD_CHECKSUM),
        (VIRTIO_NET_F_GUEST_TSO4, OFFLOAD_TSO4),
        (VIRTIO_NET_F_GUEST_TSO6, OFFLOAD_TSO6),
    ]
    .iter()
    .filter(|(feature, _)| features & 1 << feature != 0)
    .fold(0, |offload, (_, bit)| offload | bit)
}

impl VirtioDevice for Net {
    type Error = NetError;

    fn description(&self) -> Description {
        let features = [
            VIRTIO_NET_F_CSUM,
            VIRTIO_NET_F_GUEST_CSUM,
            VIRTIO_NET_F_MAC,
            VIRTIO_NET_F_GUEST_TSO4,
            VIRTIO_NET_F_GUEST_TSO6,
            VIRTIO_NET_F_HOST_TSO4,
            VIRTIO_NET_F_HOST_TSO6,
            VIRTIO_NET_F_MRG_RXBUF,
            VIRTIO_NET_F_STATUS,
        ];
        let mut config = self.mac.to_vec();
        config.extend((VIRTIO_NET_S_LINK_UP as u16).to_le_bytes());
        Description {
            kind: Kind::Net,
            features: features.iter().fold(0, |features, bit| features | 1 << bit),
            queues: 2,
            config,
        }
    }

    fn watched(&self) -> Vec<RawFd> {
        vec![self.tap.as_raw_fd()]
    }

    fn activate(&mut self, mut active: Active, _poll: &mut Poll) -> Result<(), NetError> {
        self.merge = active.features & 1 << VIRTIO_NET_F_MRG_RXBUF != 0;
        self.tap.set_offload(offload(active.features))?;
        let mut queue = |index: usize| active.queues.get_mut(index).and_then(Option::take);
        self.receive = queue(RECEIVE);
        self.transmit = queue(TRANSMIT);
        Ok(())
    }

    fn queue_ready(&mut self, queue: usize, poll: &mut Poll) -> Result<Progress, NetError> {
        match queue {
            RECEIVE => self.receive_frames(poll),
            _ => self.transmit_frames(),
        }
    }

    fn backend_ready(&mut self, _backend: usize, poll: &mut Poll) -> Result<(), NetError> {
        self.receive_frames(poll).map(drop)
    }

    fn deactivate(&mut self, poll: &mut Poll) {
        self.receive = None;
        self.transmit = None;
        self.waiting = None;
        // Fails only if the tap is gone, and then there is nothing to listen to.
        let _ = poll.listen(0, false);
    }
}

#[cfg(test)]
mod tests;
