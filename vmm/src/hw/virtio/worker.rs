//! A device's thread: waits for doorbells and backend, and takes orders from the device's function.

use std::{
    io,
    os::fd::AsRawFd,
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvError, Sender, SyncSender},
    },
    thread,
};

use seccompiler::BpfProgram;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::{
    hw::virtio::{
        device::{Active, Progress, VirtioDevice},
        notifier::Notifier,
        poll::{Poll, Token},
    },
    lifecycle::Lifecycle,
    seccomp,
};

#[derive(Debug)]
enum Order {
    Activate(Active),
    Deactivate,
    Pause,
    Resume,
    Halt,
}

/// The other threads' hold on a worker. Each call returns when the worker has done it.
#[derive(Debug)]
pub struct Worker {
    orders: Sender<(Order, SyncSender<()>)>,
    wake: EventFd,
    /// A doorbell per queue, to be rung by KVM or by whoever sees a notification.
    doorbells: Vec<EventFd>,
}

/// A guest that breaks its device over and over must not flood the log.
const MOST_COMPLAINTS: u32 = 8;

impl Worker {
    pub fn start<D: VirtioDevice>(
        device: D,
        name: String,
        notifier: Arc<Notifier>,
        filter: Option<Arc<BpfProgram>>,
    ) -> io::Result<Self> {
        let doorbells = (0..device.description().queues)
            .map(|_| EventFd::new(EFD_NONBLOCK))
            .collect::<io::Result<Vec<_>>>()?;
        let wake = EventFd::new(EFD_NONBLOCK)?;
        let poll = Poll::new(&device.watched())?;
        poll.add(wake.as_raw_fd(), Token::Orders)?;
        for (index, doorbell) in doorbells.iter().enumerate() {
            poll.add(doorbell.as_raw_fd(), Token::Queue(index))?;
        }
        let (orders, receiver) = mpsc::channel();
        let mut thread = Thread {
            name: name.clone(),
            device,
            notifier,
            poll,
            orders: receiver,
            wake: wake.try_clone()?,
            doorbells: doorbells
                .iter()
                .map(EventFd::try_clone)
                .collect::<io::Result<_>>()?,
            active: false,
            complaints: 0,
        };
        thread::Builder::new().name(name).spawn(move || {
            if let Err(error) = seccomp::apply(filter.as_deref()) {
                // Panics end the machine, see `machine`.
                panic!("cannot filter a device thread's system calls: {error}");
            }
            thread.run();
        })?;
        Ok(Self {
            orders,
            wake,
            doorbells,
        })
    }

    pub fn activate(&self, active: Active) {
        self.order(Order::Activate(active));
    }

    pub fn deactivate(&self) {
        self.order(Order::Deactivate);
    }

    pub fn doorbells(&self) -> &[EventFd] {
        &self.doorbells
    }

    fn order(&self, order: Order) {
        let (done, wait) = mpsc::sync_channel(1);
        if self.orders.send((order, done)).is_ok() && self.wake.write(1).is_ok() {
            // Without an answer the worker has ended, and does nothing any more either way.
            let _ = wait.recv();
        }
    }
}

impl Lifecycle for Worker {
    fn pause(&self) {
        self.order(Order::Pause);
    }

    fn resume(&self) {
        self.order(Order::Resume);
    }

    fn halt(&self) {
        self.order(Order::Halt);
    }
}

struct Thread<D> {
    name: String,
    device: D,
    notifier: Arc<Notifier>,
    poll: Poll,
    orders: Receiver<(Order, SyncSender<()>)>,
    wake: EventFd,
    doorbells: Vec<EventFd>,
    active: bool,
    complaints: u32,
}

/// Whether a worker goes on.
enum Next {
    Go,
    End,
}

impl<D: VirtioDevice> Thread<D> {
    fn run(&mut self) {
        loop {
            let tokens = match self.poll.wait() {
                Ok(tokens) => tokens,
                Err(error) => panic!("{}: cannot wait for events: {error}", self.name),
            };
            for token in tokens {
                match token {
                    Token::Orders => {
                        if let Next::End = self.take_orders() {
                            return;
                        }
                    }
                    Token::Queue(index) => {
                        let _ = self.doorbells[index].read();
                        self.serve_queue(index);
                    }
                    Token::Backend(index) => self.serve_backend(index),
                }
            }
        }
    }

    fn take_orders(&mut self) -> Next {
        let _ = self.wake.read();
        while let Ok((order, done)) = self.orders.try_recv() {
            let next = match order {
                Order::Pause => {
                    let _ = done.send(());
                    match self.stand_still() {
                        Ok(next) => next,
                        Err(RecvError) => Next::End,
                    }
                }
                order => {
                    let next = self.obey(order);
                    let _ = done.send(());
                    next
                }
            };
            if let Next::End = next {
                return Next::End;
            }
        }
        Next::Go
    }

    /// Paused: only orders matter; doorbells keep their counts for later.
    fn stand_still(&mut self) -> Result<Next, RecvError> {
        loop {
            let (order, done) = self.orders.recv()?;
            let resumed = matches!(order, Order::Resume);
            let next = self.obey(order);
            let _ = done.send(());
            match next {
                Next::End => return Ok(Next::End),
                Next::Go if resumed => return Ok(Next::Go),
                Next::Go => {}
            }
        }
    }

    fn obey(&mut self, order: Order) -> Next {
        match order {
            Order::Activate(active) => {
                let activated = self.device.activate(active, &mut self.poll);
                self.active = true;
                self.judge(activated);
                for doorbell in &self.doorbells {
                    let _ = doorbell.write(1);
                }
            }
            Order::Deactivate => {
                self.active = false;
                self.device.deactivate(&mut self.poll);
            }
            Order::Pause | Order::Resume => {}
            Order::Halt => return Next::End,
        }
        Next::Go
    }

    fn serve_queue(&mut self, index: usize) {
        if !self.active {
            return;
        }
        let served = self.device.queue_ready(index, &mut self.poll);
        if let Some(Progress::More) = self.judge(served) {
            let _ = self.doorbells[index].write(1);
        }
    }

    fn serve_backend(&mut self, index: usize) {
        if !self.active {
            return;
        }
        let served = self.device.backend_ready(index, &mut self.poll);
        self.judge(served);
    }

    /// Stops the device when it cannot go on.
    fn judge<T>(&mut self, result: Result<T, D::Error>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                if self.complaints < MOST_COMPLAINTS {
                    self.complaints += 1;
                    tracing::warn!(device = self.name, %error, "device stopped until the guest resets it");
                }
                self.active = false;
                self.device.deactivate(&mut self.poll);
                self.notifier.needs_reset();
                None
            }
        }
    }
}
