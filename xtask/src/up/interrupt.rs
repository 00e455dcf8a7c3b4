//! Ctrl-C, and SIGTERM from `cargo xtask down`.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::Result;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

/// Set while the demo stands and its owner waits in [`wait`].
static STANDS: AtomicBool = AtomicBool::new(false);

/// As a shell tells of a process that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

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
                    eprintln!("\ninterrupted; ending what was started");
                    end_children();
                    std::process::exit(INTERRUPTED);
                }
            }
        })?;
    Ok(())
}

/// Waits for a signal.
pub fn wait() {
    STANDS.store(true, Ordering::SeqCst);
    while STANDS.load(Ordering::SeqCst) {
        thread::park();
    }
}

/// Builds, tools and the chain, whichever of our threads started them.
fn end_children() {
    let threads = fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    for thread in threads {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace() {
            if let Some(pid) = child.parse().ok().and_then(Pid::from_raw) {
                // It may have ended meanwhile.
                let _ = kill_process(pid, Signal::TERM);
            }
        }
    }
}
