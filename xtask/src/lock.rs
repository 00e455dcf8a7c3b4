//! Files by which processes take turns: the kernel takes a lock from a process that ends, however it ends.

use std::{fs::File, path::Path};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

/// Held until it is dropped. `waits` is told if another process holds it first.
pub fn exclusive(file: &Path, waits: impl FnOnce()) -> Result<File> {
    let locking = || format!("locking {}", file.display());
    let lock = File::create(file).with_context(locking)?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        waits();
        flock(&lock, FlockOperation::LockExclusive).with_context(locking)?;
    }
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            atomic::{AtomicBool, Ordering::SeqCst},
            mpsc,
        },
        thread,
    };

    use super::*;

    #[test]
    fn the_second_waits_for_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lock");
        let first = exclusive(&file, || panic!("nobody has it")).unwrap();
        let has_ended = AtomicBool::new(false);
        let (waits, waiting) = mpsc::channel();
        thread::scope(|scope| {
            let second = scope.spawn(|| {
                let lock = exclusive(&file, || waits.send(()).unwrap());
                assert!(has_ended.load(SeqCst));
                lock
            });
            waiting.recv().unwrap();
            has_ended.store(true, SeqCst);
            drop(first);
            second.join().unwrap().unwrap();
        });
        exclusive(&file, || panic!("the second is gone")).unwrap();
    }
}
