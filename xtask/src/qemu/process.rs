//! A child that cannot outlive us, and that is handed open descriptors.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitStatus};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};

#[derive(Debug)]
pub struct Process {
    /// Names the process even after its number has been given to another.
    pidfd: OwnedFd,
    exit: Arc<(Mutex<Option<ExitStatus>>, Condvar)>,
}

impl Process {
    /// Starts `command` with `handed` open under their present numbers.
    pub fn start(mut command: Command, handed: Vec<OwnedFd>) -> io::Result<Self> {
        let numbers: Vec<i32> = handed.iter().map(|fd| fd.as_raw_fd()).collect();
        // SAFETY: between fork and exec the closure makes system calls only, and the descriptors
        // it touches are open, since `handed` lives until the child has been spawned.
        unsafe {
            command.pre_exec(move || {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                for number in &numbers {
                    let fd = BorrowedFd::borrow_raw(*number);
                    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
                }
                Ok(())
            });
        }
        let exit = Arc::new((Mutex::new(None), Condvar::new()));
        let (started, start) = mpsc::channel();
        let announce = Arc::clone(&exit);
        // The death signal comes when the thread that forked ends, so that thread waits for the
        // child and ends with it, or with us.
        thread::Builder::new().name("child".into()).spawn(move || {
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(error) => {
                    let _ = started.send(Err(error));
                    return;
                }
            };
            drop(handed);
            let pidfd = Pid::from_raw(child.id() as i32)
                .ok_or(io::Error::from(io::ErrorKind::InvalidData))
                .and_then(|pid| Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?));
            let _ = started.send(pidfd);
            if let Ok(status) = child.wait() {
                *announce.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
                announce.1.notify_all();
            }
        })?;
        let pidfd = start.recv().map_err(io::Error::other)??;
        Ok(Self { pidfd, exit })
    }

    /// Ends it at once. One that has ended already stays as it is.
    pub fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
        let mut exit = self.lock();
        while exit.is_none() {
            exit = self
                .exit
                .1
                .wait(exit)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How it ended, unless it still runs when `limit` has passed.
    pub fn wait(&self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        let mut exit = self.lock();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if exit.is_some() || left.is_zero() {
                return *exit;
            }
            exit = self
                .exit
                .1
                .wait_timeout(exit, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<ExitStatus>> {
        self.exit.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
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
}
