//! The node's daemons: started in order, restarted with back-off, each in a cgroup of its own.
//!
//! [`definition`] says what they are, [`supervision`] decides (pure), this file acts.

pub mod backoff;
mod definition;
mod lingering;
mod supervision;

use std::{
    ffi::CString,
    fs, io,
    os::fd::AsFd,
    path::Path,
    time::{Duration, Instant},
};

use loam_init::reap::End;
use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, kill_process},
};

pub use self::supervision::State;
use self::{
    definition::{SERVICES, Service},
    supervision::Supervision,
};
use crate::{
    cgroup::{DAEMONS, Group, GroupLimits},
    lines::Lines,
    log::{Log, Source},
    preload::Preload,
    spawn::{Confinement, Limits, Program, Spawn},
};

/// Sockets, and a handful for each machine's disks and interfaces.
const OPEN_FILES: u64 = 65_536;

/// Above what async runtimes and the tools that a daemon runs (`mkfs.*`) take.
const TASKS: u32 = 512;

/// Only PID 1 itself is killed later.
const OOM_SCORE: i16 = -900;

/// A record of a daemon's log.
const MAX_LINE: usize = 16 << 10;

/// Between two looks for daemons that ended and are not reaped.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Services {
    supervision: Supervision,
    looked: Option<Instant>,
    log: Log,
    /// None: there are no modules to wait for.
    preload: Option<Preload>,
}

impl Services {
    pub fn new(log: Log, preload: Option<Preload>) -> Self {
        Self {
            supervision: Supervision::new(SERVICES),
            looked: None,
            log,
            preload,
        }
    }

    /// Starts what is due.
    pub fn tick(&mut self, now: Instant) {
        let due = self.deadline().is_some_and(|deadline| deadline <= now);
        if due || self.looked.is_none_or(|last| now >= last + LOOK) {
            self.looked = Some(now);
            for service in self.supervision.look(now, lingering::is_at_its_end) {
                // Its connections may stay open, and its listener take others, for as long as a thread of it
                // waits for a disk. Without a socket nobody new comes, and noded leaves.
                if let Err(error) = remove_socket(service) {
                    let daemon = service.name;
                    tracing::warn!(daemon, %error, "the socket of a daemon that ends stays");
                }
            }
            for (name, delay) in self.supervision.give_up(now) {
                let again_in_ms = delay.map(|delay| delay.as_millis() as u64);
                tracing::error!(
                    daemon = name,
                    again_in_ms,
                    "daemon ended, but the kernel cannot let go of it: a disk does not answer; going on without waiting"
                );
            }
        }
        let preload = self.preload.as_ref();
        let loaded = |group| preload.is_none_or(|preload| preload.has(group, now));
        for service in self
            .supervision
            .due(now, |socket| Path::new(socket).exists(), loaded)
        {
            if service.optional && !Path::new(service.program).exists() {
                tracing::info!(
                    daemon = service.name,
                    "this image has none; going on without"
                );
                self.supervision.absent(service.name);
                continue;
            }
            match start(service, &self.log) {
                Ok(pid) => {
                    tracing::info!(daemon = service.name, pid = pid.as_raw_nonzero(), "started");
                    self.supervision.started(service.name, pid, now);
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::error!(daemon = service.name, error, "could not be started");
                    self.supervision.not_started(service.name, now);
                }
            }
        }
    }

    /// A child of PID 1 ended; whether it was one of these.
    pub fn child_ended(&mut self, pid: Pid, end: End, now: Instant) -> bool {
        if let Some(name) = self.supervision.gone(pid) {
            tracing::info!(daemon = name, %end, "what was left of an earlier one is gone");
            return true;
        }
        let Some((name, delay)) = self.supervision.ended(pid, now) else {
            return false;
        };
        match delay {
            Some(delay) => {
                let again_in_ms = delay.as_millis() as u64;
                tracing::warn!(daemon = name, %end, again_in_ms, "daemon ended");
            }
            None => tracing::info!(daemon = name, %end, "daemon stopped"),
        }
        true
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.supervision.deadline()
    }

