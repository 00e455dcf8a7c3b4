//! A child that cannot outlive us, and that is handed open descriptors.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use loam_chain::local::die_with;
use rustix::process::{Pid, PidfdFlags, Signal};

#[derive(Debug)]
pub struct Process {
    /// Names the process even after its number has been given to another.
    pidfd: OwnedFd,
    exit: Exit,
}

/// How a process ended, once it has. Clones outlive the [`Process`].
#[derive(Debug, Clone, Default)]
pub struct Exit(Arc<(Mutex<Option<ExitStatus>>, Condvar)>);

impl Process {
    /// Starts `command` with `handed` open under their present numbers.
    pub fn start(mut command: Command, handed: Vec<OwnedFd>) -> io::Result<Self> {
        let parent = rustix::process::getpid();
        let numbers: Vec<i32> = handed.iter().map(|fd| fd.as_raw_fd()).collect();
        // SAFETY: between fork and exec the closure makes system calls only, and the descriptors
        // it touches are open, since `handed` lives until the child has been spawned.
        unsafe {
            command.pre_exec(move || {
                die_with(parent)?;
                for number in &numbers {
                    let fd = BorrowedFd::borrow_raw(*number);
                    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
                }
                Ok(())
            });
        }
        let exit = Exit::default();
        let (started, start) = mpsc::channel();
        let announce = exit.clone();
        // The death signal comes when the thread that forked ends, so that thread waits for the
        // child and ends with it, or with us.
        thread::Builder::new().name("child".into()).spawn(move || {
            let spawned = command.spawn();
            drop(handed);
            let (mut child, pidfd) = match spawned.and_then(|child| named(child, open)) {
                Ok(child) => child,
                Err(error) => {
                    let _ = started.send(Err(error));
                    return;
                }
            };
            let _ = started.send(Ok(pidfd));
            if let Ok(status) = child.wait() {
                *announce.lock() = Some(status);
                announce.0.1.notify_all();
            }
        })?;
        let pidfd = start.recv().map_err(io::Error::other)??;
        Ok(Self { pidfd, exit })
    }

    /// Ends it at once. One that has ended already stays as it is.
    pub fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
        let mut exit = self.exit.lock();
        while exit.is_none() {
            let news = &self.exit.0.1;
            exit = news.wait(exit).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How it ended, unless it still runs when `limit` has passed.
    pub fn wait(&self, limit: Duration) -> Option<ExitStatus> {
        self.exit.wait(limit)
    }

    pub fn exit(&self) -> Exit {
        self.exit.clone()
    }
}

impl Exit {
    /// How it ended, unless it still runs when `limit` has passed.
    pub fn wait(&self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        let mut exit = self.lock();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if exit.is_some() || left.is_zero() {
                return *exit;
            }
            let news = &self.0.1;
            exit = news
                .wait_timeout(exit, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<ExitStatus>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The child with what `open` makes of its number; it ends when that fails, since nobody would
/// know of it.
fn named(
    mut child: Child,
    open: impl FnOnce(Pid) -> io::Result<OwnedFd>,
) -> io::Result<(Child, OwnedFd)> {
    let pid = Pid::from_child(&child);
    match open(pid) {
        Ok(pidfd) => Ok((child, pidfd)),
        Err(error) => {
            child.kill()?;
            child.wait()?;
            Err(error)
        }
    }
}

fn open(pid: Pid) -> io::Result<OwnedFd> {
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;
    use std::os::unix::process::ExitStatusExt as _;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn hands_descriptors_over() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let theirs = OwnedFd::from(theirs);
        // Not `sh`, whose numbers may have one digit only.
        let mut command = Command::new("bash");
        command.args(["-c", &format!("echo hello >&{}", theirs.as_raw_fd())]);
        let process = Process::start(command, vec![theirs]).unwrap();
        let mut said = String::new();
        ours.read_to_string(&mut said).unwrap();
        assert_eq!(said, "hello\n");
        assert!(process.wait(LONG).unwrap().success());
    }

    #[test]
    fn kills_and_tells() {
        let process = Process::start(Command::new("cat"), Vec::new());
        // `cat` reads our standard input, which may be at its end already; both are an end.
        let process = process.unwrap();
        process.kill();
        assert!(process.wait(LONG).is_some());
        let mut endless = Command::new("tail");
        endless.args(["-f", "/dev/null"]);
        let process = Process::start(endless, Vec::new()).unwrap();
        assert_eq!(process.wait(Duration::ZERO), None);
        process.kill();
        assert_eq!(process.wait(LONG).unwrap().signal(), Some(9));
    }

    #[test]
    fn says_when_there_is_no_such_program() {
        assert!(Process::start(Command::new("/no/such/program"), Vec::new()).is_err());
    }

    #[test]
    fn a_child_without_a_name_does_not_stay() {
        let mut endless = Command::new("tail");
        let child = endless.args(["-f", "/dev/null"]).spawn().unwrap();
        let pid = Pid::from_child(&child);
        let refused = |_| Err(io::Error::other("no more descriptors"));
        let error = named(child, refused).unwrap_err();
        assert_eq!(error.to_string(), "no more descriptors");
        assert!(rustix::process::test_kill_process(pid).is_err());
    }

    #[test]
    fn a_child_whose_parent_is_gone_does_not_start() {
        let mut orphan = Command::new("true");
        // SAFETY: between fork and exec the closure makes system calls only.
        unsafe { orphan.pre_exec(|| die_with(Pid::INIT)) };
        assert!(orphan.spawn().is_err());
    }
}
