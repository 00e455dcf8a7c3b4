//! virtio-blk (virtio 1.2, 5.2): a disk on a file.

use std::{cell::Cell, io};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK,
    VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use crate::{
    backend::{
        disk_file::{DiskFile, SECTOR},
        iovecs::Iovecs,
    },
    hw::virtio::{
        device::{Active, Description, Kind, Progress, VirtioDevice},
        poll::Poll,
        queue::{Chain, LARGEST_QUEUE, QueueError, Virtqueue},
        segments::{self, total},
    },
    memory::GuestMemory,
};

pub const SERIAL_LEN: usize = VIRTIO_BLK_ID_BYTES as usize;

/// Data segments per request: the queue's length less header and status.
const MOST_SEGMENTS: u32 = LARGEST_QUEUE as u32 - 2;
/// Ranges per request for zeroes. One is what Linux asks for; keeps a request's work bounded.
const MOST_ZEROED_RANGES: u32 = 1;
/// 16 MiB: zeroes are written, and a disk below takes its time for them.
const MOST_ZEROED_SECTORS: u32 = (16 << 20) / SECTOR as u32;
/// Requests served before orders are looked at again. One for zeroes counts as all, since it can make
/// much more work than it is long.
const BUDGET: usize = 64;
const MOST_COMPLAINTS: u32 = 8;

/// `struct virtio_blk_req` before the data.
const HEADER_LEN: usize = 16;
/// `struct virtio_blk_discard_write_zeroes`.
const RANGE_LEN: usize = 16;
/// `struct virtio_blk_config` up to what zeroes need.
const CONFIG_LEN: usize = 60;

/// What breaks the device; a request that merely fails gets its status instead.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error("request {0} has no room for its header or its status")]
    Request(u16),
}

#[derive(Debug)]
pub struct Block {
    disk: DiskFile,
    read_only: bool,
    serial: [u8; SERIAL_LEN],
    /// The driver never flushes, so each write must be on the disk before it is answered.
    write_through: bool,
    complaints: Cell<u32>,
    queue: Option<Virtqueue>,
    chain: Chain,
}

/// A request's outcome: bytes written to the guest besides the status.
type Outcome = Result<u32, Refusal>;

