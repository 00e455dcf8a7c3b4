//! Folders in the machine's root, whatever links lead to them.
//!
//! An image may have links anywhere, also to what is not there. Container engines follow them as a
//! process in the machine would, and make what is missing at their end.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Component, Path, PathBuf},
};

/// Links in one path, as the kernel has it (path_resolution(7)).
const MOST_LINKS: u32 = 40;

/// The folder that `path` leads to for a process whose root is `root`, without links. What is
/// missing is made with `mode`. Nobody else may be changing the root.
pub fn make(root: &Path, path: &Path, mode: u32) -> io::Result<PathBuf> {
    let mut links = 0;
    let mut found = root.to_path_buf();
    let mut rest = parts(path);
    while let Some(part) = rest.pop() {
        if part == ".." {
            // The root's parent is the root.
            if found != root {
                found.pop();
            }
            continue;
        }
        let next = found.join(part);
        match fs::symlink_metadata(&next) {
            Ok(data) if data.is_symlink() => {
                links += 1;
                if links > MOST_LINKS {
                    return Err(io::Error::from_raw_os_error(libc::ELOOP));
                }
                let target = fs::read_link(&next)?;
                if target.is_absolute() {
                    found = root.to_path_buf();
                }
                rest.extend(parts(&target));
            }
            Ok(data) if data.is_dir() => found = next,
            Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().mode(mode).create(&next)?;
                found = next;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The first one last, to be popped.
fn parts(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn made(root: &Path, path: &str) -> io::Result<PathBuf> {
        let folder = make(root, Path::new(path), 0o700)?;
        assert!(fs::symlink_metadata(&folder).unwrap().is_dir());
        Ok(folder.strip_prefix(root).unwrap().to_path_buf())
    }

    #[test]
    fn links_lead_where_they_lead_inside_and_what_is_missing_is_made() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for (link, target) in [
            ("tempest", "/var/lib/tempest"),
            ("relative", "var/roothome"),
            ("up", "../../../../above"),
            ("twice", "/tempest/in"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        for (path, found) in [
            ("", ""),
            ("/", ""),
            ("/a/b/", "a/b"),
            ("a//./b/../c", "a/c"),
            ("/tempest", "var/lib/tempest"),
            ("/twice/er", "var/lib/tempest/in/er"),
            ("relative", "var/roothome"),
            ("up/x", "above/x"),
            ("../../..", ""),
        ] {
            assert_eq!(made(root, path).unwrap(), Path::new(found), "{path}");
        }
        let mode = |path: &str| fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("var"), mode("above/x")), (0o700, 0o700));
        fs::set_permissions(root.join("a"), fs::Permissions::from_mode(0o755)).unwrap();
        made(root, "a/b").unwrap();
        assert_eq!(mode("a"), 0o755);
    }

    #[test]
    fn what_can_be_no_folder_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("file"), "kept").unwrap();
        symlink("circle", root.path().join("circle")).unwrap();
        symlink("file", root.path().join("link")).unwrap();
        for path in ["file", "file/x", "link", "link/x", "circle", "circle/x"] {
            made(root.path(), path).unwrap_err();
        }
        assert_eq!(fs::read(root.path().join("file")).unwrap(), b"kept");
    }
}
