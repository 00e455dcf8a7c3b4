//! The listening end, and the main thread's event loop round it.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixListener,
    },
};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::control::{
    Controlled,
    connection::{Connection, Waiting},
};

/// PID 1 and a console or two. More wait in the socket's queue.
const MOST_CLIENTS: usize = 16;
/// How long no new client is taken after one could not be: the reason (no descriptor left) does not
/// go by itself at once, and the listener would wake the loop again and again until it does.
const REST_MS: i32 = 1000;
/// Events taken at once.
const BATCH: usize = 8;

const NOTICES: u64 = 0;
const LISTENER: u64 = 1;
const FIRST_CLIENT: u64 = 2;

#[derive(Debug)]
pub struct Server {
    epoll: Epoll,
    listener: UnixListener,
    listening: bool,
    /// No client is taken until the loop has rested.
    rests: bool,
    clients: BTreeMap<u64, Client>,
    next_client: u64,
}

#[derive(Debug)]
struct Client {
    connection: Connection,
    waits_for: EventSet,
}

impl Server {
    /// `notices` wakes [`Server::turn`] when it is readable.
    pub fn new(listener: UnixListener, notices: RawFd) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let epoll = Epoll::new()?;
        for (fd, data) in [(notices, NOTICES), (listener.as_raw_fd(), LISTENER)] {
            let event = EpollEvent::new(EventSet::IN, data);
            epoll.ctl(ControlOperation::Add, fd, event)?;
        }
        Ok(Self {
            epoll,
            listener,
            listening: true,
            rests: false,
            clients: BTreeMap::new(),
            next_client: FIRST_CLIENT,
        })
    }

    /// Waits for something to happen, and serves clients that have something to say.
    pub fn turn(&mut self, machine: &mut dyn Controlled) -> io::Result<()> {
        let mut events = [EpollEvent::default(); BATCH];
        let patience = if self.rests { REST_MS } else { -1 };
        let count = match self.epoll.wait(patience, &mut events) {
            Err(error) if error.kind() == ErrorKind::Interrupted => 0,
            count => count?,
        };
        if self.rests && count == 0 {
            self.rests = false;
            self.listen(true)?;
        }
        for event in &events[..count] {
            match event.data() {
                NOTICES => {}
                LISTENER => self.accept()?,
                client => self.serve(client, machine)?,
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        match self.take_client() {
            Ok(()) => self.listen(self.clients.len() < MOST_CLIENTS),
            // It is gone again; the next one may not be.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted
                ) =>
            {
                Ok(())
            }
            // No client is worth the machine: what failed is tried again later.
            Err(error) => {
                tracing::warn!(%error, "a client of the control socket was not taken");
                self.rests = true;
                self.listen(false)
            }
        }
    }

    fn take_client(&mut self) -> io::Result<()> {
        let (stream, _) = self.listener.accept()?;
        let connection = Connection::new(stream)?;
        let key = self.next_client;
        self.next_client += 1;
        let waits_for = EventSet::IN;
        let event = EpollEvent::new(waits_for, key);
        self.epoll
            .ctl(ControlOperation::Add, connection.as_raw_fd(), event)?;
        let client = Client {
            connection,
            waits_for,
        };
        self.clients.insert(key, client);
        Ok(())
    }

    fn serve(&mut self, key: u64, machine: &mut dyn Controlled) -> io::Result<()> {
        let Some(client) = self.clients.get_mut(&key) else {
            return Ok(());
        };
        let wanted = match client.connection.serve(machine) {
            Waiting::Over => {
                // Closing takes the descriptor out of the epoll set.
                self.clients.remove(&key);
                // Its descriptor is free for another.
                self.rests = false;
                return self.listen(true);
            }
            // Answers that wait, or requests that were read already: when there is room.
            Waiting::Writable => EventSet::OUT,
            Waiting::Readable if client.connection.has_request() => EventSet::OUT,
            Waiting::Readable => EventSet::IN,
        };
        if wanted != client.waits_for {
            client.waits_for = wanted;
            let fd = client.connection.as_raw_fd();
            self.epoll
                .ctl(ControlOperation::Modify, fd, EpollEvent::new(wanted, key))?;
        }
        Ok(())
    }

    fn listen(&mut self, wanted: bool) -> io::Result<()> {
        if wanted != self.listening {
            let operation = if wanted {
                ControlOperation::Add
            } else {
                ControlOperation::Delete
            };
            let event = EpollEvent::new(EventSet::IN, LISTENER);
            self.epoll
                .ctl(operation, self.listener.as_raw_fd(), event)?;
            self.listening = wanted;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::{
            fd::OwnedFd, linux::net::SocketAddrExt, unix::net::SocketAddr, unix::net::UnixStream,
        },
    };

    use loam_node_api::vmm::{ControlRequest, ControlResponse};
    use vmm_sys_util::eventfd::EventFd;

    use super::*;

    #[derive(Default)]
    struct Machine(usize);

    impl Controlled for Machine {
        fn handle(&mut self, _request: ControlRequest) -> ControlResponse {
            self.0 += 1;
            ControlResponse::Done
        }
    }

    #[test]
    fn silent_clients_do_not_keep_others_out() {
        let name = format!("loam-vmm-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let notices = EventFd::new(0).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let mut server = Server::new(listener, notices.as_raw_fd()).unwrap();
        let mut machine = Machine::default();

        let silent: Vec<_> = (0..2 * MOST_CLIENTS)
            .map(|_| UnixStream::connect_addr(&address).unwrap())
            .collect();
        while server.clients.len() < MOST_CLIENTS {
            server.turn(&mut machine).unwrap();
        }
        assert!(!server.listening);
        drop(silent);
        let mut client = UnixStream::connect_addr(&address).unwrap();
        client
            .write_all(b"{\"request\":\"pause\"}\n{\"request\":\"resume\"}\n")
            .unwrap();
        while machine.0 < 2 {
            server.turn(&mut machine).unwrap();
        }
        let mut answer = [0; 40];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(
            &answer,
            b"{\"response\":\"done\"}\n{\"response\":\"done\"}\n"
        );
    }

    /// A socket that cannot be asked for clients stands for a process without descriptors.
    #[test]
    fn when_no_client_can_be_taken_the_loop_rests_and_then_goes_on() {
        let notices = EventFd::new(0).unwrap();
        let (deaf, _other) = UnixStream::pair().unwrap();
        let listener = UnixListener::from(OwnedFd::from(deaf));
        let mut server = Server::new(listener, notices.as_raw_fd()).unwrap();
        let mut machine = Machine::default();
        server.accept().unwrap();
        assert!(server.rests && !server.listening);
        // What else comes is served meanwhile, and does not end the rest.
        notices.write(1).unwrap();
        server.turn(&mut machine).unwrap();
        assert!(server.rests && !server.listening);
        notices.read().unwrap();
        server.turn(&mut machine).unwrap();
        assert!(!server.rests && server.listening);
    }
}
