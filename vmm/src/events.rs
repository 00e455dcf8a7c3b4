//! What happens inside, on its way to the main thread, and on to the launcher.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    panic,
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
};

use loam_node_api::{guest::GuestEvent, vmm::VmmEvent};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// How a machine ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    PoweredOff,
    Reset,
    Failed(String),
}

/// What other threads tell the main thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    Started,
    Guest(GuestEvent),
    End(End),
}

/// Sends notices; never blocks.
#[derive(Clone, Debug)]
pub struct Notices {
    sender: Sender<Notice>,
    wake: Arc<EventFd>,
}

#[derive(Debug)]
pub struct NoticeBoard {
    receiver: Receiver<Notice>,
    wake: Arc<EventFd>,
}

pub fn notices() -> io::Result<(Notices, NoticeBoard)> {
    let (sender, receiver) = mpsc::channel();
    let wake = Arc::new(EventFd::new(EFD_NONBLOCK)?);
    Ok((
        Notices {
            sender,
            wake: Arc::clone(&wake),
        },
        NoticeBoard { receiver, wake },
    ))
}

impl Notices {
    pub fn send(&self, notice: Notice) {
        // Nobody listens any more only when the process is about to end.
        if self.sender.send(notice).is_ok() {
            let _ = self.wake.write(1);
        }
    }

    /// Ends the machine when any thread of this process panics: it cannot go on without it.
    pub fn end_on_panic(&self) {
        let notices = self.clone();
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            print(panic);
            notices.send(Notice::End(End::Failed(format!("internal error: {panic}"))));
        }));
    }
}

impl NoticeBoard {
    /// Readable when there may be notices.
    pub fn wake(&self) -> &EventFd {
        &self.wake
    }

    pub fn next(&self) -> Option<Notice> {
        let _ = self.wake.read();
        let notice = self.receiver.try_recv().ok()?;
        // There may be more behind it.
        let _ = self.wake.write(1);
        Some(notice)
    }
}

/// A line longer than this could be torn apart in the pipe, or block behind it (`PIPE_BUF`).
const LINE_LIMIT: usize = 4096;
/// Longer reasons are cut: they come from the guest, and JSON may write a byte as six.
const REASON_LIMIT: usize = 512;
/// How long the last event waits for a launcher that is slow to read.
const LAST_EVENT_PATIENCE: Timespec = Timespec {
    tv_sec: 2,
    tv_nsec: 0,
};

/// The pipe to the launcher. Whether anyone reads it is not the VM's concern.
#[derive(Debug)]
pub struct EventPipe {
    pipe: OwnedFd,
    told: Told,
}

/// Lives of a guest within one machine that are told: one that starts another kernel by itself
/// (kexec) has a second one. A hostile guest must not flood the launcher by claiming more.
const MOST_LIVES: u32 = 8;

/// What the launcher has heard.
#[derive(Debug, Default)]
struct Told {
    booted: bool,
    lives: u32,
    phase: Phase,
    /// The machine's own end.
    over: bool,
}

/// How far the guest is in its present life. It says each thing once a life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Booting,
    Started,
    Ended,
}

impl Told {
    /// Whether a start is news.
    fn start(&mut self) -> bool {
        let news = self.phase != Phase::Started && self.lives < MOST_LIVES;
        if news {
            self.lives += 1;
            self.phase = Phase::Started;
        }
        news
    }

    /// Whether an end is news.
    fn end(&mut self) -> bool {
        std::mem::replace(&mut self.phase, Phase::Ended) != Phase::Ended
    }
}

impl EventPipe {
    pub fn new(pipe: OwnedFd) -> Self {
        Self {
            pipe,
            told: Told::default(),
        }
    }

    pub fn started(&self) {
        self.write(&VmmEvent::Started, None);
    }

    pub fn guest(&mut self, event: GuestEvent) {
        let (news, event) = match event {
            // Of a later life nobody waits for it.
            GuestEvent::Booted => (
                !std::mem::replace(&mut self.told.booted, true),
                VmmEvent::GuestBooted,
            ),
            GuestEvent::Started => (self.told.start(), VmmEvent::GuestStarted),
            GuestEvent::Exited { status } => (self.told.end(), VmmEvent::GuestExited { status }),
            GuestEvent::Failed { reason } => (
                self.told.end(),
                VmmEvent::GuestFailed {
                    reason: cut(reason),
                },
            ),
            GuestEvent::Health { healthy, output } => (
                self.told.phase == Phase::Started,
                VmmEvent::GuestHealth {
                    healthy,
                    output: cut(output),
                },
            ),
        };
        if news {
            self.write(&event, None);
        }
    }

    /// The machine's end; only the first is told.
    pub fn end(&mut self, end: &End) {
        if std::mem::replace(&mut self.told.over, true) {
            return;
        }
        let event = match end {
            End::PoweredOff => VmmEvent::PoweredOff,
            End::Reset => VmmEvent::Reset,
            End::Failed(reason) => VmmEvent::Failed {
                reason: cut(reason.clone()),
            },
        };
        self.write(&event, Some(LAST_EVENT_PATIENCE));
    }

