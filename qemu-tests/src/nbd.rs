//! A disk outside the node that fails as it is told to: a server of QEMU's `nbd` driver.
//!
//! Of the protocol (NetworkBlockDevice/nbd, `doc/proto.md`) as much as QEMU asks for: the fixed
//! newstyle handshake with `NBD_OPT_GO`, and simple replies, one request after the other.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::FileExt,
            net::{SocketAddr, UnixListener, UnixStream},
        },
    },
    path::Path,
    process,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Context;
use rustix::fs::{FallocateFlags, fallocate};
use serde_json::{Value, json};

use crate::wait::LIMIT;

const GREETING: u64 = 0x4e42_444d_4147_4943;
const OPTION: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
/// Fixed newstyle, and no zeros behind the handshake.
const HANDSHAKE: u16 = 1 | 2;
const OPT_ABORT: u32 = 2;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_ERR_UNSUP: u32 = (1 << 31) + 1;
const INFO_EXPORT: u16 = 0;

const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;
const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const WRITE_ZEROES: u16 = 6;
/// Knows flushes, FUA, trims and zeros.
const EXPORT: u16 = 1 | 4 | 8 | 32 | 64;

/// No request of QEMU's is longer.
const LONGEST: u32 = 32 << 20;

const EINVAL: u32 = 22;
pub const EIO: u32 = 5;

/// Tells the disks of this process apart.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// How the disk answers from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Well,
    /// Not at all, until it is in another mood.
    Hangs,
    /// Nothing is done, and each request has this error.
    Fails(u32),
    /// As the one before, for every other request.
    FailsByTurns(u32),
    /// Each request takes so long.
    Slow(Duration),
}

/// Serves until it is dropped.
#[derive(Debug)]
pub struct NbdDisk {
    /// Of an abstract socket: a path of one may have 107 bytes, and folders of cases have long names.
    socket: String,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    file: File,
    bytes: u64,
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Debug)]
struct State {
    mood: Mood,
    /// Whether the last request had an error by turns.
    failed: bool,
    /// Requests that it lets wait.
    held: usize,
    ended: bool,
}

impl NbdDisk {
    /// An empty disk of `bytes` in a new file of `folder`, which stays.
    pub fn serve(folder: &Path, bytes: u64) -> anyhow::Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(folder.join("nbd.disk"))
            .context("making the disk")?;
        file.set_len(bytes)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let socket = format!("loam-nbd-{}-{number}", process::id());
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&socket)?)
            .with_context(|| format!("listening on @{socket}"))?;
        let shared = Arc::new(Shared {
            file,
            bytes,
            state: Mutex::new(State {
                mood: Mood::Well,
                failed: false,
                held: 0,
                ended: false,
            }),
            news: Condvar::new(),
        });
        let served = shared.clone();
        thread::Builder::new().name("nbd".into()).spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if served.state().ended {
                    return;
                }
                let shared = served.clone();
                // A client that goes away or says nonsense ends its own connection alone.
                thread::spawn(move || shared.talk(client).ok());
            }
        })?;
        Ok(Self { socket, shared })
    }

    /// The driver for `xtask::qemu::Disk::over`.
    pub fn driver(&self) -> Value {
        let server = json!({ "type": "unix", "path": self.socket, "abstract": true });
        json!({ "driver": "nbd", "server": server })
    }

    fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect_addr(&SocketAddr::from_abstract_name(&self.socket)?)
    }

    pub fn set(&self, mood: Mood) {
        self.shared.state().mood = mood;
        self.shared.news.notify_all();
    }

    /// Waits until a request is being held.
    pub fn wait_held(&self) -> anyhow::Result<()> {
        let (state, limit) = self
            .shared
            .news
            .wait_timeout_while(self.shared.state(), LIMIT, |state| state.held == 0)
            .unwrap_or_else(PoisonError::into_inner);
        drop(state);
        anyhow::ensure!(!limit.timed_out(), "nobody asks anything of the disk");
        Ok(())
    }
}

