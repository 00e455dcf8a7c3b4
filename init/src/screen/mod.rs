//! [`Screen`]: the process that draws the node's own screen (`loam-screen`), which PID 1 starts, tells the facts and
//! hears.
//!
//! It shows what strangers wrote, so it has a user of its own, an empty root, no network and no capability; only the
//! consoles, which PID 1 opens, and a socket. Whatever becomes of it, the node goes on: it is started again when it
//! ends, and ended when it says nothing about what it was told.
//!
//! [`facts`] are what it shows of the machine, [`network_test`] the process behind one of its keys.

pub mod facts;
pub mod network_test;

use std::{
    ffi::CString,
    fs::{self, File},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use loam_deployment::Bytes;
use loam_init::reap::End;
use loam_node_api::screen::{Facts, Request};
use rustix::{
    fs::{Mode, OFlags},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, kill_process},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use crate::{
    cgroup::{DAEMONS, Group, GroupLimits},
    event::Event,
    lines::Lines,
    log::{Log, Source},
    machine::EMPTY,
    service::backoff::Backoff,
    spawn::{Confinement, Limits, Program, Spawn},
};

const PROGRAM: &str = "/usr/bin/loam-screen";
const NAME: &str = "screen";

/// Nobody else's: those of machines are far above.
const USER: u32 = 900;

const MEMORY: Bytes = Bytes::mib(64);
/// A thread for each console and keyboard, and a few.
const TASKS: u32 = 32;
const OPEN_FILES: u64 = 64;
/// A node without a screen is a node still.
const OOM_SCORE: i16 = 100;

/// The kernel's consoles, as `tty0 ttyS0`.
const ACTIVE: &str = "/sys/class/tty/console/active";
/// That one is the log's.
const LOG_PORT: &str = "ttyS1";
/// More than any machine has.
const MAX_CONSOLES: usize = 8;

/// Between two times that the facts are told, and that anything is heard: whatever the process does, the node's main
/// loop has time for all else.
const PAUSE: Duration = Duration::from_millis(100);

/// The facts are looked up no more often than this.
const TURN: Duration = Duration::from_millis(500);

/// How long the process may say nothing to what it was told. Consoles do not hold it up.
const PATIENCE: Duration = Duration::from_secs(20);

/// A request is far shorter.
const MAX_REQUEST: u64 = 256;

/// A record of what the process has to complain about.
const MAX_LINE: usize = 4 << 10;

/// The facts as a line of JSON.
type Told = Option<Arc<[u8]>>;

#[derive(Debug)]
pub struct Screen {
    consoles: Vec<(String, OwnedFd)>,
    events: mpsc::Sender<Event>,
    log: Log,
    told: watch::Sender<Told>,
    /// When there was last something new to tell.
    told_at: Option<Instant>,
    state: State,
    backoff: Backoff,
    /// Whether the log is to be told.
    pub shows_log: bool,
}

#[derive(Debug)]
enum State {
    Running {
        pid: Pid,
        since: Instant,
    },
    Due {
        at: Instant,
    },
    /// There is nothing to draw on, or the node ends.
    Off,
}

impl Screen {
    /// Draws on every console that the kernel uses.
    pub fn open(events: mpsc::Sender<Event>, log: Log) -> Self {
        let consoles = consoles();
        let state = match consoles.is_empty() {
            true => State::Off,
            false => State::Due { at: Instant::now() },
        };
        Self {
            state,
            ..Self::over(consoles, events, log)
        }
    }

    /// On these; nothing is started.
    pub fn over(consoles: Vec<(String, OwnedFd)>, events: mpsc::Sender<Event>, log: Log) -> Self {
        Self {
            consoles,
            events,
            log,
            told: watch::Sender::new(None),
            told_at: None,
            state: State::Off,
            backoff: Backoff::default(),
            shows_log: false,
        }
    }

    /// Starts the process if it is due.
    pub fn tick(&mut self, now: Instant) {
        match self.state {
            State::Due { at } if at <= now => {}
            _ => return,
        }
        match self.start() {
            Ok(pid) => {
                tracing::info!(pid = pid.as_raw_nonzero(), "screen started");
                self.state = State::Running { pid, since: now };
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "the screen could not be started");
                self.say("Loam runs, but the program that draws this screen could not be started.");
                self.again(Duration::ZERO, now);
            }
        }
    }

    /// A child of PID 1 ended; whether it was this one.
    pub fn child_ended(&mut self, child: Pid, end: End, now: Instant) -> bool {
        match self.state {
            State::Running { pid, since } if pid == child => {
                tracing::warn!(%end, "screen ended; starting it again");
                self.shows_log = false;
                self.again(now.saturating_duration_since(since), now);
                true
            }
            _ => false,
        }
    }

    fn again(&mut self, ran: Duration, now: Instant) {
        let at = now + self.backoff.next(ran);
        self.state = State::Due { at };
    }

    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Due { at } => Some(at),
            State::Running { .. } | State::Off => None,
        }
    }

    /// How long until the facts may be told again; none if nobody hears them.
    pub fn pause(&self, now: Instant) -> Option<Duration> {
        matches!(self.state, State::Running { .. }).then(|| match self.told_at {
            Some(told) => TURN.saturating_sub(now.saturating_duration_since(told)),
            None => Duration::ZERO,
        })
    }

    /// What the screen shall show from now on.
    pub fn tell(&mut self, facts: &Facts, now: Instant) {
        let mut line = match serde_json::to_vec(facts) {
            Ok(line) => line,
            Err(error) => return tracing::error!(%error, "the screen is not told"),
        };
        line.push(b'\n');
        let news = self.told.borrow().as_deref() != Some(line.as_slice());
        if news {
            self.told_at = Some(now);
            self.told.send_replace(Some(line.into()));
        }
    }

    /// The facts are told without a pause: a key asks for them.
    pub fn hurry(&mut self) {
        self.told_at = None;
    }

    /// Ends the process, and says one thing in its place: nothing else will be shown.
    pub fn last_words(&mut self, text: &str) {
        if let State::Running { pid, .. } = self.state {
            kill(pid);
        }
        self.state = State::Off;
        self.say(text);
    }

    /// Onto the last line of every console, in threads of their own: a driver may hold up whoever writes.
    fn say(&self, text: &str) {
        let line: Arc<[u8]> = format!("\x1b[999;1H\x1b[K{text}\r\n").into_bytes().into();
        for (name, console) in &self.consoles {
            let Ok(console) = console.try_clone() else {
                continue;
            };
            let line = line.clone();
            let spawned = thread::Builder::new()
                .name("last words".into())
                .spawn(move || {
                    let _ = rustix::io::write(&console, &line);
                });
            if let Err(error) = spawned {
                tracing::warn!(console = name, %error, "could not be written to");
            }
        }
    }

    fn start(&self) -> anyhow::Result<Pid> {
        let limits = GroupLimits {
            memory_max: Some(MEMORY),
            tasks: Some(TASKS),
            ..GroupLimits::default()
        };
        let group = Group::make(&format!("{DAEMONS}/{NAME}"), limits)?;
        let program = File::open(PROGRAM).context(PROGRAM)?;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let ours = UnixStream::from_std(ours)?;
        let (stderr, stderr_end) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut lines = Lines::new(stderr, MAX_LINE)?;
        let names = self.consoles.iter().map(|(name, _)| name.as_str());
        let arguments = ["loam-screen"].into_iter().chain(names).map(CString::new);
        let consoles = self.consoles.iter().map(|(_, console)| console.as_fd());
        let spawn = Spawn {
            program: Program::File(program.as_fd()),
            arguments: arguments.collect::<Result<_, _>>()?,
            environment: Vec::new(),
            stderr: stderr_end.as_fd(),
            descriptors: [theirs.as_fd()].into_iter().chain(consoles).collect(),
            cgroup: Some(group.folder()),
            oom_score: OOM_SCORE,
            limits: Limits {
                open_files: OPEN_FILES,
                locked_memory: 0,
            },
            confinement: Confinement::Machine {
                user: USER,
                empty: CString::new(EMPTY)?,
            },
        };
        let (pid, outcome) = spawn.start()?;
        let log = self.log.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = outcome.wait().await {
                // Its end follows, and starts it again.
                tracing::error!(%error, "the screen could not be started");
            }
            while let Some(line) = lines.next().await {
                log.line(&Source::Daemon(NAME), &line);
            }
        });
        let (told, events) = (self.told.subscribe(), self.events.clone());
        tokio::task::spawn_local(async move {
            if let Err(error) = converse(ours, told, events, PATIENCE).await {
                tracing::warn!(error = format!("{error:#}"), "the screen is ended");
                kill(pid);
            }
        });
        Ok(pid)
    }
}