    pub fn waits(&self) -> bool {
        self.supervision.waits()
    }

    pub fn states(&self) -> impl Iterator<Item = (&'static str, State)> {
        self.supervision.states()
    }

    /// Asks all to end (SIGTERM), and starts none from now on.
    pub fn stop(&mut self) {
        signal(self.supervision.stop(), Signal::TERM);
    }

    pub fn kill(&self) {
        signal(self.supervision.running(), Signal::KILL);
    }

    pub fn all_ended(&self) -> bool {
        self.supervision.running().is_empty()
    }
}

fn signal(pids: Vec<Pid>, signal: Signal) {
    for pid in pids {
        // Only PID 1 reaps, so the number still means this process.
        if let Err(error) = kill_process(pid, signal) {
            tracing::warn!(pid = pid.as_raw_nonzero(), %error, "could not be signalled");
        }
    }
}

fn remove_socket(service: &Service) -> io::Result<()> {
    match service.socket.map(fs::remove_file) {
        Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn start(service: &'static Service, log: &Log) -> anyhow::Result<Pid> {
    // Its socket means that it serves: the one of its predecessor does not.
    remove_socket(service)?;
    let limits = GroupLimits {
        memory_max: Some(service.memory),
        tasks: Some(TASKS),
        ..GroupLimits::default()
    };
    let group = Group::make(&format!("{DAEMONS}/{}", service.name), limits)?;
    // Tools that a predecessor started have nobody left to report to.
    group.kill()?;
    let (stderr, stderr_end) = pipe_with(PipeFlags::CLOEXEC)?;
    let program = CString::new(service.program)?;
    let spawn = Spawn {
        program: Program::Path(program.clone()),
        arguments: vec![program],
        environment: vec![c"PATH=/usr/bin:/usr/sbin".to_owned(), c"HOME=/".to_owned()],
        stderr: stderr_end.as_fd(),
        descriptors: Vec::new(),
        cgroup: Some(group.folder()),
        oom_score: OOM_SCORE,
        limits: Limits {
            open_files: OPEN_FILES,
            locked_memory: u64::MAX,
        },
        confinement: Confinement::Daemon {
            capabilities: service.capabilities,
        },
    };
    let mut lines = Lines::new(stderr, MAX_LINE)?;
    let (pid, outcome) = spawn.start()?;
    let log = log.clone();
    tokio::task::spawn_local(async move {
        if let Err(error) = outcome.wait().await {
            // Its end follows, and starts it again.
            tracing::error!(daemon = service.name, %error, "could not be started");
        }
        while let Some(line) = lines.next().await {
            log.line(&Source::Daemon(service.name), &line);
        }
    });
    Ok(pid)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, process::Command};

    use loam_deployment::Bytes;
    use rustix::process::{WaitId, WaitIdOptions, waitid};

    use super::*;

    #[test]
    fn the_socket_of_a_daemon_is_gone_when_it_is_seen_at_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let service: &'static Service = Box::leak(Box::new(Service {
            name: "one",
            program: "/never/started",
            needs: &[],
            modules: None,
            socket: Some(socket.to_str().unwrap().to_owned().leak()),
            capabilities: 0,
            memory: Bytes::mib(1),
            optional: false,
        }));
        let mut services = Services {
            supervision: Supervision::new([service]),
            looked: None,
            log: Log::default(),
            preload: None,
        };
        let _listener = UnixListener::bind(&socket).unwrap();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let start = Instant::now();
        services.supervision.started("one", pid, start);
        services.tick(start);
        assert!(socket.exists(), "it serves");

        child.kill().unwrap();
        // To its very end: on its way there, the signal is not pending any more.
        let seen = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(pid), seen).unwrap();
        // It is not reaped, and long before its successor.
        services.tick(start + LOOK);
        assert!(!socket.exists());
        assert_eq!(services.supervision.running(), [pid]);
        child.wait().unwrap();
    }
}
