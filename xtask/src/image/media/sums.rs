//! Checksums of media, in a file that `sha256sum -c` reads.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sha2::{Digest as _, Sha256};

/// How files of checksums end.
const EXTENSION: &str = "sha256";

/// Of the media of the image that is called so.
pub fn name(image: &str) -> String {
    format!("{image}.{EXTENSION}")
}

/// The checksums of these files of the folder, by their names in it.
pub fn of<'a>(folder: &Path, files: impl IntoIterator<Item = &'a PathBuf>) -> Result<Vec<u8>> {
    let mut text = String::new();
    for file in files {
        let name = file.strip_prefix(folder).unwrap_or(file);
        text.push_str(&format!("{}  {}\n", sum(file)?, name.display()));
    }
    Ok(text.into_bytes())
}

/// Compares a file, or a folder's files, with the lists beside it that name them.
pub fn compare(path: &Path) -> Result<()> {
    let path = path.canonicalize()?;
    let Some(folder) = path.parent() else {
        return Ok(());
    };
    for list in fs::read_dir(folder)?.flatten() {
        let list = list.path();
        if list
            .extension()
            .is_none_or(|extension| extension != EXTENSION)
        {
            continue;
        }
        let text =
            fs::read_to_string(&list).with_context(|| format!("reading {}", list.display()))?;
        for (expected, name) in text.lines().filter_map(|line| line.split_once("  ")) {
            let file = folder.join(name);
            if !file.starts_with(&path) {
                continue;
            }
            let found = sum(&file)?;
            ensure!(
                found == expected,
                "{} is not what {} says: {found}, and not {expected}",
                file.display(),
                list.display()
            );
        }
    }
    Ok(())
}

fn sum(file: &Path) -> Result<String> {
    let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    Ok(hex::encode(Sha256::digest(&bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_is_compared_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("net")).unwrap();
        let files = ["a", "net/b"].map(path);
        for file in &files {
            fs::write(file, "as it was").unwrap();
        }
        fs::write(path("other"), "").unwrap();
        let listed = String::from_utf8(of(folder.path(), &files).unwrap()).unwrap();
        fs::write(path(&name("all")), &listed).unwrap();
        assert!(
            listed.lines().all(|line| line.len() > 66) && listed.contains("  net/b\n"),
            "{listed}"
        );
        for name in ["a", "net", "other"] {
            compare(&path(name)).unwrap();
        }
        fs::write(path("net/b"), "as it is").unwrap();
        compare(&path("a")).unwrap();
        let error = compare(&path("net")).unwrap_err().to_string();
        assert!(
            error.contains("net/b is not what") && error.contains("all.sha256"),
            "{error}"
        );
    }
}
