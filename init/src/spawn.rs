//! Starting a process: daemons with what they need of root's power, machines with none of it.
//!
//! The child is made by `clone3(2)` without sharing memory. Between that and `execve` it makes only
//! system calls on memory prepared before: no allocation, no lock.

mod child;

use std::{
    ffi::CString,
    fmt, io,
    os::fd::{AsFd, BorrowedFd},
    ptr,
};

use rustix::{
    fs::{Mode, OFlags},
    io::{Errno, fcntl_dupfd_cloexec},
    pipe::{PipeFlags, pipe_with},
    process::Pid,
};
use tokio::{io::AsyncReadExt, net::unix::pipe::Receiver};

/// What the child may hold at most, so that its list of descriptors has a fixed size: a machine
/// needs 8 and one for each disk and interface.
pub const MAX_DESCRIPTORS: usize = 64;

#[derive(Debug)]
pub struct Spawn<'a> {
    pub program: Program<'a>,
    /// With the program's name as the first.
    pub arguments: Vec<CString>,
    /// `NAME=value`.
    pub environment: Vec<CString>,
    /// Becomes descriptor 2; 0 and 1 are `/dev/null`.
    pub stderr: BorrowedFd<'a>,
    /// Become descriptors 3, 4, ...; the child holds no others.
    pub descriptors: Vec<BorrowedFd<'a>>,
    /// The cgroup's folder.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// -1000 (never) to 1000 (first) for the kernel's out-of-memory killer.
    pub oom_score: i16,
    pub limits: Limits,
    pub confinement: Confinement,
}

#[derive(Debug)]
pub enum Program<'a> {
    Path(CString),
    /// Needs no path in the child's root; must be a static binary if that root is empty.
    File(BorrowedFd<'a>),
}

/// Resource limits, soft and hard alike. No process of ours ever dumps core.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub open_files: u64,
    pub locked_memory: u64,
}

#[derive(Clone, Debug)]
pub enum Confinement {
    /// Root in our own namespaces, with these capabilities (a bit each) and no way to more.
    Daemon { capabilities: u64 },
    /// Its own user and group, its own mount, network, PID, IPC, UTS and cgroup namespaces, an
    /// empty read-only root, no capability.
    ///
    /// There is no user namespace: it would give a process that already has a user of its own and
    /// no capability nothing but a way to the kernel code that namespaced capabilities open.
    Machine { user: u32, empty: CString },
}

/// Where in the child a start failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    Signals,
    Cgroup,
    OomScore,
    Descriptors,
    Namespaces,
    Root,
    Limits,
    Privileges,
    Execute,
}

#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("a process with more than {MAX_DESCRIPTORS} descriptors")]
    Descriptors,
    #[error("making the process: {0}")]
    Clone(io::Error),
    #[error("preparing the process: {0}")]
    Prepare(#[from] io::Error),
    #[error("{step}: {error}")]
    Child { step: Step, error: io::Error },
}

impl Spawn<'_> {
    /// Makes the process and waits for nothing: [`Outcome`] says whether the program runs. Whoever
    /// calls must reap the child, also after a failure.
    pub fn start(&self) -> Result<(Pid, Outcome), SpawnError> {
        if self.descriptors.len() > MAX_DESCRIPTORS {
            return Err(SpawnError::Descriptors);
        }
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(io::Error::from)?;
        let (outcome, failure) = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from)?;
        let failure = fcntl_dupfd_cloexec(failure, child::PARKING).map_err(io::Error::from)?;
        let outcome = Outcome(Receiver::from_owned_fd(outcome)?);
        let prepared = child::Prepared::new(self, null.as_fd(), failure.as_fd());
        let pid = self.clone_into(&prepared)?;
        Ok((pid, outcome))
    }

    fn clone_into(&self, prepared: &child::Prepared) -> Result<Pid, SpawnError> {
        // SAFETY: all fields of clone_args are integers, for which zero means "nothing".
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.exit_signal = libc::SIGCHLD as u64;
        if matches!(self.confinement, Confinement::Machine { .. }) {
            args.flags |= libc::CLONE_NEWPID as u64;
        }
        // SAFETY: without CLONE_VM and without a stack this is fork(2): the child goes on with a
        // copy of this stack and memory, of which it only reads what `prepared` holds.
        let pid = unsafe {
            libc::syscall(
                libc::SYS_clone3,
                ptr::from_ref(&args),
                size_of::<libc::clone_args>(),
            )
        };
        match pid {
            0 => prepared.run(),
            pid if pid > 0 => {
                let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
                pid.ok_or_else(|| SpawnError::Clone(Errno::INVAL.into()))
            }
            _ => Err(SpawnError::Clone(io::Error::last_os_error())),
        }
    }
}

/// How a start goes on in the child.
#[derive(Debug)]
pub struct Outcome(Receiver);

