//! One demo a clone: whoever brings it up holds a lock, which the kernel takes from a process that ends,
//! however it ends.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
    process::{Pid, getpid},
};

use crate::workspace;

/// That the demo of this clone is ours, until it is dropped.
#[derive(Debug)]
pub struct Claim {
    _lock: File,
}

/// Who holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// None in the moment between its lock and its name.
    pub pid: Option<Pid>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the demo runs already")?;
        if let Some(pid) = self.pid {
            write!(f, " (process {pid})")?;
        }
        f.write_str("; `cargo xtask down` ends it")
    }
}

impl Claim {
    /// Takes it, or says who has it.
    pub fn take() -> Result<Self> {
        match Self::take_of(&file())? {
            Ok(claim) => Ok(claim),
            Err(holder) => bail!("{holder}"),
        }
    }

    pub fn holder() -> Result<Option<Holder>> {
        holder_of(&file())
    }

    fn take_of(file: &Path) -> Result<Result<Self, Holder>> {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        let mut lock = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(file)
            .with_context(|| format!("opening {}", file.display()))?;
        if !try_lock(&lock).with_context(|| format!("locking {}", file.display()))? {
            return Ok(Err(named(&mut lock)));
        }
        lock.set_len(0)
            .and_then(|()| writeln!(lock, "{}", getpid()))
            .with_context(|| format!("writing {}", file.display()))?;
        Ok(Ok(Self { _lock: lock }))
    }
}

/// Outside the demo's folder, which is made anew each time.
fn file() -> PathBuf {
    workspace::target().join("up.pid")
}

fn holder_of(file: &Path) -> Result<Option<Holder>> {
    let mut lock = match File::open(file) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("opening {}", file.display())),
    };
    // Whatever is in a file that nobody holds is of a demo that has ended.
    let free = try_lock(&lock).with_context(|| format!("locking {}", file.display()))?;
    Ok((!free).then(|| named(&mut lock)))
}

fn named(lock: &mut File) -> Holder {
    let mut text = String::new();
    let _ = lock.take(32).read_to_string(&mut text);
    Holder {
        pid: text.trim().parse().ok().and_then(Pid::from_raw),
    }
}

fn try_lock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_and_it_says_who() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new/up.pid");
        assert_eq!(holder_of(&file).unwrap(), None);
        let claim = Claim::take_of(&file).unwrap().unwrap();
        let us = Holder {
            pid: Some(getpid()),
        };
        assert_eq!(holder_of(&file).unwrap(), Some(us));
        assert_eq!(Claim::take_of(&file).unwrap().unwrap_err(), us);
        assert!(us.to_string().contains(&getpid().to_string()), "{us}");
        drop(claim);
        assert_eq!(holder_of(&file).unwrap(), None);
        assert!(Claim::take_of(&file).unwrap().is_ok());
    }

    #[test]
    fn what_a_full_disk_or_a_power_cut_left_of_the_file_is_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("up.pid");
        for left in ["", "nonsense", "1 2", "999999999999999999999"] {
            fs::write(&file, left).unwrap();
            assert_eq!(holder_of(&file).unwrap(), None, "{left}");
            let claim = Claim::take_of(&file).unwrap().unwrap();
            assert_eq!(
                holder_of(&file).unwrap().unwrap().pid,
                Some(getpid()),
                "{left}"
            );
            drop(claim);
        }
    }
}
