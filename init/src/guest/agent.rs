//! [`Agent`]: guest init's line to the VMM, a virtio-console port.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use loam_node_api::guest::{AGENT_PORT, GuestEvent, GuestRequest};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
};

use crate::patience::{self, DEVICE_LIMIT};

/// A VMM that does not take an event for this long never will.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// While nobody holds the port's other end, the kernel says so at once instead of waiting.
const ABSENT_PAUSE: Duration = Duration::from_millis(100);

/// Leaves room for escapes and the rest of the line within the port's 4 KiB.
const MAX_REASON: usize = 1500;

/// The longest request line; those that exist take 80 bytes.
const MAX_REQUEST: usize = 4096;

/// What is told again later has no need to wait, nor may it hold up what is told once.
const SHORT_WRITE_LIMIT: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub struct Agent {
    /// The kernel lets a port be opened only once, so both directions share it.
    port: Option<Arc<File>>,
    /// Lines of two threads do not mix. Whether the last one was left unfinished.
    torn: Arc<Mutex<bool>>,
}

impl Agent {
    /// A machine without the port (started by hand in QEMU) still runs, if later.
    pub fn find() -> Self {
        let port = patience::until(DEVICE_LIMIT, || {
            device(Path::new("/sys/class/virtio-ports"))
        });
        let opened = port.map(|path| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(OFlags::NONBLOCK.bits() as i32)
                .open(&path)
                .map_err(|error| say!("opening {}: {error}", path.display()))
        });
        match opened {
            Some(Ok(file)) => {
                return Self {
                    port: Some(Arc::new(file)),
                    torn: Arc::default(),
                };
            }
            Some(Err(())) => {}
            None => say!("there is no port named {AGENT_PORT}; nobody hears of me"),
        }
        Self {
            port: None,
            torn: Arc::default(),
        }
    }

    /// Tells the VMM, or the console if the VMM cannot be told.
    pub fn tell(&self, event: &GuestEvent) {
        if let Err(error) = self.write(event, WRITE_LIMIT) {
            say!("telling the VMM {event:?}: {error}");
        }
    }

    /// Tells the VMM, if it takes it soon; says whether it did.
    pub fn tell_soon(&self, event: &GuestEvent) -> bool {
        self.write(event, SHORT_WRITE_LIMIT).is_ok()
    }

    fn write(&self, event: &GuestEvent, limit: Duration) -> io::Result<()> {
        let line = line(event)?;
        let Some(port) = &self.port else {
            return Ok(());
        };
        let mut torn = self.torn.lock().unwrap_or_else(PoisonError::into_inner);
        let end = if *torn { "\n" } else { "" };
        *torn = true;
        write_all(port, format!("{end}{line}").as_bytes(), limit)?;
        *torn = false;
        Ok(())
    }

    /// Hands every request of the VMM to `act`, in a thread of its own.
    pub fn listen(&self, act: impl Fn(GuestRequest) + Send + 'static) -> io::Result<()> {
        let Some(port) = self.port.clone() else {
            return Ok(());
        };
        thread::Builder::new().name("agent".into()).spawn(move || {
            let error = read_requests(&port, &act);
            say!("reading from the VMM: {error}");
        })?;
        Ok(())
    }
}

/// The port with our name below `class`, as its device's path.
fn device(class: &Path) -> Option<PathBuf> {
    fs::read_dir(class).ok()?.flatten().find_map(|entry| {
        let name = fs::read_to_string(entry.path().join("name")).ok()?;
        (name.trim_end() == AGENT_PORT).then(|| Path::new("/dev").join(entry.file_name()))
    })
}

fn line(event: &GuestEvent) -> serde_json::Result<String> {
    let event = match event {
        GuestEvent::Failed { reason } => GuestEvent::Failed {
            reason: shortened(reason),
        },
        other => other.clone(),
    };
    let mut line = serde_json::to_string(&event)?;
    line.push('\n');
    Ok(line)
}

fn shortened(reason: &str) -> String {
    let mut text = String::new();
    for c in reason.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if text.len() + c.len_utf8() > MAX_REASON {
            text.push('…');
            break;
        }
        text.push(c);
    }
    text
}

