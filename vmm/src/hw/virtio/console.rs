//! virtio-console (virtio 1.2, 5.3) with two ports: 0 is the guest's console (`hvc0`), 1 is the
//! agent port by which guest init and the VMM talk.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsRawFd, RawFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::{
    backend::console_ring::RingWriter,
    events::Notices,
    hw::virtio::{
        agent::Agent,
        console_control::{Control, Message, Port},
        device::{Active, Description, Kind, Progress, VirtioDevice},
        poll::Poll,
        queue::{Chain, QueueError, Virtqueue},
        segments::{self, total},
    },
    lock::Lock,
};

const CONSOLE_IN: usize = 0;
const CONSOLE_OUT: usize = 1;
const CONTROL_IN: usize = 2;
const CONTROL_OUT: usize = 3;
const AGENT_IN: usize = 4;
const AGENT_OUT: usize = 5;
const QUEUES: usize = 6;

const F_MULTIPORT: u64 = 1 << 1;
const PORTS: u32 = 2;

/// Buffers served before other queues and orders are looked at again.
const BUDGET: usize = 64;
/// Guest output is moved in pieces of this size.
const PIECE: usize = 4096;
/// More from one output buffer is not read: Linux sends at most a page at a time.
const MOST_PER_BUFFER: u64 = 64 << 10;
/// Typed bytes that wait for the guest; a person, or a paste, stays below.
pub const MOST_INPUT: usize = 16 << 10;

#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error("the driver asks for more control messages than it takes")]
    ControlFlood,
    #[error("input buffer {0} has no byte to write to")]
    EmptyBuffer(u16),
    #[error("cannot listen for console input: {0}")]
    Poll(#[from] io::Error),
}

/// The other threads' side of the ports.
#[derive(Clone, Debug)]
pub struct ConsolePorts(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Bytes for the guest's console.
    console: Mutex<VecDeque<u8>>,
    agent: Mutex<AgentPort>,
    wake: EventFd,
    console_active: AtomicBool,
}

/// What waits for guest init. One lock over all of it, so that an order never falls between the
/// port's opening and its being noticed.
#[derive(Debug, Default)]
struct AgentPort {
    open: bool,
    queue: VecDeque<u8>,
    /// What guest init is to be told whenever it opens the port: an order that came while the guest
    /// was booting, or had reset the device, must not be lost.
    order: Option<Vec<u8>>,
    /// How large the console is shown; of several that come before guest init reads, the last.
    size: Option<Vec<u8>>,
    size_waits: bool,
}

impl AgentPort {
    fn set_open(&mut self, open: bool) {
        self.queue.clear();
        self.open = open;
        self.size_waits = open && self.size.is_some();
        if open && let Some(order) = &self.order {
            self.queue.extend(order);
        }
    }

    fn waits(&self) -> bool {
        self.open && (!self.queue.is_empty() || self.size_waits)
    }

    /// The next bytes for guest init, `room` at most.
    fn take(&mut self, room: usize) -> Vec<u8> {
        if self.queue.is_empty()
            && std::mem::take(&mut self.size_waits)
            && let Some(size) = &self.size
        {
            self.queue.extend(size);
        }
        take(&mut self.queue, room)
    }
}

impl ConsolePorts {
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(Shared {
            console: Mutex::default(),
            agent: Mutex::default(),
            wake: EventFd::new(EFD_NONBLOCK)?,
            console_active: AtomicBool::new(false),
        })))
    }

    /// Whether the guest has a driver for its console.
    pub fn console_active(&self) -> bool {
        self.0.console_active.load(Ordering::SeqCst)
    }

    /// Types into the console, all or nothing; says whether there was room.
    pub fn type_in(&self, bytes: &[u8]) -> bool {
        let mut queue = self.0.console.locked();
        if queue.len() + bytes.len() > MOST_INPUT {
            return false;
        }
        queue.extend(bytes);
        self.wake();
        true
    }

    /// Tells guest init, now if it listens, else and again each time that it begins to listen. Says
    /// whether it listens now.
    pub fn order_agent(&self, order: &[u8]) -> bool {
        let mut agent = self.0.agent.locked();
        agent.order = Some(order.to_vec());
        if agent.open {
            agent.queue.extend(order);
            self.wake();
        }
        agent.open
    }

    /// Tells guest init how large the console is shown, now or when it begins to listen.
    pub fn size_agent(&self, size: Vec<u8>) {
        let mut agent = self.0.agent.locked();
        agent.size = Some(size);
        agent.size_waits = agent.open;
        self.wake();
    }

    #[cfg(test)]
    fn agent_open(&self) -> bool {
        self.0.agent.locked().open
    }

    fn wake(&self) {
        // Fails only when the counter is full, and then the worker knows.
        let _ = self.0.wake.write(1);
    }
}

#[derive(Debug)]
pub struct Console {
    ports: ConsolePorts,
    output: RingWriter,
    agent: Agent,
    control: Control,
    queues: Vec<Option<Virtqueue>>,
    chain: Chain,
}

impl Console {
    pub fn new(ports: ConsolePorts, output: RingWriter, notices: Notices) -> Self {
        Self {
            ports,
            output,
            agent: Agent::new(notices),
            control: Control::default(),
            queues: Vec::new(),
            chain: Chain::default(),
        }
    }

