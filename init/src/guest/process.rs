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
use loam_node_api::guest::GuestConfig;
use rustix::{
    fs::{Gid, Uid},
    io::Errno,
    process::{Pid, Resource, Rlimit, WaitId, WaitIdOptions, kill_process},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use crate::{Happening, command, console, files, identity::Identity, namespace};

pub use rustix::process::Signal;

/// Open files: what container engines give. Programs that close every possible descriptor look at
/// the first number only.
const OPEN_FILES: Rlimit = Rlimit {
    current: Some(1024),
    maximum: Some(524_288),
};

/// Starts the command with the console as its terminal.
pub fn start(config: &GuestConfig, console: &Path) -> Result<Pid> {
    let passwd = files::read_text(Path::new("/etc/passwd")).context("the image's /etc/passwd")?;
    let group = files::read_text(Path::new("/etc/group")).context("the image's /etc/group")?;
    let identity = Identity::resolve(&config.user, &passwd, &group)?;
    let environment = command::environment(&config.env, &config.hostname, &identity.home)?;
    let working_dir = Path::new("/").join(&config.working_dir);
    fs::create_dir_all(&working_dir)
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
    Pid::from_raw(child.id().cast_signed()).context("the kernel gave the command no number")
}

/// Runs in the child.
fn become_user(identity: &Identity, groups: &[Gid]) -> io::Result<()> {
    // A session of its own, so that the console can become its terminal; it does without one.
    rustix::process::setsid()?;
    let _ = rustix::process::ioctl_tiocsctty(rustix::stdio::stdin());
    // Only root with all its rights may raise the second one, and a machine's init has them.
    let _ = rustix::process::setrlimit(Resource::Nofile, OPEN_FILES);
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    set_thread_groups(groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
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

/// Asks the command to end. False: it would not hear of it, for the kernel throws away what process
/// 1 of a PID namespace neither handles nor blocks (`pid_namespaces(7)`). Elsewhere such a program
/// ends at once, so there is nothing to wait for here either.
pub fn ask_to_end(command: Pid, signal: Signal) -> bool {
    let status = format!("/proc/{}/status", command.as_raw_pid());
    // What cannot be read is of a process that is gone, and needs no signal.
    let heeds = fs::read_to_string(status).map_or(true, |status| heeds(&status, signal));
    if heeds {
        let _ = kill_process(command, signal);
    }
    heeds
}

/// Whether the process has a handler for the signal, waits for it blocked (sigwait, signalfd) or
/// ignores it knowingly, by its `/proc/PID/status` (`proc_pid_status(5)`: masks in hexadecimal, the
/// lowest bit is signal 1).
fn heeds(status: &str, signal: Signal) -> bool {
    status
        .lines()
        .filter_map(|line| line.split_once(":\t"))
        .filter(|(name, _)| ["SigBlk", "SigIgn", "SigCgt"].contains(name))
        .filter_map(|(_, mask)| u64::from_str_radix(mask, 16).ok())
        .any(|mask| mask >> (signal.as_raw() - 1) & 1 == 1)
}

/// Kills every process but this one.
pub fn kill_all() {
    // SAFETY: a plain system call; -1 names every process but the caller's own and the kernel's.
    unsafe { libc::kill(-1, libc::SIGKILL) };
}

#[cfg(test)]
mod tests;
