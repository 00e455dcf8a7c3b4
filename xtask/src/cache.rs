//! What is fetched once and kept between builds and clones: Debian packages and host tools.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::fs::{FlockOperation, flock};
use rustix::io::{FdFlags, fcntl_setfd};

use crate::image::stage::Key;
use crate::{lock, workspace};

/// `$LOAM_CACHE`, else `$XDG_CACHE_HOME/loam`, else `~/.cache/loam`: where `loam-chain` looks too.
pub fn root() -> Result<PathBuf> {
    let root = loam_chain::tool::cache()?;
    fs::create_dir_all(&root).with_context(|| format!("making {}", root.display()))?;
    ensure_ours(&root)?;
    Ok(root)
}

/// Programs are run from there: whoever else may write there may do all that we may. Its owner is no stranger, as with
/// `sudo` in the home of whoever asked for it.
fn ensure_ours(root: &Path) -> Result<()> {
    let data = fs::metadata(root).with_context(|| format!("looking at {}", root.display()))?;
    ensure!(
        data.mode() & 0o002 == 0,
        "everybody may write to {}, from where programs are run: `chmod o-w` it, or set LOAM_CACHE to a folder of your own",
        root.display()
    );
    Ok(())
}

/// Debian packages, each named after the SHA-256 of its bytes.
pub fn debs() -> Result<PathBuf> {
    Ok(root()?.join("debs"))
}

/// Host tools, one folder each, such as `anvil-1.7.1`.
pub fn tools() -> Result<PathBuf> {
    Ok(root()?.join("tools"))
}

/// A folder of things that take long to make, each a folder named after the hash of all that it is made from.
#[derive(Debug, Clone)]
pub struct Shelf {
    folder: PathBuf,
}

impl Shelf {
    pub fn new(folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(Self { folder })
    }

    /// What was made with this key, or is made now: `make` is given an empty folder on this shelf.
    pub fn get(&self, key: &Key, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        self.get_after(key, || (), make)
    }

    /// The same. `waits` is told if another process makes something here first.
    pub fn get_after(
        &self,
        key: &Key,
        waits: impl FnOnce(),
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let kept = self.folder.join(key.hex());
        if kept.exists() {
            return Ok(kept);
        }
        let lock = lock::exclusive(&self.folder.join("lock"), waits)?;
        // Made while we waited, or just before.
        if kept.exists() {
            return Ok(kept);
        }
        // What is started to make it has the lock, too: if we are killed, the next waits until that is at
        // work no more.
        let locking = || format!("locking {}", self.folder.display());
        fcntl_setfd(&lock, FdFlags::empty()).with_context(locking)?;
        let half = self.folder.join("unfinished");
        // What an interrupted run left is of no use.
        workspace::remove(&half)?;
        fs::create_dir(&half).with_context(|| format!("making {}", half.display()))?;
        make(&half)?;
        // A name that outlives a power cut stands for bytes that do as well.
        sync(&half)
            .and_then(|()| fs::rename(&half, &kept))
            .with_context(|| format!("making {}", kept.display()))?;
        // From all that have it: others were started meanwhile, and may go on for long.
        flock(&lock, FlockOperation::Unlock).with_context(locking)?;
        Ok(kept)
    }
}

fn sync(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync(&entry.path())?;
        } else if kind.is_file() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_cache_that_everybody_may_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        ensure_ours(folder.path()).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = ensure_ours(folder.path()).unwrap_err().to_string();
        assert!(error.contains("everybody may write"), "{error}");
    }

    #[test]
    fn what_is_made_once_stays_and_what_was_interrupted_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(folder.path().join("things")).unwrap();
        let key = Key::new("one");
        let write = |text: &'static str| move |half: &Path| Ok(fs::write(half.join("file"), text)?);

        let failed = shelf.get(&key, |half| {
            fs::write(half.join("rest"), "")?;
            anyhow::bail!("the power went")
        });
        assert_eq!(failed.unwrap_err().to_string(), "the power went");
        let made = shelf.get(&key, write("first")).unwrap();
        assert!(!made.join("rest").exists());
        let again = shelf.get(&key, write("second")).unwrap();
        assert_eq!(fs::read_to_string(again.join("file")).unwrap(), "first");
        let other = shelf.get(&Key::new("two"), write("other")).unwrap();
        assert_eq!(fs::read_to_string(other.join("file")).unwrap(), "other");
    }

    #[test]
    fn what_was_started_meanwhile_holds_nothing_up() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(folder.path().join("things")).unwrap();
        let mut child = None;
        let make = |_: &Path| {
            child = Some(Command::new("sleep").arg("1000").spawn()?);
            Ok(())
        };
        shelf.get(&Key::new("one"), make).unwrap();
        let waits = || panic!("nothing is being made");
        shelf
            .get_after(&Key::new("two"), waits, |_| Ok(()))
            .unwrap();
        let mut child = child.unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn what_a_run_that_is_gone_started_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(folder.path().join("things")).unwrap();
        let key = Key::new("one");
        let mut child = None;
        let failed = shelf.get(&key, |_| {
            child = Some(Command::new("sleep").arg("0.5").spawn()?);
            anyhow::bail!("killed")
        });
        assert!(failed.is_err());
        let mut has_waited = false;
        let made = shelf.get_after(&key, || has_waited = true, |_| Ok(()));
        assert!(made.is_ok() && has_waited);
        child.unwrap().wait().unwrap();
    }
}
