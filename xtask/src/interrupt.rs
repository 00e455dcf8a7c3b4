//! Ctrl-C, and SIGTERM from `cargo xtask down`.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::Result;
use rustix::process::{Pid, Signal, getpid, kill_process};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

/// Set while the demo stands and its owner waits in [`wait`].
static STANDS: AtomicBool = AtomicBool::new(false);

/// As a shell tells of a process that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Work that must not be broken off, such as that of `dpkg`; held while it goes on.
static WORK: Mutex<()> = Mutex::new(());

/// From now on a signal ends us with all our children; QEMU goes by itself when we do.
pub fn install() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let main = thread::current();
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for _ in signals.forever() {
                if STANDS.swap(false, Ordering::SeqCst) {
                    main.unpark();
                } else {
                    end();
                }
            }
        })?;
    Ok(())
}

/// Until what this gives is dropped, a signal that [`install`] caught waits.
pub fn finish_first() -> MutexGuard<'static, ()> {
    WORK.lock().unwrap_or_else(PoisonError::into_inner)
}

fn end() -> ! {
    let work = WORK.try_lock();
    if work.is_err() {
        eprintln!("\ninterrupted; apt-get finishes first");
        drop(finish_first());
    }
    eprintln!("\ninterrupted; ending what was started");
    end_children();
    std::process::exit(INTERRUPTED);
}

/// Waits for a signal.
pub fn wait() {
    STANDS.store(true, Ordering::SeqCst);
    while STANDS.load(Ordering::SeqCst) {
        thread::park();
    }
}

/// Builds, tools and the chain, and what these have started: cargo leaves its compilers behind.
fn end_children() {
    for pid in descendants(getpid()) {
        // It may have ended meanwhile.
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// All children of a process, and theirs. By each process's own word, since the kernel's list of a
/// thread's children leaves some out while others end.
fn descendants(process: Pid) -> Vec<Pid> {
    let mut children = BTreeMap::<i32, Vec<i32>>::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let Some(pid) = pid
            && let Some(parent) = parent(pid)
        {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut queue = vec![process.as_raw_nonzero().get()];
    while let Some(pid) = queue.pop() {
        let theirs = children.remove(&pid).unwrap_or_default();
        found.extend(theirs.iter().filter_map(|pid| Pid::from_raw(*pid)));
        queue.extend(theirs);
    }
    found
}

/// `proc_pid_stat(5)`, field 4.
fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name in parentheses, may hold spaces and parentheses itself.
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader},
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn finds_the_children_of_children() {
        let mut shell = Command::new("sh")
            .args(["-c", "tail -f /dev/null & echo $!; wait"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut output = BufReader::new(shell.stdout.take().unwrap());
        output.read_line(&mut said).unwrap();
        let found = descendants(getpid());
        for pid in [shell.id().to_string(), said.trim().to_owned()] {
            let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
            assert!(found.contains(&pid), "{found:?}");
            kill_process(pid, Signal::TERM).unwrap();
        }
        shell.wait().unwrap();
    }
}
