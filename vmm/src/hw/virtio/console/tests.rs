//! Both ports, with a driver for each queue that a test needs.

use loam_node_api::guest::GuestEvent;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::{
    backend::console_ring::tests::{contents, file},
    events::{self, Notice, NoticeBoard},
    hw::virtio::queue::tests::{Driver, WRITE, small_memory},
    memory::GuestMemory,
};

const BUFFER: u64 = 0x10_0000;

struct Bench {
    console: Console,
    ports: ConsolePorts,
    ring: std::fs::File,
    board: NoticeBoard,
    poll: Poll,
}

impl Bench {
    fn new() -> Self {
        let ring = file();
        let ports = ConsolePorts::new().unwrap();
        let (notices, board) = events::notices().unwrap();
        let output = RingWriter::new(ring.try_clone().unwrap().into()).unwrap();
        let mut console = Console::new(ports.clone(), output, notices);
        let mut poll = Poll::new(&console.watched()).unwrap();
        let active = Active {
            features: F_MULTIPORT,
            queues: (0..QUEUES).map(|_| None).collect(),
        };
        console.activate(active, &mut poll).unwrap();
        Self {
            console,
            ports,
            ring,
            board,
            poll,
        }
    }

    fn serve(&mut self, queue: usize) -> Result<Progress, ConsoleError> {
        self.console.queue_ready(queue, &mut self.poll)
    }

    /// The driver writes these bytes to an output queue.
    fn output(
        &mut self,
        memory: &GuestMemory,
        queue: usize,
        bytes: &[u8],
    ) -> Result<Progress, ConsoleError> {
        let driver = Driver::new(memory, 0x1000);
        memory.write_slice(bytes, GuestAddress(BUFFER)).unwrap();
        driver.offer(&[(BUFFER, bytes.len() as u32, 0, 0)]);
        self.console.queues[queue] = Some(driver.queue(memory));
        self.serve(queue)
    }
}

#[test]
fn output_goes_to_the_ring() {
    let memory = small_memory();
    let mut bench = Bench::new();
    let text = b"0123456789".repeat(1000);
    bench.output(&memory, CONSOLE_OUT, &text).unwrap();
    assert_eq!(contents(&bench.ring), text);
}

#[test]
fn input_waits_for_buffers_and_is_bounded() {
    let memory = small_memory();
    let mut bench = Bench::new();
    assert!(bench.ports.type_in(b"hello"));
    assert!(!bench.ports.type_in(&[0; MOST_INPUT - 4]));
    let driver = Driver::new(&memory, 0x1000);
    driver.offer(&[(BUFFER, 3, WRITE, 0), (BUFFER + 3, 16, WRITE, 0)]);
    driver.make_available(1);
    bench.console.queues[CONSOLE_IN] = Some(driver.queue(&memory));
    bench.console.backend_ready(0, &mut bench.poll).unwrap();
    assert_eq!([0, 1].map(|index| driver.used_len(index)), [3, 2]);
    let mut typed = [0; 5];
    memory.read_slice(&mut typed, GuestAddress(BUFFER)).unwrap();
    assert_eq!(&typed, b"hello");
}

#[test]
fn an_input_buffer_without_room_breaks_the_device() {
    let memory = small_memory();
    let mut bench = Bench::new();
    bench.ports.type_in(b"hello");
    let driver = Driver::new(&memory, 0x1000);
    driver.offer(&[(BUFFER, 3, 0, 0)]);
    bench.console.queues[CONSOLE_IN] = Some(driver.queue(&memory));
    assert!(matches!(
        bench.serve(CONSOLE_IN),
        Err(ConsoleError::EmptyBuffer(0))
    ));
}

#[test]
fn the_agent_port_opens_closes_and_speaks() {
    let memory = small_memory();
    let mut bench = Bench::new();
    assert!(!bench.ports.agent_open());
    let open = [1, 0, 0, 0, 6, 0, 1, 0];
    bench.output(&memory, CONTROL_OUT, &open).unwrap();
    assert!(bench.ports.agent_open());
    let line = b"{\"event\":\"started\"}\n";
    bench.output(&memory, AGENT_OUT, line).unwrap();
    assert_eq!(bench.board.next(), Some(Notice::Guest(GuestEvent::Started)));

    let close = [1, 0, 0, 0, 6, 0, 0, 0];
    bench.output(&memory, CONTROL_OUT, &close).unwrap();
    assert!(!bench.ports.agent_open());
}

