//! One client of the control socket: lines in, lines out, never waiting for either.

use std::{
    io::{self, ErrorKind, Read, Write},
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
};

use loam_node_api::vmm::{ControlRequest, ControlResponse};

use crate::control::Controlled;

/// A request of 16 KiB of console input, each byte written as up to three digits and a comma, fits.
pub const LINE_LIMIT: usize = 128 << 10;
const PIECE: usize = 8 << 10;

#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    input: Vec<u8>,
    /// Answers that the client has not taken yet. Nothing more is read until it has.
    output: Vec<u8>,
}

/// What a connection waits for next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    Readable,
    Writable,
    /// The client is gone, or broke the rules.
    Over,
}

impl Connection {
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            input: Vec::new(),
            output: Vec::new(),
        })
    }

    /// Does what can be done without waiting, at most one read's worth.
    pub fn serve(&mut self, machine: &mut dyn Controlled) -> Waiting {
        match self.advance(machine) {
            Ok(waiting) => waiting,
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.waiting(),
            Err(error) => {
                tracing::debug!(%error, "control client dropped");
                Waiting::Over
            }
        }
    }

    fn waiting(&self) -> Waiting {
        if self.output.is_empty() {
            Waiting::Readable
        } else {
            Waiting::Writable
        }
    }

    fn advance(&mut self, machine: &mut dyn Controlled) -> io::Result<Waiting> {
        self.flush()?;
        if self.answer(machine)? {
            return Ok(self.waiting());
        }
        let mut piece = [0; PIECE];
        let count = self.stream.read(&mut piece)?;
        if count == 0 {
            return Ok(Waiting::Over);
        }
        self.input.extend_from_slice(&piece[..count]);
        self.answer(machine)?;
        if self.input.len() > LINE_LIMIT {
            return Err(io::Error::new(ErrorKind::InvalidData, "request too long"));
        }
        Ok(self.waiting())
    }

    /// Answers the next complete request, if there is one.
    fn answer(&mut self, machine: &mut dyn Controlled) -> io::Result<bool> {
        let Some(end) = self.input.iter().position(|byte| *byte == b'\n') else {
            return Ok(false);
        };
        let line: Vec<u8> = self.input.drain(..=end).collect();
        let response = match serde_json::from_slice::<ControlRequest>(&line) {
            Ok(request) => machine.handle(request),
            Err(error) => ControlResponse::Error {
                reason: format!("not a control request: {error}"),
            },
        };
        serde_json::to_writer(&mut self.output, &response)?;
        self.output.push(b'\n');
        self.flush()?;
        Ok(true)
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether a request is buffered already, so that no new byte would announce it.
    pub fn has_request(&self) -> bool {
        self.output.is_empty() && self.input.contains(&b'\n')
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use loam_node_api::vmm::VmState;

    use super::*;

    struct Machine(Vec<ControlRequest>);

    impl Controlled for Machine {
        fn handle(&mut self, request: ControlRequest) -> ControlResponse {
            self.0.push(request);
            ControlResponse::State {
                state: VmState::Running,
            }
        }
    }

    fn pair() -> (UnixStream, Connection, Machine) {
        let (client, server) = UnixStream::pair().unwrap();
        (
            client,
            Connection::new(server).unwrap(),
            Machine(Vec::new()),
        )
    }

    #[test]
    fn requests_may_come_in_pieces_and_in_bunches() {
        let (mut client, mut connection, mut machine) = pair();
        client.write_all(b"{\"request\":\"st").unwrap();
        assert_eq!(connection.serve(&mut machine), Waiting::Readable);
        client
            .write_all(b"ate\"}\n{\"request\":\"pause\"}\n")
            .unwrap();
        while machine.0.len() < 2 {
            assert_eq!(connection.serve(&mut machine), Waiting::Readable);
        }
        assert_eq!(machine.0, [ControlRequest::State, ControlRequest::Pause]);
        let answer = BufReader::new(client).lines().next().unwrap().unwrap();
        assert_eq!(answer, r#"{"response":"state","state":"running"}"#);
    }

    #[test]
    fn nonsense_is_answered_with_a_reason() {
        let (mut client, mut connection, mut machine) = pair();
        client.write_all(b"\xff\n").unwrap();
        connection.serve(&mut machine);
        let answer = BufReader::new(client).lines().next().unwrap().unwrap();
        assert!(answer.contains("not a control request"), "{answer}");
        assert!(machine.0.is_empty());
    }

    #[test]
    fn a_client_that_does_not_read_is_not_served_and_does_not_block() {
        let (mut client, mut connection, mut machine) = pair();
        client.set_nonblocking(true).unwrap();
        let requests = b"{\"request\":\"state\"}\n".repeat(4096);
        let mut waiting = Waiting::Readable;
        for _ in 0..100_000 {
            if client.write(&requests).is_err() && waiting == Waiting::Writable {
                break;
            }
            waiting = connection.serve(&mut machine);
        }
        assert_eq!(waiting, Waiting::Writable);
        assert!(connection.output.len() < 1024);
        assert!(connection.input.len() <= LINE_LIMIT + PIECE);
    }

    #[test]
    fn an_endless_line_ends_the_connection() {
        let (mut client, mut connection, mut machine) = pair();
        let mut waiting = Waiting::Readable;
        for _ in 0..LINE_LIMIT {
            if client.write_all(&[b' '; PIECE]).is_err() || waiting == Waiting::Over {
                break;
            }
            waiting = connection.serve(&mut machine);
        }
        assert_eq!(waiting, Waiting::Over);
    }

    #[test]
    fn a_closed_connection_is_over() {
        let (client, mut connection, mut machine) = pair();
        drop(client);
        assert_eq!(connection.serve(&mut machine), Waiting::Over);
    }
}