fn write_all(mut port: &File, mut bytes: &[u8], limit: Duration) -> io::Result<()> {
    let deadline = Instant::now() + limit;
    while !bytes.is_empty() {
        match port.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                wait(port, PollFlags::OUT, Some(left.min(ABSENT_PAUSE)))?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Returns only when the port cannot be read any more.
fn read_requests(mut port: &File, act: &impl Fn(GuestRequest)) -> io::Error {
    let mut lines = Lines::default();
    let mut part = [0; 512];
    loop {
        match port.read(&mut part) {
            // The VMM has not opened its end yet, or has closed it.
            Ok(0) => thread::sleep(ABSENT_PAUSE),
            Ok(count) => lines.feed(&part[..count], act),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if let Err(error) = wait(port, PollFlags::IN, None) {
                    return error;
                }
            }
            Err(error) => return error,
        }
    }
}

fn wait(port: &File, what: PollFlags, limit: Option<Duration>) -> io::Result<()> {
    let limit = limit.map(|limit| Timespec {
        tv_sec: limit.as_secs() as i64,
        tv_nsec: limit.subsec_nanos().into(),
    });
    let mut ports = [PollFd::new(port, what)];
    match poll(&mut ports, limit.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    if ports[0].revents().contains(PollFlags::HUP) {
        // Poll does not wait while the other end is closed.
        thread::sleep(ABSENT_PAUSE);
    }
    Ok(())
}

/// Cuts what comes in into lines.
#[derive(Default)]
struct Lines {
    line: Vec<u8>,
    /// The line is too long; what is left of it is dropped.
    overlong: bool,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8], act: &impl Fn(GuestRequest)) {
        for &byte in bytes {
            if byte != b'\n' {
                self.overlong |= self.line.len() >= MAX_REQUEST;
                if !self.overlong {
                    self.line.push(byte);
                }
                continue;
            }
            match serde_json::from_slice(&self.line) {
                Ok(request) if !self.overlong => act(request),
                // A newer VMM may ask what this init does not know; the rest still counts.
                _ => say!("the VMM asked something unknown"),
            }
            self.line.clear();
            self.overlong = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn the_port_is_found_by_name() {
        let class = tempfile::tempdir().unwrap();
        assert_eq!(device(class.path()), None);
        for (port, name) in [("vport1p0", "console\n"), ("vport1p1", "loam.agent\n")] {
            fs::create_dir(class.path().join(port)).unwrap();
            fs::write(class.path().join(port).join("name"), name).unwrap();
        }
        assert_eq!(device(class.path()), Some("/dev/vport1p1".into()));
    }

    #[test]
    fn lines_are_short_whatever_the_reason() {
        for reason in [
            "x".repeat(9000),
            "\"\\".repeat(9000),
            "\u{1}".repeat(9000),
            "€".repeat(9000),
        ] {
            let line = line(&GuestEvent::Failed {
                reason: reason.clone(),
            })
            .unwrap();
            assert!(line.len() <= 4096, "{}", line.len());
            assert_eq!(line.matches('\n').count(), 1);
            serde_json::from_str::<GuestEvent>(&line).unwrap();
        }
        assert_eq!(
            line(&GuestEvent::Exited { status: 3 }).unwrap(),
            "{\"event\":\"exited\",\"status\":3}\n"
        );
    }

    #[test]
    fn requests_come_in_any_parts_and_among_nonsense() {
        let mut text = b"nonsense\n{\"request\":\"stop\"}\n".to_vec();
        text.extend(std::iter::repeat_n(b' ', 100_000));
        text.extend(b"{\"request\":\"stop\"}\n{\"request\":\"stop\"}\n");
        for size in [1, 7, 512, text.len()] {
            let seen = RefCell::new(Vec::new());
            let mut lines = Lines::default();
            for part in text.chunks(size) {
                lines.feed(part, &|request| seen.borrow_mut().push(request));
            }
            assert_eq!(*seen.borrow(), [GuestRequest::Stop, GuestRequest::Stop]);
        }
    }
}
