//! Clearing away what a killed predecessor left unfinished: nobody needs it, so nothing that goes wrong
//! here takes anything else away. What cannot be removed is logged, and is tried again at the next start.

use std::{
    ffi::{CStr, CString},
    io,
    path::Path,
};

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{AtFlags, CWD, Dir, Mode, OFlags, RenameFlags, openat, renameat_with, unlinkat},
    io::Errno,
    path::Arg,
};

use crate::durable::UNFINISHED;

/// At most so many files and folders are removed at a time, for the pool is waited for meanwhile: in older
/// pools, what made images may have left any number.
const MOST: usize = 10_000;

/// Removes what is unfinished in `folder`.
pub fn unfinished(folder: &Path) {
    all_of(folder, UNFINISHED);
}

/// Removes what is in `folder` and whose name begins with `prefix`.
pub fn all_of(folder: &Path, prefix: &str) {
    sweep(folder, |name| {
        name.to_bytes().starts_with(prefix.as_bytes())
    });
}

/// Removes all that is in `folder`.
pub fn everything(folder: &Path) {
    sweep(folder, |_| true);
}

fn sweep(folder: &Path, is_meant: impl Fn(&CStr) -> bool) {
    if let Err(error) = try_to_sweep(folder, is_meant) {
        tracing::error!(folder = %folder.display(), %error, "cannot clear away all that was left unfinished");
    }
}

/// The first error, when all the rest has been tried.
fn try_to_sweep(folder: &Path, is_meant: impl Fn(&CStr) -> bool) -> io::Result<()> {
    let folder = match open(CWD, folder) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let mut left = names(&folder, is_meant)?;
    let mut budget = Budget(MOST);
    let mut moved = 0;
    let mut first = Ok(());
    while let Some(name) = left.pop() {
        let done = remove(&folder, &name, &mut budget, |from, child| {
            loop {
                moved += 1;
                let to = CString::new(format!("{UNFINISHED}{moved}"))?;
                match renameat_with(from, child, &folder, &to, RenameFlags::NOREPLACE) {
                    Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                    Ok(()) => {
                        left.push(to);
                        return Ok(());
                    }
                }
            }
        });
        first = first.and(done);
    }
    first
}

/// How many more may be removed.
struct Budget(usize);

impl Budget {
    fn spend(&mut self) -> io::Result<()> {
        let left = self.0.checked_sub(1);
        self.0 = left.ok_or_else(|| io::Error::other(format!("more than {MOST} files")))?;
        Ok(())
    }
}

/// Removes one entry. Folders in it are moved up, for `move_up` to have them removed after: however deep
/// they are, one is open at a time, and no path is walked that somebody else could change meanwhile.
fn remove(
    folder: impl AsFd,
    name: &CStr,
    budget: &mut Budget,
    mut move_up: impl FnMut(&OwnedFd, &CStr) -> io::Result<()>,
) -> io::Result<()> {
    budget.spend()?;
    match unlinkat(&folder, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        other => return Ok(other?),
    }
    let inner = open(&folder, name)?;
    let mut first = Ok(());
    for child in names(&inner, |_| true)? {
        budget.spend()?;
        let done = match unlinkat(&inner, &child, AtFlags::empty()) {
            Err(Errno::ISDIR) => move_up(&inner, &child),
            other => other.map_err(io::Error::from),
        };
        first = first.and(done);
    }
    first?;
    Ok(unlinkat(&folder, name, AtFlags::REMOVEDIR)?)
}

/// A folder itself, and not what a link leads to.
fn open(at: impl AsFd, path: impl Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, path, flags, Mode::empty())
}

/// Of what is in a folder, as many as can be removed at a time, and one more.
fn names(folder: impl AsFd, is_meant: impl Fn(&CStr) -> bool) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." && is_meant(name) {
            names.push(name.to_owned());
        }
        if names.len() > MOST {
            break;
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use rustix::fs::mkdirat;

    use super::*;

    #[test]
    fn folders_go_and_what_links_lead_to_stays() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), b"x").unwrap();
        let scratch = root.path().join("scratch");
        fs::create_dir_all(scratch.join("a/b/c")).unwrap();
        fs::create_dir_all(scratch.join("a/d")).unwrap();
        fs::write(scratch.join("a/b/file"), b"x").unwrap();
        fs::write(scratch.join("file"), b"x").unwrap();
        symlink(outside.path(), scratch.join("link")).unwrap();
        symlink(outside.path(), scratch.join("a/b/link")).unwrap();
        everything(&scratch);
        assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
        assert!(outside.path().join("kept").exists());
        // Not even the folder itself may be a link, nor need it be there.
        let link = root.path().join("link");
        symlink(outside.path(), &link).unwrap();
        everything(&link);
        everything(&root.path().join("absent"));
        assert!(outside.path().join("kept").exists());
    }

    #[test]
    fn only_what_is_unfinished_goes() {
        let root = tempfile::tempdir().unwrap();
        let unfinished = root.path().join(format!("{UNFINISHED}1"));
        fs::create_dir_all(unfinished.join("b/c")).unwrap();
        // As one was called that was moved up, before the power went.
        fs::write(root.path().join(format!("{UNFINISHED}2")), b"x").unwrap();
        fs::write(root.path().join("a"), b"x").unwrap();
        fs::create_dir(root.path().join("b")).unwrap();
        super::unfinished(root.path());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2);
        assert!(!unfinished.exists());
        all_of(root.path(), "b");
        assert!(root.path().join("a").exists() && !root.path().join("b").exists());
    }

    #[test]
    fn folders_are_removed_however_deep_they_are() {
        let root = tempfile::tempdir().unwrap();
        let mut deepest = open(CWD, root.path()).unwrap();
        for _ in 0..1_500 {
            mkdirat(&deepest, c"deeper", Mode::RWXU).unwrap();
            deepest = open(&deepest, c"deeper").unwrap();
        }
        everything(root.path());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_removed_stays_and_the_rest_goes() {
        let root = tempfile::tempdir().unwrap();
        let kept = root.path().join("kept");
        fs::create_dir_all(kept.join("folder")).unwrap();
        fs::write(kept.join("file"), b"x").unwrap();
        let folder = open(CWD, root.path()).unwrap();
        let full = || Err(Errno::NOSPC.into());
        let done = remove(&folder, c"kept", &mut Budget(9), |_, _| full());
        assert_eq!(done.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(kept.join("folder").exists() && !kept.join("file").exists());
    }

    #[test]
    fn a_pool_is_not_held_up_by_any_number_of_files() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("folder");
        fs::create_dir(&folder).unwrap();
        for name in ["a", "b", "c"] {
            fs::write(folder.join(name), b"x").unwrap();
        }
        let at = open(CWD, root.path()).unwrap();
        let mut budget = Budget(3);
        let done = remove(&at, c"folder", &mut budget, |_, _| Ok(()));
        assert!(done.unwrap_err().to_string().contains("more than"));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }
}
