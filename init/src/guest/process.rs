//! Starting the machine's command, and ending it and all that it left behind.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError, mpsc::Sender},
    thread,
};

use anyhow::{Context, Result, anyhow};
use loam_init::reap::{self, End};
use loam_node_api::{guest::GuestConfig, signal::StopSignal};
use rustix::{
    fs::Uid,
    io::Errno,
    process::{Pid, WaitId, WaitIdOptions},
};

use crate::{
    Happening, command, console,
    identity::Identity,
    namespace,
    surroundings::{Surroundings, become_user},
};

/// The command, once it was started.
#[derive(Clone, Copy, Debug)]
pub struct Running {
    pub pid: Pid,
    pub stop_signal: StopSignal,
}

/// Starts the command with the console as its terminal.
pub fn start(config: &GuestConfig, surroundings: &Surroundings, console: &Path) -> Result<Running> {
    let Surroundings {
        identity,
        environment,
        working_dir,
    } = surroundings;
    let (program, arguments) = config
        .command
        .split_first()
        .context(command::CommandError::Empty)?;
    let path = environment
        .get("PATH")
        .map_or(command::DEFAULT_PATH, String::as_str);
    let file = command::find_program(program, path, working_dir, command::is_executable)?;
    let terminal = hand_over(console, identity)?;

    let mut command = Command::new(&file);
    command
        .arg0(program)
        .args(arguments)
        .env_clear()
        .envs(environment)
        .current_dir(working_dir)
        .stdin(stdio(&terminal)?)
        .stdout(stdio(&terminal)?)
        .stderr(stdio(&terminal)?);
    let (identity, groups) = (identity.clone(), surroundings.groups());
    // SAFETY: between fork and exec only system calls are made: nothing is allocated (the list was
    // made before), no lock is taken.
    unsafe {
        command.pre_exec(move || {
            namespace::mount_own_proc()?;
            lead_session()?;
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
fn lead_session() -> io::Result<()> {
    // A session of its own, so that the console can become its terminal; it does without one.
    rustix::process::setsid()?;
    let _ = rustix::process::ioctl_tiocsctty(rustix::stdio::stdin());
    Ok(())
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

/// Held by who reaps, and by who starts a child and has something to do before that is reaped: else its
/// number may be another's by then.
static REAPING: Mutex<()> = Mutex::new(());

pub fn before_any_is_reaped() -> MutexGuard<'static, ()> {
    // It guards nothing that a panic could leave half done.
    REAPING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reaps every child, ours or inherited, in a thread of its own; tells of the command's end, of the
/// end of the last one, and `others` of every other's.
pub fn reap_all(
    command: Pid,
    happenings: Sender<Happening>,
    others: Sender<(Pid, End)>,
) -> io::Result<()> {
    thread::Builder::new().name("reap".into()).spawn(move || {
        // Waits without reaping, for `reap::next` to find.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        // Any other error: no child is left.
        while let Ok(_) | Err(Errno::INTR) = rustix::process::waitid(WaitId::All, options) {
            let reaping = before_any_is_reaped();
            while let Some((pid, end)) = reap::next() {
                if pid == command {
                    // The receiver is the main thread, which outlives this one.
                    let _ = happenings.send(Happening::CommandEnded(end));
                } else {
                    // Nobody may wait for it any more.
                    let _ = others.send((pid, end));
                }
            }
            drop(reaping);
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
pub mod tests;
