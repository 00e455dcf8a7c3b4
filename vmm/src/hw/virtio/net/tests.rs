//! Frames between a driver and a socket that stands in for the tap: one packet, one frame.

use std::os::unix::net::UnixDatagram;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::{
    hw::virtio::queue::tests::{Driver, NEXT, WRITE, small_memory},
    memory::GuestMemory,
};

const BUFFERS: u64 = 0x10_0000;

struct Bench {
    wire: UnixDatagram,
    net: Net,
    poll: Poll,
}

impl Bench {
    fn new(merge: bool) -> Self {
        let (wire, tap) = UnixDatagram::pair().unwrap();
        wire.set_nonblocking(true).unwrap();
        let mut net = Net::new(Tap::pretend(tap.into()).unwrap(), [2, 0, 0, 0, 0, 7]);
        net.merge = merge;
        let poll = Poll::new(&net.watched()).unwrap();
        Self { wire, net, poll }
    }
}

fn buffers(driver: &Driver<'_>, count: u16, len: u32) {
    let address = |index: u16| BUFFERS + u64::from(index) * 0x1000;
    let descriptors: Vec<_> = (0..count)
        .map(|index| (address(index), len, WRITE, 0))
        .collect();
    driver.offer(&descriptors);
    for head in 1..count {
        driver.make_available(head);
    }
}

fn frame(len: usize) -> Vec<u8> {
    let mut frame = vec![0; HEADER_LEN];
    frame.extend((0..len - HEADER_LEN).map(|index| index as u8));
    frame
}

fn bytes(memory: &GuestMemory, buffer: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    memory
        .read_slice(&mut bytes, GuestAddress(BUFFERS + buffer * 0x1000))
        .unwrap();
    bytes
}

#[test]
fn a_large_frame_is_spread_over_buffers() {
    let memory = small_memory();
    let driver = Driver::new(&memory, 0x1000);
    buffers(&driver, 4, 1000);
    let mut bench = Bench::new(true);
    bench.net.receive = Some(driver.queue(&memory));
    bench.wire.send(&frame(2500)).unwrap();
    bench.net.receive_frames(&mut bench.poll).unwrap();

    assert_eq!(driver.used(), 3);
    assert_eq!(
        [0, 1, 2].map(|index| driver.used_len(index)),
        [1000, 1000, 500]
    );
    let mut expected = frame(2500);
    expected[BUFFER_COUNT as usize] = 3;
    assert_eq!(bytes(&memory, 0, 1000), expected[..1000]);
    assert_eq!(bytes(&memory, 2, 500), expected[2000..]);
}

#[test]
fn a_frame_waits_for_buffers_and_is_not_torn() {
    let memory = small_memory();
    let driver = Driver::new(&memory, 0x1000);
    buffers(&driver, 2, 1000);
    let mut bench = Bench::new(true);
    bench.net.receive = Some(driver.queue(&memory));
    bench.wire.send(&frame(2500)).unwrap();
    bench.net.receive_frames(&mut bench.poll).unwrap();
    assert_eq!((driver.used(), bench.net.waiting), (0, Some(2500)));

    driver.make_available(0);
    bench.net.receive_frames(&mut bench.poll).unwrap();
    assert_eq!((driver.used(), bench.net.waiting), (3, None));
}

#[test]
fn a_frame_that_no_buffers_can_hold_is_lost() {
    let memory = small_memory();
    let driver = Driver::new(&memory, 0x1000);
    buffers(&driver, 16, 12);
    let mut bench = Bench::new(true);
    bench.net.receive = Some(driver.queue(&memory));
    bench.wire.send(&frame(2500)).unwrap();
    bench.wire.send(&frame(100)).unwrap();
    bench.net.receive_frames(&mut bench.poll).unwrap();
    assert_eq!(driver.used(), 9, "100 bytes in buffers of 12");
}

#[test]
fn without_merging_a_frame_that_is_too_long_is_lost() {
    let memory = small_memory();
    let driver = Driver::new(&memory, 0x1000);
    buffers(&driver, 4, 1000);
    let mut bench = Bench::new(false);
    bench.net.receive = Some(driver.queue(&memory));
    bench.wire.send(&frame(1001)).unwrap();
    bench.wire.send(&frame(1000)).unwrap();
    bench.net.receive_frames(&mut bench.poll).unwrap();
    assert_eq!((driver.used(), driver.used_len(0)), (1, 1000));
}

#[test]
fn buffers_that_hold_nothing_break_the_device() {
    for (len, flags) in [(0, WRITE), (8, WRITE), (1000, 0)] {
        let memory = small_memory();
        let driver = Driver::new(&memory, 0x1000);
        driver.offer(&[(BUFFERS, len, flags, 0)]);
        let mut bench = Bench::new(true);
        bench.net.receive = Some(driver.queue(&memory));
        bench.wire.send(&frame(100)).unwrap();
        let received = bench.net.receive_frames(&mut bench.poll);
        assert!(
            matches!(received, Err(NetError::SmallBuffer(0))),
            "{len} {flags}"
        );
    }
}

#[test]
fn frames_go_out_whole_and_nonsense_is_dropped() {
    let memory = small_memory();
    let driver = Driver::new(&memory, 0x1000);
    let sent = frame(700);
    memory.write_slice(&sent, GuestAddress(BUFFERS)).unwrap();
    driver.offer(&[
        (BUFFERS, 12, NEXT, 1),
        (BUFFERS + 12, 688, 0, 0),
        (BUFFERS, 1 << 20, 0, 0),
        (BUFFERS, 100, WRITE, 0),
    ]);
    driver.make_available(2);
    driver.make_available(3);
    let mut bench = Bench::new(true);
    bench.net.transmit = Some(driver.queue(&memory));
    assert_eq!(bench.net.transmit_frames().unwrap(), Progress::Done);
    assert_eq!(driver.used(), 3, "every buffer is given back");
    let mut received = [0; 2000];
    let len = bench.wire.recv(&mut received).unwrap();
    assert_eq!(received[..len], sent);
}

#[test]
fn offloads_follow_features() {
    assert_eq!(offload(0), 0);
    let features = 1 << VIRTIO_NET_F_GUEST_CSUM | 1 << VIRTIO_NET_F_GUEST_TSO6;
    assert_eq!(offload(features), OFFLOAD_CHECKSUM | OFFLOAD_TSO6);
}
