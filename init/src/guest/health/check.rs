//! [`Checker`]: runs a check beside the command, in its namespaces, and ends what becomes of it.

use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStringExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, mpsc::Receiver},
    time::{Duration, Instant},
};

use loam_init::reap::End;
use loam_node_api::{guest::MAX_CHECK_OUTPUT, healthcheck::Healthcheck};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
    thread::{ThreadNameSpaceType, move_into_thread_name_spaces},
};

use crate::{
    command, process,
    surroundings::{Surroundings, become_user},
};

/// How long a killed check may take to go; one that waits for a dead disk never does.
const KILL_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Checker {
    /// The namespaces that checks enter.
    command: Arc<OwnedFd>,
    test: Vec<String>,
    timeout: Duration,
    surroundings: Surroundings,
    group: Option<Group>,
    ends: Receiver<(Pid, End)>,
    /// One that was killed and does not go.
    stuck: Option<OwnedFd>,
}

impl Checker {
    /// `command` is not reaped yet. `group` is the cgroup that checks shall have.
    pub fn new(
        check: &Healthcheck,
        surroundings: &Surroundings,
        command: Pid,
        group: &Path,
        ends: Receiver<(Pid, End)>,
    ) -> io::Result<Self> {
        Ok(Self {
            command: Arc::new(pidfd_open(command, PidfdFlags::empty())?),
            test: check.command.clone(),
            timeout: check.timeout,
            surroundings: surroundings.clone(),
            // Without one, what leaves its check's process group is left to the command.
            group: Group::make(group).ok(),
            ends,
            stuck: None,
        })
    }

    /// Whether the command has ended.
    pub fn is_over(&self) -> bool {
        ready(&self.command)
    }

    /// Runs the check to its end. The inner error says why it failed, for a person; the outer one that
    /// it could not be had.
    ///
    /// The thread's children are in the command's PID namespace from then on, so it can make no
    /// threads.
    pub fn run(&mut self) -> io::Result<Result<(), String>> {
        if self.stuck.take_if(|stuck| ready(stuck)).is_some() {
            // Its end was told meanwhile, or will be, and is of no use.
        } else if self.stuck.is_some() {
            return Ok(Err(
                "the check before does not end although it was killed".into()
            ));
        }
        move_into_thread_name_spaces(self.command.as_fd(), ThreadNameSpaceType::PROCESS_ID)?;
        let deadline = Instant::now() + self.timeout;
        let (mut output, write) = io::pipe()?;
        rustix::io::ioctl_fionbio(&output, true)?;
        let reaping = process::before_any_is_reaped();
        let child = match self.prepare(write)?.spawn() {
            Ok(child) => child,
            Err(error) if self.is_over() => return Err(error),
            Err(error) => return Ok(Err(command::explain(Path::new(&self.test[0]), &error))),
        };
        let Some(pid) = Pid::from_raw(child.id().cast_signed()) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        drop(reaping);

        let mut tail = Tail::default();
        let in_time = wait(&process, &mut output, &mut tail, deadline);
        if !in_time {
            // It leads a process group.
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
            let _ = pidfd_send_signal(&process, Signal::KILL);
        }
        // What a check leaves behind is nobody's.
        self.group.iter().for_each(Group::kill);
        if !wait(
            &process,
            &mut output,
            &mut tail,
            Instant::now() + KILL_LIMIT,
        ) {
            self.stuck = Some(process);
        } else if in_time {
            return Ok(match self.end_of(pid) {
                Some(End::Exited(0)) => Ok(()),
                Some(End::Exited(status)) => Err(tail.after(&format!("status {status}"))),
                Some(End::Signalled(signal)) => {
                    Err(tail.after(&format!("killed by signal {signal}")))
                }
                None => Err("nobody knows how it ended".into()),
            });
        }
        Ok(Err(tail.after(&format!(
            "no end after {}",
            humantime(self.timeout)
        ))))
    }

    /// The check as a command whose child becomes what it is to be.
    fn prepare(&self, output: io::PipeWriter) -> io::Result<Command> {
        let (program, arguments) = self.test.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let Surroundings {
            identity,
            environment,
            working_dir,
        } = &self.surroundings;
        // Searched for in this PATH, by the child, among what the command sees.
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let namespaces = self.command.clone();
        let group = self.group.as_ref().map(|group| group.processes.clone());
        let working_dir = CString::new(working_dir.clone().into_os_string().into_vec())?;
        let (identity, groups) = (identity.clone(), self.surroundings.groups());
        // SAFETY: between fork and exec only system calls are made: nothing is allocated (texts and
        // lists were made before), no lock is taken.
        unsafe {
            command.pre_exec(move || {
                if let Some(group) = &group {
                    // 0 is whoever writes. Without it the process group has to do.
                    let _ = rustix::io::write(&**group, b"0");
                }
                move_into_thread_name_spaces(namespaces.as_fd(), ThreadNameSpaceType::MOUNT)?;
                rustix::process::chdir(&*working_dir)?;
                rustix::process::setsid()?;
                become_user(&identity, &groups)
            });
        }
        Ok(command)
    }

