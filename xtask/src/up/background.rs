//! `cargo xtask up --keep`, which leaves the demo running, and `cargo xtask down`, which ends it.
//!
//! A process of its own brings the demo up and holds it; we show what it says until it stands.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group, setsid};

use super::{bring_up, folder, interrupt};
use crate::workspace;

/// How long a demo may take to end by itself.
const GRACE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(100);

/// What the holder says last when the demo stands.
const STANDS: &str = "`cargo xtask down` ends it.";

/// Outside the demo's folder, which is made anew each time.
fn pid_file() -> PathBuf {
    workspace::target().join("up.pid")
}

fn log_file() -> PathBuf {
    workspace::target().join("up.log")
}

/// The process that holds a demo, if there is one.
pub fn running() -> Result<Option<Pid>> {
    let text = match fs::read_to_string(pid_file()) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context(pid_file().display().to_string()),
    };
    let (pid, started) = text
        .trim()
        .split_once(' ')
        .context("the pid file is damaged")?;
    // A number that was given to another process since is not ours to signal.
    let lives = start_time(pid).is_some_and(|time| time == started);
    Ok(Pid::from_raw(pid.parse()?).filter(|_| lives))
}

/// Starts the holder, and shows what it says until the demo stands or has failed.
pub fn up_in_background() -> Result<()> {
    let log = File::create(log_file())?;
    let mut holder = Command::new(std::env::current_exe()?);
    holder
        .args(["up", "--hold"])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // SAFETY: between fork and exec the closure makes one system call only.
    unsafe {
        holder.pre_exec(|| {
            setsid()?;
            Ok(())
        });
    }
    let mut holder = holder.spawn()?;
    let pid = holder.id().to_string();
    let started = start_time(&pid).context("the demo ended at once")?;
    fs::write(pid_file(), format!("{pid} {started}\n"))?;
    let mut said = File::open(log_file())?;
    let mut end = String::new();
    loop {
        let ended = holder.try_wait()?;
        let mut news = Vec::new();
        said.read_to_end(&mut news)?;
        io::stderr().write_all(&news)?;
        end.push_str(&String::from_utf8_lossy(&news));
        if end.contains(STANDS) {
            return Ok(());
        }
        if let Some(status) = ended {
            bail!("the demo could not be brought up ({status})");
        }
        sleep(POLL);
    }
}

/// The holder's work.
pub fn hold() -> Result<()> {
    let demo = bring_up()?;
    println!("\nThe demo goes on in the background; {STANDS}");
    interrupt::wait();
    drop(demo);
    Ok(())
}

/// Ends a demo that was left running.
pub fn down() -> Result<()> {
    let Some(pid) = running()? else {
        println!("no demo runs");
        return Ok(());
    };
    kill_process(pid, Signal::TERM)?;
    let asked = Instant::now();
    while running()?.is_some() {
        if asked.elapsed() > GRACE {
            // It leads a session of its own, with all that it started.
            kill_process_group(pid, Signal::KILL)?;
        }
        sleep(POLL);
    }
    fs::remove_file(pid_file())?;
    println!(
        "the demo has ended; what it wrote is in {}",
        folder().display()
    );
    Ok(())
}

/// Ticks since boot when it was started (`proc_pid_stat(5)`, field 22); none when there is no such
/// process, or only what is left of it until its parent asks.
fn start_time(pid: &str) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name in parentheses, may hold spaces and parentheses itself.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    (fields.next()? != "Z").then_some(())?;
    fields.nth(18).map(str::to_owned)
}
