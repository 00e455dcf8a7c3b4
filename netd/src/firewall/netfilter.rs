//! A conversation with the kernel's netfilter subsystems.

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::net::sockopt;

/// Room for a transaction of thousands of rules; the default (212 KiB) ends at some 500.
const SEND_BUFFER: usize = 16 << 20;
/// Larger than any answer: the kernel fills dumps into 32 KiB at most.
const ANSWER: usize = 64 << 10;

const HEADER: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;

#[derive(Debug)]
pub struct Conversation(Socket);

/// One message of an answer.
#[derive(Debug)]
pub struct Message<'a> {
    pub kind: u16,
    pub sequence: u32,
    pub body: &'a [u8],
}

impl Conversation {
    /// With the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        sockopt::set_socket_send_buffer_size_force(&socket, SEND_BUFFER)?;
        Ok(Self(socket))
    }

    /// Sends a batch and waits for the answer to its message number `acknowledged`. What the
    /// kernel refuses changes nothing; the first refusal is the error.
    pub fn transact(&self, batch: &[u8], acknowledged: u32) -> io::Result<()> {
        self.send(batch)?;
        let mut outcome = Ok(());
        let mut answered = false;
        let mut buffer = Vec::with_capacity(ANSWER);
        while !answered {
            self.receive(&mut buffer)?;
            for message in messages(&buffer) {
                if message.kind == ERROR {
                    let result = error_of(message.body);
                    // A failure to commit is answered to the first message, before the others.
                    answered |= message.sequence == acknowledged || message.sequence == 1;
                    if outcome.is_ok() {
                        outcome = result.map_err(|error| {
                            let n = message.sequence;
                            io::Error::new(error.kind(), format!("message {n} of a batch: {error}"))
                        });
                    }
                }
            }
        }
        outcome
    }

    /// Sends a request for a list and gives each entry to `each`.
    pub fn dump(&self, request: &[u8], mut each: impl FnMut(&Message)) -> io::Result<()> {
        self.send(request)?;
        let mut buffer = Vec::with_capacity(ANSWER);
        loop {
            self.receive(&mut buffer)?;
            for message in messages(&buffer) {
                match message.kind {
                    DONE => return Ok(()),
                    ERROR => return error_of(message.body),
                    _ => each(&message),
                }
            }
        }
    }

    /// Sends one request and waits for its acknowledgement.
    pub fn request(&self, request: &[u8]) -> io::Result<()> {
        self.dump(request, |_| {})
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.send_to(bytes, &SocketAddr::new(0, 0), 0).map(|_| ())
    }

    fn receive(&self, buffer: &mut Vec<u8>) -> io::Result<()> {
        buffer.clear();
        self.0.recv(buffer, 0).map(|_| ())
    }
}

/// The messages that `bytes` consist of.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let message = bytes
            .get(..length)
            .filter(|message| message.len() >= HEADER)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([message[4], message[5]]),
            sequence: u32::from_ne_bytes(message[8..12].try_into().ok()?),
            body: &message[HEADER..],
        })
    })
}

/// `struct nlmsgerr`: zero or a negated error number.
fn error_of(body: &[u8]) -> io::Result<()> {
    let code = body
        .get(..4)
        .and_then(|code| code.try_into().ok())
        .map(i32::from_ne_bytes);
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
        None => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a netlink error is cut short",
        )),
    }
}
