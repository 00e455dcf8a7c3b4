//! A driver's requests, proper and hostile, on a disk of 8 sectors.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
};

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use virtio_bindings::virtio_blk::{VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_T_DISCARD};

use super::*;
use crate::hw::virtio::queue::tests::{Driver, NEXT, WRITE, small_memory};

const HEADER: u64 = 0x10_0000;
const DATA: u64 = 0x20_0000;
const STATUS: u64 = 0x30_0000;
const NO_STATUS: u8 = 0xee;

struct Bench {
    file: File,
    memory: GuestMemory,
    block: Block,
}

impl Bench {
    fn new(read_only: bool) -> Self {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8 * SECTOR + 100).unwrap();
        let disk = DiskFile::new(file.try_clone().unwrap().into()).unwrap();
        Self {
            file,
            memory: small_memory(),
            block: Block::new(disk, read_only, "serial-1"),
        }
    }

    /// The same with a file of another length.
    fn of_len(len: u64) -> Self {
        let mut bench = Self::new(false);
        bench.file.set_len(len).unwrap();
        let disk = DiskFile::new(bench.file.try_clone().unwrap().into()).unwrap();
        bench.block = Block::new(disk, false, "serial-1");
        bench
    }

    /// Puts a range for a request where its data are.
    fn range(&self, sector: u64, sectors: u32, flags: u32) {
        let range = [
            &sector.to_le_bytes()[..],
            &sectors.to_le_bytes(),
            &flags.to_le_bytes(),
        ]
        .concat();
        self.memory.write_slice(&range, GuestAddress(DATA)).unwrap();
    }

    fn zero(&mut self, sector: u64, sectors: u32, flags: u32) -> u8 {
        self.range(sector, sectors, flags);
        self.request(VIRTIO_BLK_T_WRITE_ZEROES, 0, RANGE_LEN as u32, 0)
            .0
    }

    fn header(&self, kind: u32, sector: u64) {
        let header = [
            &kind.to_le_bytes()[..],
            &0_u32.to_le_bytes(),
            &sector.to_le_bytes(),
        ]
        .concat();
        self.memory
            .write_slice(&header, GuestAddress(HEADER))
            .unwrap();
        self.memory
            .write_obj(NO_STATUS, GuestAddress(STATUS))
            .unwrap();
    }

    /// Serves one request; returns its status, and how many bytes the device says it wrote.
    fn serve(&mut self, descriptors: &[(u64, u32, u16, u16)]) -> Result<(u8, u32), BlockError> {
        let driver = Driver::new(&self.memory, 0x1000);
        driver.offer(descriptors);
        let mut queue = driver.queue(&self.memory);
        self.block.drain(&mut queue, &mut Chain::default())?;
        let status = self.memory.read_obj(GuestAddress(STATUS)).unwrap();
        Ok((status, driver.used_len(0)))
    }

    fn request(&mut self, kind: u32, sector: u64, data: u32, flags: u16) -> (u8, u32) {
        self.header(kind, sector);
        self.serve(&[
            (HEADER, 16, NEXT, 1),
            (DATA, data, NEXT | flags, 2),
            (STATUS, 1, WRITE, 0),
        ])
        .unwrap()
    }
}

const OK: u8 = VIRTIO_BLK_S_OK as u8;
const IO_ERROR: u8 = VIRTIO_BLK_S_IOERR as u8;
const UNSUPPORTED: u8 = VIRTIO_BLK_S_UNSUPP as u8;

/// Each by a descriptor that the kernel refuses it by; what is written is on the disk, or it is an error.
#[test]
fn what_the_disk_refuses_is_an_io_error() {
    let mut bench = Bench::new(false);
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(8 * SECTOR).unwrap();
    let mut with = |options: &fs::OpenOptions, kind, flags| {
        let disk = DiskFile::new(options.open(file.path()).unwrap().into()).unwrap();
        bench.block = Block::new(disk, false, "serial-1");
        bench.request(kind, 0, 512, flags)
    };
    let (mut read_only, mut write_only) = (File::options(), File::options());
    read_only.read(true);
    write_only.write(true);
    assert_eq!(with(&read_only, VIRTIO_BLK_T_IN, WRITE).0, OK);
    assert_eq!(with(&write_only, VIRTIO_BLK_T_OUT, 0).0, OK);
    assert_eq!(with(&write_only, VIRTIO_BLK_T_IN, WRITE), (IO_ERROR, 1));
    assert_eq!(with(&read_only, VIRTIO_BLK_T_OUT, 0), (IO_ERROR, 1));

    // It takes writes and knows no flush.
    let full = write_only.open("/dev/full").unwrap();
    bench.block = Block::new(DiskFile::new(full.into()).unwrap(), false, "serial-1");
    bench.header(VIRTIO_BLK_T_FLUSH, 0);
    let flush = [(HEADER, 16, NEXT, 1), (STATUS, 1, WRITE, 0)];
    assert_eq!(bench.serve(&flush).unwrap(), (IO_ERROR, 1));
}