    fn write(&self, event: &VmmEvent, patience: Option<Timespec>) {
        let Ok(mut line) = serde_json::to_vec(event) else {
            return;
        };
        line.push(b'\n');
        debug_assert!(line.len() <= LINE_LIMIT);
        // A pipe that polls writable has room for `PIPE_BUF` bytes, so the write won't block.
        let mut polled = [PollFd::from_borrowed_fd(self.pipe.as_fd(), PollFlags::OUT)];
        let patience = patience.unwrap_or_default();
        let writable = matches!(poll(&mut polled, Some(&patience)), Ok(1..))
            && polled[0].revents().contains(PollFlags::OUT);
        let written = if writable {
            rustix::io::write(&self.pipe, &line).map_err(io::Error::from)
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        };
        if let Err(error) = written {
            tracing::warn!(%error, ?event, "the launcher does not read events; going on without");
        }
    }
}

fn cut(mut reason: String) -> String {
    if reason.len() > REASON_LIMIT {
        let mut end = REASON_LIMIT;
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        reason.truncate(end);
        reason.push('…');
    }
    reason
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, PipeReader};

    use super::*;

    fn pipe() -> (PipeReader, EventPipe) {
        let (reader, writer) = io::pipe().unwrap();
        (reader, EventPipe::new(writer.into()))
    }

    #[test]
    fn a_thread_that_panics_ends_the_machine() {
        let (notices, board) = notices().unwrap();
        let print = panic::take_hook();
        notices.end_on_panic();
        let thread = std::thread::spawn(|| panic!("a queue without end"));
        thread.join().unwrap_err();
        panic::set_hook(print);
        let Some(Notice::End(End::Failed(reason))) = board.next() else {
            panic!("the main loop was not told");
        };
        assert!(reason.contains("a queue without end"), "{reason}");
    }

    #[test]
    fn a_guest_that_repeats_itself_is_heard_once() {
        let (reader, mut events) = pipe();
        for _ in 0..100_000 {
            events.guest(GuestEvent::Booted);
        }
        for _ in 0..100_000 {
            events.guest(GuestEvent::Started);
        }
        for _ in 0..100_000 {
            events.guest(GuestEvent::Exited { status: 3 });
        }
        events.end(&End::PoweredOff);
        drop(events);
        let lines: Vec<VmmEvent> = BufReader::new(reader)
            .lines()
            .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
            .collect();
        assert_eq!(
            lines,
            [
                VmmEvent::GuestBooted,
                VmmEvent::GuestStarted,
                VmmEvent::GuestExited { status: 3 },
                VmmEvent::PoweredOff
            ]
        );
    }

    #[test]
    fn each_life_of_a_guest_is_told_but_not_without_end() {
        let (reader, mut events) = pipe();
        for status in 0..100 {
            events.guest(GuestEvent::Started);
            events.guest(GuestEvent::Exited { status });
        }
        events.end(&End::Reset);
        events.end(&End::PoweredOff);
        drop(events);
        let lines: Vec<VmmEvent> = BufReader::new(reader)
            .lines()
            .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
            .collect();
        let lives = MOST_LIVES as usize;
        assert_eq!(lines.len(), 2 * lives + 1);
        assert_eq!(lines[3], VmmEvent::GuestExited { status: 1 });
        assert_eq!(lines[2 * lives], VmmEvent::Reset);
    }

    #[test]
    fn health_is_told_of_a_life_that_has_begun_and_fits_a_line() {
        let (reader, mut events) = pipe();
        let health = |output: &str| GuestEvent::Health {
            healthy: false,
            output: output.to_owned(),
        };
        events.guest(health("too early"));
        events.guest(GuestEvent::Started);
        events.guest(health(&"\u{1}".repeat(4000)));
        events.guest(GuestEvent::Exited { status: 0 });
        events.guest(health("too late"));
        drop(events);
        let lines: Vec<String> = BufReader::new(reader).lines().map(Result::unwrap).collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[1].starts_with(r#"{"event":"guest-health","healthy":false"#));
        assert!(lines[1].len() < LINE_LIMIT);
    }

    #[test]
    fn neither_a_full_pipe_nor_a_closed_one_blocks() {
        let (reader, mut events) = pipe();
        for _ in 0..10_000 {
            events.started();
        }
        drop(reader);
        events.started();
        events.end(&End::Reset);
    }

    #[test]
    fn the_worst_reason_fits_a_line() {
        let (reader, mut events) = pipe();
        events.guest(GuestEvent::Failed {
            reason: "\u{1}".repeat(4000),
        });
        drop(events);
        let line = BufReader::new(reader).lines().next().unwrap().unwrap();
        assert!(line.len() < LINE_LIMIT);
    }

    #[test]
    fn notices_arrive_in_order_and_wake() {
        let (notices, board) = notices().unwrap();
        assert_eq!(board.next(), None);
        notices.send(Notice::Started);
        notices.send(Notice::End(End::Reset));
        assert_eq!(board.next(), Some(Notice::Started));
        assert_eq!(board.wake().read().unwrap(), 1);
        assert_eq!(board.next(), Some(Notice::End(End::Reset)));
        assert_eq!(board.next(), None);
    }
}