#[test]
fn a_reset_closes_everything() {
    let memory = small_memory();
    let mut bench = Bench::new();
    let open = [1, 0, 0, 0, 6, 0, 1, 0];
    bench.output(&memory, CONTROL_OUT, &open).unwrap();
    bench.console.deactivate(&mut bench.poll);
    assert!(!bench.ports.agent_open() && !bench.ports.console_active());
    assert_eq!(bench.serve(CONSOLE_OUT).unwrap(), Progress::Done);
}

const OPEN_AGENT: [u8; 8] = [1, 0, 0, 0, 6, 0, 1, 0];
const CLOSE_AGENT: [u8; 8] = [1, 0, 0, 0, 6, 0, 0, 0];

/// What the guest finds on its agent port.
fn agent_input(bench: &mut Bench, memory: &crate::memory::GuestMemory) -> Vec<u8> {
    let driver = Driver::new(memory, 0x1000);
    driver.offer(&[(BUFFER, 64, WRITE, 0)]);
    driver.make_available(1);
    if bench.console.queues.is_empty() {
        bench.console.queues = (0..QUEUES).map(|_| None).collect();
    }
    bench.console.queues[AGENT_IN] = Some(driver.queue(memory));
    bench.console.backend_ready(0, &mut bench.poll).unwrap();
    let mut bytes = vec![0; driver.used_len(0) as usize];
    memory.read_slice(&mut bytes, GuestAddress(BUFFER)).unwrap();
    bytes
}

#[test]
fn an_order_that_came_too_early_is_told_when_the_port_opens() {
    let memory = small_memory();
    let mut bench = Bench::new();
    assert!(!bench.ports.order_agent(b"stop\n"));
    bench.output(&memory, CONTROL_OUT, &OPEN_AGENT).unwrap();
    assert_eq!(agent_input(&mut bench, &memory), b"stop\n");
    // Told once: it is not there a second time.
    assert!(!bench.ports.0.agent.locked().waits());
}

#[test]
fn an_order_is_told_at_once_and_again_after_a_reset() {
    let memory = small_memory();
    let mut bench = Bench::new();
    bench.output(&memory, CONTROL_OUT, &OPEN_AGENT).unwrap();
    assert!(bench.ports.order_agent(b"stop\n"));
    assert_eq!(agent_input(&mut bench, &memory), b"stop\n");
    // The guest's driver starts over, perhaps before anybody had read the order.
    bench.console.deactivate(&mut bench.poll);
    assert!(!bench.ports.agent_open() && !bench.ports.0.agent.locked().waits());
    bench.console.queues = (0..QUEUES).map(|_| None).collect();
    bench.output(&memory, CONTROL_OUT, &OPEN_AGENT).unwrap();
    assert_eq!(agent_input(&mut bench, &memory), b"stop\n");
    bench.output(&memory, CONTROL_OUT, &CLOSE_AGENT).unwrap();
    assert!(!bench.ports.0.agent.locked().waits());
}

#[test]
fn of_sizes_the_last_is_told_whenever_the_port_opens_and_none_piles_up() {
    let memory = small_memory();
    let mut bench = Bench::new();
    bench.ports.size_agent(b"size 1\n".to_vec());
    assert!(!bench.ports.0.agent.locked().waits());
    bench.output(&memory, CONTROL_OUT, &OPEN_AGENT).unwrap();
    assert_eq!(agent_input(&mut bench, &memory), b"size 1\n");
    assert!(!bench.ports.0.agent.locked().waits());
    // Nobody reads meanwhile, and an order goes before them.
    for n in 0..100_000 {
        bench.ports.size_agent(format!("size {n}\n").into_bytes());
    }
    bench.ports.order_agent(b"stop\n");
    let mut agent = bench.ports.0.agent.locked();
    assert!(agent.queue.len() < 64);
    assert_eq!(agent.take(64), b"stop\n");
    assert_eq!(agent.take(64), b"size 99999\n");
    assert!(!agent.waits());
}
