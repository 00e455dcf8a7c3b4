//! Ctrl-C in any command, and SIGTERM from `cargo xtask down`: what was started ends first.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::Result;
use rustix::process::{Pid, Signal, getpid, kill_process};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

/// Set while the demo stands and its owner waits in [`wait`].
static STANDS: AtomicBool = AtomicBool::new(false);

/// Set by the signal that ends us.
static ENDING: AtomicBool = AtomicBool::new(false);

/// As a shell tells of a process that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// How long what was started may take to end. Test runners tell of what they ran until then.
const PATIENCE: Duration = Duration::from_secs(10);

const POLL: Duration = Duration::from_millis(20);

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

/// Never returns once a signal is ending us: what fails by that is no error to tell of.
pub fn stay_while_ending() {
    while ENDING.load(Ordering::SeqCst) {
        thread::park();
    }
}

fn end() -> ! {
    ENDING.store(true, Ordering::SeqCst);
    let work = WORK.try_lock();
    if work.is_err() {
        eprintln!("\ninterrupted; apt-get finishes first");
        drop(finish_first());
    }
    eprintln!("\ninterrupted; ending what was started");
    end_all(&descendants(getpid()), PATIENCE);
    std::process::exit(INTERRUPTED);
}

/// Waits for a signal.
pub fn wait() {
    STANDS.store(true, Ordering::SeqCst);
    while STANDS.load(Ordering::SeqCst) {
        thread::park();
    }
}

/// Asks them to end, and kills those which have not within `patience`. They may end meanwhile by themselves.
fn end_all(processes: &[Pid], patience: Duration) {
    let tell = |signal| {
        for process in processes {
            let _ = kill_process(*process, signal);
        }
    };
    tell(Signal::TERM);
    let asked = Instant::now();
    while processes.iter().any(|process| is_alive(*process)) {
        if asked.elapsed() > patience {
            return tell(Signal::KILL);
        }
        sleep(POLL);
    }
}

/// A zombie is not: nobody else waits for our children.
fn is_alive(process: Pid) -> bool {
    stat(process.as_raw_nonzero().get(), 3).is_some_and(|state| state != "Z" && state != "X")
}

/// All children of a process, and theirs: cargo leaves its compilers behind. By each process's own word, since the kernel's list of a
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

fn parent(pid: i32) -> Option<i32> {
    stat(pid, 4)?.parse().ok()
}

/// A field of `proc_pid_stat(5)`, by the number that it has there; from the third on.
fn stat(pid: i32, field: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name in parentheses, may hold spaces and parentheses itself.
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(field - 3).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader},
        os::unix::process::ExitStatusExt as _,
        process::{Child, Command, Stdio},
    };

    use super::*;

    /// A shell that runs this, and what it said first: the number of its child.
    fn shell(script: &str) -> (Child, Pid) {
        let mut shell = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut output = BufReader::new(shell.stdout.take().unwrap());
        output.read_line(&mut said).unwrap();
        (shell, Pid::from_raw(said.trim().parse().unwrap()).unwrap())
    }

    #[test]
    fn the_children_of_children_end_too() {
        let (mut shell, child) = shell("sleep 1000 & echo $!; wait");
        let own = Pid::from_child(&shell);
        let found = descendants(getpid());
        assert!(found.contains(&own) && found.contains(&child), "{found:?}");
        // Nobody has waited for the shell yet.
        end_all(&[own, child], Duration::from_secs(60));
        assert!(!is_alive(own) && !is_alive(child));
        assert_eq!(shell.wait().unwrap().signal(), Some(15));
    }

    #[test]
    fn one_that_does_not_end_is_killed() {
        let (mut shell, _) = shell("trap '' TERM; echo $$; while :; do sleep 0.1; done");
        end_all(&[Pid::from_child(&shell)], Duration::from_millis(300));
        assert_eq!(shell.wait().unwrap().signal(), Some(9));
    }
}
