//! Running the few programs of Debian's that storaged needs.

use std::{
    io::{self, Read},
    os::{
        fd::OwnedFd,
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, set_parent_process_death_signal},
};

/// The most of a program's complaint that is kept. What it says last says most.
const MAX_COMPLAINT: usize = 2 << 10;

/// Where Debian's packages put programs.
const FOLDERS: [&str; 2] = [loam_node_api::path::BIN, "/usr/sbin"];

#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("{0} is not in this image")]
    Absent(String),
    #[error("{name} could not be run")]
    Run { name: String, source: io::Error },
    #[error("{name} failed ({status}): {complaint}")]
    Failed {
        name: String,
        status: String,
        complaint: String,
    },
    /// By a signal: by the kernel for want of memory, or by a fault of its own.
    #[error("{name} was killed ({status}): {complaint}")]
    Killed {
        name: String,
        status: String,
        complaint: String,
    },
    #[error("{name} was not done after {patience:?} and was ended")]
    TooLong { name: String, patience: Duration },
}

/// A program with an empty environment that dies with storaged.
///
/// So a restarted storaged never finds its predecessor's `mkfs` still at work on a disk.
pub fn command(name: &str) -> Result<Command, ProgramError> {
    let mut command = Command::new(find(name)?);
    command
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let before_exec = || Ok(set_parent_process_death_signal(Some(Signal::KILL))?);
    // SAFETY: between fork and exec the closure makes one system call, through rustix, which neither allocates nor
    // takes locks for it.
    unsafe { command.pre_exec(before_exec) };
    Ok(command)
}

/// The longest that a `mkfs` may take. On the slowest disk each is done in seconds: none writes more
/// than the beginnings of what it makes. One that runs wild must not hold a pool for ever.
const LONGEST: Duration = Duration::from_secs(600);

/// Runs to its end, or is killed after [`LONGEST`].
pub fn run(command: Command) -> Result<(), ProgramError> {
    run_within(command, LONGEST)
}

fn run_within(command: Command, patience: Duration) -> Result<(), ProgramError> {
    let mut running = start(command)?;
    let error = match running.ends_within(patience) {
        Ok(true) => return running.finish(),
        Ok(false) => ProgramError::TooLong {
            name: running.name.clone(),
            patience,
        },
        Err(source) => ProgramError::Run {
            name: running.name.clone(),
            source,
        },
    };
    running.kill();
    // What it says of its own death is no news.
    let _ = running.finish();
    Err(error)
}

/// A program at work. What it complains of is read meanwhile, so that it never waits for us.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    complaint: Option<mpsc::Receiver<String>>,
}

/// How long the complaint of one that has ended is waited for: what it started may hold the pipe.
const LAST_WORDS: Duration = Duration::from_secs(2);

pub fn start(mut command: Command) -> Result<Running, ProgramError> {
    let name = Path::new(command.get_program())
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    match command.spawn() {
        Ok(mut child) => {
            match child.stderr.take().map(read_aside).transpose() {
                Ok(complaint) => Ok(Running {
                    name,
                    child,
                    complaint,
                }),
                Err(source) => {
                    // Unheard, it would wait for us as soon as it complains.
                    let _ = child.kill();
                    let _ = child.wait();
                    Err(ProgramError::Run { name, source })
                }
            }
        }
        Err(source) => Err(ProgramError::Run { name, source }),
    }
}

impl Running {
    /// Whether it has ended, or does so soon enough.
    pub fn ends_within(&self, patience: Duration) -> io::Result<bool> {
        let pidfd = self.pidfd()?;
        let ended = poll(
            &mut [PollFd::new(&pidfd, PollFlags::IN)],
            Some(&timespec(patience)?),
        )?;
        Ok(ended > 0)
    }

    fn pidfd(&self) -> io::Result<OwnedFd> {
        let pid = Pid::from_child(&self.child);
        Ok(pidfd_open(pid, PidfdFlags::empty())?)
    }

    pub fn kill(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.child.kill();
    }

    pub fn finish(mut self) -> Result<(), ProgramError> {
        let name = self.name;
        let status = match self.child.wait() {
            Ok(status) => status,
            Err(source) => return Err(ProgramError::Run { name, source }),
        };
        if status.success() {
            return Ok(());
        }
        let complaint = self
            .complaint
            .and_then(|complaint| complaint.recv_timeout(LAST_WORDS).ok())
            .unwrap_or_default();
        let was_killed = status.signal().is_some();
        let status = status.to_string();
        Err(if was_killed {
            ProgramError::Killed {
                name,
                status,
                complaint,
            }
        } else {
            ProgramError::Failed {
                name,
                status,
                complaint,
            }
        })
    }
}

fn timespec(patience: Duration) -> io::Result<Timespec> {
    Timespec::try_from(patience).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn find(name: &str) -> Result<PathBuf, ProgramError> {
    FOLDERS
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists())
        .ok_or_else(|| ProgramError::Absent(name.to_owned()))
}

fn read_aside(stream: impl Read + Send + 'static) -> io::Result<mpsc::Receiver<String>> {
    let (says, said) = mpsc::channel();
    thread::Builder::new().spawn(move || {
        // Whoever asked may not care.
        let _ = says.send(read_end(stream));
    })?;
    Ok(said)
}

/// The last of what it says, on one line. Always reads to the end, so that it never blocks.
fn read_end(mut stream: impl Read) -> String {
    let mut end = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut chunk) {
        end.extend_from_slice(&chunk[..length]);
        if end.len() > 2 * MAX_COMPLAINT {
            end.drain(..end.len() - MAX_COMPLAINT);
        }
    }
    let text = String::from_utf8_lossy(&end).into_owned();
    let lines: Vec<_> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_never_ends_is_ended() {
        let mut sleep = command("sleep").unwrap();
        sleep.arg("1000");
        let patience = Duration::from_millis(50);
        let error = run_within(sleep, patience).unwrap_err().to_string();
        assert_eq!(error, "sleep was not done after 50ms and was ended");
        let quick = command("true").unwrap();
        run_within(quick, Duration::from_secs(600)).unwrap();
    }

    #[test]
    fn says_what_failed_and_why() {
        let mut ls = command("ls").unwrap();
        ls.arg("/nowhere");
        let error = run(ls).unwrap_err().to_string();
        assert!(
            error.starts_with("ls failed") && error.contains("/nowhere"),
            "{error}"
        );
        let mut sleep = command("sleep").unwrap();
        sleep.arg("1000");
        let mut sleep = start(sleep).unwrap();
        assert!(!sleep.ends_within(Duration::from_millis(1)).unwrap());
        sleep.kill();
        assert!(sleep.ends_within(Duration::from_secs(1000)).unwrap());
        sleep.finish().unwrap_err();

        let script = |text| {
            let mut sh = command("sh").unwrap();
            sh.args(["-c", text]);
            sh
        };
        // Whoever it started lives on, and holds what it complained into.
        let error = run(script("sleep 9 & echo hello >&2; exit 3")).unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");

        let absent = command("mkfs.nothing").unwrap_err().to_string();
        assert_eq!(absent, "mkfs.nothing is not in this image");
    }
}
