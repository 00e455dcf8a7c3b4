//! Starting the machine's command, and ending it and all that it left behind.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::Sender,
    thread,
};

use anyhow::{Context, Result, anyhow};
use loam_init::reap;
use loam_node_api::{guest::GuestConfig, signal::StopSignal};
use rustix::{
    fs::{Gid, Uid},
    io::Errno,
    process::{Pid, Resource, Rlimit, WaitId, WaitIdOptions},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use crate::{Happening, command, console, files, folder, identity::Identity, namespace};

/// As container engines have them. Programs that close every possible descriptor look at the first
/// number of the open files only. Processes are limited by the machine's memory, which is its own.
const LIMITS: [(Resource, Option<u64>, Option<u64>); 2] = [
    (Resource::Nofile, Some(1024), Some(524_288)),
    (Resource::Nproc, None, None),
];

/// The command, once it was started.
#[derive(Clone, Copy, Debug)]
pub struct Running {
    pub pid: Pid,
    pub stop_signal: StopSignal,
}

/// Starts the command with the console as its terminal.
pub fn start(config: &GuestConfig, console: &Path) -> Result<Running> {
    let passwd = files::read_text(Path::new("/etc/passwd")).context("the image's /etc/passwd")?;
    let group = files::read_text(Path::new("/etc/group")).context("the image's /etc/group")?;
    let identity = Identity::resolve(&config.user, &passwd, &group)?;
    let (environment, odd) = command::environment(&config.env, &config.hostname, &identity.home);
    for entry in odd {
        say!("`{entry}` is no environment variable (NAME=value) and is passed over");
    }
    let working_dir = Path::new("/").join(&config.working_dir);
    folder::make(Path::new("/"), &working_dir, 0o755)
        .with_context(|| format!("making the working directory {}", working_dir.display()))?;

    let (program, arguments) = config
        .command
        .split_first()
        .context(command::CommandError::Empty)?;
    let path = environment
        .get("PATH")
        .map_or(command::DEFAULT_PATH, String::as_str);
    let file = command::find_program(program, path, &working_dir, command::is_executable)?;
    let terminal = hand_over(console, &identity)?;

    let mut command = Command::new(&file);
    command
        .arg0(program)
        .args(arguments)
        .env_clear()
        .envs(&environment)
        .current_dir(&working_dir)
        .stdin(stdio(&terminal)?)
        .stdout(stdio(&terminal)?)
        .stderr(stdio(&terminal)?);
    let groups: Vec<Gid> = identity.groups.iter().copied().map(Gid::from_raw).collect();
    // SAFETY: between fork and exec only system calls are made: nothing is allocated (the list was
    // made before), no lock is taken.
    unsafe {
        command.pre_exec(move || {
            namespace::mount_own_proc()?;
            become_user(&identity, &groups)
        });
    }
    let child = namespace::spawn_first(command)?
        .map_err(|error| anyhow!(command::explain(&file, &error)))?;
    let pid = Pid::from_raw(child.id().cast_signed());
    Ok(Running {
        pid: pid.context("the kernel gave the command no number")?,
        stop_signal: config
            .stop_signal
            .unwrap_or_else(|| command::stop_signal(&file)),
    })
}

/// Runs in the child.
fn become_user(identity: &Identity, groups: &[Gid]) -> io::Result<()> {
    // A session of its own, so that the console can become its terminal; it does without one.
    rustix::process::setsid()?;
    let _ = rustix::process::ioctl_tiocsctty(rustix::stdio::stdin());
    for (resource, current, maximum) in LIMITS {
        set_limit(resource, current, maximum)?;
    }
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    set_thread_groups(groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

/// None: without limit. Who may not raise the maximum, as whoever tests this, goes as far as it goes.
fn set_limit(resource: Resource, current: Option<u64>, maximum: Option<u64>) -> io::Result<()> {
    let limit = Rlimit { current, maximum };
    match rustix::process::setrlimit(resource, limit) {
        Err(Errno::PERM) => {
            let maximum = rustix::process::getrlimit(resource).maximum;
            let least = |a: u64| maximum.map_or(a, |b| a.min(b));
            let current = current.map(least).or(maximum);
            rustix::process::setrlimit(resource, Rlimit { current, maximum })?;
            Ok(())
        }
        done => Ok(done?),
    }
}

/// The console belongs to the command's user, who may open it again as /dev/stdout.
fn hand_over(path: &Path, identity: &Identity) -> Result<File> {
    let terminal = console::open(path).with_context(|| format!("opening {}", path.display()))?;
    rustix::fs::fchown(&terminal, Some(Uid::from_raw(identity.uid)), None)
        .with_context(|| format!("handing over {}", path.display()))?;
    Ok(terminal)
}

fn stdio(terminal: &File) -> Result<Stdio> {
    Ok(terminal
        .try_clone()
        .context("copying the console's descriptor")?
        .into())
}

/// Reaps every child, ours or inherited, in a thread of its own; tells of the command's end, and
/// of the end of the last one.
pub fn reap_all(command: Pid, happenings: Sender<Happening>) -> io::Result<()> {
    thread::Builder::new().name("reap".into()).spawn(move || {
        // Waits without reaping, for `reap::next` to find.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        // Any other error: no child is left.
        while let Ok(_) | Err(Errno::INTR) = rustix::process::waitid(WaitId::All, options) {
            while let Some((pid, end)) = reap::next() {
                if pid == command {
                    // The receiver is the main thread, which outlives this one.
                    let _ = happenings.send(Happening::CommandEnded(end));
                }
            }
        }
        let _ = happenings.send(Happening::AllEnded);
    })?;
    Ok(())
}

impl Running {
    /// Asks it to end. False: it would not hear of it, for the kernel throws away what process 1 of
    /// a PID namespace neither handles nor blocks (`pid_namespaces(7)`). Elsewhere such a program
    /// ends at once, so there is nothing to wait for here either.
    pub fn ask_to_end(&self) -> bool {
        let status = format!("/proc/{}/status", self.pid.as_raw_pid());
        // What cannot be read is of a process that is gone, and needs no signal.
        let heeds =
            fs::read_to_string(status).map_or(true, |status| heeds(&status, self.stop_signal));
        if heeds {
            // SAFETY: a plain system call; one that is gone already needs no signal.
            unsafe { libc::kill(self.pid.as_raw_pid(), self.stop_signal.number()) };
        }
        heeds
    }
}

/// Whether the process has a handler for the signal, waits for it blocked (sigwait, signalfd) or
/// ignores it knowingly, by its `/proc/PID/status` (`proc_pid_status(5)`: masks in hexadecimal, the
/// lowest bit is signal 1).
fn heeds(status: &str, signal: StopSignal) -> bool {
    status
        .lines()
        .filter_map(|line| line.split_once(":\t"))
        .filter(|(name, _)| ["SigBlk", "SigIgn", "SigCgt"].contains(name))
        .filter_map(|(_, mask)| u64::from_str_radix(mask, 16).ok())
        .any(|mask| mask >> (signal.number() - 1) & 1 == 1)
}

/// Kills every process but this one.
pub fn kill_all() {
    // SAFETY: a plain system call; -1 names every process but the caller's own and the kernel's.
    unsafe { libc::kill(-1, libc::SIGKILL) };
}

#[cfg(test)]
mod tests;