    /// From the guest: `take` sees the bytes of each buffer, in pieces.
    fn receive(
        &mut self,
        index: usize,
        mut take: impl FnMut(&mut Self, &[u8]) -> Result<(), ConsoleError>,
    ) -> Result<Progress, ConsoleError> {
        let Some(mut queue) = self.take_queue(index) else {
            return Ok(Progress::Done);
        };
        let mut chain = std::mem::take(&mut self.chain);
        let received = (|| {
            for _ in 0..BUDGET {
                if !queue.pop(&mut chain)? {
                    if queue.ask_for_kick()? {
                        continue;
                    }
                    return Ok(Progress::Done);
                }
                let len = total(&chain.readable).min(MOST_PER_BUFFER);
                let mut piece = [0; PIECE];
                for at in (0..len).step_by(PIECE) {
                    let wanted = (len - at).min(PIECE as u64) as usize;
                    let piece = &mut piece[..wanted];
                    let read = segments::read(queue.memory(), &chain.readable, at, piece);
                    take(self, &piece[..read])?;
                }
                queue.push(chain.head, 0)?;
                queue.signal()?;
            }
            Ok(Progress::More)
        })();
        self.chain = chain;
        self.queues[index] = Some(queue);
        received
    }

    /// To the guest: `give` fills a buffer of the given size; nothing when it has no more.
    fn send(
        &mut self,
        index: usize,
        mut give: impl FnMut(&mut Self, usize) -> Vec<u8>,
        pending: impl Fn(&Self) -> bool,
    ) -> Result<Progress, ConsoleError> {
        let Some(mut queue) = self.take_queue(index) else {
            return Ok(Progress::Done);
        };
        let mut chain = std::mem::take(&mut self.chain);
        let sent = (|| {
            while pending(self) {
                if !queue.pop(&mut chain)? {
                    if queue.ask_for_kick()? {
                        continue;
                    }
                    break;
                }
                let room = total(&chain.writable).min(PIECE as u64) as usize;
                if room == 0 {
                    return Err(ConsoleError::EmptyBuffer(chain.head));
                }
                let bytes = give(self, room);
                let written = segments::write(queue.memory(), &chain.writable, 0, &bytes);
                queue.push(chain.head, written as u32)?;
                queue.signal()?;
            }
            Ok(Progress::Done)
        })();
        self.chain = chain;
        self.queues[index] = Some(queue);
        sent
    }

    fn take_queue(&mut self, index: usize) -> Option<Virtqueue> {
        self.queues.get_mut(index).and_then(Option::take)
    }

    fn send_typed(&mut self) -> Result<Progress, ConsoleError> {
        self.send(
            CONSOLE_IN,
            |this, room| take(&mut this.ports.0.console.locked(), room),
            |this| !this.ports.0.console.locked().is_empty(),
        )
    }

    fn send_to_agent(&mut self) -> Result<Progress, ConsoleError> {
        self.send(
            AGENT_IN,
            |this, room| this.ports.0.agent.locked().take(room),
            |this| this.ports.0.agent.locked().waits(),
        )
    }

    fn send_control(&mut self) -> Result<Progress, ConsoleError> {
        self.send(
            CONTROL_IN,
            |this, _room| this.control.next_reply().unwrap_or_default(),
            |this| this.control.has_reply(),
        )
    }

    fn receive_control(&mut self) -> Result<Progress, ConsoleError> {
        let progress = self.receive(CONTROL_OUT, |this, bytes| {
            match this.control.take(bytes)? {
                Some(Message::Open(Port::Agent, open)) => {
                    this.ports.0.agent.locked().set_open(open);
                    if !open {
                        this.agent.forget();
                    }
                }
                Some(Message::Open(Port::Console, _)) | None => {}
            }
            Ok(())
        })?;
        self.send_control()?;
        self.send_to_agent()?;
        Ok(progress)
    }
}

fn take(queue: &mut VecDeque<u8>, room: usize) -> Vec<u8> {
    let count = room.min(queue.len());
    queue.drain(..count).collect()
}

impl VirtioDevice for Console {
    type Error = ConsoleError;

    fn description(&self) -> Description {
        // Columns and rows are not offered; then the number of ports.
        let mut config = vec![0; 4];
        config.extend(PORTS.to_le_bytes());
        Description {
            kind: Kind::Console,
            features: F_MULTIPORT,
            queues: QUEUES,
            config,
        }
    }

    fn watched(&self) -> Vec<RawFd> {
        vec![self.ports.0.wake.as_raw_fd()]
    }

    fn activate(&mut self, active: Active, poll: &mut Poll) -> Result<(), ConsoleError> {
        self.queues = active.queues;
        poll.listen(0, true)?;
        self.ports.0.console_active.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn queue_ready(&mut self, queue: usize, _poll: &mut Poll) -> Result<Progress, ConsoleError> {
        match queue {
            CONSOLE_IN => self.send_typed(),
            CONSOLE_OUT => self.receive(CONSOLE_OUT, |this, bytes| {
                this.output.write(bytes);
                Ok(())
            }),
            CONTROL_IN => self.send_control(),
            CONTROL_OUT => self.receive_control(),
            AGENT_IN => self.send_to_agent(),
            _ => self.receive(AGENT_OUT, |this, bytes| {
                this.agent.take(bytes);
                Ok(())
            }),
        }
    }

    fn backend_ready(&mut self, _backend: usize, _poll: &mut Poll) -> Result<(), ConsoleError> {
        let _ = self.ports.0.wake.read();
        self.send_typed()?;
        self.send_to_agent()?;
        Ok(())
    }

    fn deactivate(&mut self, poll: &mut Poll) {
        self.queues = Vec::new();
        self.control = Control::default();
        self.agent.forget();
        self.ports.0.console_active.store(false, Ordering::SeqCst);
        self.ports.0.agent.locked().set_open(false);
        // The event stays valid, so this cannot fail.
        let _ = poll.listen(0, false);
    }
}

#[cfg(test)]
mod tests;
