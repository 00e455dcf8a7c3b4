//! Files that are either whole or absent after a power cut.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

/// Begins the name of every file that is not finished; whoever opens the folder removes them
/// ([`crate::sweep`]).
pub const UNFINISHED: &str = ".unfinished-";

/// Replaces `path` with `bytes`, readable by root alone. Durable when it returns.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    rename(&write_unfinished(path, bytes)?, path)
}

/// As [`write()`], but an error when anything is at `path` already.
pub fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = write_unfinished(path, bytes)?;
    rename_new(&unfinished, path).inspect_err(|_| {
        // The next opening of the folder would do it too.
        let _ = fs::remove_file(&unfinished);
    })
}

fn write_unfinished(path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let unfinished = unfinished(path)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(unfinished)
}

/// Renames a file whose contents are already synced. Durable when it returns.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_folder_of(to)
}

/// As [`rename`], but an error when anything is at `to` already, whatever was believed to be there.
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?;
    sync_folder_of(to)
}

/// Removes a file; absent is success. Durable when it returns.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_folder_of(path),
    }
}

/// Where the unfinished form of `path` is written: beside it, so that a rename finishes it.
pub fn unfinished(path: &Path) -> io::Result<PathBuf> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a path without a file name"))?;
    Ok(path.with_file_name(format!("{UNFINISHED}{name}")))
}

/// What is in a folder; absent is empty.
pub fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
    }
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_and_what_was_cut_can_be_swept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write(&path, b"first").unwrap();
        write(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");

        let error = write_new(&path, b"third").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let new = folder.path().join("b");
        write_new(&new, b"first").unwrap();
        assert_eq!(fs::read(&new).unwrap(), b"first");
        remove(&new).unwrap();

        fs::write(unfinished(&path).unwrap(), b"thi").unwrap();
        crate::sweep::unfinished(folder.path());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        assert_eq!(entries(folder.path()).unwrap(), std::slice::from_ref(&path));
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
        assert!(entries(&path).unwrap().is_empty());
    }
}