impl Outcome {
    /// Returns when the program runs, or its start has failed.
    pub async fn wait(mut self) -> Result<(), SpawnError> {
        // The pipe closes by `execve`, or says which step failed and how.
        let mut said = Vec::new();
        self.0.read_to_end(&mut said).await?;
        match said.as_slice() {
            [] => Ok(()),
            [step, errno @ ..] => {
                let errno = errno.try_into().map(i32::from_ne_bytes).unwrap_or(0);
                let error = io::Error::from_raw_os_error(errno);
                Err(SpawnError::Child {
                    step: Step::from_number(*step),
                    error,
                })
            }
        }
    }
}

impl Step {
    const ALL: [Self; 9] = [
        Self::Signals,
        Self::Cgroup,
        Self::OomScore,
        Self::Descriptors,
        Self::Namespaces,
        Self::Root,
        Self::Limits,
        Self::Privileges,
        Self::Execute,
    ];

    fn from_number(number: u8) -> Self {
        let known = Self::ALL.into_iter().find(|step| *step as u8 == number);
        known.unwrap_or(Self::Execute)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Signals => "resetting signals",
            Self::Cgroup => "joining its cgroup",
            Self::OomScore => "setting the out-of-memory score",
            Self::Descriptors => "placing descriptors",
            Self::Namespaces => "entering namespaces of its own",
            Self::Root => "entering an empty root",
            Self::Limits => "setting resource limits",
            Self::Privileges => "dropping privileges",
            Self::Execute => "executing the program",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{WaitOptions, waitpid};
    use std::{
        fs::File,
        io::Read,
        os::fd::{AsFd, OwnedFd},
    };

    const LIMITS: Limits = Limits {
        open_files: 256,
        locked_memory: 1 << 16,
    };

    fn daemon<'a>(script: &str, stderr: BorrowedFd<'a>) -> Spawn<'a> {
        Spawn {
            program: Program::Path(c"/bin/sh".to_owned()),
            arguments: vec![
                c"sh".to_owned(),
                c"-c".to_owned(),
                CString::new(script).unwrap(),
            ],
            environment: vec![c"GREETING=hello".to_owned()],
            stderr,
            descriptors: Vec::new(),
            cgroup: None,
            oom_score: 100,
            limits: LIMITS,
            confinement: Confinement::Daemon { capabilities: 0 },
        }
    }

    fn wait(pid: Pid) -> Option<i32> {
        waitpid(Some(pid), WaitOptions::empty())
            .unwrap()
            .unwrap()
            .1
            .exit_status()
    }

    async fn said(script: &str, descriptors: &[&OwnedFd]) -> (String, Option<i32>) {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut spawn = daemon(script, write.as_fd());
        spawn.descriptors = descriptors.iter().map(|fd| fd.as_fd()).collect();
        let (pid, outcome) = spawn.start().unwrap();
        outcome.wait().await.unwrap();
        drop(write);
        let mut text = String::new();
        File::from(read).read_to_string(&mut text).unwrap();
        (text, wait(pid))
    }

    #[tokio::test]
    async fn runs_with_its_environment_and_status() {
        let (text, status) =
            said("echo $GREETING $(ulimit -c) $(ulimit -n) >&2; exit 7", &[]).await;
        assert_eq!(text, "hello 0 256\n");
        assert_eq!(status, Some(7));
    }

    #[tokio::test]
    async fn holds_only_the_named_descriptors() {
        let (first, second) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        // Swapped, so that source and target numbers may overlap.
        let script = "for n in 0 1 2 3 4 5 6 7 8 9; do [ -e /proc/$$/fd/$n ] && echo $n; done >&2";
        let (text, _) = said(script, &[&second, &first]).await;
        // The shell itself may hold one more, above 9.
        assert_eq!(text, "0\n1\n2\n3\n4\n");
    }

    #[tokio::test]
    async fn a_daemon_has_only_the_named_capabilities() {
        let (text, _) = said(
            "while read l; do case $l in Cap[PEB]*|NoNew*) echo $l;; esac; done </proc/$$/status >&2",
            &[],
        )
        .await;
        let values: Vec<_> = text.lines().filter_map(|l| l.split_once(' ')).collect();
        assert_eq!(
            values,
            [
                ("CapPrm:", "0000000000000000"),
                ("CapEff:", "0000000000000000"),
                ("CapBnd:", "0000000000000000"),
                ("NoNewPrivs:", "1"),
            ]
        );
    }

    #[tokio::test]
    async fn a_failed_start_says_which_step() {
        let (_read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut spawn = daemon("", write.as_fd());
        spawn.program = Program::Path(c"/nowhere/at-all".to_owned());
        let (pid, outcome) = spawn.start().unwrap();
        match outcome.wait().await {
            Err(SpawnError::Child {
                step: Step::Execute,
                error,
            }) => {
                assert_eq!(error.kind(), io::ErrorKind::NotFound);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(wait(pid), Some(127));
    }
}