    /// Of one that has ended; the one who reaps tells.
    fn end_of(&self, check: Pid) -> Option<End> {
        let deadline = Instant::now() + KILL_LIMIT;
        let left = || deadline.saturating_duration_since(Instant::now());
        while let Ok((pid, end)) = self.ends.recv_timeout(left()) {
            if pid == check {
                return Some(end);
            }
        }
        None
    }
}

/// Reads what comes until the process has ended; false: it goes on at `deadline`.
fn wait(
    process: &OwnedFd,
    output: &mut io::PipeReader,
    tail: &mut Tail,
    deadline: Instant,
) -> bool {
    let mut closed = false;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut watched = [
            PollFd::new(process, PollFlags::IN),
            PollFd::new(&*output, PollFlags::IN),
        ];
        let count = if closed { 1 } else { 2 };
        let polled = poll(&mut watched[..count], Some(&limit));
        let ended = !watched[0].revents().is_empty();
        let written = !closed && !watched[1].revents().is_empty();
        if written {
            closed = !tail.read(output);
        }
        match polled {
            _ if ended => {
                // What it has written and nobody read yet.
                for _ in 0..Tail::PIECES {
                    if closed || !tail.read(output) {
                        break;
                    }
                }
                return true;
            }
            Ok(0) => return false,
            // One that writes without end has its time, too.
            _ if left.is_zero() => return false,
            _ => {}
        }
    }
}

fn ready(process: &OwnedFd) -> bool {
    let mut watched = [PollFd::new(process, PollFlags::IN)];
    matches!(poll(&mut watched, Some(&Timespec::default())), Ok(1..))
}

fn humantime(time: Duration) -> String {
    match time.subsec_millis() {
        0 => format!("{} s", time.as_secs()),
        _ => format!("{} ms", time.as_millis()),
    }
}

/// The end of what a check writes.
#[derive(Debug, Default)]
struct Tail(Vec<u8>);

impl Tail {
    const PIECE: usize = 4096;
    /// As many as a pipe holds.
    const PIECES: usize = 16;

    /// False: nothing more is there, now or ever.
    fn read(&mut self, from: &mut impl Read) -> bool {
        let mut piece = [0; Self::PIECE];
        match from.read(&mut piece) {
            Ok(count @ 1..) => {
                self.0.extend(&piece[..count]);
                let over = self.0.len().saturating_sub(MAX_CHECK_OUTPUT);
                self.0.drain(..over);
                true
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            Ok(0) | Err(_) => false,
        }
    }

    /// `how` it ended and the last that it wrote, in one line that fits.
    fn after(&self, how: &str) -> String {
        let text = String::from_utf8_lossy(&self.0);
        let plain = text.replace(|char: char| char.is_control(), " ");
        let words: Vec<_> = plain.split_whitespace().collect();
        let words = words.join(" ");
        if words.is_empty() {
            return how.to_owned();
        }
        let room = MAX_CHECK_OUTPUT.saturating_sub(how.len() + 2);
        let from = words.ceil_char_boundary(words.len().saturating_sub(room));
        format!("{how}: {}", &words[from..])
    }
}

/// A cgroup (v2) for checks.
#[derive(Debug)]
struct Group {
    path: PathBuf,
    processes: Arc<File>,
}

impl Group {
    fn make(path: &Path) -> io::Result<Self> {
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let processes = OpenOptions::new()
            .write(true)
            .open(path.join("cgroup.procs"))?;
        Ok(Self {
            path: path.to_owned(),
            processes: Arc::new(processes),
        })
    }

    /// Kills every process in the group, also those that are being made.
    fn kill(&self) {
        let file = OpenOptions::new()
            .write(true)
            .open(self.path.join("cgroup.kill"));
        // Kernels before 5.14 have no such file; process groups have to do there.
        let _ = file.and_then(|mut file| file.write_all(b"1"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(pieces: &[&[u8]]) -> Tail {
        let mut tail = Tail::default();
        for piece in pieces {
            assert!(tail.read(&mut &**piece));
        }
        tail
    }

    #[test]
    fn the_end_of_what_it_writes_is_kept_as_one_plain_line() {
        assert_eq!(tail(&[]).after("status 1"), "status 1");
        assert_eq!(tail(&[b" \n\x1b\n"]).after("status 1"), "status 1");
        let written = tail(&[b"curl:\r\n (7)", b" \x1b[2Jno\xff\n"]);
        assert_eq!(
            written.after("status 7"),
            "status 7: curl: (7) [2Jno\u{fffd}"
        );
        for long in [
            "x".repeat(100_000),
            "€".repeat(50_000),
            "\u{1}é".repeat(9000),
        ] {
            let pieces: Vec<_> = long.as_bytes().chunks(Tail::PIECE).collect();
            let written = tail(&pieces);
            assert!(written.0.len() <= MAX_CHECK_OUTPUT);
            let said = written.after("status 1");
            assert!(
                said.starts_with("status 1: ") && said.len() <= MAX_CHECK_OUTPUT,
                "{said}"
            );
            assert!(!said.contains(char::is_control));
        }
        assert!(!Tail::default().read(&mut &b""[..]));
    }

    #[test]
    fn times_are_shown_in_their_unit() {
        assert_eq!(humantime(Duration::from_secs(30)), "30 s");
        assert_eq!(humantime(Duration::from_millis(1500)), "1500 ms");
    }
}