#[derive(Debug)]
enum Refusal {
    Unsupported,
    /// Outside the disk, or not in whole sectors, or to a read-only disk.
    Impossible,
    Failed(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl Block {
    pub fn new(disk: DiskFile, read_only: bool, serial: &str) -> Self {
        let mut padded = [0; SERIAL_LEN];
        for (place, byte) in padded.iter_mut().zip(serial.bytes()) {
            *place = byte;
        }
        Self {
            disk,
            read_only,
            serial: padded,
            write_through: true,
            complaints: Cell::new(0),
            queue: None,
            chain: Chain::default(),
        }
    }

    fn config(&self) -> Vec<u8> {
        let mut config = vec![0; CONFIG_LEN];
        let mut put = |at: usize, bytes: &[u8]| {
            config[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(0, &self.disk.sectors().to_le_bytes());
        put(12, &MOST_SEGMENTS.to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
        // Before these are the limits of discards, which are not offered: all of a disk's size is
        // promised to its guest anyway, and see `DiskFile::write_zeroes`. Nor is it that zeroes may unmap.
        put(48, &MOST_ZEROED_SECTORS.to_le_bytes());
        put(52, &MOST_ZEROED_RANGES.to_le_bytes());
        config
    }

    /// Serves the request in `chain`.
    fn serve(&self, memory: &GuestMemory, chain: &Chain) -> Result<Served, BlockError> {
        let malformed = || BlockError::Request(chain.head);
        let mut header = [0; HEADER_LEN];
        if segments::read(memory, &chain.readable, 0, &mut header) != HEADER_LEN {
            return Err(malformed());
        }
        let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = header;
        let request = Request {
            kind: u32::from_le_bytes([k0, k1, k2, k3]),
            sector: u64::from_le_bytes(sector),
            memory,
            chain,
            data_out: total(&chain.readable) - HEADER_LEN as u64,
            // The last byte that the device may write is the status.
            data_in: total(&chain.writable)
                .checked_sub(1)
                .ok_or_else(malformed)?,
        };
        let (status, written) = match self.perform(&request) {
            Ok(written) => (VIRTIO_BLK_S_OK, written),
            Err(Refusal::Unsupported) => (VIRTIO_BLK_S_UNSUPP, 0),
            Err(Refusal::Impossible) => (VIRTIO_BLK_S_IOERR, 0),
            Err(Refusal::Failed(error)) => {
                self.complain(&error, &request);
                (VIRTIO_BLK_S_IOERR, 0)
            }
        };
        segments::write(memory, &chain.writable, request.data_in, &[status as u8]);
        Ok(Served {
            written: written + 1,
            cost: match request.kind {
                VIRTIO_BLK_T_WRITE_ZEROES => BUDGET,
                _ => 1,
            },
        })
    }

    /// The node's storage fails, or is full: worth a word, but a guest that tries again and again
    /// must not flood the log.
    fn complain(&self, error: &io::Error, request: &Request<'_>) {
        let complaints = self.complaints.get();
        if complaints < MOST_COMPLAINTS {
            self.complaints.set(complaints + 1);
            let serial = String::from_utf8_lossy(&self.serial);
            let serial = serial.trim_end_matches('\0');
            let Request { kind, sector, .. } = request;
            tracing::warn!(serial, kind, sector, %error, "disk request failed; the guest was told");
        }
    }

    fn perform(&self, request: &Request<'_>) -> Outcome {
        match request.kind {
            VIRTIO_BLK_T_IN => self.read(request),
            VIRTIO_BLK_T_OUT => self.write(request),
            VIRTIO_BLK_T_FLUSH => self.flush(),
            VIRTIO_BLK_T_GET_ID => Ok(self.identify(request)),
            VIRTIO_BLK_T_WRITE_ZEROES => self.zero(request),
            _ => Err(Refusal::Unsupported),
        }
    }

    fn read(&self, request: &Request<'_>) -> Outcome {
        let len = request.data_in;
        let position = self
            .disk
            .range(request.sector, len)
            .ok_or(Refusal::Impossible)?;
        let target = segments::part(&request.chain.writable, 0, len);
        let target = Iovecs::new(request.memory, target).map_err(|_| Refusal::Impossible)?;
        self.disk.read(position, target)?;
        Ok(len as u32)
    }

    fn write(&self, request: &Request<'_>) -> Outcome {
        let len = request.data_out;
        let position = self
            .disk
            .range(request.sector, len)
            .filter(|_| !self.read_only)
            .ok_or(Refusal::Impossible)?;
        let source = segments::part(&request.chain.readable, HEADER_LEN as u64, len);
        let source = Iovecs::new(request.memory, source).map_err(|_| Refusal::Impossible)?;
        self.disk.write(position, source)?;
        self.settle()
    }

    fn flush(&self) -> Outcome {
        // Nothing can have been written to a read-only disk.
        if !self.read_only {
            self.disk.flush()?;
        }
        Ok(0)
    }

    fn identify(&self, request: &Request<'_>) -> u32 {
        let len = (request.data_in as usize).min(SERIAL_LEN);
        let writable = &request.chain.writable;
        segments::write(request.memory, writable, 0, &self.serial[..len]) as u32
    }

    /// Writes zeroes: a list of ranges.
    fn zero(&self, request: &Request<'_>) -> Outcome {
        let most = u64::from(MOST_ZEROED_RANGES) * RANGE_LEN as u64;
        if self.read_only
            || request.data_out > most
            || !request.data_out.is_multiple_of(RANGE_LEN as u64)
        {
            return Err(Refusal::Impossible);
        }
        for index in 0..request.data_out / RANGE_LEN as u64 {
            let mut range = [0; RANGE_LEN];
            let at = HEADER_LEN as u64 + index * RANGE_LEN as u64;
            segments::read(request.memory, &request.chain.readable, at, &mut range);
            self.zero_range(range)?;
        }
        self.settle()
    }

    fn zero_range(&self, range: [u8; RANGE_LEN]) -> Result<(), Refusal> {
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = range;
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
        let flags = u32::from_le_bytes(flags);
        if sectors > MOST_ZEROED_SECTORS {
            return Err(Refusal::Impossible);
        }
        let len = u64::from(sectors) * SECTOR;
        let position = self.disk.range(sector, len).ok_or(Refusal::Impossible)?;
        // A driver that asks to unmap all the same gets zeroes all the same.
        if flags & !VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0 {
            return Err(Refusal::Unsupported);
        }
        Ok(self.disk.write_zeroes(position, len)?)
    }

    fn settle(&self) -> Outcome {
        if self.write_through {
            self.disk.flush()?;
        }
        Ok(0)
    }
}

struct Served {
    /// Bytes, to the guest.
    written: u32,
    /// Of [`BUDGET`].
    cost: usize,
}

struct Request<'a> {
    kind: u32,
    sector: u64,
    memory: &'a GuestMemory,
    chain: &'a Chain,
    data_out: u64,
    data_in: u64,
}

impl VirtioDevice for Block {
    type Error = BlockError;

    fn description(&self) -> Description {
        let bits: &[u32] = if self.read_only {
            &[VIRTIO_BLK_F_RO]
        } else {
            &[VIRTIO_BLK_F_WRITE_ZEROES]
        };
        let common = [
            VIRTIO_BLK_F_SEG_MAX,
            VIRTIO_BLK_F_BLK_SIZE,
            VIRTIO_BLK_F_FLUSH,
        ];
        Description {
            kind: Kind::Block,
            features: bits
                .iter()
                .chain(&common)
                .fold(0, |features, bit| features | 1 << bit),
            queues: 1,
            config: self.config(),
        }
    }

    fn activate(&mut self, mut active: Active, _poll: &mut Poll) -> Result<(), BlockError> {
        self.write_through = active.features & 1 << VIRTIO_BLK_F_FLUSH == 0;
        self.queue = active.queues.first_mut().and_then(Option::take);
        Ok(())
    }

    fn queue_ready(&mut self, _queue: usize, _poll: &mut Poll) -> Result<Progress, BlockError> {
        let Some(mut queue) = self.queue.take() else {
            return Ok(Progress::Done);
        };
        let mut chain = std::mem::take(&mut self.chain);
        let progress = self.drain(&mut queue, &mut chain);
        self.chain = chain;
        self.queue = Some(queue);
        progress
    }

    fn deactivate(&mut self, _poll: &mut Poll) {
        self.queue = None;
    }
}

impl Block {
    fn drain(&self, queue: &mut Virtqueue, chain: &mut Chain) -> Result<Progress, BlockError> {
        queue.spare_kicks()?;
        let mut budget = BUDGET;
        while budget > 0 {
            if !queue.pop(chain)? {
                if queue.ask_for_kick()? {
                    continue;
                }
                return Ok(Progress::Done);
            }
            let served = self.serve(queue.memory(), chain)?;
            queue.push(chain.head, served.written)?;
            queue.signal()?;
            budget = budget.saturating_sub(served.cost);
        }
        Ok(Progress::More)
    }
}

#[cfg(test)]
mod tests;