impl Drop for NbdDisk {
    fn drop(&mut self) {
        self.shared.state().ended = true;
        self.shared.news.notify_all();
        // Wakes the listener; if it has ended already, so much the better.
        drop(self.connect());
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn talk(&self, mut client: UnixStream) -> io::Result<()> {
        if !self.negotiate(&mut client)? {
            return Ok(());
        }
        loop {
            let mut head = [0; 28];
            client.read_exact(&mut head)?;
            let (magic, kind) = (int(&head[..4]), int(&head[6..8]) as u16);
            let handle = &head[8..16];
            let (offset, length) = (int(&head[16..24]), int(&head[24..28]) as u32);
            if magic != u64::from(REQUEST) || kind == DISCONNECT || length > LONGEST {
                return Ok(());
            }
            let mut bytes = vec![0; length as usize];
            if kind == WRITE {
                client.read_exact(&mut bytes)?;
            }
            let Some(error) = self.admit() else {
                return Ok(());
            };
            let error = match error {
                0 => match self.perform(kind, offset, length, &mut bytes) {
                    Ok(()) => 0,
                    Err(error) => error.raw_os_error().map_or(EIO, i32::cast_unsigned),
                },
                error => error,
            };
            let mut reply = Vec::new();
            reply.extend(REPLY.to_be_bytes());
            reply.extend(error.to_be_bytes());
            reply.extend(handle);
            if kind == READ && error == 0 {
                reply.extend(bytes);
            }
            client.write_all(&reply)?;
        }
    }

    /// Waits as long as the mood demands; gives the error that it has for a request, 0 for none.
    /// None once the disk is gone.
    fn admit(&self) -> Option<u32> {
        let mut state = self.state();
        if let Mood::Slow(pause) = state.mood {
            state = self
                .news
                .wait_timeout_while(state, pause, |state| {
                    !state.ended && matches!(state.mood, Mood::Slow(_))
                })
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        if state.mood == Mood::Hangs {
            state.held += 1;
            self.news.notify_all();
            state = self
                .news
                .wait_while(state, |state| !state.ended && state.mood == Mood::Hangs)
                .unwrap_or_else(PoisonError::into_inner);
            state.held -= 1;
        }
        match state.mood {
            _ if state.ended => None,
            Mood::Fails(error) => Some(error),
            Mood::FailsByTurns(error) => {
                state.failed = !state.failed;
                Some(if state.failed { error } else { 0 })
            }
            Mood::Well | Mood::Hangs | Mood::Slow(_) => Some(0),
        }
    }

    fn perform(&self, kind: u16, offset: u64, length: u32, bytes: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(length.into());
        if end.is_none_or(|end| end > self.bytes) {
            return Err(io::Error::from_raw_os_error(EINVAL.cast_signed()));
        }
        match kind {
            READ => self.file.read_exact_at(bytes, offset),
            WRITE => self.file.write_all_at(bytes, offset),
            // As QEMU's `cache=unsafe`: this machine keeps it.
            FLUSH => Ok(()),
            TRIM | WRITE_ZEROES => {
                let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                Ok(fallocate(&self.file, how, offset, length.into())?)
            }
            _ => Err(io::Error::from_raw_os_error(EINVAL.cast_signed())),
        }
    }

    /// Whether the client wants the disk.
    fn negotiate(&self, client: &mut UnixStream) -> io::Result<bool> {
        let mut greeting = Vec::new();
        greeting.extend(GREETING.to_be_bytes());
        greeting.extend(OPTION.to_be_bytes());
        greeting.extend(HANDSHAKE.to_be_bytes());
        client.write_all(&greeting)?;
        client.read_exact(&mut [0; 4])?;
        loop {
            let mut head = [0; 16];
            client.read_exact(&mut head)?;
            let (option, length) = (int(&head[8..12]) as u32, int(&head[12..]) as u32);
            if int(&head[..8]) != OPTION || length > LONGEST {
                return Ok(false);
            }
            client.read_exact(&mut vec![0; length as usize])?;
            let mut reply = |kind: u32, data: &[u8]| {
                let mut bytes = Vec::new();
                bytes.extend(OPTION_REPLY.to_be_bytes());
                bytes.extend(option.to_be_bytes());
                bytes.extend(kind.to_be_bytes());
                bytes.extend((data.len() as u32).to_be_bytes());
                bytes.extend(data);
                client.write_all(&bytes)
            };
            match option {
                OPT_GO => {
                    let mut export = Vec::new();
                    export.extend(INFO_EXPORT.to_be_bytes());
                    export.extend(self.bytes.to_be_bytes());
                    export.extend(EXPORT.to_be_bytes());
                    reply(REP_INFO, &export)?;
                    reply(REP_ACK, &[])?;
                    return Ok(true);
                }
                OPT_ABORT => {
                    reply(REP_ACK, &[])?;
                    return Ok(false);
                }
                _ => reply(REP_ERR_UNSUP, &[])?,
            }
        }
    }
}

/// A number in network order of at most eight bytes.
fn int(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 1 << 20;

    /// A client that has chosen the export.
    fn connect(disk: &NbdDisk) -> UnixStream {
        let mut client = disk.connect().unwrap();
        client.read_exact(&mut [0; 18]).unwrap();
        client.write_all(&3_u32.to_be_bytes()).unwrap();
        for option in [8, OPT_GO] {
            client.write_all(&OPTION.to_be_bytes()).unwrap();
            client.write_all(&option.to_be_bytes()).unwrap();
            client.write_all(&0_u32.to_be_bytes()).unwrap();
        }
        let mut refused = [0; 20];
        client.read_exact(&mut refused).unwrap();
        assert_eq!(int(&refused[12..16]), u64::from(REP_ERR_UNSUP));
        let mut info = [0; 32 + 20];
        client.read_exact(&mut info).unwrap();
        assert_eq!(int(&info[22..30]), BYTES);
        client
    }

    fn ask(client: &mut UnixStream, kind: u16, offset: u64, length: u32, data: &[u8]) {
        let mut request = Vec::new();
        request.extend(REQUEST.to_be_bytes());
        request.extend([0; 2]);
        request.extend(kind.to_be_bytes());
        request.extend(*b"a handle");
        request.extend(offset.to_be_bytes());
        request.extend(length.to_be_bytes());
        request.extend(data);
        client.write_all(&request).unwrap();
    }

    fn error(client: &mut UnixStream) -> u64 {
        let mut reply = [0; 16];
        client.read_exact(&mut reply).unwrap();
        assert_eq!(reply[8..], *b"a handle");
        int(&reply[4..8])
    }

    #[test]
    fn keeps_what_is_written_and_fails_when_told() {
        let folder = tempfile::tempdir().unwrap();
        let disk = NbdDisk::serve(folder.path(), BYTES).unwrap();
        let mut client = connect(&disk);
        ask(&mut client, WRITE, 512, 4, b"data");
        assert_eq!(error(&mut client), 0);
        disk.set(Mood::Fails(EIO));
        ask(&mut client, WRITE, 512, 4, b"lost");
        assert_eq!(error(&mut client), 5);
        disk.set(Mood::FailsByTurns(EIO));
        for expected in [5, 0, 5] {
            ask(&mut client, FLUSH, 0, 0, &[]);
            assert_eq!(error(&mut client), expected);
        }
        disk.set(Mood::Slow(Duration::from_millis(1)));
        ask(&mut client, READ, 510, 8, &[]);
        assert_eq!(error(&mut client), 0);
        let mut read = [0; 8];
        client.read_exact(&mut read).unwrap();
        assert_eq!(read, *b"\0\0data\0\0");
        for (offset, length) in [(BYTES, 1), (u64::MAX, 4)] {
            ask(&mut client, READ, offset, length, &[]);
            assert_eq!(error(&mut client), u64::from(EINVAL));
        }
        ask(&mut client, WRITE_ZEROES, 0, 1024, &[]);
        assert_eq!(error(&mut client), 0);
        ask(&mut client, FLUSH, 0, 0, &[]);
        assert_eq!(error(&mut client), 0);
        assert_eq!(
            std::fs::read(folder.path().join("nbd.disk")).unwrap(),
            [0; BYTES as usize]
        );
    }

    #[test]
    fn its_folder_may_have_a_long_name() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("a_case_with_a_long_name.".repeat(8));
        std::fs::create_dir(&long).unwrap();
        let disks = [folder.path(), &long].map(|folder| NbdDisk::serve(folder, BYTES).unwrap());
        for disk in &disks {
            connect(disk);
        }
        drop(disks);
        assert!(long.join("nbd.disk").exists());
    }

    #[test]
    fn a_disk_that_hangs_does_nothing_until_it_is_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let disk = NbdDisk::serve(folder.path(), BYTES).unwrap();
        let mut client = connect(&disk);
        disk.set(Mood::Hangs);
        ask(&mut client, WRITE, 0, 4, b"data");
        disk.wait_held().unwrap();
        client.set_nonblocking(true).unwrap();
        let early = client.read(&mut [0; 16]).unwrap_err();
        assert_eq!(early.kind(), io::ErrorKind::WouldBlock);
        let file = folder.path().join("nbd.disk");
        assert_eq!(std::fs::read(&file).unwrap()[..4], [0; 4]);
        client.set_nonblocking(false).unwrap();
        disk.set(Mood::Well);
        assert_eq!(error(&mut client), 0);
        assert_eq!(std::fs::read(&file).unwrap()[..4], *b"data");
    }
}
