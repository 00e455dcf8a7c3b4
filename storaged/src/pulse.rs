//! Whether a disk answers: a read of one sector, past every cache.
//!
//! A file system may answer from memory for long while its disk hangs; and while a disk hangs, a
//! thread that reads it cannot be stopped. So each read has a thread of its own, and there is never
//! more than one.

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// What every disk's sector size divides, and a page's size.
const BLOCK: usize = 4096;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beat {
    /// It answered, or was never asked.
    Well,
    Error(String),
}

#[derive(Debug)]
pub struct Pulse {
    device: PathBuf,
    at: u64,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    asked: Option<Instant>,
    last: Beat,
}

impl Pulse {
    /// Of the disk at `device`, by the block at `at`, a multiple of its sector size.
    pub fn new(device: PathBuf, at: u64) -> Self {
        Self {
            device,
            at,
            state: Arc::new(Mutex::new(State {
                asked: None,
                last: Beat::Well,
            })),
        }
    }

    /// Asks, unless the last answer is still awaited.
    pub fn feel(&self) {
        let mut state = lock(&self.state);
        if state.asked.is_some() {
            return;
        }
        let (device, at, answered) = (self.device.clone(), self.at, self.state.clone());
        let asking = thread::Builder::new()
            .name("pulse".to_owned())
            .spawn(move || {
                let last = match read(&device, at) {
                    Ok(()) => Beat::Well,
                    Err(error) => Beat::Error(error.to_string()),
                };
                *lock(&answered) = State { asked: None, last };
            });
        match asking {
            Ok(_) => state.asked = Some(Instant::now()),
            Err(error) => tracing::error!(%error, "cannot start a thread to ask a disk"),
        }
    }

    /// How long the answer has been awaited; nothing when it came.
    pub fn waiting_for(&self) -> Duration {
        lock(&self.state)
            .asked
            .map_or(Duration::ZERO, |asked| asked.elapsed())
    }

    pub fn last(&self) -> Beat {
        lock(&self.state).last.clone()
    }
}

fn read(device: &Path, at: u64) -> io::Result<()> {
    let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    let disk = OpenOptions::new()
        .read(true)
        .custom_flags(direct)
        .open(device)?;
    // Direct reads go to memory that is aligned as the disk's sectors are.
    let mut memory = vec![0; 2 * BLOCK];
    let from = memory.as_ptr().align_offset(BLOCK);
    disk.read_exact_at(&mut memory[from..from + BLOCK], at)
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn felt(pulse: &Pulse) -> Beat {
        pulse.feel();
        while pulse.waiting_for() > Duration::ZERO {
            thread::yield_now();
        }
        pulse.last()
    }

    #[test]
    fn a_disk_that_answers_and_one_that_does_not() {
        // Not in memory: tmpfs knows no direct reads.
        let disk = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        disk.as_file().set_len(1 << 20).unwrap();
        let pulse = Pulse::new(disk.path().to_owned(), 512 << 10);
        assert_eq!(felt(&pulse), Beat::Well);
        disk.as_file().set_len(512 << 10).unwrap();
        assert!(matches!(felt(&pulse), Beat::Error(_)));
        disk.as_file().set_len(1 << 20).unwrap();
        assert_eq!(felt(&pulse), Beat::Well);

        // A pipe without a writer never answers: nobody waits, and nobody asks twice.
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let pulse = Pulse::new(pipe.clone(), 0);
        pulse.feel();
        pulse.feel();
        assert!(pulse.waiting_for() > Duration::ZERO);
        // A writer comes: a pipe is no disk, which is an answer.
        drop(OpenOptions::new().write(true).open(&pipe).unwrap());
        while pulse.waiting_for() > Duration::ZERO {
            thread::yield_now();
        }
        assert!(matches!(pulse.last(), Beat::Error(_)));
    }
}
