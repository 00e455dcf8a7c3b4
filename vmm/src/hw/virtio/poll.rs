//! What a worker waits for: its orders, its queues' doorbells, its backend's descriptors.

use std::{io, os::fd::RawFd};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    Orders,
    Queue(usize),
    /// Index into the device's `watched` descriptors.
    Backend(usize),
}

const QUEUES: u64 = 1 << 8;
const BACKENDS: u64 = 1 << 16;

impl Token {
    fn to_data(self) -> u64 {
        match self {
            Self::Orders => 0,
            Self::Queue(index) => QUEUES + index as u64,
            Self::Backend(index) => BACKENDS + index as u64,
        }
    }

    fn from_data(data: u64) -> Self {
        if data >= BACKENDS {
            Self::Backend((data - BACKENDS) as usize)
        } else if data >= QUEUES {
            Self::Queue((data - QUEUES) as usize)
        } else {
            Self::Orders
        }
    }
}

#[derive(Debug)]
pub struct Poll {
    epoll: Epoll,
    /// Backend descriptors, and whether each is waited for now.
    backends: Vec<(RawFd, bool)>,
}

/// As many events as are taken at once; more come with the next call.
const BATCH: usize = 16;

impl Poll {
    /// Backend descriptors are not waited for until [`Poll::listen`] says so.
    pub fn new(backends: &[RawFd]) -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new()?,
            backends: backends.iter().map(|fd| (*fd, false)).collect(),
        })
    }

    pub fn add(&self, fd: RawFd, token: Token) -> io::Result<()> {
        let event = EpollEvent::new(EventSet::IN, token.to_data());
        self.epoll.ctl(ControlOperation::Add, fd, event)
    }

    /// Whether to wait for a backend's descriptor to become readable.
    pub fn listen(&mut self, backend: usize, wanted: bool) -> io::Result<()> {
        let Some((fd, listening)) = self.backends.get_mut(backend) else {
            return Ok(());
        };
        if *listening != wanted {
            let operation = if wanted {
                ControlOperation::Add
            } else {
                ControlOperation::Delete
            };
            let event = EpollEvent::new(EventSet::IN, Token::Backend(backend).to_data());
            self.epoll.ctl(operation, *fd, event)?;
            *listening = wanted;
        }
        Ok(())
    }

    pub fn wait(&self) -> io::Result<impl Iterator<Item = Token> + use<>> {
        let mut events = [EpollEvent::default(); BATCH];
        let count = loop {
            match self.epoll.wait(-1, &mut events) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                count => break count?,
            }
        };
        Ok(events
            .into_iter()
            .take(count)
            .map(|event| Token::from_data(event.data())))
    }
}