/// Tells the process what there is to show, and hears what it wants, until either closes the socket; an error if it does
/// not behave.
async fn converse(
    socket: UnixStream,
    mut told: watch::Receiver<Told>,
    events: mpsc::Sender<Event>,
    patience: Duration,
) -> anyhow::Result<()> {
    let (hearing, mut telling) = socket.into_split();
    let (seen, mut answers) = mpsc::channel(1);
    let hear = async {
        let mut hearing = BufReader::new(hearing);
        loop {
            let mut line = Vec::new();
            let mut request = (&mut hearing).take(MAX_REQUEST);
            if request.read_until(b'\n', &mut line).await? == 0 {
                return Ok(());
            }
            match serde_json::from_slice(&line).context("it says what makes no sense")? {
                // One that nobody waits for is nothing.
                Request::Seen => drop(seen.try_send(())),
                request => drop(events.send(Event::Screen(request)).await),
            }
            sleep(PAUSE).await;
        }
    };
    let tell = async {
        told.mark_changed();
        while told.changed().await.is_ok() {
            let line = told.borrow_and_update().clone();
            if let Some(line) = line {
                let both = async {
                    telling.write_all(&line).await?;
                    anyhow::Ok(answers.recv().await)
                };
                let answered = timeout(patience, both).await;
                answered.context("it does not answer")??;
            }
            sleep(PAUSE).await;
        }
        Ok(())
    };
    tokio::select! {
        ended = hear => ended,
        ended = tell => ended,
    }
}

fn kill(pid: Pid) {
    // Only PID 1 reaps, so the number still means this process.
    if let Err(error) = kill_process(pid, Signal::KILL) {
        tracing::warn!(%error, "the screen could not be ended");
    }
}

fn consoles() -> Vec<(String, OwnedFd)> {
    let active = fs::read_to_string(ACTIVE).unwrap_or_default();
    let names = active.split_whitespace().filter(|name| *name != LOG_PORT);
    let console = |name: &str| {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::open(Path::new("/dev").join(name), flags, Mode::empty())
            .inspect_err(|error| tracing::warn!(console = name, %error, "console is not drawn on"))
            .ok()
            .map(|console| (name.to_owned(), console))
    };
    names.filter_map(console).take(MAX_CONSOLES).collect()
}

#[cfg(test)]
mod tests;
