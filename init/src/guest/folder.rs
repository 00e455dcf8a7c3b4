//! Folders in the machine's root, whatever links lead to them.
//!
//! An image may have links anywhere, also to what is not there. Container engines follow them as a
//! process in the machine would, and make what is missing at their end.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs::{self, DirBuilder, Metadata, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
    path::{Component, Path, PathBuf},
};

/// Links in one path, as the kernel has it (path_resolution(7)).
const MOST_LINKS: u32 = 40;

/// The folder that `path` leads to for a process whose root is `root`, without links. What is
/// missing is made with `mode`. Nobody else may be changing the root.
pub fn make(root: &Path, path: &Path, mode: u32) -> io::Result<PathBuf> {
    walk(root, path, |folder, there| match there {
        Some(_) => Ok(()),
        None => DirBuilder::new().mode(mode).create(folder),
    })
}

/// Owner and mode of folders as the image has them, from before volumes were mounted over some.
#[derive(Debug, Default)]
pub struct ImageFolders(HashMap<PathBuf, Metadata>);

impl ImageFolders {
    /// Those that lie on the ways to `paths`, as far as there are any.
    pub fn on_the_ways_to<'a>(root: &Path, paths: impl IntoIterator<Item = &'a Path>) -> Self {
        let mut folders = HashMap::new();
        for path in paths {
            // What is missing, or is no folder, is made or refused later.
            let _ = walk(root, path, |folder, there| {
                let there = there.ok_or(io::ErrorKind::NotFound)?;
                folders.insert(folder.to_path_buf(), there.clone());
                Ok(())
            });
        }
        Self(folders)
    }

    /// [`make`]s a folder. What a volume hides of the image is made in the volume with the same owner and
    /// mode, as by container engines: a program that is not root writes there.
    pub fn make(&self, root: &Path, path: &Path) -> io::Result<PathBuf> {
        walk(root, path, |folder, there| {
            if there.is_some() {
                return Ok(());
            }
            DirBuilder::new().mode(0o755).create(folder)?;
            self.0
                .get(folder)
                .map_or(Ok(()), |image| liken(folder, image))
        })
    }
}

/// Gives a folder the owner and mode of another.
pub fn liken(folder: &Path, other: &Metadata) -> io::Result<()> {
    chown(folder, Some(other.uid()), Some(other.gid()))?;
    fs::set_permissions(folder, Permissions::from_mode(other.mode() & 0o7777))
}

/// Follows `path` to its end, and links on the way. `step` is told each folder on it, and makes what is missing.
fn walk(
    root: &Path,
    path: &Path,
    mut step: impl FnMut(&Path, Option<&Metadata>) -> io::Result<()>,
) -> io::Result<PathBuf> {
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
            Ok(data) if data.is_dir() => {
                step(&next, Some(&data))?;
                found = next;
            }
            Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                step(&next, None)?;
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
    use std::os::unix::fs::symlink;

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
    fn what_a_volume_hides_is_made_as_the_image_has_it() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        symlink("data", root.join("link")).unwrap();
        let set = |path: &str, mode| {
            fs::create_dir(root.join(path)).unwrap();
            fs::set_permissions(root.join(path), Permissions::from_mode(mode)).unwrap();
        };
        set("data", 0o750);
        set("data/db", 0o1700);
        let paths = ["/link/db/new", "/file/x", "/none"].map(Path::new);
        fs::write(root.join("file"), "").unwrap();
        let image = ImageFolders::on_the_ways_to(root, paths);
        assert!(!root.join("data/db/new").exists() && !root.join("none").exists());

        // A volume over it, with a folder of its own.
        fs::rename(root.join("data"), root.join("image")).unwrap();
        set("data", 0o711);
        let mode =
            |path: &str| fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o7777;
        let made = image.make(root, Path::new("/data/db/new")).unwrap();
        assert_eq!(made, root.join("data/db/new"));
        assert_eq!(
            (mode("data"), mode("data/db"), mode("data/db/new")),
            (0o711, 0o1700, 0o755)
        );
        fs::set_permissions(root.join("data/db"), Permissions::from_mode(0o700)).unwrap();
        image.make(root, Path::new("/data/db")).unwrap();
        assert_eq!(mode("data/db"), 0o700, "what is there stays");
    }

    #[test]
    fn as_many_links_are_followed_as_a_kernel_follows() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for link in 1..=MOST_LINKS + 1 {
            symlink(format!("l{}", link - 1), root.join(format!("l{link}"))).unwrap();
        }
        assert_eq!(
            made(root, &format!("l{MOST_LINKS}")).unwrap(),
            Path::new("l0")
        );
        let error = made(root, &format!("l{}", MOST_LINKS + 1)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn what_cannot_be_looked_at_is_not_taken_for_absent() {
        let root = tempfile::tempdir().unwrap();
        let long = "x".repeat(300);
        let mut seen = Vec::new();
        let walked = walk(root.path(), Path::new(&long), |path, data| {
            seen.push((path.to_path_buf(), data.is_some()));
            Ok(())
        });
        assert_eq!(walked.unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
        assert!(seen.is_empty());
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