#[test]
fn writes_and_reads_back() {
    let mut bench = Bench::new(false);
    bench
        .memory
        .write_slice(&[7; 1024], GuestAddress(DATA))
        .unwrap();
    assert_eq!(bench.request(VIRTIO_BLK_T_OUT, 6, 1024, 0), (OK, 1));
    let mut bytes = [0; 1024];
    bench.file.read_exact_at(&mut bytes, 6 * SECTOR).unwrap();
    assert_eq!(bytes, [7; 1024]);

    bench
        .memory
        .write_slice(&[0; 1024], GuestAddress(DATA))
        .unwrap();
    assert_eq!(bench.request(VIRTIO_BLK_T_IN, 7, 512, WRITE), (OK, 513));
    bench
        .memory
        .read_slice(&mut bytes, GuestAddress(DATA))
        .unwrap();
    assert_eq!((bytes[511], bytes[512]), (7, 0));
}

#[test]
fn nothing_outside_the_disk_is_reached() {
    let mut bench = Bench::new(false);
    for (kind, flags) in [(VIRTIO_BLK_T_IN, WRITE), (VIRTIO_BLK_T_OUT, 0)] {
        for (sector, len) in [
            (8, 512),
            (7, 1024),
            (u64::MAX, 512),
            (u64::MAX / 512, 512),
            (0, 511),
        ] {
            let (status, _) = bench.request(kind, sector, len, flags);
            assert_eq!(status, IO_ERROR, "{kind} {sector} {len}");
        }
    }
    assert_eq!(bench.file.metadata().unwrap().len(), 8 * SECTOR + 100);
}

#[test]
fn a_read_only_disk_stays_as_it_is() {
    let mut bench = Bench::new(true);
    for kind in [VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES] {
        assert_eq!(bench.request(kind, 0, 512, 0).0, IO_ERROR, "{kind}");
    }
    assert_eq!(bench.request(VIRTIO_BLK_T_FLUSH, 0, 0, 0).0, OK);
    assert_ne!(bench.block.description().features & 1 << VIRTIO_BLK_F_RO, 0);
}

#[test]
fn says_its_serial() {
    let mut bench = Bench::new(false);
    assert_eq!(bench.request(VIRTIO_BLK_T_GET_ID, 0, 20, WRITE), (OK, 21));
    let mut serial = [0; 20];
    bench
        .memory
        .read_slice(&mut serial, GuestAddress(DATA))
        .unwrap();
    assert_eq!(&serial, b"serial-1\0\0\0\0\0\0\0\0\0\0\0\0");
}

#[test]
fn zeroes_a_range_and_refuses_others() {
    let mut bench = Bench::new(false);
    bench.file.write_all_at(&[9; 4096], 0).unwrap();
    assert_eq!(bench.zero(1, 2, 1), OK);
    assert_eq!(bench.zero(4, 1, 0), OK);
    assert_eq!(bench.zero(5, 0, 0), OK);
    assert_eq!(bench.zero(4, 5, 0), IO_ERROR);
    assert_eq!(bench.zero(u64::MAX, 1, 0), IO_ERROR);
    assert_eq!(bench.zero(0, u32::MAX, 0), IO_ERROR);
    assert_eq!(bench.zero(0, 1, 2), UNSUPPORTED);
    let mut bytes = [0; 4096];
    bench.file.read_exact_at(&mut bytes, 0).unwrap();
    let nines: Vec<bool> = bytes.chunks(512).map(|sector| sector[0] == 9).collect();
    assert_eq!(nines, [true, false, false, true, false, true, true, true]);
}

