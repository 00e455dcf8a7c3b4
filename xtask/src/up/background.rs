//! `cargo xtask up --keep`, which leaves the demo running, and `cargo xtask down`, which ends it.
//!
//! A process of its own brings the demo up and holds it; we show what it says until it stands.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use rustix::process::{Signal, kill_process, setsid};

use super::{bring_up, claim::Claim, folder};
use crate::interrupt;
use crate::workspace;

/// How long a demo may take to end by itself.
const GRACE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(100);

/// What the holder says last when the demo stands.
const STANDS: &str = "`cargo xtask down` ends it.";

fn log_file() -> PathBuf {
    workspace::target().join("up.log")
}

/// Starts the holder, and shows what it says until the demo stands or has failed.
pub fn up_in_background() -> Result<()> {
    if let Some(holder) = Claim::holder()? {
        bail!("{holder}");
    }
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

/// Ends a demo, wherever it was brought up.
pub fn down() -> Result<()> {
    let Some(holder) = Claim::holder()? else {
        println!("no demo runs");
        return Ok(());
    };
    let Some(pid) = holder.pid else {
        bail!("the demo is just being begun; try again");
    };
    kill_process(pid, Signal::TERM)?;
    let asked = Instant::now();
    while Claim::holder()?.is_some() {
        if asked.elapsed() > GRACE {
            // The node and the chain end with it.
            kill_process(pid, Signal::KILL)?;
        }
        sleep(POLL);
    }
    println!(
        "the demo has ended; what it wrote is in {}",
        folder().display()
    );
    Ok(())
}