#[test]
fn no_space_is_taken_back_and_none_is_offered_to_be() {
    let mut bench = Bench::new(false);
    bench.file.write_all_at(&[9; 4096], 0).unwrap();
    assert_eq!(
        bench.block.description().features & 1 << VIRTIO_BLK_F_DISCARD,
        0
    );
    assert_eq!(bench.block.config()[36..48], [0; 12]);
    bench.range(0, 8, 0);
    let discarded = bench.request(VIRTIO_BLK_T_DISCARD, 0, RANGE_LEN as u32, 0);
    assert_eq!(discarded.0, UNSUPPORTED);
    let mut bytes = [0; 4096];
    bench.file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, [9; 4096]);
}

#[test]
fn zeroes_are_written_and_never_discarded() {
    use std::os::unix::fs::MetadataExt;

    let mut bench = Bench::of_len(1 << 20);
    bench.file.write_all_at(&[9; 1 << 20], 0).unwrap();
    bench.file.sync_all().unwrap();
    let blocks = bench.file.metadata().unwrap().blocks();
    // Offered is no unmapping; asked for all the same, the range stays allocated and reads as zeros.
    assert_eq!(bench.block.config()[56], 0);
    assert_eq!(bench.zero(8, 1024, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP), OK);
    bench.file.sync_all().unwrap();
    assert_eq!(bench.file.metadata().unwrap().blocks(), blocks);
    let mut bytes = vec![1; 1024 * 512];
    bench.file.read_exact_at(&mut bytes, 8 * 512).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
}

#[test]
fn zeroes_are_bounded_as_the_driver_is_told() {
    let mut bench = Bench::of_len(1 << 30);
    let config = bench.block.config();
    let most = u32::from_le_bytes([config[48], config[49], config[50], config[51]]);
    assert_eq!(bench.zero(0, most, 0), OK);
    assert_eq!(bench.zero(0, most + 1, 0), IO_ERROR);
}

#[test]
fn orders_are_looked_at_between_requests_for_zeroes() {
    let bench = Bench::new(false);
    for (kind, served_at_once) in [(VIRTIO_BLK_T_WRITE_ZEROES, 1), (VIRTIO_BLK_T_FLUSH, 2)] {
        let driver = Driver::new(&bench.memory, 0x1000);
        bench.header(kind, 0);
        bench.range(0, 1, 0);
        driver.offer(&[
            (HEADER, 16, NEXT, 1),
            (DATA, RANGE_LEN as u32, NEXT, 2),
            (STATUS, 1, WRITE, 0),
        ]);
        driver.make_available(0);
        let mut queue = driver.queue(&bench.memory);
        let mut drain = || {
            bench
                .block
                .drain(&mut queue, &mut Chain::default())
                .unwrap()
        };
        drain();
        assert_eq!(driver.used(), served_at_once, "{kind}");
        drain();
        assert_eq!(driver.used(), 2);
    }
}

#[test]
fn unknown_requests_are_unsupported() {
    let mut bench = Bench::new(false);
    assert_eq!(bench.request(0x1234, 0, 512, 0).0, UNSUPPORTED);
}

#[test]
fn requests_without_header_or_status_break_the_device() {
    let mut bench = Bench::new(false);
    bench.header(VIRTIO_BLK_T_IN, 0);
    for descriptors in [
        vec![(HEADER, 15, NEXT, 1), (STATUS, 1, WRITE, 0)],
        vec![(HEADER, 16, 0, 0)],
        vec![(HEADER, 16, NEXT, 1), (STATUS, 0, WRITE, 0)],
        vec![(STATUS, 1, WRITE, 0)],
    ] {
        let served = bench.serve(&descriptors);
        assert!(served.is_err(), "{descriptors:?}: {served:?}");
    }
}

proptest! {
    /// Whatever is asked, the disk's length stays, and there is an answer.
    #[test]
    fn any_request_is_answered(kind in 0..20_u32, sector: u64, near: bool, len in 0..4096_u32, data: [u8; 32], write: bool) {
        let mut bench = Bench::new(false);
        bench.memory.write_slice(&data, GuestAddress(DATA)).unwrap();
        let sector = if near { sector % 10 } else { sector };
        let (status, _) = bench.request(kind, sector, len, if write { WRITE } else { 0 });
        prop_assert!(status <= UNSUPPORTED);
        prop_assert_eq!(bench.file.metadata().unwrap().len(), 8 * SECTOR + 100);
    }
}
